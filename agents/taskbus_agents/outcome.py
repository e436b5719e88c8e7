"""The outcome: from what a command left behind, its exit and its words, to the document that settles its delivery.

Nothing is success because a process said so by ending: without a valid envelope that agrees with the delivery there
is a failed completion, which says what happened. What the agent wrote is kept with it, byte for byte. Pure; called
by the adapters.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from taskbus import codec, lenient, shorthand
from taskbus.codec import Document
from taskbus.envelope import Acknowledgment, Completion, ErrorDetails, Escalation, Question, Result, now
from taskbus.errors import InvalidEnvelope, Problem
from taskbus.findings import printable
from taskbus.lifecycle import BUS, HUMAN
from taskbus.work import Outcome
from taskbus_agents import decision

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from taskbus.envelope import AnyEnvelope, Usage
    from taskbus.work import Work
    from taskbus_agents.runner import Ended

FREE_TEXT: Final = "text/plain"

_LINES: Final = 5
_TAIL: Final = 16_384
_LINE: Final = 400
_TOLD: Final = 4000
"""How many characters of an explanation stand in a failure."""

Reason = Literal[
    "exit-code",
    "signal",
    "timeout",
    "output-limit",
    "no-completion",
    "invalid-completion",
    "declined",
    "not-started",
    "quota",
    "garbage",
]
"""Why a completion is a failure that the agent did not report itself: its `termination_reason`."""
_ENVELOPE: Final = frozenset({"type", "payload", "sender"})
_FIRST_USAGE: Final = "usage[0]."
_ATTEMPT: Final = re.compile(r"<agent-message|\"(?:status|question|escalation)\"\s*:")


@dataclass(frozen=True, slots=True)
class Words:
    """What an agent wrote, and where; `trouble` says why that could not be read."""

    text: bytes
    origin: str
    trouble: str = ""


def outcome(
    work: Work,
    ended: Ended,
    words: Words,
    *,
    keep: Callable[[], Path | None] = lambda: None,
    published: Callable[[Completion], Completion] = lambda completion: completion,
    coordinator: str | None = None,
) -> Document:
    """What settles a delivery: what the agent wrote, or a failed completion that says what went wrong.

    An exit code other than 0 makes a failure of everything that does not report trouble itself. `keep` is called
    where it becomes a failure; it returns the folder in which what the agent printed is kept. `published` completes
    what a completion in short says of its files. An escalation that names nobody goes to `coordinator`, by default to
    the delegator.
    """
    if ended.cut is not None:
        kept = words.text if ended.cut == "timeout" else b""
        return failure(work, *_cut(ended), printed=last_lines(ended.stderr), words=kept, kept=keep())
    found, trouble = _understood(work, words, published, coordinator)
    if ended.code != 0:
        if found is not None and _reports_trouble(found.envelope):
            return found
        return _exited(work, ended, words.text, found, keep())
    if found is None:
        reason: Reason = "invalid-completion" if words.text.strip() or words.trouble else "no-completion"
        printed = last_lines(ended.stderr) or last_lines(ended.stdout)
        return failure(work, reason, trouble, category="validation", printed=printed, words=words.text, kept=keep())
    payload = found.envelope.payload
    if isinstance(payload, Acknowledgment):
        # The worker acknowledged the task before it called the agent, so that it cannot be declined any more.
        why = payload.decline_reason or "It gave no reason."
        said = f"The agent declined the task: {why}"
        return failure(work, "declined", said, words=words.text, usage=found.envelope.usage)
    return found


def reply(work: Work, said: str, *, coordinator: str | None = None) -> tuple[Document | None, str]:
    """What an agent's last message says of its task, and why that cannot be taken for it.

    Neither where it is a text alone, which says nothing of the task in any form that can be read.
    """
    words = Words(said.encode(errors="surrogateescape"), "its last message")
    if not _ATTEMPT.search(said):
        return None, ""
    return _understood(work, words, lambda completion: completion, coordinator)


def used(work: Work, words: Words) -> tuple[Usage, ...]:
    """What models used by what an agent wrote, where that is valid; nothing else of it counts."""
    found, _ = _understood(work, words, lambda completion: completion, None)
    return found.envelope.usage if found is not None else ()


def failure(
    work: Work,
    reason: Reason,
    message: str,
    *,
    category: Literal["execution", "validation"] = "execution",
    printed: str = "",
    words: bytes = b"",
    usage: Sequence[Usage] = (),
    kept: Path | None = None,
) -> Document:
    """A failed completion in the agent's name; `words` are what it wrote, and stay with it.

    `printed` are the last lines that it printed, `kept` is the folder where all of it is.
    """
    if kept is not None:
        message = f"{message} What it printed is in {printable(str(kept), _LINE)}."
    if printed:
        message = f"{message}\n{printed}"
    completion = Completion(
        result=Result(status="failure"),
        termination_reason=reason,
        error_details=ErrorDetails(level=1, category=category, message=message[:_TOLD]),
    )
    made = codec.document(work.reply(Outcome(completion, tuple(usage)), number=1))
    return _with_source(made, words, FREE_TEXT) if words else made


def trouble(ended: Ended) -> str | None:
    """What is to be said of how a command ended, where that was not as it should."""
    if ended.cut is not None:
        return _cut(ended)[1]
    if ended.code == 0:
        return None
    how = f"was killed by {_signal_name(-ended.code)}" if ended.code < 0 else f"ended with exit code {ended.code}"
    printed = last_lines(ended.stderr) or last_lines(ended.stdout)
    return f"The agent {how}.\n{printed}".rstrip()


def sourced(made: Document, words: bytes) -> Document:
    """A document that we wrote, with the words that it was made of, as far as an envelope can carry them."""
    if not words.strip() or len(words) > codec.MAX_BYTES:
        return made
    return _with_source(made, words, FREE_TEXT)


def last_lines(printed: bytes) -> str:
    """The last few lines of what an agent printed, without what would steer a terminal."""
    lines = [line for line in printed[-_TAIL:].decode(errors="replace").splitlines() if line.strip()]
    return "\n".join(printable(line.rstrip(), _LINE) for line in lines[-_LINES:])


def _understood(
    work: Work, words: Words, published: Callable[[Completion], Completion], coordinator: str | None
) -> tuple[Document | None, str]:
    """What the agent wrote, if it is valid and agrees with the delivery; else why not."""
    if words.trouble:
        return None, f"What the agent wrote ({words.origin}) cannot be read: {words.trouble}."
    if not words.text.strip():
        return None, f"The agent ended without a completion: {words.origin} is empty."
    try:
        found = _read(work, words.text, published, coordinator)
        problems: Sequence[Problem] = _disagreements(work, found.envelope)
    except InvalidEnvelope as error:
        found, problems = None, error.problems
    if found is None or problems:
        listed = "; ".join(printable(str(problem), _LINE) for problem in problems[:10])
        return None, f"What the agent wrote ({words.origin}) is no outcome of its task: {listed}."
    return found, ""


def _read(work: Work, words: bytes, published: Callable[[Completion], Completion], coordinator: str | None) -> Document:
    """A whole document, or else the one in a text. Raises InvalidEnvelope with every problem."""
    strict: InvalidEnvelope | None = None
    short = decision.in_short(words.decode(errors="replace"), ("escalation",)) if b'"escalation"' in words else None
    if short is not None and not _ENVELOPE.intersection(short):
        return _escalated(work, short, words, coordinator)
    try:
        if shorthand.is_shorthand(words):
            read = shorthand.read_question if shorthand.is_question(words) else shorthand.read_completion
            short = read(words)
            return _with_source(_composed(work, short.payload, short.usage, published), words, codec.JSON)
        return codec.read(words)
    except InvalidEnvelope as error:
        strict = error
    is_document = words.lstrip()[:1] == b"<" or shorthand.is_object(words)
    known = {
        "sender": work.delivery.agent,
        "recipient": work.reply_to,
        "task_id": work.delivery.task,
        "timestamp": now(),
    }
    try:
        # Bytes that are no UTF-8 become lone surrogates, which the lenient reader writes out.
        text = words.decode(errors="surrogateescape")
        found = lenient.find(text, defaults=known, outcome=True)
        if coordinator is not None and isinstance(found.envelope.payload, Escalation):
            found = lenient.find(text, defaults={**known, "recipient": coordinator}, outcome=True)
    except InvalidEnvelope as error:
        # Of what is nothing but a document, the strict reader says more exactly what is wrong.
        raise _of_single_usage(strict, error) if is_document else error from strict
    if found.in_short and isinstance(found.envelope.payload, Completion | Question):
        made = _composed(work, found.envelope.payload, found.envelope.usage, published)
        return _with_source(made, words, FREE_TEXT)
    return Document(found.envelope, found.document, found.content_type, words, FREE_TEXT)


def _of_single_usage(strict: InvalidEnvelope, lenient_error: InvalidEnvelope) -> InvalidEnvelope:
    """What the strict reader says; but of a usage that is no list, which the lenient one takes, what is wrong in it."""
    others = [each for each in strict.problems if each.place != "usage"]
    inside = [
        Problem(f"usage.{each.place.removeprefix(_FIRST_USAGE)}", each.found, each.expected)
        for each in lenient_error.problems
        if each.place.startswith(_FIRST_USAGE)
    ]
    if not inside or len(others) == len(strict.problems):
        return strict
    return InvalidEnvelope([*others, *inside], source=strict.source)


def _escalated(work: Work, short: dict[str, object], words: bytes, coordinator: str | None) -> Document:
    """An escalation in short. Raises InvalidEnvelope."""
    try:
        said = decision.escalation(short)
    except msgspec.ValidationError as error:
        raise InvalidEnvelope(
            [Problem("escalation", printable(str(error), _LINE), "an escalation in short")]
        ) from error
    recipient = said.recipient or coordinator
    return sourced(codec.document(work.reply(Outcome(said.payload, said.usage, recipient), number=1)), words)


def _composed(
    work: Work,
    payload: Completion | Question,
    usage: tuple[Usage, ...],
    published: Callable[[Completion], Completion],
) -> Document:
    """The document of an outcome in short, whose envelope the agent left to us."""
    said = published(payload) if isinstance(payload, Completion) else payload
    return codec.document(work.reply(Outcome(said, usage), number=1))


def _with_source(made: Document, words: bytes, source_type: str) -> Document:
    return Document(made.envelope, made.body, made.content_type, words, source_type)


def _disagreements(work: Work, envelope: AnyEnvelope) -> list[Problem]:
    """In what an envelope that an agent wrote is not the outcome of this delivery."""
    agent, task, delegator = work.delivery.agent, work.delivery.task, work.reply_to
    found: list[Problem] = []
    if envelope.sender != agent:
        found.append(Problem("sender", envelope.sender, f"{agent}, whose delivery it is"))
    if envelope.task != task:
        found.append(Problem("context.task_id", envelope.task, f"{task}, the task of the delivery"))
    payload, recipient = envelope.payload, envelope.recipient
    match payload:
        case Completion() | Acknowledgment(accepted=False):
            agrees, expected = recipient == delegator, f"{delegator}, who delegated the task"
        case Question():
            agrees, expected = recipient in (delegator, HUMAN), f"{delegator}, who delegated the task, or {HUMAN}"
        case Escalation():
            agrees, expected = recipient not in (agent, BUS), "somebody else, who can deal with it"
        case _:
            found.append(Problem("type", envelope.type, "a completion, a question or an escalation"))
            return found
    if not agrees:
        found.append(Problem("recipient", recipient, expected))
    return found


def _reports_trouble(envelope: AnyEnvelope) -> bool:
    payload = envelope.payload
    return isinstance(payload, Escalation) or (isinstance(payload, Completion) and payload.result.status == "failure")


def _cut(ended: Ended) -> tuple[Reason, str]:
    if ended.cut == "timeout":
        return "timeout", f"The agent was not done after {ended.seconds:.1f} s, and was ended."
    return "output-limit", f"The agent wrote more than {codec.MAX_BYTES} bytes, and was ended."


def _exited(work: Work, ended: Ended, words: bytes, found: Document | None, kept: Path | None) -> Document:
    printed = last_lines(ended.stderr)
    if not printed and found is None:
        printed = last_lines(ended.stdout)
    usage = found.envelope.usage if found is not None else ()
    a = "an" if found is not None and found.envelope.type[0] in "aeiou" else "a"
    but = f", although it wrote {a} {found.envelope.type}" if found is not None else ""
    if ended.code < 0:
        said = f"The agent was killed by {_signal_name(-ended.code)}{but}."
        return failure(work, "signal", said, printed=printed, words=words, usage=usage, kept=kept)
    said = f"The agent ended with exit code {ended.code}{but}."
    return failure(work, "exit-code", said, printed=printed, words=words, usage=usage, kept=kept)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
