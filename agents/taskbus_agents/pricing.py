"""The estimate: how much money is reserved for a run before it is known what it costs.

Owns in which order that is looked up: what the definition says, then the policy, then the price of the model that is
really to run, long contexts included. It reserves nothing itself, and knows no caps. Called by whoever runs a paid
model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from taskbus_projections.allowance import EXPECTED
from taskbus_projections.pricing import Tokens
from taskbus_projections.quotes import quote

if TYPE_CHECKING:
    from datetime import datetime

    from taskbus_agents.definition import Definition
    from taskbus_projections.policy import Policy

_BYTES_PER_TOKEN: Final = 3
"""Fewer than most texts have, so that a long prompt is rather taken to be longer."""


class Estimate(NamedTuple):
    """How much is to be reserved, in microdollars; from which table of prices, if from one; and why, in words."""

    microusd: int
    table: str | None
    basis: str


def estimate(definition: Definition, prompt: str, policy: Policy | None, when: datetime) -> Estimate | None:
    """What to reserve for a run of an agent with this prompt; None where nobody says what its model costs.

    Without an estimate nothing may run, unless the definition says that it may run unpriced. A free model has one: 0;
    what any other one is worth is rounded up, so that it never fits under a cap of nothing.
    """
    if definition.hold is not None:
        return Estimate(definition.hold, None, f"as {definition.name} is defined")
    provider, model = definition.provider, definition.model
    said = policy.hold(definition.name, provider or "", model or "") if policy else None
    if said is not None:
        return Estimate(said, None, "as the policy says")
    found = quote(policy, provider, model, when) if provider and model else None
    if found is None:
        return None
    put_in, put_out = policy.allowance.expected if policy else EXPECTED
    put_in += -(-len(prompt.encode()) // _BYTES_PER_TOKEN)
    cost = found.price.cost(Tokens(put_in, put_out), context=put_in, whole=True)
    if cost is None:
        return None
    return Estimate(cost, found.table, f"{put_in:,} tokens of input and {put_out:,} of output, as {found.table} says")
