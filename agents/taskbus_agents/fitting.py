"""The fitting: whether a JSON document fits a JSON Schema, as a program of its own.

A schema can be written so that looking never comes to an end, and who looks holds the interpreter meanwhile: so the
worker does not look itself, but runs `python -m taskbus_agents.fitting` under limits of time and memory. Nothing is
fetched: a schema that refers to another one has to bring it along. Called by the checks.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Final, NoReturn, cast

from taskbus.findings import printable

LONGEST: Final = 60.0
"""Seconds that it may take."""
MEMORY: Final = 4 << 30
"""Bytes of its address space."""
_SHOWN: Final = 300
_COUNTED: Final = 100


def order(schema: object, document: bytes) -> bytes:
    """What the program reads: the schema in one line, then the document."""
    return json.dumps(schema).encode() + b"\n" + document


def fitted(told: bytes) -> tuple[bool, str]:
    """What the program has said of an order: whether the document fits, and what shows it."""
    try:
        found: object = json.loads(told)
    except ValueError:
        found = None
    if not isinstance(found, list) or len(words := cast("list[object]", found)) != 2:
        return False, "It could not be compared with the schema."
    return words[0] is True, str(words[1])


def fits(schema: object, document: bytes) -> tuple[bool, str]:
    """Whether a document fits a schema, and what shows it."""
    import jsonschema_rs  # for this alone

    try:
        looked_at: object = json.loads(document)
    except (ValueError, RecursionError) as error:
        return False, f"It is no JSON that can be read: {printable(str(error), _SHOWN)}."
    errors: list[str] = []
    try:
        validator = jsonschema_rs.validator_for(cast("dict[str, object]", schema), retriever=_never)
        for each in validator.iter_errors(looked_at):
            errors.append(f"{'/'.join(map(str, each.instance_path)) or '.'}: {each.message}")
            if len(errors) > _COUNTED:
                break
    except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        return False, f"The schema cannot be used: {printable(str(error), _SHOWN)}."
    if errors:
        count = f"more than {_COUNTED}" if len(errors) > _COUNTED else len(errors)
        more = f" ({count} mistakes)" if len(errors) > 1 else ""
        return False, f"{printable(errors[0], _SHOWN)}{more}."
    return True, "It fits the schema."


def _never(uri: str) -> NoReturn:
    raise ValueError(f"a schema is not fetched: {uri}")


def main() -> None:
    """Read an order from stdin, and print what comes of it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    schema, _, document = sys.stdin.buffer.read().partition(b"\n")
    print(json.dumps(fits(json.loads(schema), document)))  # noqa: T201 - its result


if __name__ == "__main__":
    main()
