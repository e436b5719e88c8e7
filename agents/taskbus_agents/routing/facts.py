"""Facts: what routing must know of this moment, as the server tells it.

How much is open for whom, who waits for a quota, what was begun and used lately, and how the accounts stand. They are
read at one go, and of those only that a decision could need; a decision itself reads nothing. Called by routing.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, cast

from msgspec import Struct

from taskbus import money
from taskbus.counters import sums_of
from taskbus.envelope import Budget, Completion
from taskbus.errors import Gap, InvalidEnvelope
from taskbus.position import Position
from taskbus_agents.routing.candidates import candidates

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping

    from taskbus.client import Bus
    from taskbus.envelope import Period
    from taskbus.log import Entry
    from taskbus_agents.definition import Definition
    from taskbus_agents.routing.candidates import Need
    from taskbus_agents.routing.policy import RoutingPolicy

_QUOTA: Final = "quota-limited"
QUOTA: Final = "quota"
"""The termination reason of what failed since a quota was used up."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How an agent stands: how many deliveries are open, and until when it waits for its quota, if it does.

    `models` are those of its models that alone are out of their quota, each until when.
    """

    open: int = 0
    quota_until: datetime | None = None
    models: Mapping[str, datetime] = field(default_factory=dict[str, datetime])

    def out_until(self, model: str | None) -> datetime | None:
        """Until when a model of the agent is out of its quota; None where it is not known to be."""
        ends = (self.quota_until, self.models.get(model) if model is not None else None)
        return max((each for each in ends if each is not None), default=None)


@dataclass(frozen=True, slots=True)
class Spent:
    """How an account stands, in microdollars. `is_recorded`: a human has decided on its cap, `cap`, None for none."""

    committed: int = 0
    held: int = 0
    cap: int | None = None
    is_recorded: bool = False


class Begun(Struct, frozen=True):
    """Work that was given to an agent, or tokens that it used; when, in milliseconds since the epoch."""

    ms: int
    agent: str
    provider: str | None = None
    tokens: int = 0
    is_delegation: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """One moment. `providers` are the agents that run on each; `lately` is what was begun and used, the oldest first.

    `is_lost` says that what is spent is not known any more, so that nothing paid may run.
    """

    now: datetime
    standings: Mapping[str, Standing] = field(default_factory=dict[str, Standing])
    providers: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    lately: tuple[Begun, ...] = ()
    accounts: Mapping[tuple[str, Period], Spent] = field(default_factory=dict[tuple[str, "Period"], Spent])
    is_lost: bool = False

    def standing(self, agent: str) -> Standing:
        """How an agent stands; idle where nothing is known."""
        return self.standings.get(agent, Standing())

    def open(self, name: str) -> int:
        """How many deliveries are open for an agent, or for all that run on a provider."""
        return sum(self.standing(agent).open for agent in self._agents(name))

    def begun(self, name: str, seconds: float) -> int:
        """How often work was given to an agent, or to those of a provider, in the last seconds."""
        agents = self._agents(name)
        return sum(each.is_delegation and each.agent in agents for each in self._since(seconds))

    def tokens(self, name: str, seconds: float) -> int:
        """How many tokens an agent used in the last seconds, or anybody of a provider."""
        by_agent = name.startswith("@")
        return sum(each.tokens for each in self._since(seconds) if (each.agent if by_agent else each.provider) == name)

    def spent(self, account: str, period: Period) -> Spent:
        """How an account stands; empty where nothing is known."""
        return self.accounts.get((account, period), Spent())

    def capped(self, provider: str, agent: str, root: str) -> set[tuple[str, Period]]:
        """Those accounts of a run that a human has decided on."""
        names = {f"provider:{provider}", f"agent:{agent}", f"task:{root}"}
        return {key for key, spent in self.accounts.items() if key[0] in names and spent.is_recorded}

    def _agents(self, name: str) -> frozenset[str]:
        return frozenset((name,)) if name.startswith("@") else self.providers.get(name, frozenset())

    def _since(self, seconds: float) -> Iterable[Begun]:
        begin = (self.now - timedelta(seconds=seconds)).timestamp() * 1000
        return (each for each in self.lately if each.ms >= begin)


async def observe(bus: Bus, policy: RoutingPolicy, registry: Mapping[str, Definition], need: Need) -> Facts:
    """Read what a decision on a need could look at. Raises Unavailable."""
    rungs = candidates(policy, registry, need)
    providers = _providers(policy, registry)
    names = {rung.agent for rung in rungs} | {rung.provider for rung in rungs if rung.provider}
    limited = {name for name in names if policy.limit(name) is not None}
    agents = {rung.agent for rung in rungs}.union(*(providers.get(name, frozenset()) for name in limited))
    now = datetime.fromtimestamp(await bus.log.clock(), UTC)
    standings = {agent: await _standing(bus, agent, now) for agent in sorted(agents)}
    pause = policy.terms.fallback.pause if policy.terms.fallback.on["quota"] == "climb" else 0.0
    lately, out = await _lately(bus, now, _window(policy, limited), pause)
    for (agent, model), until in out.items():
        standing = standings.get(agent)
        if standing is None:
            continue
        if model is not None:
            standings[agent] = replace(standing, models={**standing.models, model: until})
        elif standing.quota_until is None or standing.quota_until < until:
            standings[agent] = replace(standing, quota_until=until)
    runs = sorted({(rung.provider or money.UNKNOWN, rung.agent) for rung in rungs if rung.model is not None})
    accounts = await _accounts(bus, runs, need.root, now)
    return Facts(now, standings, providers, lately, accounts, await _is_lost(bus))


def _providers(policy: RoutingPolicy, registry: Mapping[str, Definition]) -> dict[str, frozenset[str]]:
    """Who runs on each provider, as policy and definitions say it."""
    found: dict[str, set[str]] = {}
    rungs = (*policy.ladder, *(rung for row in policy.rows for rung in row.rungs))
    for agent, provider in (
        *((rung.agent, rung.provider) for rung in rungs),
        *((each.name, each.provider) for each in registry.values()),
    ):
        if provider is not None:
            found.setdefault(provider, set()).add(agent)
    return {provider: frozenset(agents) for provider, agents in found.items()}


async def _standing(bus: Bus, agent: str, now: datetime) -> Standing:
    lengths = [cast("int", await bus.connection.execute("XLEN", stream)) for stream in bus.keys.inboxes(agent)]
    if not any(lengths):
        return Standing()
    until: datetime | None = None
    for delivery, line in (await bus.connection.hash(bus.keys.held(agent))).items():
        words = line.split(" ")
        if words[1:2] == ["-"] and words[3:4] == [_QUOTA]:
            score = await bus.connection.execute("ZSCORE", bus.keys.leases(agent), delivery)
            if isinstance(score, bytes | str | float | int):
                ends = datetime.fromtimestamp(float(score) / 1000, UTC)
                until = max(until or now, ends)
    return Standing(sum(lengths), until)


def _window(policy: RoutingPolicy, limited: Iterable[str]) -> float:
    """For how many seconds back the limits look."""
    limits = [policy.limit(name) for name in limited]
    shares = [share for limit in limits if limit is not None for share in (limit.rate, limit.tokens)]
    return max((share[1] for share in shares if share is not None), default=0.0)


async def _lately(
    bus: Bus, now: datetime, window: float, pause: float
) -> tuple[tuple[Begun, ...], dict[tuple[str, str | None], datetime]]:
    """What was begun and used within the window, and who has said within the pause that its quota is used up.

    With which model, where the log says for which one money was reserved; None for all that an agent has.
    """
    back = max(window, pause)
    found: list[Begun] = []
    runs: dict[tuple[str, str], str | None] = {}
    out: dict[tuple[str, str | None], datetime] = {}
    if back <= 0:
        return (), out
    begin = Position(bus.keys.shard, max(0, int((now - timedelta(seconds=back)).timestamp() * 1000)), 0)
    async with aclosing(_entries(bus, begin)) as entries:
        async for entry in entries:
            ms = entry.position.ms
            if entry.type == "delegation":
                found.append(Begun(ms, entry.recipient, is_delegation=True))
            elif b"usage" in entry.body or (entry.type == "completion" and QUOTA.encode() in entry.body):
                found += _used(entry)
                if _says_quota(entry):
                    run = entry.sender, runs.get((entry.sender, entry.task))
                    out[run] = entry.position.time + timedelta(seconds=pause)
            elif entry.type == "budget":
                runs[entry.sender, entry.task] = _reserved(entry)
    return tuple(found), {run: until for run, until in out.items() if until > now}


async def _entries(bus: Bus, begin: Position) -> AsyncGenerator[Entry]:
    """What the log holds from a position on; what was trimmed and is not at hand is not counted."""
    while True:
        try:
            async with aclosing(bus.history.read(begin)) as entries:
                async for entry in entries:
                    begin = entry.position
                    yield entry
            return
        except Gap as gap:
            # What was trimmed belongs to tasks that have ended; a share that is looked at loosely is no reason to stop.
            begin = max(begin, Position.parse(gap.until, shard=bus.keys.shard))


def _used(entry: Entry) -> list[Begun]:
    try:
        usage = entry.envelope.usage
    except InvalidEnvelope:
        # A version that this one does not know wrote it: it says nothing that could be counted here.
        return []
    ms = entry.position.ms
    return [
        Begun(ms, entry.sender, call.provider, (call.input_tokens or 0) + (call.output_tokens or 0)) for call in usage
    ]


def _says_quota(entry: Entry) -> bool:
    try:
        payload = entry.envelope.payload
    except InvalidEnvelope:
        # The same.
        return False
    return isinstance(payload, Completion) and payload.termination_reason == QUOTA


def _reserved(entry: Entry) -> str | None:
    """The model that money was reserved for."""
    try:
        payload = entry.envelope.payload
    except InvalidEnvelope:
        # The same.
        return None
    return payload.model if isinstance(payload, Budget) and payload.model != money.UNKNOWN else None


async def _accounts(
    bus: Bus, runs: Iterable[tuple[str, str]], root: str, now: datetime
) -> dict[tuple[str, Period], Spent]:
    """How the accounts of some runs, by provider and agent, stand now, with the caps that humans have decided on."""
    ms = int(now.timestamp() * 1000)
    wanted = {key: None for provider, agent in runs for key in money.accounts_of(provider, agent, root, ms)}
    keys = [key for key in wanted if root or key[1] != "task"]
    if not keys:
        return {}
    names = [f"{money.quoted(account)} {span}" for account, _, span in keys]
    names += [f"cap {money.quoted(account)} {period}" for account, period, _ in keys]
    reply = cast("list[bytes | None]", await bus.connection.execute("HMGET", bus.keys.budget, *names))
    values = [each.decode() if each is not None else None for each in reply]
    found: dict[tuple[str, Period], Spent] = {}
    for (account, period, _), line, cap in zip(keys, values[: len(keys)], values[len(keys) :], strict=True):
        sums = sums_of(line)
        decided = None if cap in (None, "-") else int(cap)
        found[account, period] = Spent(sums.committed, sums.held, decided, is_recorded=cap is not None)
    return found


async def _is_lost(bus: Bus) -> bool:
    """Whether money was counted once, and the counters are gone: nothing can be reserved until they are rebuilt."""
    there = await bus.connection.execute("EXISTS", bus.keys.budget)
    return not there and await bus.connection.field(bus.keys.meta, "budget") is not None
