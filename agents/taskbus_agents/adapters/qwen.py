"""Qwen Code: one headless run of `qwen`, and what its stream of JSON lines means.

Its records look like those of Claude Code, but their input tokens have those of the cache in them. It knows no
prices. Models are reached over the OpenAI protocol unless the definition's provider has one of its own.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from taskbus.envelope import Usage
from taskbus_agents.adapter import Launch, Report
from taskbus_agents.adapters import signs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from taskbus_agents.adapter import Job, Trouble
    from taskbus_agents.adapters.signs import Plain
    from taskbus_agents.definition import Permission
    from taskbus_agents.runner import Ended

_MODES: Final[Mapping[Permission, str]] = {"read": "default", "edit": "auto-edit", "bypass": "yolo"}
_PROTOCOLS: Final[Mapping[str | None, tuple[str, str]]] = {
    "anthropic": ("anthropic", "ANTHROPIC"),
    "google": ("gemini", "GEMINI"),
}
_LIMITS: Final[Mapping[str, Trouble]] = {"error_max_turns": "turn-limit", "error_max_session_turns": "turn-limit"}
_SIGN: Final = re.compile(r"[^\w .~=%#@:-]")
"""What may mean something else than itself in a rule's pattern."""
_TURNS: Final = 53
_BUDGET: Final = 55
"""Its exit code where it kept to a limit of time or of tool calls that its user's settings have."""


class Qwen:
    """Qwen Code, headless. The task comes on its stdin."""

    name = "qwen"
    program = "qwen"
    package = "npm @qwen-code/qwen-code"
    tried = ("0.24.4",)

    def launch(self, job: Job) -> Launch:
        """`qwen` with a stream of records, since only that tells of calls before a run was cut off."""
        definition = job.definition
        words = ["--output-format", "stream-json", "--approval-mode", _MODES[definition.permission]]
        if definition.model is not None:
            words += ["--model", definition.model]
        if definition.tools and definition.permission == "edit":
            words += ["--allowed-tools", ",".join(definition.tools)]
        defaults = job.home / "qwen-defaults.json"
        # Lowest in its order, so that its user's settings still hold.
        settings: dict[str, object] = {
            "privacy": {"usageStatisticsEnabled": False},
            "memory": {"enableManagedAutoMemory": False},
            "general": {"enableAutoUpdate": False},
            # Each of these would be a minute's wait and seven more tries, besides the seven that it makes (0.24.4).
            "model": {"generationConfig": {"maxRetries": 0}},
        }
        if definition.permission == "edit":
            settings["permissions"] = {"deny": _walls(job.folder)}
        environment: dict[str, str | None] = {
            "QWEN_CODE_SYSTEM_DEFAULTS_PATH": str(defaults),
            "QWEN_CODE_NO_RELAUNCH": "true",
        }
        if job.key is not None or definition.base_url is not None:
            protocol, prefix = _PROTOCOLS.get(definition.provider, ("openai", "OPENAI"))
            words += ["--auth-type", protocol]
            if job.key is not None:
                environment[f"{prefix}_API_KEY"] = job.key
            if definition.base_url is not None:
                environment[f"{prefix}_BASE_URL"] = definition.base_url
            if definition.model is not None:
                environment[f"{prefix}_MODEL"] = definition.model
        return Launch(
            command=(self.program, *words),
            environment=environment,
            stdin=job.prompt.encode(),
            files={defaults: json.dumps(settings).encode()},
        )

    def report(self, ended: Ended, job: Job, read: Mapping[str, bytes]) -> Report:
        """What the last record says; of a run without one, what its calls tell."""
        del read
        found = list(signs.records(ended.stdout))
        calls = [signs.part(each, "message") for each in found if each.get("type") == "assistant"]
        blocks = [block for each in calls for block in signs.items(each, "content")]
        results = [each for each in found if each.get("type") == "result"]
        final = results[-1] if results else None
        trouble, message = signs.several(len(results)) or _trouble(ended, final)
        model = next((name for each in found if (name := signs.text(each, "model"))), None)
        return Report(
            said=_said(final, blocks),
            trouble=trouble,
            message=message,
            until=signs.reset(message) if trouble == "quota" else None,
            usage=_usage(final, calls, model, job),
            refused=tuple(
                signs.text(each, "tool_name") or "a tool" for each in signs.items(final, "permission_denials")
            ),
            tools=sum(each.get("type") == "tool_use" for each in blocks) if found else None,
        )


def _walls(folder: Path) -> list[str]:
    """What it may not edit: all but the folder, since it edits everywhere without being asked (0.24.4).

    Its rules know no exception from a refusal, so they name what is beside each part of the folder's path: what is
    called otherwise, and, since `!(x)` is taken for all that begins with x, what is called so and more.
    """
    rules: list[str] = []
    before = "//"
    for part in folder.parts[1:]:
        name = _SIGN.sub("?", part)
        rules += [f"Edit({before}!({name})/**)", f"Edit({before}{name}?*/**)", f"Edit({before}{name}?*)"]
        before += f"{name}/"
    return rules


def _trouble(ended: Ended, final: Plain | None) -> tuple[Trouble | None, str]:
    if (stopped := signs.stopped(ended)) is not None:
        return stopped  # also while it waits for as long as a server said in Retry-After: it tells nothing of that
    kind = signs.text(final or {}, "subtype")
    if kind in _LIMITS or ended.code == _TURNS:
        return "turn-limit", "It reached its limit of turns."
    if final is None:
        said = signs.unread(ended)[1]
        return ("turn-limit" if ended.code == _BUDGET else "garbage"), said
    if final.get("is_error") is False and kind == "success" and ended.code == 0:
        return None, ""
    message = signs.text(signs.part(final, "error"), "message") or signs.text(final, "result")
    message = message or f"It ended with {kind or 'an error'}."
    return signs.trouble(None, message), message


def _said(final: Plain | None, blocks: list[Plain]) -> str:
    if final is not None and final.get("is_error") is not True and (said := signs.text(final, "result")):
        return said
    return next((said for each in reversed(blocks) if (said := signs.text(each, "text"))), "")


def _usage(final: Plain | None, calls: list[Plain], model: str | None, job: Job) -> tuple[Usage, ...]:
    """The sum of the last record, else of the calls, each of them once."""
    last = {signs.text(each, "id"): signs.part(each, "usage") for each in calls}
    told = [signs.part(final, "usage")] if signs.part(final, "usage") else list(last.values())
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens")
    given, put, cached = (sum(signs.count(each, name) or 0 for each in told) for name in names)
    if not given and not put:
        return ()
    return (
        Usage(
            provider=job.definition.provider or "openai",
            model=signs.name(model, job.definition.model),
            input_tokens=given,
            output_tokens=put,
            cache_read_tokens=cached,
        ),
    )
