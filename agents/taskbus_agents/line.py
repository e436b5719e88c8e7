"""The line between a worker and the keeper of one of its commands: what each tells the other.

The worker sends a job, as one line of JSON, and then orders of one byte; the keeper answers with reports, one JSON
object per line. The end of the line says that the other is gone.
"""

from __future__ import annotations

from typing import Final, TypedDict

TERMINATE: Final = b"T"
"""The order to end everything: TERM, the grace of the job, KILL. The end of the line is the same order."""
KILL: Final = b"K"
"""The order to end everything without grace."""


class Job(TypedDict):
    """What is to be run. `grace` is in seconds."""

    command: list[str]
    cwd: str
    env: dict[str, str]
    grace: float


class Report(TypedDict, total=False):
    """What a keeper tells its worker, one JSON object per line: that the command runs, or why it does not; its
    exit code; what is left of it. Then the line ends.
    """

    pid: int
    keeper: int
    errno: int
    strerror: str
    filename: str | None
    code: int
    left: list[int]
