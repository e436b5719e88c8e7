"""`bus budget`: what may be spent and what is reserved, as the server counts it, and the decisions of a human about it.

It decides nothing itself: caps hold on the server, which also says what is refused; a policy's caps are shown beside
those on record. Everything that changes money is an envelope in the log.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import click

from taskbus.cli.options import Group, print_json, run_async, say, settings_options
from taskbus_projections.commands.choices import TASK
from taskbus_projections.commands.policies import policy_option
from taskbus_projections.patterns import is_pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskbus.client import Bus
    from taskbus.envelope import Period
    from taskbus.settings import Settings
    from taskbus_projections.policy import Policy
    from taskbus_projections.table import Column

_AMOUNT: Final = re.compile(r"\$?(\d{1,9})(?:\.(\d{1,6}))?", re.ASCII)
_NONE: Final = "none"


class _Account(click.ParamType[str]):
    """An account: provider:NAME, agent:@NAME, task:ROOT; a name with a sign is an agent, one alone a provider."""

    name = "account"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from taskbus.accounts import is_account  # what it stands on is slow to import

        text = str(value).strip()
        kind, colon, name = text.partition(":")
        if not colon:
            kind, name = "agent" if text.startswith("@") else "provider", text
        account = f"agent:@{name.removeprefix('@')}" if kind == "agent" else f"{kind}:{name}"
        if kind in ("provider", "agent") and is_pattern(name):
            self.fail(f"{value!r} names several: the policy has caps for patterns, under [caps].", param, ctx)
        if not is_account(account):
            self.fail(f"{value!r} is no account: write provider:anthropic, agent:@kilo, or task:ROOT.", param, ctx)
        return account


class _Cap(click.ParamType[int]):
    """An amount in US dollars, as microdollars; -1 for none, which is no cap."""

    name = "amount"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip()
        if text.lower() == _NONE:
            return -1
        found = _AMOUNT.fullmatch(text)
        if found is None:
            self.fail(
                f"{value!r} is no cap: write US dollars with at most six digits behind the point, such as 20 or 0.50, "
                "or none.",
                param,
                ctx,
            )
        return int(found[1]) * 1_000_000 + int((found[2] or "").ljust(6, "0"))


_ACCOUNT: Final = _Account()


@click.group(cls=Group)
def budget() -> None:
    """Show what may be spent, decide on caps, and see what is reserved.

    Accounts count what was spent and what is reserved: of a provider and of an agent by month and by day in UTC, and of
    a tree of tasks. A model that is paid runs only where all of its accounts have room.

    \b
    Examples:
      bus budget show
      bus budget set anthropic 20 --reason "what we agreed on"
      bus budget holds
    """


@budget.command()
@click.argument("accounts", type=_ACCOUNT, nargs=-1, metavar="[ACCOUNT]...")
@click.option("--tasks", "trees", is_flag=True, help="Trees of tasks, too.")
@click.option("--all", "everything", is_flag=True, help="Everything: days without a cap, what is past, and trees, too.")
@policy_option
@settings_options
def show(*, accounts: tuple[str, ...], trees: bool, everything: bool, settings: Settings, as_json: bool) -> None:
    r"""Show what is spent, reserved and left of each account, as the server counts it now.

    Providers and agents in this month, on this day where that has a cap, or just the accounts that are named. A cap
    that was set with `bus budget set` counts before that of the policy. Calls without a price are in no sum.

    \b
    Examples:
      bus budget show
      bus budget show anthropic @kilo --all
      bus budget show --json | jq '.accounts[] | select(.left_microusd == 0) | .account'
    """
    run_async(_shown, settings, accounts, trees, everything, as_json=as_json)


async def _shown(
    settings: Settings, accounts: tuple[str, ...], trees: bool, everything: bool, *, as_json: bool
) -> None:
    from taskbus.client import Bus  # redis is slow to import
    from taskbus_projections.policy import Policy
    from taskbus_projections.views import budget as view

    policy = Policy.of(settings)
    async with Bus.connect(settings=settings) as bus:
        await _counted(bus)
        found = await bus.budget.accounts(await _caps(bus, policy), all_spans=everything)
    if accounts:
        found = [each for each in found if each.account in accounts]
    elif not everything:
        # A day says something where it has a cap, and a tree where somebody asks for trees.
        plain = ("month", "task") if trees else ("month",)
        found = [each for each in found if each.period in plain or (each.period == "day" and each.cap is not None)]
    rows = [view.account_row(each) for each in sorted(found, key=view.place)]
    if as_json:
        print_json({"namespace": settings.namespace, "accounts": rows})
    elif rows:
        _print(view.account_columns(), rows)
    elif accounts:
        say(f"Nothing was spent or capped of {', '.join(accounts)}. To see all that is known: bus budget show --all")
    else:
        say("No money was spent, and nothing is capped. To set a cap: bus budget set anthropic 20 --reason …")


async def _counted(bus: Bus) -> None:
    """Raises BudgetLost where the counters are gone, which would be shown as if nothing had been spent."""
    from taskbus import counters
    from taskbus.errors import BudgetLost

    counted = await counters.read(bus.connection, bus.keys)
    if counted.was_counted and not counted.is_there:
        raise BudgetLost


async def _caps(bus: Bus, policy: Policy | None) -> dict[tuple[str, Period], int]:
    """The caps of the policy for every account that there is, and for those that it names."""
    if policy is None:
        return {}
    caps = dict(policy.allowance.named)
    for each in await bus.budget.accounts():
        cap = policy.allowance.cap_of(each.account, each.period)
        if cap is not None:
            caps[each.account, each.period] = cap
    return caps


@budget.command("set")
@click.argument("account", type=_ACCOUNT)
@click.argument("amount", type=_Cap(), metavar="AMOUNT|none")
@click.option("--per", "period", type=click.Choice(["month", "day", "task"]), help="Of what [default: month, task]")
@click.option("--reason", required=True, metavar="TEXT", help="Why: it stands in the log beside the decision.")
@settings_options
def set_(*, account: str, amount: int, period: Period | None, reason: str, settings: Settings, as_json: bool) -> None:
    r"""Set the cap of an account, or take it away, as a human decides.

    ACCOUNT is provider:NAME, agent:@NAME or task:ROOT; a name alone is a provider, one with its @ an agent. AMOUNT is
    in US dollars. It counts from then on, before any policy; what is reserved already stays reserved.

    \b
    Examples:
      bus budget set anthropic 20 --reason "what we agreed on"
      bus budget set @kilo 1.50 --per day --reason "it ran away last week"
      bus budget set task:cache-1 none --reason "this one may cost what it costs"
    """
    if not reason.strip() or not reason.isprintable():
        from taskbus.errors import UsageError

        raise UsageError("A decision needs a reason in one line.", advice='Say why: --reason "what we agreed on".')
    per = period or ("task" if account.startswith("task:") else "month")
    run_async(_set, settings, account, per, None if amount < 0 else amount, reason.strip(), as_json=as_json)


async def _set(
    settings: Settings, account: str, period: Period, cap: int | None, reason: str, *, as_json: bool
) -> None:
    from taskbus.cli import shares
    from taskbus.cli.rendering import visible
    from taskbus.client import Bus  # redis is slow to import
    from taskbus_projections.views import budget as view

    sender = _human(settings, "decides on caps")
    async with Bus.connect(settings=settings) as bus:
        doubt = await _doubt(bus, settings, account)
        appended = await bus.budget.set_cap(account, period, cap, reason=reason, sender=sender)
        found = [each for each in await bus.budget.accounts() if (each.account, each.period) == (account, period)]
        refused = [each for each in await shares.shares(bus) if each.lines[0].reason == "refused-by-budget"]
    rows = [view.account_row(each) for each in found]
    waiting = [each.task for each in refused]
    if as_json:
        said = {"account": account, "period": period, "microusd": cap, "reason": reason}
        now = rows[0] if rows else None
        print_json({**said, "position": str(appended.position), "now": now, "refused": waiting})
        return
    _print(view.account_columns(), rows)
    if doubt is not None:
        say(doubt)
    for each in refused:
        say(f"A budget has refused {visible(each.task)} of {each.agent}: bus parked replay {visible(each.task)}")


async def _doubt(bus: Bus, settings: Settings, account: str) -> str | None:
    """What is to be said of an account that nobody knows yet; None for one that is known, and where none is."""
    import difflib

    from taskbus.cli import names
    from taskbus_projections.policy import Policy

    policy = Policy.of(settings)
    known = {each.account for each in await bus.budget.accounts(all_spans=True)}
    known |= {named for named, _ in policy.allowance.named} if policy is not None else set()
    kind, _, name = account.partition(":")
    if account in known:
        return None
    if kind == "agent" and (said := await names.doubt(bus, settings, name)) is not None:
        return said
    alike = sorted(each for each in known if each.startswith(f"{kind}:"))
    names_of = {each.partition(":")[2].casefold(): each for each in alike}
    near = difflib.get_close_matches(name.casefold(), names_of, n=1)
    some = f" Known: {', '.join(alike[:9])}." if alike else ""
    which = f": did you mean {names_of[near[0]]}?" if near else f".{some}"
    return f"Nothing was spent or capped of {account} before{which}" if known else None


def _human(settings: Settings, does: str) -> str:
    """Who speaks, where an agent may not: its hooks say who it is. Raises LifecycleConflict."""
    from taskbus.cli.sending import name_of
    from taskbus.errors import LifecycleConflict
    from taskbus.lifecycle import HUMAN

    sender = name_of(settings.agent) or HUMAN
    if sender != HUMAN:
        raise LifecycleConflict(
            f"Only a human {does}, and BUS_AGENT says that you are {sender}.",
            reason="lifecycle",
            state="",
            holder=HUMAN,
            advice="Ask your human, who knows what it may cost.",
        )
    return sender


@budget.command()
@settings_options
def holds(*, settings: Settings, as_json: bool) -> None:
    r"""List what is reserved now, the oldest first.

    \b
    Examples:
      bus budget holds
      bus budget holds --json | jq '[.holds[].microusd] | (add // 0) / 1e6'
    """
    run_async(_held, settings, as_json=as_json)


async def _held(settings: Settings, *, as_json: bool) -> None:
    from taskbus.client import Bus  # redis is slow to import
    from taskbus_projections.views import budget as view

    async with Bus.connect(settings=settings) as bus:
        found = await bus.budget.holds()
        now = await bus.connection.time()
    rows = [view.hold_row(each, now) for each in found]
    if as_json:
        print_json({"namespace": settings.namespace, "holds": rows})
    elif rows:
        _print(view.hold_columns(), rows)
    else:
        say("Nothing is reserved.")


@budget.command()
@click.argument("task", type=TASK)
@click.option("--reason", metavar="TEXT", help="Why, for the log.")
@settings_options
def release(*, task: str, reason: str | None, settings: Settings, as_json: bool) -> None:
    r"""Give back what is reserved for a task, where whoever reserved it never will.

    A hold ends by itself when its work does, and that of a lost worker is given back by the supervision. A model that
    is still running goes on, and what it costs is counted when it is reported.

    \b
    Examples:
      bus budget release cache-1 --reason "the machine is gone"
    """
    run_async(_released, settings, task, reason, as_json=as_json)


async def _released(settings: Settings, task: str, reason: str | None, *, as_json: bool) -> None:
    from taskbus.cli.rendering import dollars, visible
    from taskbus.client import Bus  # redis is slow to import

    sender = _human(settings, "gives reserved money back")
    async with Bus.connect(settings=settings) as bus:
        held = {each.task: each for each in await bus.budget.holds()}.get(task)
        appended = await bus.budget.release(task, reason=reason, sender=sender, hold=held.id if held else None)
    if as_json:
        said = {"hold": held.id, "agent": held.agent, "microusd": held.microusd} if held else {}
        print_json({"task": task, **said, "position": str(appended.position)})
    elif held:
        click.echo(f"{visible(task)}  {held.agent}  {dollars(held.microusd)} given back")


@budget.command()
@click.option("--check", is_flag=True, help="Change nothing; exit code 1 where the counters differ from the log.")
@settings_options
def rebuild(*, check: bool, settings: Settings, as_json: bool) -> None:
    r"""Have the server count again what the log says of money, archive included.

    For counters that were lost with a part of the server's data: until then nothing can be reserved.

    \b
    Examples:
      bus budget rebuild --check
      bus budget rebuild
    """
    differ = run_async(_rebuilt, settings, check, as_json=as_json)
    if check and differ:
        raise click.exceptions.Exit(1)


async def _rebuilt(settings: Settings, check: bool, *, as_json: bool) -> int:
    from taskbus.client import Bus  # redis is slow to import
    from taskbus_projections.views import budget as view

    async with Bus.connect(settings=settings) as bus:
        found = await (bus.budget.check() if check else bus.budget.rebuild())
    rows = [view.difference_row(each) for each in found]
    if as_json:
        print_json({"namespace": settings.namespace, "rebuilt": not check, "differences": rows})
        return len(found)
    if rows:
        _print(view.difference_columns(), rows)
    else:
        click.echo("The server counts what the log says.")
    if rows and check:
        say("To have it count what the log says: bus budget rebuild")
    elif rows:
        say("It counts what the log says now.")
    return len(found)


def _print(columns: list[Column], rows: Sequence[dict[str, Any]]) -> None:
    import sys

    from taskbus.cli.rendering import columns as width
    from taskbus_projections.table import table

    click.echo(table(columns, rows, width=width() if sys.stdout.isatty() else None))
