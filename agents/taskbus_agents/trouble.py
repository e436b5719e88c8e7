"""The trouble: what becomes of a delivery whose run is no success, by what the program and its end say.

Waits for a quota, tries again, gives up for somebody to set something right, or fails: one rule for every program.
Pure. Called by the shared run of agents.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from taskbus.errors import Permanent, QuotaLimited, Retryable
from taskbus.findings import printable
from taskbus_agents.adapters import PROVIDERS
from taskbus_agents.outcome import last_lines

if TYPE_CHECKING:
    from pathlib import Path

    from taskbus.errors import Failure
    from taskbus_agents.adapter import Adapter, Report, Trouble
    from taskbus_agents.definition import Definition
    from taskbus_agents.runner import Ended

PAUSE: Final = 900.0
"""Seconds that work waits for a quota whose reset nobody named."""
_TOLD: Final = 4000
_SHOWN: Final = 1000
_SHORTEST: Final = timedelta(seconds=1)
_LONGEST: Final = timedelta(days=32)
"""No quota is for longer than a month: then it is looked at again."""
_MODEL: Final = re.compile(r"[A-Za-z0-9@][A-Za-z0-9@._:/+\[\]-]{0,199}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Conduct:
    """What a policy says of runs: whether agents may do anything unasked (`bypass`), whether the commands among
    acceptance criteria are run, and whether work `waits` for a quota, or fails so that another rung can take it; for
    `pause` seconds where nobody says when the quota is reset.
    """

    bypass: bool = False
    commands: bool = True
    waits: bool = True
    pause: float = PAUSE


def told(report: Report, ended: Ended) -> Report:
    """The report, corrected by how the program ended: whoever was cut off, or failed, is no success by its word."""
    if ended.cut == "timeout" and report.trouble == "quota":
        return report  # some wait for a quota by themselves, for longer than they have
    if ended.cut == "timeout":
        said = f"It was not done after {ended.seconds:.1f} s, and was ended."
        return replace(report, trouble="timeout", message=said)
    if ended.cut == "silence":
        said = f"It showed no sign of life, and was ended after {ended.seconds:.1f} s."
        return replace(report, trouble="killed", message=said)
    if ended.cut == "output":
        return replace(report, trouble="garbage", message="It printed more than is read, and was ended.")
    if report.trouble in (None, "garbage") and ended.code < 0:
        return replace(report, trouble="killed", message=f"It was killed by signal {-ended.code}.")
    if report.trouble is None and ended.code != 0:
        said = f"It says that it is done, and ended with exit code {ended.code}."
        return replace(report, trouble="garbage", message=said)
    return report


def failure(
    report: Report, ended: Ended, *, adapter: Adapter, definition: Definition, conduct: Conduct, kept: Path | None
) -> Failure | None:
    """What a delivery with such a report is given up with, for now or for good; None where its task has failed."""
    message = explained(report, ended, adapter, kept)
    match report.trouble:
        case "quota" if conduct.waits:
            now = datetime.now(UTC)
            # A reset that is over says nothing: trying again at once, for ever, would be all that comes of it.
            reset = report.until if report.until is not None and report.until > now else None
            until = reset or now + timedelta(seconds=conduct.pause)
            return QuotaLimited(message, until=min(max(until, now + _SHORTEST), now + _LONGEST))
        case "authentication":
            return Permanent(f"{message} {login(definition, adapter)}")
        case "missing":
            return missing(adapter) if adapter.program else Permanent(message)
        case "model-error" | "killed":
            return Retryable(message)
        case _:
            return None


def explained(report: Report, ended: Ended, adapter: Adapter, kept: Path | None) -> str:
    """What happened, for people: with the last lines that the program printed, and where all of it is."""
    said = f"{adapter.name}: {_TITLES.get(report.trouble or 'garbage', '')}{printable(report.message, _SHOWN)}".strip()
    if kept is not None:
        said = f"{said} What it printed is in {printable(str(kept), _SHOWN)}."
    printed = last_lines(ended.stderr)
    return f"{said}\n{printed}"[:_TOLD] if printed else said[:_TOLD]


def unfit(own: Definition, routed: Definition, adapter: Adapter) -> Permanent | None:
    """What is raised where a route names a model that the agent cannot run; None where it can, for all that is known.

    A route comes in a message: what stands on a command line must not be an option there.
    """
    if routed is own:
        return None
    asked = printable(f"{routed.provider}/{routed.model}", _SHOWN)
    if routed.provider != own.provider and adapter.name in PROVIDERS:
        why = f"{own.name} has models of {own.provider} alone"
    elif not _MODEL.fullmatch(routed.model or "") or not _MODEL.fullmatch(routed.provider or "-"):
        why = "that is no name of a model"
    else:
        return None
    return Permanent(
        f"The route asks for {asked}, and {why}. Delegate the task to another agent, or with another model."
    )


def missing(adapter: Adapter) -> Permanent:
    """What is raised where the program is not installed."""
    kind, _, name = adapter.package.partition(" ")
    version = adapter.tried[-1] if adapter.tried else ""
    commands = {
        "npm": f"npm install --global {name}@{version}",
        "pip": f"pip install {name}=={version}",
    }
    how = commands.get(kind, f"install {adapter.package}")
    return Permanent(f"There is no {adapter.program} on the PATH of the worker. Install it: `{how}`.")


def login(definition: Definition, adapter: Adapter) -> str:
    """What to set where a program has no key, or a wrong one."""
    if definition.key is not None:
        return f"Set {definition.key}, in the environment of the worker, to a key that is valid."
    if definition.home == "user":
        return f"Log in with {adapter.program} as the user of the worker, or name the variable with a key in `key`."
    return "Its home is private, so that it has nobody's login: name the variable with its key in `key`."


_TITLES: Final[dict[Trouble, str]] = {
    "quota": "its quota is used up. ",
    "authentication": "it has no valid login. ",
    "model-error": "its model failed. ",
    "turn-limit": "it reached its limit of turns. ",
    "money-limit": "it reached its limit of money. ",
    "timeout": "its time was up. ",
    "killed": "it was ended from outside. ",
    "garbage": "what it printed is not understood. ",
}
