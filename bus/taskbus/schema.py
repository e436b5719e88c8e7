"""The schemas, generated from the model into `schemas/`: JSON Schema, XML Schema, AsyncAPI, and their
documentation.

    python -m taskbus.schema schemas            write them
    python -m taskbus.schema schemas --check    exit 1, with a diff, where what is there differs

Nothing is written by hand; a test runs the check.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from taskbus import reference, shape, xsd
from taskbus.envelope import MAX_BYTES, MESSAGE_TYPES, PAYLOADS, PRIORITIES, SPEC, TIME_PATTERN
from taskbus.keys import Keys
from taskbus.shorthand import Handback, Handoff
from taskbus.validation import ENVELOPES

if TYPE_CHECKING:
    from collections.abc import Sequence

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def files() -> dict[str, bytes]:
    """The content of each generated file by its name."""
    return {
        "envelope.schema.json": _dumped(envelope_schema()),
        "envelope.xsd": xsd.document(),
        "delegation.schema.json": _dumped(shorthand_schema(Handoff, "delegation")),
        "completion.schema.json": _dumped(shorthand_schema(Handback, "completion")),
        "asyncapi.yaml": _dumped(asyncapi()),
        "README.md": reference.document().encode(),
    }


def envelope_schema() -> dict[str, Any]:
    """The JSON Schema of the envelope; the payload depends on the type, so that errors point into it."""
    _, parts = msgspec.json.schema_components(ENVELOPES.values(), ref_template="#/$defs/{name}")
    heads = [parts.pop(name) for name in list(parts) if name.startswith("Envelope_")]
    head = _adapted(heads[0])
    payload = head["properties"]["payload"]
    payload.pop("$ref")
    payload["type"] = "object"
    return {
        "$schema": _DIALECT,
        "$id": f"urn:taskbus:envelope:{SPEC}",
        **head,
        "title": "Envelope",
        "description": f"{shape.envelope().description} At most {MAX_BYTES} bytes.",
        "allOf": [
            {
                "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
                "then": {"properties": {"payload": {"$ref": f"#/$defs/{PAYLOADS[kind].__name__}"}}},
            }
            for kind in MESSAGE_TYPES
        ],
        "$defs": {name: _adapted(parts[name]) for name in sorted(parts)},
    }


def shorthand_schema(struct: type[msgspec.Struct], name: str) -> dict[str, Any]:
    """The JSON Schema of one document of the handoff shorthand."""
    _, parts = msgspec.json.schema_components([struct], ref_template="#/$defs/{name}")
    head = _adapted(parts.pop(struct.__name__))
    defs = {each: _adapted(parts[each]) for each in sorted(parts)}
    return {"$schema": _DIALECT, "$id": f"urn:taskbus:{name}:{SPEC}", **head, "$defs": defs}


def asyncapi() -> dict[str, Any]:
    """The channels of a bus: the log, and the inbox of each agent."""
    namespace = {"description": "The key prefix of the bus, such as marketing_tvoje_info:"}
    shard = {
        "description": "The number of the shard in braces, a hash tag of Redis Cluster.",
        "default": "{0}",
    }
    keys = Keys("{namespace}")
    message = {"envelope": {"$ref": "#/components/messages/envelope"}}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "taskbus",
            "version": SPEC,
            "description": "Envelopes between AI coding agents, on Redis Streams. Generated from the model.",
        },
        "channels": {
            "log": {
                "address": keys.log.replace("{0}", "{shard}"),
                "description": "Every envelope, in order: the stream that is the truth.",
                "parameters": {"namespace": namespace, "shard": shard},
                "messages": message,
            },
            "inbox": {
                "address": keys.inbox("{agent}", "{priority}").replace("{0}", "{shard}"),
                "description": "The deliveries of one agent and priority; each names an envelope in the log.",
                "parameters": {
                    "namespace": namespace,
                    "shard": shard,
                    "agent": {"description": "The name of the agent, such as @kilo."},
                    "priority": {"description": "The priority.", "enum": list(PRIORITIES)},
                },
                "messages": message,
            },
        },
        "operations": {
            "append": {"action": "send", "channel": {"$ref": "#/channels/log"}},
            "follow": {"action": "receive", "channel": {"$ref": "#/channels/log"}},
            "take": {"action": "receive", "channel": {"$ref": "#/channels/inbox"}},
        },
        "components": {
            "messages": {
                "envelope": {
                    "name": "envelope",
                    "title": "One immutable message",
                    "contentType": "application/json",
                    "payload": {
                        "schemaFormat": "application/schema+json;version=draft-2020-12",
                        "schema": {"$ref": "./envelope.schema.json"},
                    },
                }
            }
        },
    }


def _adapted(schema: Any) -> Any:
    """A schema of msgspec's as all validators know it: patterns in the form of ECMA-262, times narrowed."""
    if isinstance(schema, list):
        return [_adapted(each) for each in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    adapted = {key: _adapted(value) for key, value in cast("dict[str, Any]", schema).items()}
    if isinstance(pattern := adapted.get("pattern"), str):
        del adapted["pattern"]  # it stands last, whether msgspec knows of it or not
        adapted["pattern"] = _pattern(pattern)
    if adapted.get("format") == "date-time":
        adapted["pattern"] = _pattern(TIME_PATTERN)
    return adapted


def _pattern(pattern: str) -> str:
    # A string of Unicode characters has no surrogates, and some engines refuse to hear of them.
    text = pattern.replace("\ud800-\udfff", "").removesuffix(r"\Z") + "$"
    return re.sub(r"[^\x20-\x7e]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _dumped(schema: dict[str, Any]) -> bytes:
    return json.dumps(schema, indent=2, ensure_ascii=False).encode() + b"\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files into a folder, or compare them; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    check = "--check" in given
    folders = [each for each in given if each != "--check"]
    if len(folders) != 1 or folders[0].startswith("-"):
        sys.stderr.write("usage: python -m taskbus.schema FOLDER [--check]\n")
        return 2
    folder = Path(folders[0])
    wrong = False
    for name, content in files().items():
        path = folder / name
        if not check:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            continue
        there = path.read_bytes() if path.exists() else b""
        if there != content:
            wrong = True
            lines = difflib.unified_diff(
                there.decode(errors="replace").splitlines(keepends=True),
                content.decode().splitlines(keepends=True),
                str(path),
                f"{name} from the model",
            )
            sys.stdout.writelines(lines)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
