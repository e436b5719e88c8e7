"""What if: the calls of the log, priced one by one with other prices, models or tiers, and against one model for all.

Owns how a reduction is told apart by cause: in steps, each from one whole sum to the next, so that the parts add up
to the microdollar. It guesses nothing: a call whose cost cannot be known is counted with the reason, and left out of
the sums that it would falsify. Called by `bus what-if`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from taskbus_projections.calls import calls
from taskbus_projections.measuring import Measure, measured
from taskbus_projections.supposing import CAUSES

if TYPE_CHECKING:
    from taskbus_projections.calls import Call
    from taskbus_projections.database import Database
    from taskbus_projections.period import Period
    from taskbus_projections.policy import Policy
    from taskbus_projections.pricing import Price, Tokens
    from taskbus_projections.supposing import Cause, Model

Grouping: TypeAlias = Literal["tier", "agent", "model", "provider", "month"]
Reason: TypeAlias = Literal["no price", "no counts", "cost kept"]
"""Why something is not known: the model has no price here and the call none in the log; its counts of tokens are
missing or contradict each other; or the log's cost of it was kept, which says nothing of other numbers of tokens."""


class Way(NamedTuple):
    """How the calls of an agent with a model are priced: what would have run, and the prices, None without one."""

    tier: str | None
    instead: Model
    swapped: bool
    ran_price: Price | None
    price: Price | None


class Comparison(NamedTuple):
    """One model for all: its price, the order of the causes, and how many times as many tokens it would have used."""

    model: Model
    price: Price
    order: tuple[Cause, ...]
    measures: dict[Cause, Measure]


@dataclass(slots=True)
class Sums:
    """Calls that were added up; all amounts in microdollars.

    `recorded` is what the log says, `would` what the policy says. Of the calls that both know, `before` + `prices` +
    `models` is `after`. Of those that can be compared with one model for all, `baseline` - `routing` - `context` -
    `tokens` is `remaining`.
    """

    calls: int = 0
    recorded_calls: int = 0
    recorded: int = 0
    would_calls: int = 0
    kept_calls: int = 0
    would: int = 0
    both_calls: int = 0
    before: int = 0
    prices: int = 0
    models: int = 0
    after: int = 0
    compared_calls: int = 0
    baseline: int = 0
    routing: int = 0
    context: int = 0
    tokens: int = 0
    remaining: int = 0

    @property
    def saved(self) -> int:
        """What one model for all would have cost more."""
        return self.baseline - self.remaining

    def add(self, other: Sums) -> None:
        """Add other calls to these."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(slots=True)
class Outcome:
    """What was found: in all, and by what was asked for; None as a group are calls that belong to none.

    `unknown` counts the calls without a cost, and `incomparable` those that only the comparison leaves out, by reason
    and model. `cached` counts the calls with tokens of a cache for which the price of a model has no amount of its own,
    and `unsaid` those that do not say how many they were where it has one.
    """

    total: Sums = field(default_factory=Sums)
    groups: dict[str | None, Sums] = field(default_factory=dict[str | None, Sums])
    unknown: Counter[tuple[Reason, str]] = field(default_factory=Counter[tuple[Reason, str]])
    incomparable: Counter[tuple[Reason, str]] = field(default_factory=Counter[tuple[Reason, str]])
    measures: dict[Cause, Measure] = field(default_factory=dict["Cause", Measure])
    swapped: int = 0
    cached: Counter[str] = field(default_factory=Counter[str])
    unsaid: Counter[str] = field(default_factory=Counter[str])


def suppose(database: Database, policy: Policy, period: Period, by: Grouping) -> Outcome:
    """Price every call of a period as the policy says, and add them up by one grouping."""
    supposed = policy.supposition
    outcome = Outcome()
    if supposed.baseline is not None:
        outcome.measures = measured(database, supposed, period)
    price = policy.price(*supposed.baseline) if supposed.baseline else None
    against = (
        Comparison(supposed.baseline, price, supposed.order, outcome.measures) if supposed.baseline and price else None
    )

    @cache
    def way(agent: str, provider: str, model: str) -> Way:
        instead = supposed.instead(agent, provider, model)
        swapped = instead != (provider, model)
        return Way(
            policy.tier(agent, provider, model), instead, swapped, policy.price(provider, model), policy.price(*instead)
        )

    for call in calls(database, period):
        found = way(call.agent, call.provider, call.model)
        group = _group(call, found, by)
        sums = outcome.groups.get(group) or outcome.groups.setdefault(group, Sums())
        would = _would(call, found, call.tokens)
        _priced(call, found, would, outcome, sums)
        if against is not None and would is not None:
            _compared(call, found, would, against, outcome, sums)
    for sums in outcome.groups.values():
        outcome.total.add(sums)
    return outcome


def _group(call: Call, way: Way, by: Grouping) -> str | None:
    match by:
        case "tier":
            return way.tier
        case "model":
            return f"{call.provider}/{call.model}"
        case "agent":
            return call.agent
        case "provider":
            return call.provider
        case "month":
            return call.month


def _would(call: Call, way: Way, tokens: Tokens) -> int | None:
    """What a call would have cost with these tokens; without a price, and as it ran, what the log says it cost."""
    if way.price is not None:
        return way.price.cost(tokens)
    # What is swapped has a price: the policy is refused without it.
    return call.recorded if tokens == call.tokens else None


def _priced(call: Call, way: Way, would: int | None, outcome: Outcome, sums: Sums) -> None:
    """Add what the log says, what the policy says, and the way from the one to the other."""
    recorded = call.recorded
    sums.calls += 1
    outcome.swapped += way.swapped
    if recorded is not None:
        sums.recorded_calls += 1
        sums.recorded += recorded
    if would is None:
        reason: Reason = "no price" if way.price is None else "no counts"
        outcome.unknown[reason, "/".join(way.instead)] += 1
        return
    sums.would_calls += 1
    sums.would += would
    if way.price is None:
        sums.kept_calls += 1
    else:
        _cached(way.price, call.tokens, way.instead, outcome)
    if recorded is not None:
        ran: int | None = would
        if way.swapped:
            # Where the policy cannot say what the one that ran costs, the log does: other prices change nothing.
            ran = way.ran_price.cost(call.tokens) if way.ran_price else None
        between = recorded if ran is None else ran
        sums.both_calls += 1
        sums.before += recorded
        sums.prices += between - recorded
        sums.models += would - between
        sums.after += would


def _compared(call: Call, way: Way, would: int, against: Comparison, outcome: Outcome, sums: Sums) -> None:  # noqa: PLR0917 - what is compared, with what, into what
    """Go from one model for all to what would have run, one cause after the other."""
    context, answers = (against.measures[cause].factor_of(call) for cause in ("context", "tokens"))
    steps: list[int | None] = []
    for done in range(len(CAUSES)):
        left = against.order[done:]
        tokens = call.tokens
        if context is not None and "context" in left:
            tokens = tokens.with_context(context)
        if answers is not None and "tokens" in left:
            tokens = tokens.with_answers(answers)
        if "routing" in left:
            steps.append(against.price.cost(tokens))
        else:
            steps.append(would if tokens is call.tokens else _would(call, way, tokens))
    costs = [cost for cost in (*steps, would) if cost is not None]
    if len(costs) <= len(steps):
        reason: Reason = "no counts" if steps[0] is None else "cost kept"
        outcome.incomparable[reason, f"{call.provider}/{call.model}"] += 1
        return
    sums.compared_calls += 1
    sums.baseline += costs[0]
    sums.remaining += would
    for cause, before, after in zip(against.order, costs, costs[1:], strict=False):
        match cause:
            case "routing":
                sums.routing += before - after
            case "context":
                sums.context += before - after
            case "tokens":
                sums.tokens += before - after
    _cached(against.price, call.tokens, against.model, outcome)


def _cached(price: Price, tokens: Tokens, model: Model, outcome: Outcome) -> None:
    """Count what a price could not tell apart: tokens of a cache, or calls that do not say how many there are."""
    if (tokens.cache_read and price.cache_read is None) or (tokens.cache_write and price.cache_write is None):
        outcome.cached["/".join(model)] += 1
    elif (tokens.cache_read is None and price.cache_read is not None) or (
        tokens.cache_write is None and price.cache_write is not None
    ):
        outcome.unsaid["/".join(model)] += 1
