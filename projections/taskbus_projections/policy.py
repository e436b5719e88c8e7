"""The policy: tiers of models and agents, what models cost, what may be spent, and what is to be supposed.

A TOML file that a user writes; what it says is data, and none of it stands in the code. Read strictly: whatever is
unknown, of the wrong kind, or absurd is refused with file, line and key. Money is in microdollars, of integers.
Called by whatever shows or spends money; the same file says who gets which work, which others read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskbus.errors import ConfigurationError
from taskbus_projections import allowance, supposing
from taskbus_projections.patterns import Patterns, is_pattern, split
from taskbus_projections.policy_file import PolicyFile
from taskbus_projections.pricing import Above, Price

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from taskbus.envelope import Period
    from taskbus.settings import Settings
    from taskbus_projections.allowance import Allowance
    from taskbus_projections.policy_file import Keys
    from taskbus_projections.supposing import Supposition

FOREIGN: Final = (
    "coordination",
    "ladder",
    "routes",
    "complexity",
    "fallback",
    "limits",
    "permissions",
    "swarm",
    "models",
    "checks",
    "justification",
)
"""The tables about who gets which work, and on which terms: `taskbus_agents` reads them, and here they are let be."""
TABLES: Final = ("prices", "tiers", *allowance.TABLES, *supposing.TABLES, *FOREIGN)
_PRICE: Final = ("input", "output", "cache_read", "cache_write", "cache_write_hour", "reasoning")
_ABOVE: Final = "above"
_TIER: Final = ("rank", "models", "agents")
_DEAREST: Final = 1_000_000
"""A million dollars for a million tokens: a dollar each."""
_LONGEST: Final = 1_000_000_000
"""A context of so many tokens is longer than any."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Some agents and models that belong together. `model` is the first of them that is no pattern, if any."""

    name: str
    rank: int | None
    models: tuple[str, ...]
    agents: tuple[str, ...]

    @property
    def model(self) -> tuple[str, str] | None:
        """Provider and model that stand for the tier: the first that is written in full."""
        return next((split(each) for each in self.models if "/" in each and not is_pattern(each)), None)


@dataclass(frozen=True, slots=True)
class Policy:
    """What one file says. `version` names its table of prices; `tiers` are in order of their rank, then of the file.

    `digest` tells what it says from whatever it said at other times.
    """

    path: Path
    digest: str
    version: str | None
    tiers: tuple[Tier, ...]
    supposition: Supposition
    allowance: Allowance
    _prices: Patterns[Price]
    _by_agent: Patterns[str]
    _by_model: Patterns[str]

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read a file. Raises ConfigurationError with file, line and key of every mistake."""
        return PolicyFile.whole(path, cls.read)

    @classmethod
    def read(cls, file: PolicyFile) -> Policy:
        """The same of a file that is open. Raises ConfigurationError for the first mistake."""
        file.table(known=TABLES)
        tiers = _tiers(file)
        prices = Patterns(_prices(file))
        version = file.table("prices").get("version")
        return cls(
            path=file.path,
            digest=file.digest,
            version=None if version is None else file.text(("prices", "version"), version),
            tiers=tiers,
            supposition=supposing.read(file, {tier.name: tier.model for tier in tiers}, prices),
            allowance=allowance.read(file),
            _prices=prices,
            _by_agent=Patterns((agent, tier.name) for tier in tiers for agent in tier.agents),
            _by_model=Patterns((model, tier.name) for tier in tiers for model in tier.models),
        )

    @classmethod
    def of(cls, settings: Settings) -> Policy | None:
        """The policy that the settings name; None where they name none. Raises ConfigurationError."""
        return cls.load(settings.policy) if settings.policy else None

    @classmethod
    def needed(cls, settings: Settings) -> Policy:
        """The same, where nothing can be done without one."""
        found = cls.of(settings)
        if found is None:
            advice = (
                "Name one with --policy FILE, BUS_POLICY, or `policy` in bus.toml; docs/policy.example.toml, in the "
                "repository, shows how it is written."
            )
            raise ConfigurationError("No policy is named.", advice=advice)
        return found

    def tier(self, agent: str, provider: str, model: str) -> str | None:
        """The tier of a call: the one that names the agent, else the one that names the model, else None."""
        return self._by_agent.find(agent) or self._by_model.find(f"{provider}/{model}", model)

    def price(self, provider: str, model: str) -> Price | None:
        """What a model costs; None where the policy does not say."""
        return self._prices.find(f"{provider}/{model}")

    @property
    def table(self) -> str:
        """The name of its table of prices, as it stands beside a cost in the log."""
        return f"policy {self.version or self.digest}"

    def cap(self, provider: str) -> int | None:
        """How many microdollars a month, in UTC, may go to a provider; None for no cap."""
        return self.allowance.month.providers.find(provider)

    def agent_cap(self, agent: str) -> int | None:
        """How many microdollars a month an agent may spend; None for no cap of its own."""
        return self.allowance.month.agents.find(agent)

    def caps_for(
        self, provider: str, agent: str, root: str, task_type: str | None = None
    ) -> dict[tuple[str, Period], int]:
        """The caps that a run must keep, in microdollars, by account and period, as a reservation takes them.

        `task_type` is that of the root of the tree.
        """
        return self.allowance.caps(provider, agent, root, task_type)

    def hold(self, agent: str, provider: str, model: str) -> int | None:
        """How many microdollars are held for a run of an agent with a model; None to estimate it."""
        return self.allowance.hold(agent, provider, model)


def _prices(file: PolicyFile) -> Iterator[tuple[str, Price]]:
    for pattern in file.table("prices"):
        if pattern == "version":
            continue
        where = ("prices", pattern)
        if not all(split(pattern)):
            raise file.wrong(where, pattern, 'provider and model, such as "openai/o3" or "*/*opus*"')
        amounts = _amounts(file, where, (*_PRICE, _ABOVE))
        above = tuple(
            Above(start, Price.of(_amounts(file, (*where, _ABOVE, key), _PRICE)))
            for start, key in _starts(file, (*where, _ABOVE))
        )
        yield pattern, Price.of(amounts, above)


def _amounts(file: PolicyFile, where: Keys, known: tuple[str, ...]) -> dict[str, int]:
    table = file.table(*where, known=known)
    found = {name: file.amount((*where, name), value, most=_DEAREST) for name, value in table.items() if name != _ABOVE}
    for name in ("input", "output"):
        if name not in found:
            raise file.wrong(where, table, f"a table with `{name}`")
    return found


def _starts(file: PolicyFile, where: Keys) -> list[tuple[int, str]]:
    """Above how many tokens of input the prices of long contexts begin, in their order, each with its key."""
    found: dict[int, str] = {}
    for key in file.table(*where):
        start = int(key) if key.isascii() and key.isdecimal() and len(key) <= 10 else 0
        if not 0 < start <= _LONGEST or start in found:
            raise file.wrong((*where, key), key, f"a number of tokens from 1 to {_LONGEST:_}, each once")
        found[start] = key
    return sorted(found.items())


def _tiers(file: PolicyFile) -> tuple[Tier, ...]:
    tiers: list[Tier] = []
    taken: dict[str, str] = {}
    for name in file.table("tiers"):
        where = ("tiers", file.text(("tiers", name), name))
        table = file.table(*where, known=_TIER)
        rank = table.get("rank")
        models = file.texts((*where, "models"), table.get("models", []))
        agents = file.texts((*where, "agents"), table.get("agents", []))
        tier = Tier(
            name,
            None if rank is None else file.number((*where, "rank"), rank, least=0, most=1000),
            models,
            tuple(file.agent((*where, "agents"), each) for each in agents),
        )
        if "/" in name:
            raise file.wrong(where, name, "a name without a slash, which a model has")
        for kind, each in (*(("models", each) for each in models), *(("agents", each) for each in tier.agents)):
            other = taken.setdefault(each.casefold(), name)
            if other != name:
                raise file.wrong((*where, kind), each, f"it in one tier, and {other} has it")
        tiers.append(tier)
    return tuple(sorted(tiers, key=lambda tier: 1001 if tier.rank is None else tier.rank))
