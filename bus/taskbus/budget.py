"""The budget: money is reserved before a model runs, and settled with what it used, in one step of the server each.

Nothing is ever decided on what a client has read: the caps hold in the step of the append (`scripts/money.lua`), and
what it counts is a fold of the log (`taskbus.money`) that can be checked and made again. Without counters, where there
were some, nothing is reserved. Reached as `bus.budget`; called by whoever runs models, by supervision, and by people.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import anyio

from taskbus import counters, money
from taskbus.accounts import WARN, Account, is_account, released, standing, warning
from taskbus.append import Appended, Submission, all_appended, append
from taskbus.codec import document
from taskbus.delivery import Delivery
from taskbus.envelope import Budget, Hold, Usage, compose, new_id
from taskbus.errors import DuplicateID, Moved, NotFound, TaskbusError, UsageError
from taskbus.lifecycle import BUS, HUMAN, MONEY
from taskbus.money import MOST, Ledger, OpenHold
from taskbus.position import START, Position
from taskbus.validation import hashed_id

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from typing import Literal

    from taskbus.client import Bus
    from taskbus.counters import Difference
    from taskbus.envelope import AnyEnvelope, Period
    from taskbus.money import Caps

_TRIES = 200
"""So often what the log says is put in the place of the counters before the log is found to grow too fast for that."""
_SETTLING = 10.0
"""Seconds that a run which was cancelled may take to tell of what it used."""
_NO_CAPS: Caps = {}


@dataclass
class Run:
    """A run under a hold; whoever leaves `held` by an exception has put into `usage` what is known of it."""

    hold: OpenHold
    usage: list[Usage] = field(default_factory=list[Usage])


class Budgets:
    """Money on one bus. Safe to use at once. Everything raises Unavailable when the server cannot be used."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def reserve(
        self,
        of: Delivery | str,
        *,
        provider: str,
        model: str,
        microusd: int,
        caps: Caps = _NO_CAPS,
        table: str | None = None,
        agent: str | None = None,
        token: int | None = None,
    ) -> OpenHold:
        """Reserve money for the run of one model on a task that is working; a hold that was open there is replaced.

        On one that is escalated, its coordinator does.

        All accounts of it (the provider's and the agent's by month and by day, and the task tree's) have room for it,
        or nothing is reserved. `caps` are those of a policy, each in force where none is on record. An amount of 0,
        for a model known to be free, fits under every cap. Of a delivery, agent and token are its own; of a task,
        `agent` is its assignee.

        Raises OverBudget; BudgetLost while the counters are gone; Fenced and LifecycleConflict where the task is not
        this agent's to work on; UsageError for an amount that is none.
        """
        if not 0 <= microusd <= MOST:
            raise UsageError(f"{microusd} microdollars cannot be reserved.", advice="Use 0 or more, in whole ones.")
        task, root = of, None
        if isinstance(of, Delivery):
            task, root = of.task, of.entry.root
            agent = agent or of.agent
            token = of.token if token is None and not of.is_to_decide else token
        if agent is None:
            raise UsageError("Money is reserved for an agent.", advice="Name the assignee of the task.")
        id = new_id()
        said = Budget(
            budget="reserved", hold=Hold(id=id, microusd=microusd), provider=provider, model=model, table=table
        )
        envelope = compose(said, sender=agent, recipient=BUS, task=cast("str", task), root=root, id=id)
        appended = await self._publish(envelope, token=token, caps=caps)
        known = await self._bus.connection.field(self._bus.keys.holds, envelope.task)
        mine = counters.hold_of(envelope.task, known, self._bus.keys.shard) if known else None
        if mine is None or mine.id != id:
            # It has ended since, or was replaced: what was reserved is told as it was.
            mine = OpenHold(
                id, envelope.task, root or envelope.task, agent, microusd, provider, model, appended.position
            )
        await self._warn(mine, caps)
        return mine

    @asynccontextmanager
    async def held(
        self,
        of: Delivery | str,
        *,
        provider: str,
        model: str,
        microusd: int,
        caps: Caps = _NO_CAPS,
        table: str | None = None,
        agent: str | None = None,
        token: int | None = None,
    ) -> AsyncGenerator[Run]:
        """Reserve as `reserve` does, for as long as the block runs a model.

        Left as usual, nothing more is done: the outcome of the work carries the usage and ends the hold. Left by an
        exception, cancellation included, the hold is settled with what `Run.usage` has by then.
        """
        hold = await self.reserve(
            of, provider=provider, model=model, microusd=microusd, caps=caps, table=table, agent=agent, token=token
        )
        run = Run(hold)
        try:
            yield run
        except BaseException:
            with anyio.move_on_after(_SETTLING, shield=True):
                # What made the run end is told; what is not settled here, supervision finds and gives back.
                with suppress(TaskbusError):
                    await self.settle(hold, run.usage, caps=caps)
            raise

    async def settle(self, hold: OpenHold, usage: Sequence[Usage] = (), *, caps: Caps = _NO_CAPS) -> Appended:
        """Tell that a run has ended without an outcome that says so: what it used is committed, its hold ends.

        Where another hold is open by then, or another worker has the task, the usage counts all the same, and no other
        hold ends. Done once for each hold: whatever is settled later changes nothing, and returns where it stands.
        """
        said = Budget(
            budget="settled",
            hold=Hold(id=hold.id, microusd=hold.microusd),
            provider=hold.provider,
            model=hold.model,
        )
        id = hashed_id(hold.position.ms, f"settled {self._bus.namespace} {hold.id}".encode())
        envelope = compose(
            said, sender=hold.agent, recipient=BUS, task=hold.task, root=hold.root, usage=tuple(usage), id=id
        )
        try:
            appended = await self._publish(envelope)
        except DuplicateID as error:
            return Appended(Position.parse(error.position or "0-0", shard=self._bus.keys.shard), repeated=True)
        await self._warn(hold, caps)
        return appended

    async def release(
        self,
        task: str,
        *,
        ended: Literal["lost", "cancelled", "by-hand"] = "by-hand",
        reason: str | None = None,
        sender: str = HUMAN,
        hold: str | None = None,
    ) -> Appended:
        """Give back what is reserved for a task, without any usage; the hold of that ID only, where one is named.

        Raises NotFound where nothing is open; Moved where it ended or was replaced meanwhile.
        """
        line = await self._bus.connection.field(self._bus.keys.holds, task)
        found = counters.hold_of(task, line, self._bus.keys.shard) if line else None
        if found is None or hold not in (None, found.id):
            raise NotFound(
                f"No money is reserved for task {task}.", task=task, advice="`bus budget holds` lists what is."
            )
        return await self._publish(released(found, sender=sender, ended=ended, reason=reason))

    async def set_cap(
        self, account: str, period: Period, microusd: int | None, *, reason: str, sender: str = HUMAN
    ) -> Appended:
        """Record a human's decision: what an account may spend in each month or day, or a task tree ever; None: no cap.

        It is in force before whatever a policy says. Raises UsageError for an account or amount that cannot be meant,
        and LifecycleConflict for a sender who is not @human.
        """
        if not is_account(account) or (period == "task") != account.startswith("task:"):
            raise UsageError(
                f"There is no account {account!r} by {period}.",
                advice="Accounts are provider:NAME and agent:@NAME, by month or day, and task:ROOT, by task; "
                "a policy has patterns for several.",
            )
        if microusd is not None and not 0 <= microusd <= MOST:
            raise UsageError(f"{microusd} microdollars are no cap.", advice="Use 0 or more, in whole ones.")
        said = Budget(budget="cap", account=account, period=period, microusd=microusd, reason=reason)
        return await self._publish(compose(said, sender=sender, recipient=BUS, task=MONEY))

    async def accounts(self, caps: Caps = _NO_CAPS, *, all_spans: bool = False) -> list[Account]:
        """What every account has committed and held now, by name: in this month and on this day, and of task trees.

        Accounts with a cap, on record or in `caps`, are among them without having been used. `all_spans` gives past
        months and days as well.
        """
        found = (await counters.read(self._bus.connection, self._bus.keys)).ledger
        milliseconds = await self._now()
        sums: dict[tuple[str, Period, str], money.Sums] = {}
        for (account, span), each in found.accounts.items():
            sums[account, money.period_of(span), span] = each
        for account, period in (*found.caps, *caps):
            sums.setdefault((account, period, money.span_of(period, milliseconds)), money.Sums())
        return [
            Account.of(key, sums[key], found.caps, caps)
            for key in sorted(sums)
            if all_spans or key[2] == money.span_of(key[1], milliseconds)
        ]

    async def caps(self) -> dict[tuple[str, Period], int | None]:
        """The caps on record, in microdollars by account and period; None for the decision that there is none."""
        return (await counters.read(self._bus.connection, self._bus.keys)).ledger.caps

    async def holds(self) -> list[OpenHold]:
        """What is reserved now, the oldest first."""
        found = await self._bus.connection.hash(self._bus.keys.holds)
        holds = [counters.hold_of(task, line, self._bus.keys.shard) for task, line in found.items()]
        return sorted(holds, key=lambda hold: hold.position)

    async def ledger(self, until: Position | None = None) -> Ledger:
        """What the log says of money, archive included, up to a position or to its end."""
        ledger = Ledger()
        await self._fold(ledger, START, until)
        return ledger

    async def check(self) -> list[Difference]:
        """Where the server counts otherwise than the log says; both as of one position. Raises Gap, ArchiveFault."""
        counted = await counters.read(self._bus.connection, self._bus.keys)
        ledger = await self.ledger(_end(counted.position))
        return counters.differences(counted, ledger)

    async def rebuild(self) -> list[Difference]:
        """Have the server count what the log says; returns what it had otherwise.

        The log may grow meanwhile. Raises Moved where it grows so fast that it cannot be caught up with, Gap and
        ArchiveFault where a part of it cannot be read.
        """
        ledger, at = Ledger(), START
        found: list[Difference] | None = None
        for _ in range(_TRIES):
            counted = await counters.read(self._bus.connection, self._bus.keys)
            await self._fold(ledger, at, _end(counted.position))
            at = max(at, counted.position)
            if found is None:
                found = counters.differences(counted, ledger)
            await self._remember_tokens(ledger, counted.ledger)
            if await counters.write(self._bus.connection, self._bus.keys, ledger, counted.position):
                return found
        raise Moved(
            "The log grows so fast that what it says could not be put in the place of the counters.",
            advice="`bus budget rebuild` again when there is less traffic.",
        )

    async def _fold(self, ledger: Ledger, after: Position, until: Position | None) -> None:
        if until is None or after < until:
            async for entry in self._bus.history.read(after, until):
                ledger.fold(entry)

    async def _remember_tokens(self, ledger: Ledger, before: Ledger) -> None:
        """The log does not know under which token money was reserved: the server does, or who has the task now."""
        for task, hold in list(ledger.holds.items()):
            known = before.holds.get(task)
            if known is not None and known.id == hold.id:
                token = known.token
            else:
                token = (await self._bus.task(task)).token or None
            ledger.holds[task] = money.with_token(hold, token)

    async def _now(self) -> int:
        """The time at which the log goes on, in milliseconds."""
        return max(int(await self._bus.log.clock() * 1000), (await self._bus.log.end()).ms)

    async def _publish(self, envelope: AnyEnvelope, *, token: int | None = None, caps: Caps = _NO_CAPS) -> Appended:
        submission = Submission(document(envelope), token, caps=caps or None)
        return all_appended(await append(self._bus.connection, self._bus.keys, [submission]))[0]

    async def _warn(self, hold: OpenHold, caps: Caps) -> None:
        """Tell the human, once, of each account of a hold that has used up most of its cap."""
        try:
            for account in await standing(self._bus.connection, self._bus.keys, hold, caps):
                if account.used is not None and account.used >= WARN:
                    await self._tell(hold, account)
        except TaskbusError:
            # The money is reserved or settled, which matters more: whoever comes next tells of the account.
            pass

    async def _tell(self, hold: OpenHold, account: Account) -> None:
        key = f"warned {money.quoted(account.account)} {account.span} {account.cap}"
        if await self._bus.connection.field(self._bus.keys.budget, key) is None:
            # Where somebody else was first, it stands already.
            with suppress(DuplicateID):
                await self._publish(warning(hold, account, self._bus.namespace))


def _end(position: Position) -> Position | None:
    """Until where to read: where nothing is live, whatever the archive has."""
    return position if position > START else None


__all__ = ["Account", "Budgets", "OpenHold", "Run"]
