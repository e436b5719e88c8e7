"""What a policy supposes: other models, one model for all, and how much more that one would have read and written.

Owns the tables of a policy that are for `bus what-if` alone: [baseline], [swap], [assumptions] and [reference]. It
refuses what could not be computed: a model without a price, a tier that stands for no model, a measurement without
a reference. Called by `taskbus_projections.policy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast, get_args

from taskbus import moment
from taskbus.errors import UsageError
from taskbus_projections.patterns import Patterns, is_pattern, split

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskbus.position import Position
    from taskbus_projections.policy_file import Keys, PolicyFile
    from taskbus_projections.pricing import Price

Cause: TypeAlias = Literal["routing", "context", "tokens"]
Model: TypeAlias = tuple[str, str]
"""Provider and model."""
Factor: TypeAlias = Fraction | Literal["measured"] | None
"""How many times as many tokens one model for all would have used; None where nothing is said of it."""

TABLES: Final = ("baseline", "swap", "assumptions", "reference")
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
_MEASURED: Final = "measured"
_MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class Reference:
    """Calls to measure the others against: those of an agent, with a model, within a period; all where None."""

    agent: str | None = None
    model: str | None = None
    start: Position | None = None
    end: Position | None = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Supposition:
    """What a policy supposes. `order` is the one in which the causes of a reduction are told apart."""

    baseline: Model | None
    context: Factor
    tokens: Factor
    order: tuple[Cause, ...]
    reference: Reference | None
    swaps: Mapping[str, str]
    _by_agent: Patterns[Model]
    _by_model: Patterns[Model]

    def instead(self, agent: str, provider: str, model: str) -> Model:
        """The model that would have run: what the agent's swap says, else the model's, else the one that ran."""
        return self._by_agent.find(agent) or self._by_model.find(f"{provider}/{model}", model) or (provider, model)


def read(file: PolicyFile, tiers: Mapping[str, Model | None], prices: Patterns[Price]) -> Supposition:
    """Read these tables of a policy. Raises ConfigurationError."""
    baseline = file.table("baseline", known=("model",))
    assumed = file.table("assumptions", known=("context", "tokens", "order"))
    reference = _reference(file)
    swaps: dict[str, Model] = {}
    for name, target in file.table("swap").items():
        where = ("swap", name)
        found = file.agent(where, name) if name.startswith("@") else name
        swaps[found] = _target(file, where, target, tiers, prices)
    if "baseline" in file.document and not baseline:
        raise file.wrong(("baseline",), baseline, "a table with `model`")
    return Supposition(
        baseline=_model(file, ("baseline", "model"), baseline["model"], prices) if baseline else None,
        context=_factor(file, "context", assumed.get("context"), reference),
        tokens=_factor(file, "tokens", assumed.get("tokens"), reference),
        order=_order(file, assumed.get("order")),
        reference=reference,
        swaps={name: "/".join(target) for name, target in swaps.items()},
        _by_agent=Patterns((name, target) for name, target in swaps.items() if name.startswith("@")),
        _by_model=Patterns((name, target) for name, target in swaps.items() if not name.startswith("@")),
    )


def _target(
    file: PolicyFile, where: Keys, value: object, tiers: Mapping[str, Model | None], prices: Patterns[Price]
) -> Model:
    name = file.text(where, value)
    if "/" in name:
        return _model(file, where, name, prices)
    if name not in tiers:
        raise file.wrong(where, value, f"provider/model, or one of the tiers ({', '.join(tiers) or 'there is none'})")
    model = tiers[name]
    if model is None:
        raise file.wrong(where, value, "a tier whose `models` name one in full, as provider/model")
    return _priced(file, where, "/".join(model), prices)


def _model(file: PolicyFile, where: Keys, value: object, prices: Patterns[Price]) -> Model:
    name = file.text(where, value, "provider/model")
    if not all(split(name)) or is_pattern(name):
        raise file.wrong(where, value, "provider/model, without wildcards")
    return _priced(file, where, name, prices)


def _priced(file: PolicyFile, where: Keys, name: str, prices: Patterns[Price]) -> Model:
    if prices.find(name) is None:
        raise file.wrong(where, name, f'a model with a price: add [prices."{name}"]')
    return split(name)


def _factor(file: PolicyFile, name: str, value: object, reference: Reference | None) -> Factor:
    where = ("assumptions", name)
    if value is None:
        return None
    if value == _MEASURED:
        if reference is None:
            raise file.wrong(where, value, "a number, or a table [reference] to measure against")
        return _MEASURED
    millionths = file.amount(where, value, most=_MOST)
    if not millionths:
        raise file.wrong(where, value, f'how many times as many, above 0, or "{_MEASURED}"')
    return Fraction(millionths, 1_000_000)


def _order(file: PolicyFile, value: object) -> tuple[Cause, ...]:
    if value is None:
        return CAUSES
    found = file.texts(("assumptions", "order"), value)
    if sorted(found) != sorted(CAUSES):
        raise file.wrong(("assumptions", "order"), ", ".join(found), f"each of {', '.join(CAUSES)} once")
    return cast("tuple[Cause, ...]", found)


def _reference(file: PolicyFile) -> Reference | None:
    table = file.table("reference", known=("agent", "model", "from", "to"))
    if not table:
        return None
    # TOML has times of its own, and they may be written without quotes.
    plain = {name: str(value) if isinstance(value, datetime) else value for name, value in table.items()}
    said = {name: file.text(("reference", name), value) for name, value in plain.items()}
    words = ", ".join(f"{name} {value}" for name, value in said.items())
    places: dict[str, Position] = {}
    for name, parse in (("from", moment.position), ("to", moment.until)):
        if name in said:
            try:
                places[name] = parse(said[name])
            except UsageError as error:
                wanted = "a time with its offset, such as 2026-11-20T09:30:00Z, or a position"
                raise file.wrong(("reference", name), said[name], wanted) from error
    return Reference(
        agent=file.agent(("reference", "agent"), said["agent"]) if "agent" in said else None,
        model=said.get("model"),
        start=places.get("from"),
        end=places.get("to"),
        words=words,
    )
