"""`bus verify`: whether archive, log and audit table are what was appended, right to the envelope."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskbus.cli.options import archive_option, print_json, run_async, say, settings_options, unreadable

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Self

    from taskbus.chain import Head
    from taskbus.client import Bus
    from taskbus.settings import Settings
    from taskbus.verification import Discrepancy, Linked, Verified

_LISTED = 20
_BROKEN = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
"""What SQLite says of a file whose tables are not as they were."""

_ADVICE = {
    "archive": "Put an intact copy of the segment in its place: what cannot be read is refused by all who read it.",
    "audit table": "`bus rebuild` makes the audit table anew from archive and log.",
}


@click.command()
@click.option(
    "--export",
    "export",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write the heads of the chain into a file, - for stdout.",
)
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Check against heads that were exported before.",
)
@click.option("--all", "show_all", is_flag=True, help=f"List everything that is wrong, not only the first {_LISTED}.")
@click.option(
    "--database",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Audit table of this database, such as a copy of it [default: that of the home]",
)
@archive_option
@settings_options
def verify(
    *,
    export: str | None,
    against: str | None,
    show_all: bool,
    database: Path | None,
    settings: Settings,
    as_json: bool,
) -> None:
    r"""Recompute the chain over archive, log and audit table.

    Names the first envelope that was changed, removed, inserted or moved, and in which copy; exits with 1 then.
    Archive and audit table are witnesses for the log. Heads that were exported, and are kept elsewhere, are
    witnesses for all of them: without any, somebody who can change every copy can make the whole chain anew.

    \b
    Examples:
      bus verify
      bus verify --export heads.json
      bus verify --against heads.json
      bus verify --json | jq '.discrepancies[0]'
    """
    if export == "-" and as_json:
        raise click.UsageError("--export - and --json would both write on stdout: name a file.")
    heads = _given(against) if against is not None else None
    if export is not None and export != "-":
        _writable(Path(export))
    run_async(_verify, settings, database, export, heads, show_all=show_all, as_json=as_json)


def _given(file: str) -> bytes:
    from taskbus.errors import UsageError

    try:
        with click.open_file(file, "rb") as found:
            return found.read()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.", advice=unreadable(error)) from error


async def _verify(
    settings: Settings,
    database: Path | None,
    export: str | None,
    exported: bytes | None,
    *,
    show_all: bool,
    as_json: bool,
) -> None:
    from taskbus.client import Bus  # redis is slow to import
    from taskbus.verification import Verification, heads
    from taskbus_projections.database import place

    path = database or place(settings.home, settings.namespace)
    async with Bus.connect(settings=settings) as bus:
        marks = heads.read(exported, bus.keys) if exported is not None else []
        with ExitStack() as stack:
            copies = _Copies(bus, path, stack)
            with _Told() as told:
                found = await Verification(bus, copies.open, heads=marks, moved=told.moved).run()
        found.unchecked[:0] = copies.unchecked
        found.discrepancies += copies.broken
        _tell(found, exports=export == "-", show_all=show_all, as_json=as_json)
        if found.discrepancies:
            if export is not None:
                say("No heads were exported: they would stand for what is wrong.")
            raise click.exceptions.Exit(1)
        if export is not None:
            _export(heads.write(bus.keys, found.marks), export, found.head)


class _Copies:
    """The copies that there are, what there is none of, and what is one no more."""

    def __init__(self, bus: Bus, database: Path, stack: ExitStack) -> None:
        self._bus = bus
        self._database = database
        self._stack = stack
        self.unchecked: list[str] = []
        self.broken: list[Discrepancy] = []

    def open(self) -> list[Linked]:
        """Open them."""
        from taskbus.errors import NotFound, ProjectionStopped
        from taskbus.verification import Discrepancy, SealedCopy
        from taskbus_projections.audit_copy import AuditCopy
        from taskbus_projections.registry import installed

        bus, copies = self._bus, list["Linked"]()
        archive = bus.history.archive
        if archive is not None:
            copies.append(SealedCopy(archive.store, bus.keys))
        try:
            table = AuditCopy.read(self._database, installed(), bus.namespace, bus.keys)
            copies.append(self._stack.enter_context(table))
        except (NotFound, ProjectionStopped) as error:
            if getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF in _BROKEN:
                self.broken.append(Discrepancy("audit table", "changed", error.message, place=str(self._database)))
            else:
                self.unchecked.append(f"the audit table: {error.message.rstrip('.')}")
        except UnicodeDecodeError as error:  # of the names of its tables
            self.broken.append(Discrepancy("audit table", "changed", str(error), place=str(self._database)))
        return copies


def _tell(found: Verified, *, exports: bool, show_all: bool, as_json: bool) -> None:
    """Show what was found: on stdout, unless the heads are to stand there."""
    import msgspec

    from taskbus.cli.rendering import visible

    head = found.head
    if as_json:
        shown = {"n": head.n, "position": str(head.position), "link": head.link.hex()}
        print_json(
            {
                "ok": not found.discrepancies,
                "verified": found.counts,
                "unwitnessed": found.unwitnessed,
                "unchecked": found.unchecked,
                "head": shown,
                "discrepancies": [msgspec.to_builtins(each) for each in found.discrepancies],
            }
        )
        return
    for each in found.discrepancies[: None if show_all else _LISTED]:
        click.echo(_line(each))
    if len(found.discrepancies) > _LISTED and not show_all:
        say(f"… and {len(found.discrepancies) - _LISTED} more: --all lists them.")
    counts = ", ".join(f"{count:,} in the {copy}" for copy, count in found.counts.items())
    if found.discrepancies:
        wrong = {each.copy for each in found.discrepancies}
        advice = " ".join(text for copy, text in _ADVICE.items() if copy in wrong)
        say(f"Read {counts}. {advice}".rstrip())
    else:
        until = f"every link agrees up to #{head.n} at {head.position}" if head.n else "there is nothing yet"
        click.echo(f"Verified: {counts}; {until}.", err=exports)
        if head.n:
            click.echo(f"head {head.link.hex()}", err=exports)
    if many := found.unwitnessed:
        say(
            f"The newest {many:,} stand in the log alone, which has no witness for them yet: `bus project` makes one."
            if many > 1
            else "The newest one stands in the log alone, which has no witness for it yet: `bus project` makes one."
        )
    for each in found.unchecked:
        say(visible(f"Not checked: {each}."))


def _line(each: Discrepancy) -> str:
    from taskbus.cli.rendering import visible

    numbers = "" if each.n is None else f" #{each.n}" if each.last in (None, each.n) else f" #{each.n} to #{each.last}"
    about = [
        part
        for part in (each.id, f"at {each.position}" if each.position else "", f"task {each.task}" if each.task else "")
        if part
    ]
    where = f" ({', '.join(about)})" if about else ""
    place = f" [{each.place}]" if each.place and each.place != f"the {each.copy}" else ""
    return visible(f"{each.copy}: {each.kind}{numbers}{where}: {each.what}{place}")


def _writable(path: Path) -> None:
    """Find out before all is read whether a file can be written, and not only then."""
    with _named(path), _beside(path):
        pass


def _export(content: bytes, file: str, head: Head) -> None:
    if file == "-":
        click.echo(content, nl=False)
        return
    path = Path(file)
    with _named(path), _beside(path) as made:
        made.write_bytes(content)
        if made != path:
            made.replace(path.resolve())
    say(f"The heads up to #{head.n} stand in {path}. Keep it where nobody who can change the bus can change it.")


@contextmanager
def _beside(path: Path) -> Generator[Path]:
    """A file beside another one, so that this is replaced whole or not at all; a device is written to as it is."""
    if path.exists() and not path.is_file():
        yield path
        return
    made = path.resolve().with_name(f"{path.name}.{os.getpid()}.tmp")
    made.touch()
    try:
        yield made
    finally:
        made.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Generator[None]:
    from taskbus.errors import UsageError

    try:
        yield
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror or error}."
        raise UsageError(message, advice="Name a file in a folder that is there, and that you may write to.") from error


class _Told:
    """How far it is, on stderr where that is a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)

    def moved(self, copy: str, count: int) -> None:
        """Say it."""
        if self._shown:
            click.echo(f"\r\x1b[KVerifying the {copy}: {count:,}", nl=False, err=True)
