"""Held: a delivery in the hands of a worker, and how far it is with it.

Made by the handling when a delivery is taken, and forgotten when the server has carried out what was decided of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from taskbus.errors import Fenced, Moved

if TYPE_CHECKING:
    import anyio

    from taskbus.append import Unit
    from taskbus.delivery import Delivery
    from taskbus.work import Work


class Held(Struct, eq=False):
    """A delivery in a worker's hands. `since` is when its lease began last, on anyio's clock.

    Its handler runs in `scope`, and gets `work`. It is asked once it needs no other acknowledgment, acknowledging until
    the log has that; who waits for it waits for `acknowledged`. It is decided once there is nothing left but to tell
    the server; lost when it is somebody else's; recalled when it is to be handed back instead of finished.
    """

    delivery: Delivery
    since: float
    scope: anyio.CancelScope | None = None
    work: Work | None = None
    acknowledged: anyio.Event | None = None
    is_asked: bool = False
    is_acknowledging: bool = False
    is_decided: bool = False
    is_lost: bool = False
    is_recalled: bool = False

    def is_completed_by(self, unit: Unit) -> bool:
        """Whether what a unit says of the task first completes it, which new work can be without more ado."""
        task = self.delivery.entry.task
        for submission in unit.submissions:
            envelope = submission.document.envelope
            if envelope.context.task_id == task:
                return envelope.type == "completion" and envelope.sender == self.delivery.agent
        return False

    def is_fenced(self, error: Exception) -> bool:
        """Whether somebody else has the delivery. What asks for nothing stands under no token and no record."""
        delivery = self.delivery
        is_ours = delivery.is_work or delivery.is_to_decide
        return isinstance(error, Fenced) and error.task in (None, delivery.task) and is_ours

    def is_too_late(self, error: Exception) -> bool:
        """Whether it was an escalation that somebody else has dealt with meanwhile."""
        return isinstance(error, Moved) and self.delivery.is_to_decide
