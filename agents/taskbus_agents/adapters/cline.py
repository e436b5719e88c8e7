"""Cline: one run of `cline --json`, and what its JSON lines mean.

It runs in its own process, not in the daemon that it would leave behind. It knows no permissions below the tools that
it has: those that a permission leaves out are taken from it, and the editor may write anywhere. Its input tokens have
those of the cache in them; a cost of nothing is one that it does not know.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from taskbus.envelope import Cost, Usage
from taskbus_agents.adapter import Launch, Report
from taskbus_agents.adapters import endpoints, signs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskbus_agents.adapter import Job, Trouble
    from taskbus_agents.adapters.signs import Plain
    from taskbus_agents.definition import Definition
    from taskbus_agents.runner import Ended

_CHANGING: Final = ("editor", "apply_patch")
_REST: Final = ("run_commands", "fetch_web_content", "web_search", "spawn_agent", "skills")
_TEAM: Final = (
    *("spawn_teammate", "shutdown_teammate", "status", "task", "run_task", "cancel_run", "list_runs", "await_runs"),
    *("send_message", "broadcast", "read_mailbox", "mission_log", "cleanup", "create_outcome"),
    *("attach_outcome_fragment", "review_outcome_fragment", "finalize_outcome", "list_outcomes"),
)
_SAME: Final[Mapping[str, str]] = {"bash": "run_commands", "webfetch": "fetch_web_content", "websearch": "web_search"}
_SERVED: Final = "openai-compatible"
_LEAD: Final = "Do the task that follows."
"""A word of its own on the command line: the rest comes on stdin, and alone would not be taken."""
_ENDS: Final[Mapping[str, tuple[Trouble, str]]] = {
    "max_iterations": ("turn-limit", "It reached its limit of turns."),
    "mistake_limit": ("turn-limit", "It reached its limit of mistakes in a row."),
    "aborted": ("killed", "The run was aborted."),
}


class Cline:
    """Cline, headless. The task comes on its stdin."""

    name = "cline"
    program = "cline"
    package = "npm cline"
    tried = ("3.0.65",)

    def launch(self, job: Job) -> Launch:
        """`cline --json`, with settings of this run in files of its own."""
        definition = job.definition
        settings, providers = job.home / "cline-settings.json", job.home / "cline-providers.json"
        written: dict[str, object] = {
            "telemetryOptOut": True,
            "autoUpdateEnabled": False,
            "disabledTools": _without(definition),
        }
        files = {settings: json.dumps(written).encode()}
        environment: dict[str, str | None] = {
            "CLINE_SESSION_BACKEND_MODE": "local",
            "CLINE_NO_AUTO_UPDATE": "1",
            "CLINE_GLOBAL_SETTINGS_PATH": str(settings),
        }
        words = ["--json", "--auto-approve", "true"]
        provider, name = endpoints.provider(definition), endpoints.model(definition)
        if definition.base_url is not None:
            provider, name = _SERVED, endpoints.served_model(definition)
            files[providers] = json.dumps(_providers(definition.base_url, name)).encode()
            environment["CLINE_PROVIDER_SETTINGS_PATH"] = str(providers)
            environment["OPENAI_API_KEY"] = job.key or "none"
        elif provider is not None and job.key is not None:
            environment[endpoints.key_variable(provider)] = job.key
        words += ["--provider", provider] if provider is not None else []
        words += ["--model", name] if name is not None else []
        words += ["--plan"] if definition.permission == "read" else []
        return Launch(
            command=(self.program, *words, _LEAD),
            environment=environment,
            stdin=job.prompt.encode(),
            files=files,
        )

    def report(self, ended: Ended, job: Job, read: Mapping[str, bytes]) -> Report:
        """What its result says; of a run without one, what its calls told."""
        del read
        found = list(signs.records(ended.stdout))
        events = [signs.part(each, "event") for each in found if each.get("type") == "agent_event"]
        none: Plain = {}
        final = next((each for each in reversed(found) if each.get("type") == "run_result"), none)
        begun = [each for each in events if each.get("type") == "content_start" and each.get("contentType") == "tool"]
        trouble, message = _trouble(ended, found, events, final)
        return Report(
            said=signs.text(final, "text") if trouble is None else "",
            trouble=trouble,
            message=message,
            until=signs.reset(message) if trouble == "quota" else None,
            usage=_usage(events, final, job),
            tools=len(begun) if found else None,
        )


def _without(definition: Definition) -> list[str]:
    """The tools that are taken from it. Nobody is there to answer questions."""
    if definition.permission == "bypass":
        return ["ask_question"]
    team = tuple(f"team_{each}" for each in _TEAM)
    named = {_SAME.get(each.lower(), each.lower()) for each in definition.tools}
    if definition.permission == "read":
        return ["ask_question", *_CHANGING, *_REST, *team]
    return ["ask_question", *(each for each in (*_REST, *team) if each not in named)]


def _providers(base_url: str, model: str) -> Mapping[str, object]:
    """The file of a provider that speaks OpenAI's protocol at the base URL; its key is in the environment."""
    settings = {"provider": _SERVED, "model": model, "baseUrl": base_url}
    entry = {"settings": settings, "updatedAt": "2026-01-01T00:00:00.000Z", "tokenSource": "manual"}
    return {"version": 1, "lastUsedProvider": _SERVED, "modes": {}, "providers": {_SERVED: entry}}


def _trouble(ended: Ended, found: Sequence[Plain], events: Sequence[Plain], final: Plain) -> tuple[Trouble | None, str]:
    if (stopped := signs.stopped(ended)) is not None and (ended.cut is not None or not final):
        return stopped
    reason = signs.text(final, "finishReason")
    if reason == "completed":
        return None, ""
    if reason in _ENDS:
        return _ENDS[reason]
    errors = [each for each in events if each.get("type") == "error"]
    said = next((signs.text(each, "message") for each in reversed(found) if each.get("type") == "error"), "")
    if not reason and not errors and not said:
        return signs.unread(ended)
    last = signs.part(errors[-1], "error") if errors else {}
    message = signs.text(last, "message") or signs.text(final, "text") or said or "It reported an error, and not which."
    kind = signs.text(errors[-1], "errorClass") if errors else ""
    status = signs.count(last, "statusCode") or signs.count(last, "status")
    if kind == "auth" and status is None:
        return "authentication", message
    return signs.trouble(status, message), message


def _usage(events: Sequence[Plain], final: Plain, job: Job) -> tuple[Usage, ...]:
    """The sum of the run with its teammates; of a run without a result the last sum that a call told."""
    told = signs.part(final, "aggregateUsage") or signs.part(final, "usage")
    given, put = signs.count(told, "inputTokens"), signs.count(told, "outputTokens")
    read, written = signs.count(told, "cacheReadTokens"), signs.count(told, "cacheWriteTokens")
    if not final:
        told = next((each for each in reversed(events) if each.get("type") == "usage"), told)
        given, put = signs.count(told, "totalInputTokens"), signs.count(told, "totalOutputTokens")
        read, written = signs.count(told, "totalCacheReadTokens"), signs.count(told, "totalCacheWriteTokens")
    cost = signs.microusd(told.get("totalCost"))
    if not given and not put and not cost:
        return ()
    model = signs.part(final, "model")
    return (
        Usage(
            provider=endpoints.provider(job.definition) or signs.name(model.get("provider"), otherwise="cline"),
            model=signs.name(model.get("id"), endpoints.model(job.definition)),
            input_tokens=given,
            output_tokens=put,
            cache_read_tokens=read,
            cache_write_tokens=written,
            cost=Cost(source="reported", microusd=cost) if cost else None,
        ),
    )
