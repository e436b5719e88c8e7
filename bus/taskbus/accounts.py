"""Accounts of money as somebody asks for them, and the records that the bus itself makes of them.

Knows how an account stands under its cap, when that is worth a warning, and what gives a reservation back. Publishes
nothing. Called by the budget and by supervision.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from msgspec import Struct

from taskbus import counters, money
from taskbus.envelope import NAME_PATTERN, TASK_PATTERN, Budget, Hold, Period, compose
from taskbus.lifecycle import BUS, HUMAN
from taskbus.money import Caps, OpenHold, Sums
from taskbus.validation import hashed_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from typing import Literal

    from taskbus.connection import Connection
    from taskbus.envelope import AnyEnvelope
    from taskbus.keys import Keys

_NAMES = {"agent": re.compile(NAME_PATTERN), "task": re.compile(TASK_PATTERN)}
WARN = 0.8
"""A cap of which so much is committed and held is warned of."""


class Account(Struct, frozen=True):
    """An account in one span: what is committed and held of it, in microdollars, and how many calls have no price.

    `cap` is what holds for it, None without one; `recorded` says that a decision in the log made it, or took it away.
    """

    account: str
    period: Period
    span: str
    committed: int
    held: int
    unpriced: int
    cap: int | None
    recorded: bool

    @property
    def left(self) -> int | None:
        """What can still be reserved; None without a cap."""
        return None if self.cap is None else max(0, self.cap - self.committed - self.held)

    @property
    def used(self) -> float | None:
        """How much of the cap is committed or held, 1.0 for all of it; None without a cap, and for a cap of nothing."""
        return (self.committed + self.held) / self.cap if self.cap else None

    @property
    def resets(self) -> datetime | None:
        """When it is counted anew."""
        return money.resets(self.period, self.span)

    @classmethod
    def of(
        cls,
        key: tuple[str, Period, str],
        sums: Sums,
        recorded: Mapping[tuple[str, Period], int | None],
        caps: Caps,
    ) -> Account:
        """From account, period and span, with the caps on record and those of a policy."""
        account, period, span = key
        is_recorded = (account, period) in recorded
        cap = recorded[account, period] if is_recorded else caps.get((account, period))
        return cls(account, period, span, sums.committed, sums.held, sums.unpriced, cap, is_recorded)


def is_account(name: str) -> bool:
    """Whether a name can be that of an account: of one provider, agent or task, as envelopes name them.

    A provider's is printable, and no pattern for several, which a policy has.
    """
    kind, _, of = name.partition(":")
    if kind == "provider":
        return of.isprintable() and of.strip() == of != "" and not {"*", "?"} & {*of}
    return kind in _NAMES and _NAMES[kind].match(of) is not None


async def standing(connection: Connection, keys: Keys, hold: OpenHold, caps: Caps) -> list[Account]:
    """How the accounts stand that a hold counts in, under the caps on record and those of a policy."""
    accounts = money.accounts_of(hold.provider, hold.agent, hold.root, hold.position.ms)
    names = [f"{money.quoted(account)} {span}" for account, _, span in accounts]
    names += [f"cap {money.quoted(account)} {period}" for account, period, _ in accounts]
    values = cast("Sequence[bytes | None]", await connection.execute("HMGET", keys.budget, *names))
    words = [each.decode() if each is not None else None for each in values]
    recorded: dict[tuple[str, Period], int | None] = {}
    for (account, period, _), cap in zip(accounts, words[len(accounts) :], strict=True):
        if cap is not None:
            recorded[account, period] = None if cap == "-" else int(cap)
    sums = map(counters.sums_of, words[: len(accounts)])
    return [Account.of(key, each, recorded, caps) for key, each in zip(accounts, sums, strict=True)]


def warning(hold: OpenHold, account: Account, namespace: str) -> AnyEnvelope:
    """What tells the human of an account that has used up most of its cap; the same ID for everybody who finds it."""
    said = Budget(
        budget="warned",
        account=account.account,
        period=account.period,
        span=account.span,
        microusd=account.cap,
        committed=account.committed,
        held=account.held,
    )
    id = hashed_id(0, f"warned {namespace} {account.account} {account.span} {account.cap}".encode())
    return compose(said, sender=BUS, recipient=HUMAN, task=hold.task, root=hold.root, id=id)


def released(
    hold: OpenHold,
    *,
    sender: str,
    ended: Literal["lost", "cancelled", "by-hand"],
    reason: str | None = None,
) -> AnyEnvelope:
    """What gives a hold back; the same ID for everybody, so that it is done once."""
    said = Budget(
        budget="released",
        hold=Hold(id=hold.id, microusd=hold.microusd),
        agent=hold.agent,
        provider=hold.provider,
        model=hold.model,
        ended=ended,
        reason=reason,
    )
    id = hashed_id(hold.position.ms, f"released {hold.id} {ended}".encode())
    return compose(said, sender=sender, recipient=BUS, task=hold.task, root=hold.root, id=id)
