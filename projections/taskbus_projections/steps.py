"""Steps: what one envelope did to its task, and the read models that follow the tasks by them.

`Tasks` alone advances the lifecycle, and makes the steps; the models after it ask for them. What it could not fold is
no step: it is said of the tasks, and the others leave it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from taskbus_projections.model import ReadModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskbus.lifecycle import Event, State
    from taskbus_projections.tasks import Tasks


class Step(NamedTuple):
    """What one envelope did to its task.

    `before` and `after` are the states around it; `before` is None for the first delegation. `moved` says that the
    state has changed or a new attempt begins, and `stayed` for how many milliseconds the task was in the state before.
    All else is as it was before the envelope: `agent` was to do the work (for the first delegation: is to), on
    `provider` and `model`, `taken` is when it took it on; `escalation` is the number of the newest escalation that was
    open.
    """

    event: Event
    before: State | None
    after: State
    attempt: int
    agent: str
    assignee: str
    moved: bool = True
    stayed: int | None = None
    provider: str | None = None
    model: str | None = None
    taken: str | None = None
    escalation: int | None = None


class Follower(ReadModel):
    """A read model that follows the tasks, step by step."""

    def meet(self, others: Mapping[str, ReadModel]) -> None:
        """Find the tasks; they are folded before. Their `step` is that of the envelope that is folded now."""
        self._tasks = cast("Tasks", others["tasks"])
