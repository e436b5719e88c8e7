"""Every error that taskbus raises, in one tree.

    TaskbusError
    ├── UsageError                  the call itself is wrong
    │   └── ConfigurationError      an option, an environment variable or bus.toml is wrong
    ├── NotFound                    no such task, agent, envelope or position
    │   └── Gap                     trimmed from the log, and in no segment that can be seen from here
    ├── Conflict                    refused by the bus; nothing was changed
    │   ├── Skipped                 good in itself, but another envelope of the same call was refused
    │   ├── LifecycleConflict       not legal in the state that the task is in
    │   ├── Fenced                  the token is older than the newest delivery of the task
    │   ├── Moved                   what it was decided on has changed meanwhile
    │   ├── OverBudget              a reservation does not fit under a cap
    │   ├── BudgetLost              the counters of money are gone
    │   └── DuplicateID             the ID is in the log already, with other content
    ├── ForeignEntry                an entry of the log that taskbus did not write
    ├── Unavailable                 the server cannot be used
    │   ├── NoServer                nothing answers
    │   ├── NotAServer              something answers, and it is not Redis or Valkey
    │   ├── WrongPassword           authentication is missing or refused
    │   ├── NoPermission            the user may not run a command or touch a key
    │   ├── TooOld                  older than Redis 7.0
    │   ├── ReadOnlyServer          a replica, or a server that refuses writes
    │   ├── OutOfMemory             the memory limit is reached
    │   └── ServerFault             any other error that the server answered
    ├── TimedOut                    the answer did not come in time
    ├── Failure                     raised by a handler: its delivery was not dealt with
    │   ├── Retryable               it may succeed when it is tried again
    │   ├── Permanent               trying again cannot help
    │   ├── QuotaLimited            it can be tried again when the quota is reset
    │   └── RefusedByBudget         a cap would be exceeded
    ├── ArchiveFault                the archive cannot be read or written
    │   ├── Damaged                 a segment cannot be read, from one of its envelopes on
    │   └── OtherLog                the log does not go on from what was sealed
    ├── ProjectionStopped           the read models cannot be folded any further, or not be used
    │   └── CheckpointLost          the log does not hold what was folded last
    └── InvalidEnvelope             the document is not a valid envelope

Each carries what it is about as attributes, and says in `advice` what to do next. The command line maps the tree
to exit codes in one table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from taskbus.money import Full
    from taskbus.payload import FailureReason


class TaskbusError(Exception):
    """Something went wrong."""

    advice: str | None = None

    def __init__(
        self,
        message: str | None = None,
        *,
        advice: str | None = None,
        task: str | None = None,
        envelope: str | None = None,
        position: str | None = None,
    ) -> None:
        self.message = message or (type(self).__doc__ or "").strip().partition("\n")[0]
        super().__init__(self.message)
        if advice is not None:
            self.advice = advice
        self.task = task
        self.envelope = envelope
        self.position = position

    def details(self) -> dict[str, object]:
        """What `--json` prints of this error: kind, message, advice, and what it is about."""
        found: dict[str, object] = {"error": type(self).__name__, "message": self.message}
        for name in ("advice", "task", "envelope", "position"):
            value: object = getattr(self, name)
            if value is not None:
                found[name] = value
        return found


class UsageError(TaskbusError):
    """The call is wrong."""


class ConfigurationError(UsageError):
    """The configuration is wrong."""


class NotFound(TaskbusError):
    """No such thing is on this bus."""


class Gap(NotFound):
    """A part of the log was trimmed, and no segment that can be seen from here holds it.

    What is missing stands after the position `after`, up to and including `until`: numbers `first` to `last`, as far
    as they are known. `segment`, in `store`, holds its end by the server's record.
    """

    def __init__(
        self,
        message: str,
        *,
        after: str,
        until: str,
        first: int | None = None,
        last: int | None = None,
        store: str | None = None,
        segment: str | None = None,
        advice: str | None = None,
    ) -> None:
        super().__init__(message, advice=advice, position=after)
        self.after = after
        self.until = until
        self.first = first
        self.last = last
        self.store = store
        self.segment = segment

    def details(self) -> dict[str, object]:
        """What `--json` prints: with what is missing, and where it should be."""
        names = ("after", "until", "first", "last", "store", "segment")
        return {**super().details(), **{name: getattr(self, name) for name in names}}


class Conflict(TaskbusError):
    """The bus refused the envelope; nothing was changed."""


class Skipped(Conflict):
    """Not appended, because another envelope of the same call was refused."""

    advice = "Mend the one that was refused, and send all of them again."


class LifecycleConflict(Conflict):
    """The envelope is not legal in the state that its task is in.

    `reason` is `lifecycle` (not in this state, or not from this sender), `held` (a worker has it under a lease),
    `recipient` (it must go to somebody else) or `open` (work was to be settled without its outcome). `state` is the
    task's state, `holder` who is to act now, `legal` what would be accepted, as pairs of a message type and the
    roles that may send it.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        state: str,
        holder: str,
        legal: Sequence[tuple[str, Sequence[str]]] = (),
        advice: str | None = None,
        task: str | None = None,
        envelope: str | None = None,
    ) -> None:
        super().__init__(message, advice=advice, task=task, envelope=envelope)
        self.reason = reason
        self.state = state
        self.holder = holder
        self.legal = tuple((kind, tuple(roles)) for kind, roles in legal)

    def details(self) -> dict[str, object]:
        """What `--json` prints: with the reason, the state, the holder and what would be legal."""
        legal = [{"type": kind, "by": list(roles)} for kind, roles in self.legal]
        return {
            **super().details(),
            "reason": self.reason,
            "state": self.state,
            "holder": self.holder,
            "legal": legal,
        }


class Fenced(Conflict):
    """The fencing token is older than the newest delivery; somebody else owns this work now."""

    advice = "Drop the result: the newer delivery publishes its own. Take from the inbox for new work."


class Moved(Conflict):
    """What it was decided on has changed meanwhile."""

    advice = "Look again, and decide anew."


class OverBudget(Conflict):
    """A reservation does not fit under the cap of an account; nothing was reserved anywhere.

    `account` (`provider:…`, `agent:…`, `task:…`) counts by `period`, and is at its cap in `span`, a month or day in
    UTC: `cap`, `committed`, `held` and what was `asked` for are in microdollars. `resets` is when the next span begins;
    None for a task's account. `full` are all without room, this one first; `is_held` says that only what runs hold
    takes it in each of them, which is free when they end, but for what they cost.
    """

    def __init__(
        self,
        message: str,
        *,
        asked: int,
        full: Sequence[Full],
        resets: datetime | None,
        task: str | None = None,
        envelope: str | None = None,
    ) -> None:
        super().__init__(message, task=task, envelope=envelope)
        self.asked, self.full, self.resets = asked, tuple(full), resets
        first = self.full[0]
        self.account, self.period, self.span = first.account, first.period, first.span
        self.cap, self.committed, self.held = first.cap, first.committed, first.held
        self.is_held = all(each.committed + asked <= each.cap for each in self.full)

    def details(self) -> dict[str, object]:
        """What `--json` prints: with the account and what is left of it, and all that have no room."""
        full = [{name: getattr(each, name) for name in each.__struct_fields__} for each in self.full]
        more = {"asked": self.asked, "is_held": self.is_held, "full": full}
        return {**super().details(), **full[0], **more, "resets": self.resets.isoformat() if self.resets else None}


class BudgetLost(Conflict):
    """The counters of money are gone, or a part of them: nothing can be reserved until they are made again."""

    advice = "`bus budget rebuild` makes them again from the log."


class DuplicateID(Conflict):
    """An envelope with this ID and other content is in the log already."""

    advice = "Give the new envelope an ID of its own; leave `id` out and one is made."


class ForeignEntry(TaskbusError):
    """The log has an entry that taskbus did not write."""

    advice = "Something else writes to keys of this namespace; `bus doctor` shows what is there."


class Unavailable(TaskbusError):
    """The server cannot be used."""


class NoServer(Unavailable):
    """Nothing answers."""


class NotAServer(Unavailable):
    """What answers is neither Redis nor Valkey."""


class WrongPassword(Unavailable):
    """The server refused the user or the password."""


class NoPermission(Unavailable):
    """The user may not run this command or touch this key."""


class TooOld(Unavailable):
    """The server is older than Redis 7.0."""


class ReadOnlyServer(Unavailable):
    """The server refuses writes."""


class OutOfMemory(Unavailable):
    """The server has reached its memory limit."""


class ServerFault(Unavailable):
    """The server answered with an error."""


class TimedOut(TaskbusError):
    """The answer did not come in time."""


class Failure(TaskbusError):
    """A delivery was not dealt with.

    Handlers raise it to say what the worker is to do with their delivery: `reason` decides that. Any other exception
    that a handler raises counts as Retryable.
    """

    reason: ClassVar[FailureReason] = "retryable"


class Retryable(Failure):
    """It did not work this time, and may the next: the delivery is tried again after a pause, then parked."""


class Permanent(Failure):
    """It cannot work, however often it is tried: the delivery is parked at once."""

    reason = "permanent"


class QuotaLimited(Failure):
    """The quota is used up until a time: the delivery waits for it, and that counts as no attempt.

    `until` is an aware time. Raises UsageError for one without an offset from UTC.
    """

    reason = "quota-limited"

    def __init__(self, message: str | None = None, *, until: datetime) -> None:
        super().__init__(message)
        if until.tzinfo is None:
            raise UsageError(f"The reset time {until} has no offset from UTC.", advice="Use an aware datetime.")
        self.until = until


class RefusedByBudget(Failure):
    """The cap would be exceeded: the delivery is parked at once, and escalated with what can be done about it.

    Raised from the OverBudget that says so, it brings its choices. A handler may as well let that one through: where
    only what other runs hold takes the room, the delivery waits then, and that counts as no attempt.
    """

    reason = "refused-by-budget"


class ArchiveFault(TaskbusError):
    """The archive cannot be read or written; the log is as it was."""


class Damaged(ArchiveFault):
    """A segment of the archive cannot be read: it was cut off, changed or removed.

    What stands before the envelope with number `n`, at `position`, can be read.
    """

    advice = "Put an intact copy of the file in its place; a manifest knows the SHA-256 that it must have."

    def __init__(self, message: str, *, store: str, segment: str, n: int, position: str) -> None:
        super().__init__(message, position=position)
        self.store = store
        self.segment = segment
        self.n = n

    def details(self) -> dict[str, object]:
        """What `--json` prints: with the segment, and the envelope from which on it cannot be read."""
        return {**super().details(), "store": self.store, "segment": self.segment, "n": self.n}


class OtherLog(ArchiveFault):
    """The log does not go on from what was sealed: it was changed or set back, or it is another one."""

    advice = (
        "Nothing was sealed or trimmed. A log that is not the archive's gets an archive of its own: name another place "
        "with --archive, BUS_ARCHIVE, or `archive` in bus.toml."
    )


class ProjectionStopped(TaskbusError):
    """The read models cannot be folded any further; what was folded before stays as it is."""


class CheckpointLost(ProjectionStopped):
    """The log does not hold what was folded last: it was emptied, trimmed or restored, or is another one."""

    advice = "`bus rebuild` folds the log that is there from its beginning."


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a document.

    `place` is a line and column (`line 3, column 7`) or a path (`payload.goal`, with the line where it is known);
    `found` and `expected` say what stands there and what should.
    """

    place: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.place}: found {self.found}, expected {self.expected}"


class InvalidEnvelope(TaskbusError):
    """The document is not a valid envelope; `problems` lists everything that is wrong with it."""

    def __init__(self, problems: Sequence[Problem], *, source: str | None = None) -> None:
        self.problems = tuple(problems)
        self.source = source
        where = f"{source}: " if source else ""
        super().__init__(where + "; ".join(str(problem) for problem in self.problems))

    def details(self) -> dict[str, object]:
        """What `--json` prints: with every problem."""
        problems = [{"place": p.place, "found": p.found, "expected": p.expected} for p in self.problems]
        return {**super().details(), "source": self.source, "problems": problems}
