"""The place where somebody may choose who gets a task: what is wanted, and what was chosen.

The core chooses nobody itself. Whoever can is found through the entry point group `taskbus.routing`, and is called with
the bus, the settings and a `Wanted`; it may also know whom it could choose. Called by `bus delegate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, cast

from msgspec import Struct

from taskbus.errors import Conflict, UsageError
from taskbus.payload import Passed, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from taskbus.client import Bus
    from taskbus.settings import Settings

ENTRY_POINTS: Final = "taskbus.routing"


class Wanted(Struct, frozen=True, kw_only=True):
    """A piece of work that somebody is wanted for; `agent` is the only one who may get it, if anybody was named."""

    goal: str
    task_type: str | None = None
    complexity: str | None = None
    context_tokens: int | None = None
    justification: str | None = None
    agent: str | None = None
    root: str = ""


class Routed(Struct, frozen=True):
    """Who was chosen, and what is recorded of it; None for nobody. `review`: the result needs a verdict."""

    agent: str | None
    route: Route | None
    passed: tuple[Passed, ...] = ()
    review: bool = False


class Router(Protocol):
    """Chooses who gets a task. It may have a method `names(settings)`: everybody whom it has heard of."""

    async def __call__(self, bus: Bus, settings: Settings, wanted: Wanted) -> Routed:
        """Choose. Raises ConfigurationError and UsageError for what cannot be meant, Unavailable."""
        ...


async def routed(bus: Bus, settings: Settings, wanted: Wanted) -> tuple[str, Routed]:
    """Who gets a task, and what is recorded of the choice.

    Raises UsageError where nothing is installed that chooses, Conflict where nobody can take it.
    """
    router = _router()
    if router is None:
        raise UsageError("Nothing is installed here that could choose an agent.", advice="Name the agent, as in @kilo.")
    choice = await router(bus, settings, wanted)
    if choice.agent is None:
        raise Conflict(
            f"Nobody can take it now. {_listed(choice.passed)}",
            advice="`bus route --explain` says more; `bus delegate @agent …` hands it to anybody without asking.",
        )
    return choice.agent, choice


def names(settings: Settings) -> frozenset[str]:
    """Everybody of whom whoever chooses has heard, by definitions and policy; nobody where nothing can choose.

    Raises ConfigurationError where these cannot be read.
    """
    known = cast("Callable[[Settings], Iterable[str]] | None", getattr(_router(), "names", None))
    return frozenset(known(settings)) if known is not None else frozenset()


def _router() -> Router | None:
    from importlib.metadata import entry_points

    found = next(iter(entry_points(group=ENTRY_POINTS)), None)
    return cast("Router", found.load()) if found is not None else None


def _listed(passed: Sequence[Passed]) -> str:
    if not passed:
        return "The policy names nobody for such work."
    return "; ".join(f"{each.rung}: {each.reason}{f', {each.note}' if each.note else ''}" for each in passed) + "."
