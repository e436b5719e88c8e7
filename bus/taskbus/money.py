"""Money as the log tells it: what every account has committed and holds, and the caps on record.

A pure fold, without input or output: `scripts/money.lua` keeps the same on the server in the step of each append, and
`taskbus.budget` compares the two. Refuses nothing: what stands in the log has happened. Also writes what an envelope
announces of money for that step. Called by the append, the budget, and read models.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias, cast
from urllib.parse import quote, unquote

from msgspec import Struct, structs

from taskbus.amount import dollars
from taskbus.envelope import Acknowledgment, Budget, Parking, Period
from taskbus.errors import BudgetLost, InvalidEnvelope, OverBudget
from taskbus.lifecycle import event_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskbus.envelope import AnyEnvelope
    from taskbus.errors import Conflict
    from taskbus.lifecycle import Event
    from taskbus.log import Entry
    from taskbus.position import Position

Caps: TypeAlias = "Mapping[tuple[str, Period], int]"
"""Caps in microdollars, by account and period."""

MOST: Final = 2**53 - 1
"""The most that an account can count, in microdollars: as much as the server's scripts can count exactly."""
EVER: Final = "ever"
"""The span of a task's account, which has no other."""
UNKNOWN: Final = "unknown"
"""The provider of what was reserved without one."""
_DAY_MS: Final = 86_400_000
# Everything that is printable ASCII without a space or a percent sign is left as it is.
_PLAIN: Final = "!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_ENDING: Final[frozenset[Event]] = frozenset(
    {
        *("delegation", "acknowledgment:accepted", "acknowledgment:declined", "question", "completion:done"),
        *("completion:failure", "escalation", "cancellation", "budget:reserved"),
    }
)


class Opened(Struct, frozen=True):
    """A reservation as its envelope says it, in microdollars; `table` is the version of the prices it goes by."""

    id: str
    microusd: int
    provider: str
    model: str | None
    table: str | None = None


class OpenHold(Struct, frozen=True):
    """Money that is reserved for a task, in microdollars, by the envelope at `position`, for the run of `agent`.

    `token` is the fencing token of the delivery that it was reserved under, as the server knows it; None by hand.
    """

    id: str
    task: str
    root: str
    agent: str
    microusd: int
    provider: str
    model: str | None
    position: Position
    token: int | None = None

    @property
    def since(self) -> datetime:
        """When it was reserved."""
        return datetime.fromtimestamp(self.position.ms / 1000, UTC)


class Full(Struct, frozen=True):
    """An account in which a reservation has no room, with its cap, and what is spent and reserved, in microdollars."""

    account: str
    period: Period
    span: str
    cap: int
    committed: int
    held: int


class Sums(Struct):
    """What an account counts in one span: microdollars spent and reserved, and calls that have no price."""

    committed: int = 0
    held: int = 0
    unpriced: int = 0


@lru_cache(maxsize=64)
def _spans(day: int) -> tuple[str, str]:
    said = (date(1970, 1, 1) + timedelta(days=day)).isoformat()
    return said[:7], said


def span_of(period: Period, milliseconds: int) -> str:
    """The month or day of a time in UTC, in milliseconds since the epoch: `2026-11`, `2026-11-20`."""
    if period == "task":
        return EVER
    month, day = _spans(milliseconds // _DAY_MS)
    return month if period == "month" else day


def resets(period: Period, span: str) -> datetime | None:
    """When the span after this one begins; None for a task's account, which has no other."""
    if period == "task":
        return None
    if period == "day":
        return datetime.fromisoformat(span).replace(tzinfo=UTC) + timedelta(days=1)
    year, month = map(int, span.split("-"))
    return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)


def accounts_of(provider: str | None, agent: str, root: str, milliseconds: int) -> tuple[tuple[str, Period, str], ...]:
    """The accounts that a reservation or a call counts in: each with its period, and the span of that time."""
    month, day = _spans(milliseconds // _DAY_MS)
    by, of = f"provider:{provider or UNKNOWN}", f"agent:{agent}"
    return (
        (by, "month", month),
        (by, "day", day),
        (of, "month", month),
        (of, "day", day),
        (f"task:{root}", "task", EVER),
    )


def opened(envelope: AnyEnvelope) -> Opened | None:
    """What an envelope reserves: an acknowledgment with a hold, or the record of a reservation."""
    payload = envelope.payload
    if isinstance(payload, Acknowledgment) and payload.accepted and payload.hold is not None:
        return Opened(payload.hold.id, payload.hold.microusd, payload.provider or UNKNOWN, payload.model)
    if isinstance(payload, Budget) and payload.budget == "reserved" and payload.hold is not None:
        hold = payload.hold
        return Opened(hold.id, hold.microusd, payload.provider or UNKNOWN, payload.model, payload.table)
    return None


def ends(envelope: AnyEnvelope, hold: str, agent: str) -> bool:
    """Whether an envelope ends the hold with that ID, which is open for the envelope's task in favour of `agent`.

    Whatever ends the work, hands it out anew, or reserves again, does; what tells of the end of a run ends the hold of
    that very run, and no newer one.
    """
    event, payload = event_of(envelope), envelope.payload
    if event == "parking:parked":
        return cast("Parking", payload).agent == agent
    if event in ("budget:settled", "budget:released"):
        named = cast("Budget", payload).hold
        its_own = event == "budget:released" or envelope.sender == agent
        return named is not None and named.id == hold and its_own
    return event in _ENDING


def announced(envelope: AnyEnvelope, caps: Caps | None) -> str:
    """What an envelope says of money, in the lines that `scripts/money.lua` reads; empty where it says nothing."""
    lines: list[str] = []
    payload, reserved = envelope.payload, opened(envelope)
    if reserved is not None:
        provider, model = quoted(reserved.provider), quoted(reserved.model or "-")
        lines.append(f"r {reserved.id} {reserved.microusd} {provider} {model}")
        lines += [f"c {quoted(account)} {period} {cap}" for (account, period), cap in (caps or {}).items()]
    if isinstance(payload, Budget):
        lines += _recorded(payload)
    for used in envelope.usage:
        provider = quoted(used.provider)
        lines.append(f"u {provider}" if used.cost is None else f"s {provider} {used.cost.microusd}")
    return "\n".join(lines)


def _recorded(payload: Budget) -> list[str]:
    match payload.budget:
        case "settled" | "released" if payload.hold is not None:
            return [f"e {payload.hold.id}"]
        case "cap" if payload.account and payload.period:
            cap = "-" if payload.microusd is None else payload.microusd
            return [f"k {quoted(payload.account)} {payload.period} {cap}"]
        case "warned" if payload.account and payload.span and payload.microusd is not None:
            return [f"w {quoted(payload.account)} {quoted(payload.span)} {payload.microusd}"]
        case _:
            return []


def quoted(name: str) -> str:
    """A name as a word of a line, without white space; never empty."""
    return quote(name, safe=_PLAIN) or "%"


def unquoted(word: str) -> str:
    """The name that a word of a line stands for."""
    return "" if word == "%" else unquote(word)


def over(envelope: AnyEnvelope, reply: Sequence[str]) -> Conflict:
    """Why the server refused to reserve money, in words."""
    if reply[0] == "uncounted":
        return BudgetLost(task=envelope.task, envelope=envelope.id)
    asked, words = int(reply[1]), iter(reply[2:])
    found = [
        Full(unquoted(account), cast("Period", period), span, int(cap), int(committed), int(held))
        for account, period, span, cap, committed, held in zip(*[words] * 6, strict=True)
    ]
    # Those first that no end of a run makes room in.
    full = sorted(found, key=lambda each: each.committed + asked <= each.cap)
    error = OverBudget(
        f"{dollars(asked)} do not fit under the cap of {'; nor under that of '.join(map(_standing, full))}.",
        asked=asked,
        full=full,
        resets=resets(full[0].period, full[0].span),
        task=envelope.task,
        envelope=envelope.id,
    )
    error.advice = _choices(envelope.task, error)
    return error


def _standing(full: Full) -> str:
    what = full.account if full.period == "task" else f"{full.account} in {full.span}"
    return f"{what}: {dollars(full.committed)} are spent and {dollars(full.held)} reserved of {dollars(full.cap)}"


def _choices(task: str, error: OverBudget) -> str:
    """What can be done where caps are reached, of which only that which helps."""
    spent = [each for each in error.full if each.committed + error.asked > each.cap]
    turns = [resets(each.period, each.span) for each in spent]
    said: list[str] = []
    if error.is_held:
        said.append("wait until a run has ended that money is reserved for: `bus budget holds` lists them")
    elif any(error.asked > each.cap for each in spent):
        said.append("reserve less: `hold` in the agent's definition, or [holds] in the policy")
    elif len(whens := [turn for turn in turns if turn is not None]) == len(turns):
        said.append(f"wait until {max(whens):%FT%TZ}, when it is counted anew")
    said.append(f"hand the task to another rung: `bus delegate @agent GOAL --task {task}`")
    caps = (f"`bus budget set '{each.account}' AMOUNT --per {each.period} --reason …`" for each in spent or error.full)
    said.append(f"or raise the cap: {' and '.join(caps)}")
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}."


class Ledger:
    """The fold: give it every entry of the log, in order.

    A hold counts in the month and on the day of its reservation, and so does what its agent says was used for the task
    while it is open; what is used without one counts when it is told.

    `accounts` are the sums by account and span, `holds` what is open by task, `caps` the recorded ones by account and
    period, None for the decision that there is none, `warned` what was told of: account, span and cap.
    """

    def __init__(self) -> None:
        """Know of no money yet."""
        self.accounts: dict[tuple[str, str], Sums] = {}
        self.holds: dict[str, OpenHold] = {}
        self.caps: dict[tuple[str, Period], int | None] = {}
        self.warned: set[tuple[str, str, int]] = set()

    def fold(self, entry: Entry) -> None:
        """Count one entry. What this version cannot decode says nothing of money."""
        try:
            envelope = entry.envelope
        except InvalidEnvelope:
            # It was appended by another version: whoever knows it counts it, and a check would tell of it.
            return
        before = self.holds.get(entry.task)
        if before is not None and ends(envelope, before.id, before.agent):
            self._add(before.provider, before.agent, before.root, before.position.ms, held=-before.microusd)
            del self.holds[entry.task]
        ms = (before if before is not None and before.agent == entry.sender else entry).position.ms
        for used in envelope.usage:
            spent = used.cost.microusd if used.cost is not None else 0
            calls = int(used.cost is None)
            self._add(used.provider, entry.sender, entry.root, ms, committed=spent, unpriced=calls)
        if isinstance(envelope.payload, Budget):
            self._record(envelope.payload)
        made = opened(envelope)
        if made is not None:
            who = entry.task, entry.root, entry.sender
            hold = OpenHold(made.id, *who, made.microusd, made.provider, made.model, entry.position)
            self._add(hold.provider, hold.agent, hold.root, entry.position.ms, held=hold.microusd)
            self.holds[entry.task] = hold

    def _record(self, payload: Budget) -> None:
        if payload.budget == "cap" and payload.account and payload.period:
            self.caps[payload.account, payload.period] = payload.microusd
        elif payload.budget == "warned" and payload.account and payload.span and payload.microusd is not None:
            self.warned.add((payload.account, payload.span, payload.microusd))

    def _add(
        self,
        provider: str,
        agent: str,
        root: str,
        milliseconds: int,
        *,
        committed: int = 0,
        held: int = 0,
        unpriced: int = 0,
    ) -> None:
        for account, _, span in accounts_of(provider, agent, root, milliseconds):
            sums = self.accounts.setdefault((account, span), Sums())
            sums.committed = min(sums.committed + committed, MOST)
            sums.held += held
            sums.unpriced = min(sums.unpriced + unpriced, MOST)


def period_of(span: str) -> Period:
    """The period that a span is one of, by its form."""
    return "task" if span == EVER else "month" if len(span) == len("2026-11") else "day"


def with_token(hold: OpenHold, token: int | None) -> OpenHold:
    """The same hold under another token."""
    return structs.replace(hold, token=token)
