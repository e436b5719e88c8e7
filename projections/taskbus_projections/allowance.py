"""Allowances: what a policy lets be spent, and how much of it is held for a run before what it costs is known.

Owns the tables [caps], [caps_per_day], [caps_per_task] and [holds] of a policy, in microdollars. A cap that a human has
set with `bus budget set` counts before one of these, which the server decides. Called by `taskbus_projections.policy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskbus_projections.patterns import Patterns, is_pattern, split

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from taskbus.envelope import Period
    from taskbus_projections.policy_file import PolicyFile

TABLES: Final = ("caps", "caps_per_day", "caps_per_task", "holds")
EXPECTED: Final = (50_000, 8_000)
"""The tokens of input and output that a run is taken to need where the policy says nothing: a few dozen turns of an
agent with most of its input cached cost about as much as so many that are not. What a run really costs is known when
it has ended; a hold for the worst case would refuse work for money that nobody is going to spend."""
_RICHEST: Final = 1_000_000_000
_MOST_TOKENS: Final = 100_000_000
_EXPECTED: Final = "expected"


@dataclass(frozen=True, slots=True)
class _Caps:
    """The caps of one table, of providers and of agents."""

    providers: Patterns[int]
    agents: Patterns[int]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the tables of one policy say. `expected` are tokens of input and of output, for holds.

    `named` are the caps of accounts that are written in full, by account and period.
    """

    month: _Caps
    day: _Caps
    tasks: Patterns[int]
    named: Mapping[tuple[str, Period], int]
    expected: tuple[int, int]
    _holds_by_agent: Patterns[int]
    _holds_by_model: Patterns[int]

    def caps(self, provider: str, agent: str, root: str, task_type: str | None = None) -> dict[tuple[str, Period], int]:
        """The caps that a run must keep, by account: those of its provider, of its agent, and of its tree of tasks.

        `task_type` is that of the root. What has no cap is not in it.
        """
        found: dict[tuple[str, Period], int | None] = {
            (f"provider:{provider}", "month"): self.month.providers.find(provider),
            (f"provider:{provider}", "day"): self.day.providers.find(provider),
            (f"agent:{agent}", "month"): self.month.agents.find(agent),
            (f"agent:{agent}", "day"): self.day.agents.find(agent),
            (f"task:{root}", "task"): self.tasks.find(task_type or ""),
        }
        return {account: cap for account, cap in found.items() if cap is not None}

    def cap_of(self, account: str, period: Period) -> int | None:
        """The cap of one account; None without one, and for a task where it depends on the task's type."""
        kind, _, name = account.partition(":")
        if kind == "task":
            return self.tasks.find("") if self.tasks.alike else None
        caps = self.month if period == "month" else self.day
        return (caps.agents if kind == "agent" else caps.providers).find(name)

    def hold(self, agent: str, provider: str, model: str) -> int | None:
        """What is held for a run: as the agent's hold says, else the model's; None to estimate it."""
        found = self._holds_by_agent.find(agent)
        return self._holds_by_model.find(f"{provider}/{model}", model) if found is None else found


def read(file: PolicyFile) -> Allowance:
    """Read these tables of a policy. Raises ConfigurationError."""
    holds = list(_amounts(file, "holds"))
    named: dict[tuple[str, Period], int] = {}
    return Allowance(
        month=_caps(file, "caps", "month", named),
        day=_caps(file, "caps_per_day", "day", named),
        named=named,
        tasks=Patterns(_types(file)),
        expected=_expected(file),
        _holds_by_agent=Patterns((name, amount) for name, amount in holds if name.startswith("@")),
        _holds_by_model=Patterns((name, amount) for name, amount in holds if not name.startswith("@")),
    )


def _caps(file: PolicyFile, table: str, period: Period, named: dict[tuple[str, Period], int]) -> _Caps:
    amounts = list(_amounts(file, table))
    for name, amount in amounts:
        if not is_pattern(name):
            named[f"{'agent' if name.startswith('@') else 'provider'}:{name}", period] = amount
    return _Caps(
        Patterns((name, amount) for name, amount in amounts if not name.startswith("@")),
        Patterns((name, amount) for name, amount in amounts if name.startswith("@")),
    )


def _amounts(file: PolicyFile, table: str) -> Iterator[tuple[str, int]]:
    for name, value in file.table(table).items():
        where = (table, name)
        if table == "holds" and name == _EXPECTED:
            continue
        amount = file.amount(where, value, most=_RICHEST)
        if name.startswith("@"):
            file.agent(where, name)
        elif table == "holds" and "/" in name and not all(split(name)):
            raise file.wrong(where, name, 'a model, such as "openai/o3" or "*opus*", or an agent, such as "@kilo"')
        yield name, amount


def _types(file: PolicyFile) -> Iterator[tuple[str, int]]:
    for name, value in file.table("caps_per_task").items():
        where = ("caps_per_task", name)
        if name.startswith("@"):
            raise file.wrong(where, name, 'a task type, or "*" for every task; agents have caps by month and by day')
        yield name, file.amount(where, value, most=_RICHEST)


def _expected(file: PolicyFile) -> tuple[int, int]:
    said = file.table("holds", _EXPECTED, known=("input", "output"))
    put_in, put_out = (
        file.number(("holds", _EXPECTED, name), said.get(name, usual), least=0, most=_MOST_TOKENS)
        for name, usual in zip(("input", "output"), EXPECTED, strict=True)
    )
    return put_in, put_out
