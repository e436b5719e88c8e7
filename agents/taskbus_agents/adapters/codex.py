"""Codex: one run of `codex exec`, and what its JSON lines mean.

Its default sandbox is read-only, in which a write does not happen and nothing says so; so the sandbox is always
named. An item of the type "error" is a warning: only `turn.failed` is a failure. It tells no cost.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from taskbus.envelope import Usage
from taskbus_agents.adapter import Launch, Report
from taskbus_agents.adapters import signs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from taskbus_agents.adapter import Job, Trouble
    from taskbus_agents.adapters.signs import Plain
    from taskbus_agents.definition import Permission
    from taskbus_agents.runner import Ended

_SANDBOXES: Final[Mapping[Permission, tuple[str, ...]]] = {
    "read": ("--sandbox", "read-only"),
    "edit": ("--sandbox", "workspace-write"),
    "bypass": ("--dangerously-bypass-approvals-and-sandbox",),
}
_TOOLS: Final = frozenset({"command_execution", "file_change", "mcp_tool_call", "web_search"})
_KEY: Final = "OPENAI_API_KEY"


class Codex:
    """Codex, headless. The task comes on its stdin."""

    name = "codex"
    program = "codex"
    package = "npm @openai/codex"
    tried = ("0.169.0",)

    def launch(self, job: Job) -> Launch:
        """`codex exec -`, in a sandbox that is as wide as the definition allows."""
        definition = job.definition
        words = [
            "exec",
            "--json",
            "--skip-git-repo-check",
            "--disable",
            "plugins",
            "-c",
            "analytics.enabled=false",
            "-C",
            str(job.folder),
        ]
        words += _SANDBOXES[definition.permission]
        if definition.model is not None:
            words += ["--model", definition.model]
        for name, value in _settings(job):
            # TOML takes a string as JSON writes it.
            words += ["-c", f"{name}={json.dumps(value)}"]
        environment: dict[str, str | None] = {} if job.key is None else {_KEY: job.key, "CODEX_API_KEY": job.key}
        return Launch(
            command=(self.program, *words, "-"),
            environment=environment,
            stdin=job.prompt.encode(),
            reads={"session": ".codex/sessions/*/*/*/rollout-*.jsonl"},
        )

    def report(self, ended: Ended, job: Job, read: Mapping[str, bytes]) -> Report:
        """What the end of its turn says; a run without one was cut off, or never began."""
        found = list(signs.records(ended.stdout))
        items = [signs.part(each, "item") for each in found if each.get("type") == "item.completed"]
        said = next((signs.text(each, "text") for each in reversed(items) if each.get("type") == "agent_message"), "")
        used = [each for each in items if signs.text(each, "type") in _TOOLS]
        refused = tuple(str(each["type"]) for each in used if each.get("status") == "declined")
        turns = [each for each in found if each.get("type") in ("turn.completed", "turn.failed")]
        usage = tuple(_usage(signs.part(each, "usage"), job) for each in turns if signs.part(each, "usage"))
        if not usage:
            usage = _until_then(found, read.get("session", b""), job)
        trouble, message = signs.several(len(turns)) or _trouble(turns, found, ended)
        return Report(
            said=said,
            trouble=trouble,
            message=message,
            until=signs.reset(message) if trouble == "quota" else None,
            usage=usage,
            refused=refused,
            tools=len(used) if found else None,
            notes=() if usage or not found else ("Its usage is not known: it tells of it at the end of a turn.",),
        )


def _settings(job: Job) -> Iterator[tuple[str, object]]:
    """What its configuration file would say of where its models are."""
    if job.definition.base_url is None:
        return
    yield "model_provider", "bus"
    yield "model_providers.bus.name", "bus"
    yield "model_providers.bus.base_url", job.definition.base_url
    yield "model_providers.bus.env_key", _KEY
    yield "model_providers.bus.wire_api", "responses"
    yield "model_providers.bus.request_max_retries", 3
    yield "model_providers.bus.stream_max_retries", 3


def _trouble(turns: list[Plain], found: list[Plain], ended: Ended) -> tuple[Trouble | None, str]:
    stopped = signs.stopped(ended)
    if turns and turns[-1].get("type") == "turn.completed" and stopped is None:
        return None, ""
    said = [each for each in found if each.get("type") == "error"]
    last = signs.part(turns[-1], "error") if turns else said[-1] if said else {}
    message = signs.text(last, "message")
    kind = signs.trouble(None, message)
    if stopped is not None:
        # It waits for as long as a server says in Retry-After.
        return (kind, message) if message and kind == "quota" and ended.cut is not None else stopped
    if turns or message:
        return kind, message or "Its turn failed, and it does not say why."
    printed = ended.stderr.decode(errors="replace").strip()
    kind = signs.trouble(None, printed) if printed else "garbage"
    return kind if kind in ("authentication", "quota") else "garbage", signs.unread(ended)[1]


def _until_then(found: list[Plain], session: bytes, job: Job) -> tuple[Usage, ...]:
    """What the file of its session says, where the turn had no good end; the newest file may be another session's."""
    written = list(signs.records(session))
    thread = next((signs.text(each, "thread_id") for each in found if each.get("type") == "thread.started"), "")
    if not thread or not written or signs.text(signs.part(written[0], "payload"), "id") != thread:
        return ()
    counts = [signs.part(each, "payload", "info", "total_token_usage") for each in written]
    told = next((each for each in reversed(counts) if each), None)
    return (_usage(told, job),) if told else ()


def _usage(told: Plain, job: Job) -> Usage:
    """Its input has the cached tokens in it, as ours has."""
    return Usage(
        provider=job.definition.provider or "openai",
        model=job.definition.model or "unknown",
        input_tokens=signs.count(told, "input_tokens"),
        output_tokens=signs.count(told, "output_tokens"),
        cache_read_tokens=signs.count(told, "cached_input_tokens"),
        reasoning_tokens=signs.count(told, "reasoning_output_tokens"),
    )
