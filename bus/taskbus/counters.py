"""The counters: what the server counts of money, as it stands there, and as the log says that it should.

Reads both hashes as of one position of the log, compares them with a ledger, and writes what the ledger says in their
place. Owns the form of their fields, which `scripts/money.lua` shares. Called by the budget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from msgspec import Struct

from taskbus import replies
from taskbus.append import script
from taskbus.money import Ledger, OpenHold, Sums, quoted, unquoted
from taskbus.position import Position

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from taskbus.connection import Connection
    from taskbus.envelope import Period
    from taskbus.keys import Keys

_NOBODY = "-"
"""Stands for the token of what was reserved under none."""


class Counted(Struct, frozen=True):
    """What the server counts as of `position`, the newest live entry of its log.

    `is_there` says that there are counters at all; `was_counted`, that there were some once; `open` is how many holds
    there should be. `ledger` has them in the form in which the log is folded.
    """

    position: Position
    ledger: Ledger
    is_there: bool
    was_counted: bool
    open: int


class Difference(Struct, frozen=True):
    """Something that the server counts otherwise than the log says: an account, a hold, a cap or a warning, by name."""

    what: str
    name: str
    server: str
    log: str


async def read(connection: Connection, keys: Keys) -> Counted:
    """Read all counters as of one position. Raises Unavailable."""
    reply = await connection.run(script("counters"), (keys.log, keys.budget, keys.holds, keys.meta), ())
    newest, budget, holds, marked = cast("tuple[object, object, object, int]", reply)
    fields = replies.texts(budget)
    ledger = Ledger()
    for field, value in fields.items():
        _put(ledger, field, value)
    for task, line in replies.texts(holds).items():
        ledger.holds[task] = hold_of(task, line, keys.shard)
    position = Position.parse(replies.text(newest), shard=keys.shard)
    return Counted(position, ledger, bool(fields), bool(marked), int(fields.get("holds", 0)))


async def write(connection: Connection, keys: Keys, ledger: Ledger, position: Position) -> bool:
    """Put what a ledger says in the place of the counters, unless the log has grown beyond `position`."""
    fields = dict(_fields(ledger))
    lines = {task: line_of(hold) for task, hold in ledger.holds.items()}
    args = [position.entry, len(fields)]
    for pairs in (fields, lines):
        for pair in pairs.items():
            args += pair
    reply = await connection.run(script("counters"), (keys.log, keys.budget, keys.holds, keys.meta), args)
    return cast("tuple[object, int]", reply)[1] == 1


def differences(counted: Counted, ledger: Ledger) -> list[Difference]:
    """Where the server counts otherwise than the ledger."""
    found: list[Difference] = []

    def compare(what: str, server: Mapping[str, str], log: Mapping[str, str], missing: str = "none") -> None:
        for name in sorted({*server, *log}):
            here, there = server.get(name, missing), log.get(name, missing)
            if here != there:
                found.append(Difference(what, name, here, there))

    server = counted.ledger
    compare("account", _sums(server), _sums(ledger), "0 0 0")
    compare("hold", _holds(server), _holds(ledger))
    compare("cap", _caps(server), _caps(ledger))
    compare("warning", _warned(server), _warned(ledger))
    if counted.open != len(counted.ledger.holds):
        found.append(Difference("holds", "open", str(counted.open), str(len(ledger.holds))))
    return found


def hold_of(task: str, line: str, shard: int) -> OpenHold:
    """Read the line of an open hold."""
    id, microusd, provider, agent, root, position, token, model = line.split(" ")
    return OpenHold(
        id,
        task,
        root,
        agent,
        int(microusd),
        unquoted(provider),
        None if model == "-" else unquoted(model),
        Position.parse(position, shard=shard),
        None if token == _NOBODY else int(token),
    )


def line_of(hold: OpenHold, *, plain: bool = False) -> str:
    """The line of an open hold; `plain` leaves out the token, which the log does not know."""
    token = _NOBODY if hold.token is None or plain else str(hold.token)
    model = quoted(hold.model or "-")
    words = (
        hold.id,
        str(hold.microusd),
        quoted(hold.provider),
        hold.agent,
        hold.root,
        hold.position.entry,
        token,
        model,
    )
    return " ".join(words)


def sums_of(line: str | None) -> Sums:
    """Read the numbers of an account."""
    return Sums(*map(int, line.split(" "))) if line else Sums()


def _put(ledger: Ledger, field: str, value: str) -> None:
    words = field.split(" ")
    match words:
        case ["cap", account, period]:
            ledger.caps[unquoted(account), cast("Period", period)] = None if value == "-" else int(value)
        case ["warned", account, span, cap]:
            ledger.warned.add((unquoted(account), unquoted(span), int(cap)))
        case [account, span]:
            ledger.accounts[unquoted(account), span] = sums_of(value)
        case _:
            pass  # how many holds are open


def _fields(ledger: Ledger) -> Iterator[tuple[str, str]]:
    yield "holds", str(len(ledger.holds))
    for (account, span), sums in ledger.accounts.items():
        yield f"{quoted(account)} {span}", f"{sums.committed} {sums.held} {sums.unpriced}"
    for (account, period), cap in ledger.caps.items():
        yield f"cap {quoted(account)} {period}", "-" if cap is None else str(cap)
    for account, span, cap in ledger.warned:
        yield f"warned {quoted(account)} {quoted(span)} {cap}", "1"


def _sums(ledger: Ledger) -> dict[str, str]:
    return {
        f"{account} {span}": f"{sums.committed} {sums.held} {sums.unpriced}"
        for (account, span), sums in ledger.accounts.items()
    }


def _holds(ledger: Ledger) -> dict[str, str]:
    return {task: line_of(hold, plain=True) for task, hold in ledger.holds.items()}


def _caps(ledger: Ledger) -> dict[str, str]:
    return {f"{a} by {p}": "no cap" if cap is None else str(cap) for (a, p), cap in ledger.caps.items()}


def _warned(ledger: Ledger) -> dict[str, str]:
    return {f"{account} {span} {cap}": "told" for account, span, cap in ledger.warned}
