"""Costs as people see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskbus_projections.queries.spending import GROUPINGS, TOKENS
from taskbus_projections.table import Column
from taskbus_projections.views import words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskbus_projections.queries.answer import Row
    from taskbus_projections.queries.outlook import Forecast
    from taskbus_projections.queries.spending import Grouping

COST_FIELDS: Final = ("calls", "unpriced_calls", "cost_microusd", *TOKENS)


def group_fields(by: Grouping) -> tuple[str, ...]:
    """The names of the columns by which a grouping adds up."""
    return GROUPINGS[by]


def cost_columns(by: Grouping, rows: Sequence[Row], short: Mapping[str, str]) -> list[Column]:
    """Costs by a grouping. Numbers of tokens that nobody reported stay empty, or are left out."""
    reported = [name for name in TOKENS if any(row[name] is not None for row in rows)]
    names = (Column({"root": "tree"}.get(name, name), words.named(name, short)) for name in group_fields(by))
    return [
        *([Column("tier", _tier)] if by == "tier" else names),
        Column("calls", words.text("calls"), number=True),
        *(
            Column(name.removesuffix("_tokens").replace("_", " "), words.count(name), number=True, spare=1)
            for name in reported
        ),
        Column("cost", words.money, number=True),
    ]


def budget_columns() -> list[Column]:
    """What is left of the caps of a month."""
    return [
        Column("of", words.text("name")),
        Column("spent", words.money, number=True),
        Column("held", _held, number=True),
        Column("cap", words.dollars("cap_microusd"), number=True),
        Column("left", words.dollars("left_microusd"), number=True),
        Column("expected", _expected, number=True),
    ]


def outlook(month: str, found: Forecast) -> str:
    """The forecast in a sentence, with how it is reckoned."""
    return (
        f"Expected for {month}: about {words.about(found.microusd)}, {found.method} "
        f"({words.about(found.daily)} a day). Unpriced calls are in none of it."
    )


def _held(row: Row) -> str:
    return words.dollars("held_microusd")(row) if row["held_microusd"] else ""


def _tier(row: Row) -> str:
    return row["tier"] or "no tier"


def _expected(row: Row) -> str:
    if row["expected_microusd"] is None:
        return ""
    beyond = row["cap_microusd"] is not None and row["expected_microusd"] > row["cap_microusd"]
    return f"{words.about(row['expected_microusd'])}{', beyond the cap' if beyond else ''}"
