"""Waits: for how long a delivery waits for its quota, or for money that other runs hold, before it is tried again.

Neither counts as a try. A quota says until when; money is looked for again after a pause that grows, since nobody
knows when a run ends, and is told of once. Owned by the handling of one worker.
"""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Final

from taskbus.envelope import now

if TYPE_CHECKING:
    from taskbus.delivery import Delivery
    from taskbus.setbacks import Setback
    from taskbus.terms import Terms

_SOON: Final = 0.1
"""Seconds that it waits at least."""
_LONGEST: Final = 30.0
"""Seconds after which money is looked for again, at the latest where few deliveries wait for it."""
_EACH: Final = 0.1
"""Seconds that each delivery which waits for money adds to the wait: a worker looks ten times in one at most."""
_FORGOTTEN: Final = 60.0
"""Seconds after a wait when it is forgotten: the delivery runs by then, or somebody else has it."""


class Waits:
    """The deliveries of one worker that wait."""

    def __init__(self) -> None:
        """None does yet."""
        self._known: dict[str, tuple[int, float]] = {}

    def next(self, delivery: Delivery, setback: Setback, terms: Terms) -> tuple[float, str | None]:
        """For how many seconds a delivery waits from now on, and what is to be told of that; None where it was told."""
        if setback.until is not None:
            # A reset that is over already, by this clock, must not become a loop without a pause.
            seconds = max((setback.until - now()).total_seconds(), terms.pause(1), _SOON)
            return seconds, f"waits until {setback.until.isoformat(timespec='seconds')}: {setback.message}"
        since = monotonic()
        self._known = {name: each for name, each in self._known.items() if each[1] > since - _FORGOTTEN}
        times = self._known.get(delivery.name, (0, 0.0))[0] + 1
        pause = replace(terms, longest_backoff=min(terms.longest_backoff, _LONGEST)).pause(times)
        seconds = max(pause, len(self._known) * _EACH, _SOON)
        self._known[delivery.name] = times, since + seconds
        if times > 1:
            return seconds, None
        return seconds, f"waits for money that other runs hold, and is tried again as they end: {setback.message}"
