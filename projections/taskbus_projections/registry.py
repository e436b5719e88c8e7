"""Which read models there are: those of taskbus, then those of other packages.

A package adds its own with an entry point of the group `taskbus.projections` that names the class. One that
cannot be loaded, or that takes a name that is taken, stops every projection: rows that silently miss are
worse than none.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, TypeAlias

from taskbus.errors import ProjectionStopped
from taskbus_projections.accounts import Accounts
from taskbus_projections.agents import Agents
from taskbus_projections.budgets import Budgets
from taskbus_projections.escalations import Escalations
from taskbus_projections.events import Events
from taskbus_projections.gates import Gates
from taskbus_projections.model import ReadModel
from taskbus_projections.parked import ParkedDeliveries
from taskbus_projections.tasks import Tasks
from taskbus_projections.transitions import Transitions
from taskbus_projections.usage import UsageLedger

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import EntryPoint

ENTRY_POINTS: Final = "taskbus.projections"

Models: TypeAlias = tuple[type[ReadModel], ...]

BUILTIN: Final[Models] = (
    Events,
    Tasks,
    Transitions,
    UsageLedger,
    Budgets,
    Accounts,
    Escalations,
    Gates,
    Agents,
    ParkedDeliveries,
)


def installed() -> Models:
    """All read models, those that others refer to first. Raises ProjectionStopped."""
    points = sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name)
    return checked((*BUILTIN, *(_loaded(point) for point in points)))


def checked(models: Iterable[type[ReadModel]]) -> Models:
    """The models, if no two of them have the same name. Raises ProjectionStopped."""
    found: dict[str, type[ReadModel]] = {}
    for model in models:
        other = found.setdefault(model.name, model)
        if other is not model:
            raise ProjectionStopped(
                f"Two read models are called {model.name}: {_path(other)} and {_path(model)}.",
                advice="Give one of them another name, or remove the package that it came with.",
            )
    return tuple(found.values())


def _loaded(point: EntryPoint) -> type[ReadModel]:
    package = f"the package {point.dist.name}" if point.dist else "its package"
    try:
        model: object = point.load()
    except Exception as error:  # somebody else's code is imported here, and may raise anything
        raise ProjectionStopped(
            f"The read model {point.name} of {package} cannot be loaded ({point.value}): {error!r}.",
            advice=f"Install {package} anew, or remove it.",
        ) from error
    if not (isinstance(model, type) and issubclass(model, ReadModel)):
        raise ProjectionStopped(
            f"The entry point {point.name} of {package} ({point.value}) is no read model.",
            advice="It must name a class that extends taskbus_projections.ReadModel.",
        )
    return model


def _path(model: type[ReadModel]) -> str:
    return f"{model.__module__}.{model.__qualname__}"
