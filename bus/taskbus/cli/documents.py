"""`bus validate` and `bus convert`: documents on files and stdin, without any server.

Owns how problems are listed (`file:line: path: found …, expected …`), the rate that passed, and the progress
bar.
"""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from taskbus.cli.options import errors_shown, print_json, say, unreadable
from taskbus.errors import InvalidEnvelope, NotFound, Problem, UsageError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from typing import BinaryIO

    from taskbus.codec import Document
    from taskbus.documents import Part

_ENDINGS: Final = frozenset({".xml", ".json", ".ndjson", ".jsonl"})
"""What is taken from a folder."""
_PLACE: Final = re.compile(r"line (\d+)(?:, column (\d+))?(?:, (.+))?")
_JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, an error as well.")
_LINES_OPTION = click.option("--lines", is_flag=True, help="One document per line, whatever the first lines look like.")
_LENIENT_OPTION = click.option(
    "--lenient", is_flag=True, help="Find the envelope in a model's free text, and mend what can be mended."
)


@dataclass
class _Tally:
    """What came of the documents so far; `held` are lines that wait for the end of the progress bar."""

    valid: int = 0
    documents: int = 0
    missing: list[str] = field(default_factory=list[str])
    held: list[str] | None = None

    def print(self, line: str) -> None:
        if self.held is None:
            click.echo(line)
        else:
            self.held.append(line)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@_LINES_OPTION
@_LENIENT_OPTION
@_JSON_OPTION
def validate(*, files: tuple[str, ...], lines: bool, lenient: bool, as_json: bool) -> None:
    """Check documents, and list everything that is wrong with them.

    A FILE holds an envelope in XML or JSON, a delegation or completion in short, or one document per line.
    Of a folder, all .xml, .json, .ndjson and .jsonl files are checked; - is stdin. Nothing is sent anywhere.

    Exits with 0 if all are valid, 8 if any is not, 3 if a file cannot be read.

    \b
    Examples:
      bus validate messages/*.xml
      bus validate --json archive/ | jq 'select(.valid == false)'
      some-agent | bus validate --lenient -
    """
    with errors_shown(as_json=as_json):
        _refuse_both(lines=lines, lenient=lenient)
        tally = _Tally()
        names = list(_expanded(files))
        if not names:
            kinds = ", ".join(sorted(_ENDINGS))
            raise NotFound(f"There are no documents in {', '.join(map(_shown, files))}.", advice=f"Looked for {kinds}.")
        with _progress(names, tally) as steps:
            for name in steps:
                for part in _parts(name, tally, lines=lines, lenient=lenient):
                    _check(name, part, tally, lenient=lenient, as_json=as_json)
        _conclude(tally, as_json=as_json)


def _check(name: str, part: Part, tally: _Tally, *, lenient: bool, as_json: bool) -> None:
    import msgspec

    tally.documents += 1
    shown = _shown(name)
    where: dict[str, object] = {"file": shown} if part.line is None else {"file": shown, "line": part.line}
    try:
        about = _about(part.data, lenient=lenient)
    except InvalidEnvelope as error:
        if as_json:
            problems = error.details()["problems"]
            tally.print(msgspec.json.encode({**where, "valid": False, "problems": problems}).decode())
        else:
            for problem in error.problems:
                tally.print(_line(shown, part.line, problem))
        return
    tally.valid += 1
    if as_json:
        tally.print(msgspec.json.encode({**where, "valid": True, **about}).decode())


def _about(data: bytes, *, lenient: bool) -> dict[str, object]:
    """What kind of valid document this is. Raises InvalidEnvelope with its problems."""
    from taskbus import codec, shorthand

    if lenient:
        from taskbus.lenient import find

        found = find(data.decode(errors="replace"))
        about: dict[str, object] = {"type": found.envelope.type, "id": found.envelope.id}
        return {**about, "repairs": found.repairs} if found.repairs else about
    try:
        envelope = codec.read(data).envelope
    except InvalidEnvelope:
        match shorthand.kind(data):
            case "delegation":
                shorthand.read_delegation(data)
                return {"type": "delegation", "shorthand": True}
            case "completion":
                shorthand.read_completion(data)
                return {"type": "completion", "shorthand": True}
            case None:
                raise
    return {"type": envelope.type, "id": envelope.id}


def _line(name: str, line: int | None, problem: Problem) -> str:
    """One problem as compilers print them, so that editors find the place."""
    place = _PLACE.fullmatch(problem.place)
    number, column, path = place.groups() if place else (None, None, problem.place)
    # Of a document on a line of its own, that line counts.
    number = str(line) if line is not None else number
    start = ":".join(part for part in (name, number, column) if part)
    return ": ".join(part for part in (start, path, f"found {problem.found}, expected {problem.expected}") if part)


def _conclude(tally: _Tally, *, as_json: bool) -> None:
    """Print the rate, and end with the exit code."""
    rate = tally.valid / tally.documents if tally.documents else 0.0
    if as_json:
        missing = {"missing": tally.missing} if tally.missing else {}
        print_json({"valid": tally.valid, "documents": tally.documents, "rate": round(rate, 6), **missing})
    # Never rounded up: 100 % is all of them.
    percent = tally.valid * 1000 // max(tally.documents, 1) / 10
    colour = "green" if tally.documents and tally.valid == tally.documents else "red"
    say(click.style(f"{tally.valid} of {tally.documents} valid ({percent:g} %)", fg=colour))
    if tally.missing:
        raise click.exceptions.Exit(3)
    if tally.valid < tally.documents:
        raise click.exceptions.Exit(8)


def _expanded(files: Iterable[str]) -> Iterator[str]:
    for name in files:
        if name != "-" and Path(name).is_dir():
            inside = sorted(each for each in Path(name).rglob("*") if each.suffix.lower() in _ENDINGS)
            yield from (str(each) for each in inside if each.is_file())
        else:
            yield name


def _parts(name: str, tally: _Tally, *, lines: bool, lenient: bool) -> Iterator[Part]:
    """The documents of a file; one that cannot be read is told on stderr, and counted."""
    try:
        with _opened(name) as stream:
            yield from _split(stream, name, lines=lines, lenient=lenient)
    except NotFound as error:
        tally.missing.append(name)
        say(f"{click.style('Error:', fg='red', bold=True)} {error.message}")
        if error.advice:
            say(error.advice)


def _refuse_both(*, lines: bool, lenient: bool) -> None:
    if lines and lenient:
        raise UsageError("--lenient and --lines exclude each other.", advice="Leave one of them out.")


def _split(stream: BinaryIO, name: str, *, lines: bool, lenient: bool) -> Iterator[Part]:
    from taskbus.documents import LINES, Part, split

    if lenient:
        from taskbus.lenient import MAX_TEXT

        # As many bytes as make one character too many in any case.
        yield Part(stream.read(4 * MAX_TEXT + 4))
    else:
        yield from split(stream, lines=lines or Path(name).suffix.lower() in LINES)


@contextmanager
def _opened(name: str) -> Generator[BinaryIO]:
    """A file, or stdin for `-`. Raises NotFound for one that cannot be read."""
    if name == "-" and sys.stdin.isatty():
        say("Reading from the terminal; end with Ctrl-D.")
    try:
        opened = nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb")  # noqa: SIM115 - just below
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NotFound(f"{_shown(name)} cannot be read: {reason}.", advice=unreadable(error)) from error
    with opened as stream:
        yield stream


def _shown(name: str) -> str:
    from taskbus.cli.rendering import visible

    return "<stdin>" if name == "-" else visible(click.format_filename(name))


@contextmanager
def _progress(names: list[str], tally: _Tally) -> Generator[Iterable[str]]:
    """Go through `names`, with a progress bar on stderr where that is a terminal and there are many."""
    if len(names) < 2 or not sys.stderr.isatty():
        yield names
        return
    if sys.stdout.isatty():  # they would write over each other
        tally.held = []
    with click.progressbar(names, label="Checking", file=sys.stderr, show_pos=True) as steps:
        yield steps
    held, tally.held = tally.held or [], None
    for line in held:
        click.echo(line)


@click.command()
@click.argument("file", default="-")
@click.option("--to", type=click.Choice(["xml", "json"]), help="The form wanted [default: the one that it is not in]")
@click.option("--pretty", is_flag=True, help="Break lines, and indent.")
@_LINES_OPTION
@_LENIENT_OPTION
@_JSON_OPTION
def convert(
    *, file: str, to: Literal["xml", "json"] | None, pretty: bool, lines: bool, lenient: bool, as_json: bool
) -> None:
    """Convert envelopes between JSON and XML.

    FILE holds one envelope, or one per line; - is stdin, and the default. Both forms hold the same, so that
    converting back gives the same envelope. One without an ID gets the one under which it would be published.

    \b
    Examples:
      bus convert message.xml
      bus convert message.json --to xml --pretty
      bus tail --json --no-follow | jq -c .envelope | bus convert --to xml
    """
    from taskbus import codec
    from taskbus.codec import JSON, XML

    with errors_shown(as_json=as_json), _opened(file) as stream:
        _refuse_both(lines=lines, lenient=lenient)
        for part in _split(stream, file, lines=lines, lenient=lenient):
            source = _shown(file) if part.line is None else f"{_shown(file)}:{part.line}"
            document = _mended(part.data) if lenient else _read(part.data, source)
            wanted = {"xml": XML, "json": JSON, None: XML if document.content_type == JSON else JSON}[to]
            written = codec.encode(document.envelope, wanted, pretty=pretty).rstrip(b"\n")
            if as_json:
                print_json({"content_type": wanted, "id": document.envelope.id, "document": written.decode()})
            else:
                click.echo(written)


def _read(data: bytes, source: str) -> Document:
    from taskbus import codec

    try:
        return codec.read(data, source=source)
    except InvalidEnvelope as error:
        from taskbus.cli.drafts import in_short

        short = in_short(data, source)
        if short is None:
            raise
        raise short from error


def _mended(data: bytes) -> Document:
    """The envelope in a model's free text; what had to be mended is told on stderr."""
    from taskbus.cli.rendering import visible
    from taskbus.codec import Document
    from taskbus.lenient import find

    found = find(data.decode(errors="replace"))
    for repair in found.repairs:
        say(f"Mended: {visible(repair)}")
    return Document(found.envelope, found.document, found.content_type)
