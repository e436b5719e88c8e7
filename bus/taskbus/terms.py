"""The terms on which a worker works: leases, how much at a time, how often it tries, how it ends."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taskbus.errors import UsageError
from taskbus.supervision import Supervision

if TYPE_CHECKING:
    from typing import TypedDict

    class GivenTerms(TypedDict, total=False):
        """The fields of `Terms`, as arguments by name."""

        lease: float
        concurrency: int
        prefetch: int
        attempts: int
        backoff: float
        longest_backoff: float
        hard_limit: float | None
        grace: float
        supervision: Supervision | None


@dataclass(frozen=True, slots=True)
class Terms:
    """How a worker works; all times are in seconds.

    `lease`: how long a delivery stays this worker's without a sign of life. `concurrency`: handlers at a time.
    `prefetch`: deliveries held ready beyond those; their leases are kept too, so nobody else gets them. `attempts`:
    how often a delivery is tried in all, before it is parked. `backoff`: the pause after the first failure, doubled
    with each further one up to `longest_backoff`, with jitter. `hard_limit`: how long a handler may run at most.
    `grace`: how long a handler may go on after the worker was told to stop. `supervision`: what this worker watches
    beside its work; None for nothing. Raises UsageError for what cannot be meant.
    """

    lease: float = 30.0
    concurrency: int = 1
    prefetch: int = 0
    attempts: int = 3
    backoff: float = 1.0
    longest_backoff: float = 300.0
    hard_limit: float | None = None
    grace: float = 30.0
    supervision: Supervision | None = field(default_factory=Supervision)

    def __post_init__(self) -> None:
        """Check the numbers; the inbox checks the lease."""
        for name, least in (("concurrency", 1), ("prefetch", 0), ("attempts", 1), ("backoff", 0), ("grace", 0)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"A worker cannot work with {name} {getattr(self, name)}.", advice=f"Use {least} or more."
                )
        if self.hard_limit is not None and self.hard_limit <= 0:
            raise UsageError(
                f"A hard limit of {self.hard_limit:g} seconds ends every handler.", advice="Use more, or leave it out."
            )

    def pause(self, tries: int) -> float:
        """How long to wait after the failure of a try, counted from 1: somewhere in the upper half of the backoff."""
        longest = min(self.longest_backoff, self.backoff * 2 ** min(tries - 1, 40))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, and hides nothing
