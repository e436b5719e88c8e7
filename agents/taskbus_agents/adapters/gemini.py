"""Gemini CLI: one headless run of `gemini`, and what its stream of JSON lines means.

Its settings choose how it logs in, before any key in the environment. So a definition with a key or a URL of its own
gets a home of its own for the program's settings, whatever else it sees of its user's home. Its last line sums up
what all calls used; what a run used that was cut off stands only in the file of its session.
"""

from __future__ import annotations

import json
import uuid
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

_MODES: Final[Mapping[Permission, str]] = {"read": "default", "edit": "auto_edit", "bypass": "yolo"}
"""Not `plan` for reading: headless, its plan is carried out without being asked, with all tools."""
_CODES: Final[Mapping[int, tuple[Trouble, str]]] = {
    41: ("authentication", "It is not logged in, and has no key."),
    53: ("turn-limit", "It reached its limit of turns."),
}
_TOOLS: Final = frozenset({"tool_use", "tool_result"})
_HTTP: Final = range(400, 600)


class Gemini:
    """Gemini CLI, headless. The task comes on its stdin."""

    name = "gemini"
    program = "gemini"
    package = "npm @google/gemini-cli"
    tried = ("0.61.0",)

    def launch(self, job: Job) -> Launch:
        """`gemini` with a stream of records; its session has an ID by which the session's file is found again."""
        definition = job.definition
        session = str(uuid.uuid4())
        words = ["--output-format", "stream-json", "--approval-mode", _MODES[definition.permission]]
        words += ["--session-id", session]
        if definition.model is not None:
            words += ["--model", definition.model]
        settings: dict[str, object] = {
            "privacy": {"usageStatisticsEnabled": False},
            "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False, "maxAttempts": 2},
        }
        # Without NO_RELAUNCH a parent outlives a signal until its child is done (0.61.0).
        environment: dict[str, str | None] = {"GEMINI_CLI_TRUST_WORKSPACE": "true", "GEMINI_CLI_NO_RELAUNCH": "true"}
        environment["TMPDIR"] = str(job.home)  # it leaves reports of errors there, with the whole conversation
        files: dict[Path, bytes] = {}
        chats = f".gemini/tmp/*/chats/session-*-{session[:8]}.json*"
        if job.key is None and definition.base_url is None and definition.home == "user":
            defaults = job.home / "gemini-defaults.json"
            environment["GEMINI_CLI_SYSTEM_DEFAULTS_PATH"] = str(defaults)
            files[defaults] = json.dumps(settings).encode()
        else:
            environment["GEMINI_CLI_HOME"] = str(job.home)
            settings["security"] = {"auth": {"selectedType": "gemini-api-key"}}
            files[job.home / ".gemini" / "settings.json"] = json.dumps(settings).encode()
            chats = str(job.home / chats)
        if job.key is not None:
            environment["GEMINI_API_KEY"] = job.key
        if definition.base_url is not None:
            environment["GOOGLE_GEMINI_BASE_URL"] = definition.base_url
        return Launch(
            command=(self.program, *words),
            environment=environment,
            stdin=job.prompt.encode(),
            files=files,
            reads={"session": chats},
        )

    def report(self, ended: Ended, job: Job, read: Mapping[str, bytes]) -> Report:
        """What the last line says; of a run without one, what its session's file tells."""
        found = list(signs.records(ended.stdout))
        results = [each for each in found if each.get("type") == "result"]
        final = results[-1] if results else None
        trouble, message = signs.several(len(results)) or _trouble(ended, final, has_begun=bool(found))
        usage = _summed(signs.part(final, "stats"), job) if final is not None else ()
        notes: tuple[str, ...] = ()
        if not usage:
            usage = _session(read.get("session", b""), job)
            notes = ("The sums are of its session's file: a call that was cut off is not in them.",) if usage else ()
        return Report(
            said=_said(found),
            trouble=trouble,
            message=message,
            until=signs.reset(message) if trouble == "quota" else None,
            usage=usage,
            refused=_refused(found),
            tools=sum(each.get("type") == "tool_use" for each in found) if found else None,
            notes=notes,
        )


def _trouble(ended: Ended, final: Plain | None, *, has_begun: bool) -> tuple[Trouble | None, str]:
    if (stopped := signs.stopped(ended)) is not None:
        return stopped
    if ended.code in _CODES:
        trouble, message = _CODES[ended.code]
        return trouble, signs.text(signs.part(final, "error"), "message") or message
    if final is None:
        # It leaves with the HTTP status as far as that fits into an exit code.
        if ended.code + 256 in _HTTP:
            return signs.trouble(ended.code + 256), signs.unread(ended)[1]
        if ended.code == 0 and has_begun:
            return "killed", "It was told to end."  # and leaves with 0 then (0.61.0)
        return signs.unread(ended)
    if signs.text(final, "status") == "success" and ended.code == 0:
        return None, ""
    error = signs.part(final, "error")
    message = signs.text(error, "message") or f"It ended with {signs.text(final, 'status') or 'an error'}."
    status = ended.code + 256 if ended.code + 256 in _HTTP else None
    return signs.trouble(status, message), message


def _said(found: list[Plain]) -> str:
    """The pieces of the last message: what stands behind the last tool."""
    last = max((at for at, each in enumerate(found) if signs.text(each, "type") in _TOOLS), default=-1)
    pieces = [signs.text(each, "content") for each in found[last + 1 :] if each.get("role") == "assistant"]
    return "".join(pieces)


def _refused(found: list[Plain]) -> tuple[str, ...]:
    names = {signs.text(each, "tool_id"): signs.text(each, "tool_name") for each in found if "tool_name" in each}
    return tuple(
        names.get(signs.text(each, "tool_id")) or "a tool"
        for each in found
        if each.get("type") == "tool_result" and signs.text(signs.part(each, "error"), "type") == "policy_violation"
    )


def _summed(stats: Plain, job: Job) -> tuple[Usage, ...]:
    """By model where it says so, else of the whole run. Thoughts stand in the total alone, and are paid as output."""
    models = signs.part(stats, "models")
    calls = {name: signs.part(models, name) for name in models} or {job.definition.model or "unknown": stats}
    found: list[Usage] = []
    for name, told in calls.items():
        given, put, total = (signs.count(told, each) for each in ("input_tokens", "output_tokens", "total_tokens"))
        thought = (total or 0) - (given or 0) - (put or 0)
        found.append(_call(job, name, (given, put, signs.count(told, "cached"), max(thought, 0))))
    return tuple(each for each in found if each.input_tokens or each.output_tokens)


def _session(session: bytes, job: Job) -> tuple[Usage, ...]:
    """The sum of the calls in the session's file, each of them once: a line may be there again, as it grew."""
    last = {signs.text(each, "id"): each for each in signs.documents(session) if signs.part(each, "tokens")}
    sums: dict[str, list[int]] = {}
    for each in last.values():
        tokens = signs.part(each, "tokens")
        model = sums.setdefault(signs.name(each.get("model"), job.definition.model), [0, 0, 0, 0])
        for at, name in enumerate(("input", "output", "cached", "thoughts")):
            model[at] += signs.count(tokens, name) or 0
    return tuple(_call(job, name, tuple(counts)) for name, counts in sums.items())


def _call(job: Job, model: str, counts: tuple[int | None, ...]) -> Usage:
    given, put, cached, thought = counts
    return Usage(
        provider=job.definition.provider or "google",
        model=signs.name(model, job.definition.model),
        input_tokens=given,
        output_tokens=None if put is None else put + (thought or 0),
        cache_read_tokens=cached,
        reasoning_tokens=thought,
    )
