"""The adapter: what taskbus knows of one agent's command line, and nothing else.

How it is started for one task, and what its output means. An adapter runs nothing and touches no file: the shared
runner does, so that an adapter is tested with recorded output alone. One module each in `taskbus_agents.adapters`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from taskbus.envelope import Usage
    from taskbus_agents.definition import Definition
    from taskbus_agents.runner import Ended

Trouble: TypeAlias = Literal[
    "quota", "authentication", "model-error", "turn-limit", "money-limit", "timeout", "killed", "garbage", "missing"
]
"""Why a run is no success: used up until a time; no or wrong key; the model's server failed, or refused the request;
cut short by a limit of turns or of money; by a limit of time; by a signal; its output says nothing that is understood;
the program is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run: what the agent is told, where it works, and on which terms.

    `home` is a folder for this run alone, outside of `folder`, for whatever the program needs to be told in files;
    with a private home it is the program's HOME too. `limit` is the money reserved for the run, in microdollars,
    `timeout` its time in seconds; programs that can keep to such limits themselves are told. `key` is what stands in
    the variable that the definition names for it.
    """

    prompt: str
    folder: Path
    home: Path
    definition: Definition
    limit: int | None = None
    timeout: float | None = None
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a program is started: `environment` comes on top of the worker's own, None removes a variable; `files` are
    written first, by their absolute path, with their bytes; `reads` are files that are handed to the report after
    the run, by their name in it, as globs below the program's HOME or absolute paths. `litter` are files that the
    program leaves in the working folder for itself, as globs relative to it: nobody's work.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    stdin: bytes = b""
    files: Mapping[Path, bytes] = field(default_factory=dict["Path", bytes])
    reads: Mapping[str, str] = field(default_factory=dict[str, str])
    litter: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run came to, by the program's own words.

    Success is `trouble` None: only where a terminal record said so, never by the exit code alone. `said` is its last
    message; `message` says what the trouble is, for people; `until` when a quota is reset, if it said so. `usage`
    has every call that it told of, also of a run that failed, without a cost where it does not know one for sure.
    `refused` are the tools that it was not allowed to use, `tools` how many tool calls it made, None where it does
    not tell. `notes` are what else somebody should know, such as that usage was not told.
    """

    said: str = ""
    trouble: Trouble | None = None
    message: str = ""
    until: datetime | None = None
    usage: tuple[Usage, ...] = ()
    refused: tuple[str, ...] = ()
    tools: int | None = None
    notes: tuple[str, ...] = ()


class Adapter(Protocol):
    """One agent's command line.

    `name` is its word in a definition; `program` the executable; `package` how it is installed, as "npm NAME" or
    "pip NAME"; `tried` the versions that it was tried with, the newest last.
    """

    name: str
    program: str
    package: str
    tried: tuple[str, ...]

    def launch(self, job: Job) -> Launch:
        """How a run is started. Raises ConfigurationError for a definition that this program cannot serve."""
        ...

    def report(self, ended: Ended, job: Job, read: Mapping[str, bytes]) -> Report:
        """What a run came to, from how it ended and the files that it left. Takes any bytes, and never raises."""
        ...
