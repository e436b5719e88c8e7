"""Exported heads beside the copies: whether what is there now is what was there when they were written down.

Called by the verification, once it knows which copies agree with themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskbus.verification.discrepancy import Discrepancy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskbus.chain import Head
    from taskbus.verification.comparison import Comparison
    from taskbus.verification.verified import Linked, Verified


def check(heads: Sequence[Head], comparison: Comparison, sound: Sequence[Linked], result: Verified) -> None:
    """Add to a result where heads and copies differ first, unless something was found that explains it."""
    agreed, unknown = 0, list[int]()
    for head in heads:
        at = comparison.heads.get(head.n) or next((at for copy in sound if (at := copy.head_at(head.n))), None)
        if at == head:
            agreed = head.n
        elif at is None and head.n <= comparison.head.n:
            unknown.append(head.n)
        else:
            if not result.discrepancies:
                result.discrepancies.append(_differing(head, at, agreed, comparison.head))
            return
    if unknown:
        what = f"{len(unknown)} of the exported heads" if len(unknown) > 1 else "one of the exported heads"
        result.unchecked.append(f"{what}, at #{unknown[0]} first: no copy that agrees with itself reaches there")


def _differing(head: Head, at: Head | None, agreed: int, end: Head) -> Discrepancy:
    kind, first = ("removed", end.n + 1) if at is None else ("changed", agreed + 1)
    which = f"#{first}" if first == head.n else f"one or more of #{first} to #{head.n}"
    what = f"{which} was {'there' if at is None else 'another one'} when the head was exported"
    return Discrepancy("exported heads", kind, what, first, head.n, str(head.position) if first == head.n else None)
