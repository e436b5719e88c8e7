"""The adapter for every agent that speaks the Agent Client Protocol, such as `gemini --acp` or `opencode acp`.

The definition's `command` starts the agent; `taskbus_agents.acp_client` talks to it, and tells on stdout what this
module reads. What an agent spent is known only where it says so: the protocol leaves that open.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from taskbus.envelope import Cost, Usage
from taskbus.errors import ConfigurationError
from taskbus_agents.acp_lines import Order, Told
from taskbus_agents.adapter import Launch, Report
from taskbus_agents.adapters import signs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskbus_agents.adapter import Job, Trouble
    from taskbus_agents.runner import Ended

_AUTHENTICATION: Final = -32000
_STOPS: Final[Mapping[str, tuple[Trouble, str]]] = {
    "max_tokens": ("turn-limit", "The agent ended at its limit of tokens."),
    "max_turn_requests": ("turn-limit", "The agent ended at its limit of turns."),
    "refusal": ("model-error", "The agent refused to go on."),
    "cancelled": ("killed", "The agent says that it was cancelled."),
}


class _Tokens(msgspec.Struct):
    input_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    output_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _ModelUsage(msgspec.Struct):
    model: str
    token_count: _Tokens


class _Quota(msgspec.Struct):
    model_usage: list[_ModelUsage]


class _Aside(msgspec.Struct):
    """What Gemini CLI tells beside the protocol: the tokens of each model."""

    quota: _Quota


class Acp:
    """Any agent that speaks the Agent Client Protocol over its stdin and stdout."""

    name = "acp"
    program = ""
    package = "pip agent-client-protocol"
    tried = ("0.12.1",)

    def launch(self, job: Job) -> Launch:
        """How the conversation is started. Raises ConfigurationError for a definition without a command."""
        definition = job.definition
        if not definition.command:
            message = f"{definition.place or definition.name}: an agent of the Agent Client Protocol has no command."
            raise ConfigurationError(message, advice='Say how it is started: command = ["gemini", "--acp"]')
        order = Order(
            command=definition.command,
            folder=str(job.folder),
            prompt=job.prompt,
            permission=definition.permission,
            model=definition.model,
        )
        environment: dict[str, str | None] = {"HOME": str(job.home)} if definition.home == "private" else {}
        return Launch(
            # Without -P it would import whatever has the name of a library in the folder that it works in.
            command=(sys.executable, "-P", "-m", "taskbus_agents.acp_client"),
            environment=environment,
            stdin=msgspec.json.encode(order),
        )

    def report(self, ended: Ended, job: Job, read: Mapping[str, bytes]) -> Report:
        """What the conversation came to."""
        del read
        lines = _lines(ended.stdout)
        last = lines[-1] if lines else None
        notes = [each.message for each in lines if each.event == "model" and each.message]
        usage = _usage(job, lines, notes)
        refused = tuple(
            each.name or each.id or "a tool" for each in lines if each.event == "permission" and not each.allowed
        )
        tools = len({each.id for each in lines if each.event == "tool"})
        trouble, message = _trouble(ended, last)
        return Report(
            said=(last.said or "") if last is not None and last.event == "result" else "",
            trouble=trouble,
            message=message,
            until=signs.reset(message) if trouble == "quota" else None,
            usage=usage,
            refused=refused,
            tools=tools,
            notes=tuple(notes),
        )


def _lines(printed: bytes) -> list[Told]:
    found: list[Told] = []
    for line in printed.splitlines():
        try:
            found.append(msgspec.json.decode(line, type=Told))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return found


def _trouble(ended: Ended, last: Told | None) -> tuple[Trouble | None, str]:
    if ended.cut is None and last is not None and last.event == "result" and ended.code == 0:
        if last.stop == "end_turn":
            return None, ""
        return _STOPS.get(last.stop or "", ("garbage", f"The agent stopped for an unknown reason: {last.stop}."))
    if last is not None and last.event == "error":
        said = last.message or "It gave no reason."
        return _kind(last), f"The agent reported an error: {said} {last.data or ''}".rstrip()
    if (stopped := signs.stopped(ended)) is not None:
        return stopped
    if b"No module named 'acp'" in ended.stderr:
        return (
            "missing",
            f"The Agent Client Protocol's library is not there: install taskbus[acp] for {sys.executable}.",
        )
    return signs.unread(ended)


def _kind(error: Told) -> Trouble:
    said = f"{error.message or ''} {error.data or ''}"
    if error.code == _AUTHENTICATION:
        return "authentication"
    if error.code is None:  # the agent itself said nothing
        return "missing" if os.strerror(errno.ENOENT) in said else "killed"
    # Some give the HTTP status as the error's code.
    return signs.trouble(error.code if 400 <= error.code < 600 else None, said)


def _usage(job: Job, lines: list[Told], notes: list[str]) -> tuple[Usage, ...]:
    """What the agent said that it used. The sum of a conversation, so that its last word counts."""
    told = next((each.usage for each in reversed(lines) if each.usage is not None), None)
    spent = next((each for each in reversed(lines) if each.event == "cost"), None)
    definition = job.definition
    if told is None and (aside := _told_aside(lines)):
        return tuple(
            Usage(
                provider=definition.provider or "unknown",
                model=signs.name(each.model),
                input_tokens=each.token_count.input_tokens,
                output_tokens=each.token_count.output_tokens,
            )
            for each in aside
        )
    if told is None and spent is None:
        notes.append("The agent told of no tokens and no cost.")
        return ()
    chosen = next((each.model for each in reversed(lines) if each.event == "model" and each.model), None)
    provider, model = definition.provider or "unknown", signs.name(chosen, definition.model)
    counts = _counts(told or {})
    return (Usage(provider=provider, model=model, cost=_cost(spent, notes), **counts),)


def _told_aside(lines: list[Told]) -> list[_ModelUsage]:
    last = lines[-1] if lines else None
    if last is None or last.event != "result" or last.data is None:
        return []
    try:
        return msgspec.json.decode(last.data, type=_Aside).quota.model_usage
    except msgspec.MsgspecError:
        return []


def _counts(told: Mapping[str, int | None]) -> dict[str, int]:
    """The counts as an envelope has them: input with the cache, output with the reasoning.

    The protocol's total is the sum of all classes, which shows whether an agent counts the cache within its input.
    """
    read, written, thought = (
        told.get(name) for name in ("cached_read_tokens", "cached_write_tokens", "thought_tokens")
    )
    given, put, total = told.get("input_tokens"), told.get("output_tokens"), told.get("total_tokens")
    if given is not None and put is not None:
        aside = (read or 0) + (written or 0)
        if total == given + put + aside + (thought or 0):
            given, put = given + aside, put + (thought or 0)
        elif total == given + put + aside:
            given += aside
        elif total == given + put + (thought or 0):
            put += thought or 0
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
    values = (given, put, read, written, thought)
    return {name: value for name, value in zip(names, values, strict=True) if value is not None and value >= 0}


def _cost(spent: Told | None, notes: list[str]) -> Cost | None:
    if spent is None or spent.amount is None:
        return None
    amount = signs.microusd(spent.amount) if spent.currency == "USD" else None
    if amount is None:
        notes.append(f"The agent told a cost that is no amount of US dollars: {spent.amount} {spent.currency}.")
        return None
    return Cost(source="reported", microusd=amount)
