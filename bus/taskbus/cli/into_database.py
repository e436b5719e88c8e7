"""`bus replay --into FILE.db`: hands over to `bus project --into`, which another package brings.

The core folds nothing, and imports nobody who does: it asks the command line for the command of that name. Called by
`bus replay`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from taskbus.errors import UsageError

if TYPE_CHECKING:
    from taskbus.settings import Settings

SUFFIX: Final = ".db"
"""How a file ends that is to be folded into. The name of a namespace ends with a colon."""
_FOLDS: Final = "project"


def fold_into(file: str, *, start: str | None, end: str | None, settings: Settings, as_json: bool) -> None:
    """Fold the part of the history between two moments into a new database. Raises UsageError where nobody can."""
    root = click.get_current_context().find_root()
    command = root.command.get_command(root, _FOLDS) if isinstance(root.command, click.Group) else None
    if command is None:
        raise UsageError("Nothing is installed that folds a log into a database.", advice="Install all of taskbus.")
    given = {
        "--into": file,
        "--from": start,
        "--to": end,
        "--url": settings.url,
        "--namespace": settings.namespace,
        "--home": str(settings.home),
        "--archive": settings.archive,
    }
    words = [word for name, value in given.items() if value is not None for word in (name, value)]
    code: object = command.main(
        [*words, *(["--json"] if as_json else [])], prog_name=f"bus {_FOLDS}", standalone_mode=False
    )
    if isinstance(code, int) and code:
        raise click.exceptions.Exit(code)
