"""What if, as people and programs read it: sums by group, the causes, what was assumed, and what is not known.

Owns the words for what a number does not say: an assumption is never left out, and what is not known is counted
beside every sum, never as zero. Called by `bus what-if`; everything here is plain text.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from taskbus_projections.amounts import change, dollars, plural, shift
from taskbus_projections.measuring import Measure
from taskbus_projections.table import Column

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Mapping

    from taskbus_projections.policy import Policy
    from taskbus_projections.queries.answer import Row
    from taskbus_projections.supposing import Cause
    from taskbus_projections.table import Text
    from taskbus_projections.what_if import Grouping, Outcome, Reason, Sums

_COUNTS: Final = ("calls", "recorded_calls", "would_calls", "kept_calls", "both_calls", "compared_calls")
_KNOWN: Final = {
    "recorded": "recorded_calls",
    "would": "would_calls",
    **dict.fromkeys(("before", "prices", "models", "after"), "both_calls"),
    **dict.fromkeys(("baseline", "routing", "context", "tokens", "remaining", "saved"), "compared_calls"),
}
"""Of which calls each amount is the sum: without one, it is not known."""
FIELDS: Final = (*_COUNTS, *(f"{name}_microusd" for name in _KNOWN))
"""The columns of a row, without what it is grouped by."""
CAUSES: Final[Mapping[Cause, str]] = {"routing": "routing", "context": "less context", "tokens": "fewer tokens"}
_UNITS: Final[Mapping[Cause, str]] = {"context": "input tokens", "tokens": "output tokens"}
_REASONS: Final[Mapping[Reason, str]] = {
    "no price": "no price in the policy, and no cost in the log",
    "no counts": "counts of tokens that are missing, or contradict each other",
    "cost kept": "the cost of the log, which says nothing of other numbers of tokens",
}
_GROUPS: Final = {"tier": "no tier"}


def row(sums: Sums) -> Row:
    """Sums as a program reads them, amounts in microdollars; None where no call has such an amount."""
    found = asdict(sums) | {"saved": sums.saved}
    found |= {amount: None for amount, calls in _KNOWN.items() if not found[calls]}
    return {name: found[name.removesuffix("_microusd")] for name in FIELDS}


def rows(outcome: Outcome, by: Grouping, policy: Policy) -> list[Row]:
    """The groups: tiers in their order, months in that of time, all others with the dearest first."""
    ranks = {tier.name: rank for rank, tier in enumerate(policy.tiers)}

    def place(group: str | None) -> tuple[object, ...]:
        if by == "tier":
            return (ranks.get(group or "", len(ranks)),)
        sums = outcome.groups[group]
        return (group,) if by == "month" else (-max(sums.would, sums.recorded), -sums.calls, group)

    return [{by: group} | row(outcome.groups[group]) for group in sorted(outcome.groups, key=place)]


def columns(by: Grouping, *, compared: bool) -> list[Column]:
    """A group in each line: what the log says, what the policy says, and one model for all."""
    found = [
        Column(by, _name(by), flexible=True),
        Column("calls", _calls, number=True, spare=3),
        Column("in the log", _sum("recorded", "unpriced"), number=True),
        Column("with the policy", _sum("would", "not known"), number=True),
        Column("change", _changed("after", "before"), number=True, spare=1),
    ]
    if compared:
        found += [
            Column("one model for all", _amount("baseline", "compared_calls"), number=True, spare=2),
            Column("against it", _changed("remaining", "baseline"), number=True),
        ]
    return found


def differences(total: Sums) -> list[tuple[str, str, str]]:
    """The way from what the log says to what the policy says, over the calls that have a cost in both."""
    return [
        ("in the log", dollars(total.before), ""),
        ("other prices", change(total.prices), shift(total.prices, total.before)),
        ("other models", change(total.models), shift(total.models, total.before)),
        ("with the policy", dollars(total.after), shift(total.after - total.before, total.before)),
    ]


def reductions(total: Sums, policy: Policy, measures: Mapping[Cause, Measure]) -> list[tuple[str, str, str]]:
    """The way from one model for all to what the policy says, by cause, over the calls that can be compared."""
    lines = [("one model for all", dollars(total.baseline), "")]
    for cause in policy.supposition.order:
        less: int = getattr(total, cause)
        basis = measures[cause].basis if cause in measures else None
        note = "not measured" if basis == "not measured" else shift(-less, total.baseline)
        notes = filter(None, (note, "assumed" if basis == "assumed" else ""))
        lines.append((CAUSES[cause], change(-less), ", ".join(notes)))
    return [*lines, ("with the policy", dollars(total.remaining), shift(-total.saved, total.baseline))]


def assumptions(outcome: Outcome, policy: Policy) -> Iterator[str]:
    """Everything that was assumed, a sentence each."""
    supposed, total = policy.supposition, outcome.total
    table = f"version {policy.version}" if policy.version else "without a version"
    yield f"Prices are those of {policy.path.name} ({table}); each call is rounded to whole microdollars by itself."
    if total.kept_calls:
        yield f"{plural(total.kept_calls, 'call')} of models without a price in the policy cost what the log says."
    if outcome.cached:
        yield (
            "Tokens of a cache cost what input costs where the price of a model has no amount of its own for them: "
            f"{_counts(outcome.cached)}."
        )
    if outcome.unsaid:
        yield (
            "Input costs as much as it does without a cache where a call does not say how much of it went into one, or "
            "came from one: "
            f"{_counts(outcome.unsaid)}."
        )
    if supposed.swaps:
        swaps = ", ".join(f"{name} → {target}" for name, target in supposed.swaps.items())
        yield f"Other models would have run, for {plural(outcome.swapped, 'call')}: {swaps}."
    if supposed.baseline:
        order = ", ".join(CAUSES[cause] for cause in supposed.order)
        yield (
            f"One model for all is {'/'.join(supposed.baseline)}. The causes are told apart in this order: {order}; "
            "in another one the parts would differ, and their sum would not."
        )
        for cause, measure in outcome.measures.items():
            yield _basis(cause, measure, policy)
    if supposed.baseline or supposed.swaps:
        yield (
            "Another model would have used as many tokens for the same work, and needed as many attempts: "
            "the log cannot show otherwise."
        )


def unknown(outcome: Outcome) -> Iterator[str]:
    """What could not be known, a sentence for each reason."""
    for counter, what in ((outcome.unknown, "in no sum of the policy"), (outcome.incomparable, "not compared")):
        for reason, words in _REASONS.items():
            found = {model: calls for (why, model), calls in counter.most_common() if why == reason}
            if found:
                yield f"{plural(sum(found.values()), 'call')} {what}, with {words}: {_counts(found)}."
    unpriced = outcome.total.calls - outcome.total.recorded_calls
    if unpriced:
        yield f"{plural(unpriced, 'call')} unpriced in the log: in no sum of it, nor in the change."


def counted(counter: Counter[tuple[Reason, str]]) -> list[Row]:
    """What is not known, as a program reads it."""
    return [{"reason": reason, "model": model, "calls": calls} for (reason, model), calls in counter.most_common()]


def measure_row(measure: Measure) -> Row:
    """How a cause was measured, as a program reads it; the factor is a decimal number."""
    found: Row = {"basis": measure.basis, "factor": None if measure.factor is None else float(measure.factor)}
    for name, mean in (("reference", measure.reference), ("others", measure.others)):
        if mean is not None:
            found[name] = {"calls": mean.calls, "tokens": mean.tokens}
    return found


def _counts(calls: Mapping[str, int]) -> str:
    return ", ".join(f"{model} ({count:,})" for model, count in calls.items())


def _basis(cause: Cause, measure: Measure, policy: Policy) -> str:
    unit, factor = _UNITS[cause], measure.factor
    where = policy.supposition.reference.words if policy.supposition.reference else ""
    if measure.basis == "assumed" and factor is not None:
        return (
            f"{CAUSES[cause].capitalize()}: assumed, not measured: one model for all would have used "
            f"{float(factor):g} times the {unit} of each call."
        )
    if measure.reference is None or measure.others is None:
        return f"{CAUSES[cause].capitalize()}: not measured; one model for all would have used the same {unit}."
    known = (
        f"{plural(measure.reference.calls, 'call')} of the reference ({where}), "
        f"{plural(measure.others.calls, 'other call')}"
    )
    if factor is None or measure.reference.value is None or measure.others.value is None:
        return f"{CAUSES[cause].capitalize()}: not measured, for too few say how many {unit} they used: {known}."
    return (
        f"{CAUSES[cause].capitalize()}: measured, if both did work of one kind: {known}, with "
        f"{float(measure.reference.value):,.1f} and {float(measure.others.value):,.1f} {unit} each. So one model for "
        f"all would have used {float(factor):.4g} times as many for each other call."
    )


def _name(by: Grouping) -> Text:
    def text(row: Row) -> str:
        return str(row[by]) if row[by] is not None else _GROUPS.get(by, "")

    return text


def _calls(row: Row) -> str:
    return f"{row['calls']:,}"


def _sum(name: str, rest: str) -> Text:
    def text(row: Row) -> str:
        left = row["calls"] - row[f"{name}_calls"]
        parts = [dollars(row[f"{name}_microusd"])] if row[f"{name}_calls"] else []
        return " + ".join([*parts, *([f"{left:,} {rest}"] if left else [])])

    return text


def _amount(name: str, calls: str) -> Text:
    def text(row: Row) -> str:
        return dollars(row[f"{name}_microusd"]) if row[calls] else ""

    return text


def _changed(after: str, before: str) -> Text:
    def text(row: Row) -> str:
        whole = row[f"{before}_microusd"]
        if whole is None:
            return ""
        return shift(row[f"{after}_microusd"] - whole, whole)

    return text
