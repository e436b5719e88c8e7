"""Claude Code: one run of `claude -p`, and what its stream of JSON lines means.

Every API error still has the subtype "success" in its last record: only `is_error` tells. A refused tool is no error
at all, and stands among the denials. The costs that it prints are its own sums; of a model that it does not know it
guesses the price, and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from taskbus.envelope import Cost, Usage
from taskbus_agents.adapter import Launch, Report
from taskbus_agents.adapters import signs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from taskbus_agents.adapter import Job, Trouble
    from taskbus_agents.adapters.signs import Plain
    from taskbus_agents.definition import Permission
    from taskbus_agents.runner import Ended

_MODES: Final[Mapping[Permission, tuple[str, ...]]] = {
    "read": ("--permission-mode", "default", "--disallowedTools", "Bash,Edit,MultiEdit,NotebookEdit,Write"),
    "edit": ("--permission-mode", "acceptEdits"),
    "bypass": ("--dangerously-skip-permissions",),
}
_LIMITS: Final[Mapping[str, Trouble]] = {
    "error_max_turns": "turn-limit",
    "error_max_budget_usd": "money-limit",
    "error_max_budget": "money-limit",
}


class Claude:
    """Claude Code, headless. The task comes on its stdin, so that no length and no word of it is an option."""

    name = "claude"
    program = "claude"
    package = "npm @anthropic-ai/claude-code"
    tried = ("2.1.328",)

    def launch(self, job: Job) -> Launch:
        """`claude -p` with a stream of records, since only that tells of calls before a run was cut off."""
        definition = job.definition
        words = ["-p", "--output-format", "stream-json", "--verbose", *_MODES[definition.permission]]
        if definition.model is not None:
            words += ["--model", definition.model]
        if definition.tools and definition.permission != "bypass":
            words += ["--allowedTools", ",".join(definition.tools)]
        if job.limit:
            words += ["--max-budget-usd", f"{job.limit / 1_000_000:.6f}"]
        environment: dict[str, str | None] = {
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            # Ten by default, over minutes: the bus tries again by itself (2.1.328).
            "CLAUDE_CODE_MAX_RETRIES": "3",
        }
        # Set by a Claude Code that started the worker; the new one would take itself for a part of it.
        environment |= {"CLAUDECODE": None, "CLAUDE_CODE_ENTRYPOINT": None}
        if definition.permission == "bypass":
            environment["IS_SANDBOX"] = "1"  # as root it would refuse (2.1.328)
        if definition.base_url is not None:
            environment["ANTHROPIC_BASE_URL"] = definition.base_url
        if job.key is not None:
            environment["ANTHROPIC_API_KEY"] = job.key
        return Launch(command=(self.program, *words), environment=environment, stdin=job.prompt.encode())

    def report(self, ended: Ended, job: Job, read: Mapping[str, bytes]) -> Report:
        """What the last record says; of a run without one, what its calls tell."""
        del read
        found = list(signs.records(ended.stdout))
        calls = [each for each in found if each.get("type") == "assistant"]
        blocks = [block for each in calls for block in signs.items(signs.part(each, "message"), "content")]
        tools = sum(block.get("type") == "tool_use" for block in blocks)
        results = [each for each in found if each.get("type") == "result"]
        # There are several where it woke up again; one that failed is not mended by another.
        final = next((each for each in results if each.get("is_error") is not False), results[-1] if results else None)
        if final is None:
            trouble, message = signs.stopped(ended) or _unread(ended)
            return Report(
                said=signs.text(blocks[-1], "text") if blocks else "",
                trouble=trouble,
                message=message,
                usage=_until_then(calls, job),
                tools=tools if calls else None,
                notes=("Output tokens of the last call may be too few: it was cut off.",) if calls else (),
            )
        until = _reset(found)
        trouble, message = _trouble(final) if ended.cut is None else signs.stopped(ended) or _trouble(final)
        return Report(
            said=signs.text(final, "result") if trouble is None else "",
            trouble=trouble,
            message=message,
            until=until or signs.reset(message) if trouble == "quota" else None,
            usage=_usage(final, job),
            refused=tuple(
                signs.text(each, "tool_name") or "a tool" for each in signs.items(final, "permission_denials")
            ),
            tools=tools,
            notes=_notes(final),
        )


def _unread(ended: Ended) -> tuple[Trouble, str]:
    """Why nothing was printed that is understood: it says on stderr that it is not logged in, or nothing at all."""
    printed = (ended.stderr + ended.stdout[-4096:]).decode(errors="replace")
    found = signs.trouble(None, printed)
    garbage, message = signs.unread(ended)
    return (found if found in ("authentication", "quota") else garbage), message


def _trouble(final: Plain) -> tuple[Trouble | None, str]:
    kind = signs.text(final, "subtype")
    if kind in _LIMITS:
        return _LIMITS[kind], signs.text(final, "result") or f"It ended with {kind}."
    if final.get("is_error") is False and kind == "success":
        return None, ""
    errors = final.get("errors")
    listed = "; ".join(map(str, cast("list[object]", errors))) if isinstance(errors, list) else ""
    message = signs.text(final, "result") or listed or f"It ended with {kind or 'an error'}."
    return signs.trouble(signs.count(final, "api_error_status"), message), message


def _usage(final: Plain, job: Job) -> tuple[Usage, ...]:
    """By model where it says so, else of the whole run."""
    models = signs.part(final, "modelUsage")
    if not any(isinstance(each, dict) for each in models.values()):
        total = signs.part(final, "usage")
        cost = signs.microusd(final.get("total_cost_usd"))
        call = _call(job, job.definition.model, _tokens(total), cost)
        return (call,) if call.input_tokens or call.output_tokens else ()
    found: list[Usage] = []
    for name in models:
        told = signs.part(models, name)
        cost = None if told.get("costBasis") == "unknown" else signs.microusd(told.get("costUSD"))
        found.append(_call(job, name, _tokens(told), cost))
    return tuple(each for each in found if each.input_tokens or each.output_tokens)


def _until_then(calls: list[Plain], job: Job) -> tuple[Usage, ...]:
    """What the calls tell that were made before a run was cut off: each of them once, though it has several records."""
    last = {signs.text(message, "id"): message for each in calls if (message := signs.part(each, "message"))}
    by_model: dict[str, list[int]] = {}
    for message in last.values():
        tokens = _tokens(signs.part(message, "usage"))
        sums = by_model.setdefault(signs.text(message, "model"), [0, 0, 0, 0])
        by_model[signs.text(message, "model")] = [a + (b or 0) for a, b in zip(sums, tokens, strict=True)]
    usage = [_call(job, name or None, tuple(sums), None) for name, sums in by_model.items() if name != "<synthetic>"]
    return tuple(each for each in usage if each.input_tokens or each.output_tokens)


def _tokens(told: Plain) -> tuple[int | None, int | None, int | None, int | None]:
    """Input, output, from the cache, into the cache: its input has those of the cache not in it."""
    new = signs.count(told, "input_tokens", "inputTokens")
    read = signs.count(told, "cache_read_input_tokens", "cacheReadInputTokens")
    written = signs.count(told, "cache_creation_input_tokens", "cacheCreationInputTokens")
    whole = None if new is None else new + (read or 0) + (written or 0)
    return whole, signs.count(told, "output_tokens", "outputTokens"), read, written


def _call(job: Job, model: str | None, tokens: tuple[int | None, ...], cost: int | None) -> Usage:
    whole, output, read, written = tokens
    return Usage(
        provider=job.definition.provider or "anthropic",
        model=model or job.definition.model or "unknown",
        input_tokens=whole,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cost=None if cost is None else Cost(source="reported", microusd=cost),
    )


def _notes(final: Plain) -> tuple[str, ...]:
    models = signs.part(final, "modelUsage")
    guessed = [name for name in models if signs.part(models, name).get("costBasis") == "unknown"]
    return tuple(f"It guessed the price of {name}, which therefore counts as unpriced." for name in guessed)


def _reset(found: list[Plain]) -> datetime | None:
    """When the limit is reset that a subscription has, which is a record of its own."""
    for each in reversed(found):
        told = signs.part(each, "rate_limit_info")
        if signs.text(told, "status") == "rejected" and (at := signs.count(told, "resetsAt")):
            return signs.reset(f"|{at}")
    return None
