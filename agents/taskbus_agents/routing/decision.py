"""The decision: who gets a piece of work, and why each rung above was passed over.

Pure: the same policy, definitions, need and facts give the same decision. Called by `bus route`, `bus delegate
--route`, plans, and whoever lets work climb.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from taskbus.amount import dollars
from taskbus.payload import Passed, Route
from taskbus_agents.adapters import COMMAND, PROVIDERS
from taskbus_agents.definition import Definition
from taskbus_agents.pricing import estimate
from taskbus_agents.routing.candidates import candidates
from taskbus_projections.quotes import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskbus.payload import PassedReason
    from taskbus_agents.routing.candidates import Need
    from taskbus_agents.routing.facts import Facts
    from taskbus_agents.routing.policy import RoutingPolicy
    from taskbus_agents.routing.rungs import Rung
    from taskbus_agents.routing.terms import Complexity, Limit

Why: TypeAlias = "tuple[PassedReason, str] | None"


@dataclass(frozen=True, slots=True)
class Choice:
    """Somebody who gets the work. `paid` says whether that costs money, as far as anybody knows."""

    rung: str
    agent: str
    provider: str | None
    model: str | None
    paid: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """Who gets the work, the best first, and nobody where it is empty; and what was passed over before the last.

    `review` says that the complexity asks for a review, `parallel` that all who were chosen work at once.
    """

    need: Need
    policy: str
    chosen: tuple[Choice, ...]
    passed: tuple[Passed, ...]
    review: bool = False
    parallel: bool = False

    @property
    def route(self) -> Route | None:
        """What is recorded with the delegation to the first of them."""
        return self.route_of(0) if self.chosen else None

    def route_of(self, number: int) -> Route:
        """What is recorded with the delegation to one of them, counted from 0."""
        choice = self.chosen[number]
        return Route(
            rung=choice.rung,
            provider=choice.provider,
            model=choice.model,
            complexity=self.need.complexity,
            policy=self.policy,
            climbs=self.need.climbs or None,
            passed=self.passed,
        )


def decide(policy: RoutingPolicy, registry: Mapping[str, Definition], need: Need, facts: Facts) -> Decision:
    """Choose for a need. Raises KeyError for a complexity that the policy has no table for."""
    complexity = policy.complexity(need.complexity)
    wanted = complexity.agents if complexity.parallel else 1
    judging = _Judging(policy, registry, need, facts, complexity)
    chosen: list[Choice] = []
    passed: list[Passed] = []
    for rung in candidates(policy, registry, need):
        if rung.agent in {choice.agent for choice in chosen}:
            continue
        why = judging.why_not(rung)
        if why is not None:
            passed.append(Passed(rung=rung.name, agent=rung.agent, reason=why[0], note=why[1]))
            continue
        chosen.append(Choice(rung.name, rung.agent, rung.provider, rung.model, judging.is_paid(rung)))
        if len(chosen) == wanted:
            break
    # What it failed on stays on record, also where that stands below whoever was chosen now.
    told = {each.rung for each in passed}
    passed += [Passed(rung=name, reason="failed-before") for name in sorted(need.failed - told)]
    parallel = complexity.parallel and len(chosen) > 1
    return Decision(need, policy.version, tuple(chosen), tuple(passed), complexity.review, parallel)


class _Judging:
    """Judges the rungs of one decision."""

    def __init__(
        self,
        policy: RoutingPolicy,
        registry: Mapping[str, Definition],
        need: Need,
        facts: Facts,
        complexity: Complexity,
    ) -> None:
        self._policy, self._registry, self._need, self._facts = policy, registry, need, facts
        self._complexity = complexity

    def why_not(self, rung: Rung) -> Why:
        """Why a rung is passed over, with the first reason that there is; None where it is not."""
        if rung.disabled is not None:
            return "disabled", rung.disabled
        if rung.name in self._need.failed:
            return "failed-before", "the task was there already"
        return (
            self._not_able(rung)
            or self._not_justified(rung)
            or self._out_of_quota(rung)
            or self._busy(rung)
            or self._over_budget(rung)
        )

    def is_paid(self, rung: Rung) -> bool:
        """Whether the model costs money. One whose price nobody knows is taken to, and one that its program chooses."""
        if rung.paid is not None:
            return rung.paid
        if rung.model is None:
            own = self._definition(rung)
            hold = estimate(own, self._need.goal, self._policy.money, self._facts.now)
            return hold.microusd > 0 if hold is not None else own.adapter != COMMAND and not own.unpriced
        found = quote(self._policy.money, rung.provider or "", rung.model, self._facts.now)
        if found is None:
            return not self._definition(rung).unpriced
        return found.price.input > 0 or found.price.output > 0

    def _definition(self, rung: Rung) -> Definition:
        """The definition of the rung's agent, with the rung's model; one of nothing else where there is none."""
        found = self._registry.get(rung.agent) or Definition(name=rung.agent, adapter="command")
        own = replace(found, provider=found.provider or PROVIDERS.get(found.adapter))
        return own.running(rung.provider, rung.model)

    def _not_able(self, rung: Rung) -> Why:
        need, paid = self._need, self._complexity.paid
        if rung.types and need.task_type is not None and not _among(need.task_type, rung.types):
            return "not-able", f"it is for {', '.join(rung.types)}"
        if rung.context is not None and (need.context_tokens or 0) > rung.context:
            return "not-able", f"it takes {rung.context:,} tokens of context, and {need.context_tokens:,} are needed"
        if paid == "never" and self.is_paid(rung):
            return "not-able", "work of this complexity gets no paid model"
        if paid == "only" and not self.is_paid(rung):
            return "not-able", "work of this complexity gets a paid model"
        return None

    def _not_justified(self, rung: Rung) -> Why:
        if not (self.is_paid(rung) if rung.justified is None else rung.justified):
            return None
        asked = self._policy.terms.justification
        said = " ".join((self._need.justification or "").split())
        if len(said) >= asked.least or (asked.by_failures and self._need.failed):
            return None
        if not said:
            return "not-justified", "nobody said why a paid model is needed, and which free ones were tried"
        return "not-justified", f"its justification has {len(said)} characters, and {asked.least} are asked for"

    def _out_of_quota(self, rung: Rung) -> Why:
        until = self._facts.standing(rung.agent).out_until(rung.model)
        if until is not None and until > self._facts.now:
            return "out-of-quota", f"until {until:%FT%TZ}"
        for name, limit in self._limits(rung):
            if limit.tokens is not None:
                most, seconds = limit.tokens
                used = self._facts.tokens(name, seconds)
                if used >= most:
                    return "out-of-quota", f"{name} used {used:,} of {most:,} tokens in {_time(seconds)}"
        return None

    def _busy(self, rung: Rung) -> Why:
        for name, limit in self._limits(rung):
            if limit.concurrency is not None:
                open_now = self._facts.open(name)
                if open_now >= limit.concurrency:
                    return "busy", f"{name} has {open_now} of {limit.concurrency} under way"
            if limit.rate is not None:
                most, seconds = limit.rate
                begun = self._facts.begun(name, seconds)
                if begun >= most:
                    return "busy", f"{name} was given {begun} of {most} in {_time(seconds)}"
        return None

    def _limits(self, rung: Rung) -> list[tuple[str, Limit]]:
        """The limits that hold for a rung: its agent's and its provider's."""
        names = (rung.agent, rung.provider)
        return [(name, limit) for name in names if name and (limit := self._policy.limit(name)) is not None]

    def _over_budget(self, rung: Rung) -> Why:
        if not self.is_paid(rung):
            return None
        need, money = self._need, self._policy.money
        definition, provider = self._definition(rung), rung.provider or ""
        hold = estimate(definition, need.goal, money, self._facts.now)
        if hold is None:
            model = f"{provider or '?'}/{rung.model}" if rung.model else f"the model that {rung.agent} has by itself"
            may = definition.unpriced or (rung.model is None and definition.adapter == COMMAND)
            return None if may else ("over-budget", f"no price is known for {model}")
        if self._facts.is_lost:
            return "over-budget", "what is spent is not known any more: `bus budget rebuild`"
        caps = money.caps_for(provider, rung.agent, need.root, need.root_type)
        for account, period in sorted({*caps, *self._facts.capped(provider, rung.agent, need.root)}):
            spent = self._facts.spent(account, period)
            cap = spent.cap if spent.is_recorded else caps.get((account, period))
            if cap is not None and spent.committed + spent.held + hold.microusd > cap:
                left = max(0, cap - spent.committed - spent.held)
                return "over-budget", (
                    f"{account} has {dollars(left)} left of {dollars(cap)} a {period}, "
                    f"and {dollars(hold.microusd)} would be held"
                )
        return None


def _among(task_type: str, patterns: tuple[str, ...]) -> bool:
    from taskbus_projections.patterns import Patterns

    return Patterns((each, True) for each in patterns).find(task_type) is not None


def _time(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"
