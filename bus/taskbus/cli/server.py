"""`bus up`, `down`, `doctor`, `env` and `init`: the server of a bus, and the configuration."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from taskbus.cli.options import errors_shown, print_json, run_async, say, settings_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskbus.doctor import Check
    from taskbus.settings import Durability, Settings

_DURABILITIES: Final = ("always", "everysec")
_MARKS: Final = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}

_ROOM: Final = 50
"""How many columns of a terminal the findings of the doctor need beside their names."""

_BUS_TOML: Final = """\
# The bus of this folder and those below it. Options and environment variables go before what stands here.

# The server. Without a URL the bus starts an embedded one by itself, under `home`.
# A URL with a password makes this file a secret: chmod 600, and keep it out of version control.
{url}

# What each key of this bus begins with. Buses that share a server need namespaces of their own.
namespace = "{namespace}"

# The database and the embedded server. A relative path begins at this file's folder.
home = "{home}"

# "always": an append returns once it is on disk. "everysec": the last second may be lost when the machine dies,
# or the server's process while the disk is slow. `bus doctor` checks that the server keeps it.
durability = "{durability}"

# Who speaks here, when no --as says otherwise.
# agent = "@human"

# The policy: tiers of models and agents, prices, caps. A relative path begins at this file's folder.
# policy = "policy.toml"

# What `bus supervise` and every worker tell the coordinator of a task, and after how long.
# [supervision]
# acknowledge = "15m"  # delegated, and not taken on
# lost = "2m"          # the worker lost its lease, and nobody took the work over
# silent = "5m"        # work waits, and no worker of its agent was seen
# stale = "30m"        # an escalation that nobody dealt with goes one level up
# lead = "@boss"       # who gets what is escalated to level 3, instead of whoever delegated the root task
# interval = "5s"      # between two looks, of all who watch
"""


@click.command()
@click.option("--durability", type=click.Choice(_DURABILITIES), help="When an append is safe on disk.")
@settings_options
def up(*, settings: Settings, as_json: bool, durability: Durability | None) -> None:
    """Start the embedded server, or find it running.

    Prints the server's URL, which has its password: only this user can open its socket. The server goes on
    when the command has ended; `bus down` ends it. Its data is kept under the home.

    With --durability, a server that runs already is changed over. Where a URL is configured, that server is
    checked instead, and nothing is started.

    \b
    Examples:
      bus up
      bus up --durability always
    """
    from taskbus import server
    from taskbus.address import Address

    if settings.url is not None and not server.is_embedded(Address.parse(settings.url), settings.home):
        _greet(settings, as_json=as_json, durability=durability)
        return
    declared = settings.durability if settings.sources["durability"] != "default" else None
    running = run_async(server.up, settings.home, durability=declared)
    if as_json:
        print_json(
            {
                "url": running.url,
                "started": running.started,
                "server": running.server,
                "pid": running.pid,
                "durability": running.durability,
                "socket": str(running.socket),
                "home": str(running.home),
                "log": str(running.log),
            }
        )
        return
    did = "Started" if running.started else "Found running:"
    say(f"{did} {running.server}, process {running.pid}, durability {running.durability}.")
    click.echo(running.url)


def _greet(settings: Settings, *, as_json: bool, durability: Durability | None) -> None:
    from taskbus.connection import Connection
    from taskbus.errors import UsageError

    url = settings.url or ""
    if durability is not None:
        message = f"--durability is for the embedded server, and {settings.sources['url']} names another one."
        raise UsageError(message, advice="Leave it out; `bus doctor` checks what that server keeps.")

    async def look() -> tuple[str, str]:
        async with Connection.open(url) as connection:
            return str(connection.info), str(connection.address)

    product, shown = run_async(look)
    if as_json:
        print_json({"url": shown, "started": False, "server": product})
        return
    say(f"{settings.sources['url']} names a server, and it answers: {product}. Nothing was started.")
    click.echo(shown)


@click.command()
@settings_options
def down(*, settings: Settings, as_json: bool) -> None:
    """End the embedded server; its data stays.

    Does nothing where none runs. A server that a URL names is never ended.

    \b
    Examples:
      bus down
      bus down --home ~/projects/.bus
    """
    from taskbus import server

    pid = run_async(server.down, settings.home)
    if as_json:
        print_json({"ended": pid is not None, "pid": pid})
    elif pid is None:
        say(f"No embedded server runs under {settings.home}.")
    else:
        say(f"Ended the embedded server, process {pid}.")


@click.command()
@click.option("--strict", is_flag=True, help="Fail on warnings, too.")
@settings_options
def doctor(*, settings: Settings, as_json: bool, strict: bool) -> None:
    """Check the server, the namespace and the configuration.

    Each check is ok, a warning or failed, with advice. Ends with 1 when one has failed (with --strict also on
    a warning), and with 5 when there is no connection.

    \b
    Examples:
      bus doctor
      bus doctor --strict && ./deploy.sh
      bus doctor --json | jq '.checks[] | select(.status != "ok")'
    """
    from taskbus.doctor import examine

    checks = run_async(examine, settings)
    statuses = [check.status for check in checks]
    worst = next(status for status in ("failed", "warning", "ok") if status in statuses)
    if as_json:
        print_json({"status": worst, "checks": [check.details() for check in checks]})
    else:
        _print_checks(checks)
    if any(check.name == "connection" and check.status == "failed" for check in checks):
        raise click.exceptions.Exit(5)
    if worst == "failed" or (strict and worst == "warning"):
        raise click.exceptions.Exit(1)


def _print_checks(checks: Sequence[Check]) -> None:
    from taskbus.cli.rendering import columns, visible

    width = max(len(check.name) for check in checks)
    # Status and name stand beside what was found where there is room for that, else above it.
    beside = width + 13  # a mark, the longest status, and the gaps between them
    indent = beside if columns() - beside >= _ROOM else 4
    for check in checks:
        mark, colour = _MARKS[check.status]
        status = click.style(f"{mark} {check.status:<7}", fg=colour, bold=check.status != "ok")
        found = _wrapped(visible(check.found, lines=True), indent)
        head = f"{status}  {check.name:<{width}}"
        if indent == beside and found:
            click.echo(f"{head}  {found.pop(0)}")
        else:
            click.echo(head.rstrip())
        for line in (*found, *_wrapped(visible(check.advice or ""), indent)):
            click.echo(f"{'':{indent}}{line}")


def _wrapped(text: str, indent: int) -> list[str]:
    """The lines of a text, on a terminal wrapped between words."""
    import sys
    import textwrap

    from taskbus.cli.rendering import columns

    if not sys.stdout.isatty():
        return text.splitlines()
    room = max(20, columns() - indent - 1)
    return [part for line in text.splitlines() for part in textwrap.wrap(line, room, break_on_hyphens=False)]


@click.command()
@click.option("--shell", type=click.Choice(["sh", "fish"]), default="sh", show_default=True)
@settings_options
def env(*, settings: Settings, as_json: bool, shell: str) -> None:
    """Print shell exports for hooks of agent CLIs.

    BUS_URL has the password: evaluate the output, do not show it. The embedded server is started where no URL
    is configured, so that the exported one works. BUS_HOME keeps the exported bus the same in every folder.

    \b
    Examples:
      eval "$(bus env)"
      bus env --shell fish | source
    """
    from taskbus.server import resolve

    url = run_async(resolve, settings)
    variables = {
        "BUS_URL": url,
        "BUS_NAMESPACE": settings.namespace,
        "REDIS_PREFIX": settings.namespace,
        "BUS_HOME": str(settings.home),
    }
    if as_json:
        print_json(variables)
        return
    for name, value in variables.items():
        if shell == "fish":
            escaped = value.replace("\\", "\\\\").replace("'", "\\'")
            click.echo(f"set -gx {name} '{escaped}'")
        else:
            click.echo(f"export {name}={shlex.quote(value)}")


@click.command()
@click.option("--url", metavar="URL", help="The server, if it is not to be the embedded one.")
@click.option("--namespace", metavar="NAME:", help="What each key begins with [default: taskbus:]")
@click.option("--home", metavar="FOLDER", default=".bus", show_default=True, help="Where the files are.")
@click.option("--durability", type=click.Choice(_DURABILITIES), default="everysec", show_default=True)
@click.option("--force", is_flag=True, help="Overwrite the bus.toml that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, an error as well.")
def init(*, url: str | None, namespace: str | None, home: str, durability: str, force: bool, as_json: bool) -> None:
    """Write a commented bus.toml.

    It is written to the current folder, and counts there and in every folder below. An existing one is left
    as it is (exit code 4) unless --force is given. With a password in its URL, only this user can read it, and
    a work tree of git that does not ignore it is warned of.

    No bus.toml is needed: without one, the nearest .bus/ here or above is the home, as git finds its folder; the
    first command makes it here where there is none.

    \b
    Examples:
      bus init
      bus init --url redis://:secret@bus.example:6379 --namespace shop:
    """
    with errors_shown(as_json=as_json):
        path, has_password = _write_bus_toml(url, namespace, home, durability, force=force)
    if as_json:
        print_json({"file": str(path)})
    else:
        say(f"Wrote {path}. `bus doctor` checks the bus that it describes.")
    if has_password and _may_be_committed(path):
        say(f"Warning: {path} has a password, and git does not ignore it. Write `{path.name}` into .gitignore.")


def _may_be_committed(path: Path) -> bool:
    """Whether the file is in a work tree of git that does not ignore it."""
    import subprocess

    command = ["git", "-C", path.parent, "check-ignore", "--quiet", "--", path.name]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        # Without a git that answers, nobody commits from here; the file says itself that it is a secret.
        return False
    return done.returncode == 1


def _write_bus_toml(
    url: str | None, namespace: str | None, home: str, durability: str, *, force: bool
) -> tuple[Path, bool]:
    """Write the file; return where it is, and whether it has a password."""
    import json
    import os

    from taskbus.address import Address
    from taskbus.bus_file import NAME
    from taskbus.errors import ConfigurationError, Conflict
    from taskbus.settings import checked_namespace

    path = Path.cwd() / NAME
    has_password = url is not None and Address.parse(url).password is not None
    # A JSON text is a TOML text, but for DEL; a path or URL that has one is not worth more than this.
    text = _BUS_TOML.format(
        url=f"url = {json.dumps(url, ensure_ascii=False)}"
        if url
        else '# url = "redis://user:password@localhost:6379/0"',
        namespace=checked_namespace(namespace),
        home=json.dumps(home, ensure_ascii=False)[1:-1],
        durability=durability,
    )
    try:
        if force:
            path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if has_password else 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise Conflict(f"{path} is there already.", advice="Edit it, or overwrite it with --force.") from error
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror or error}."
        raise ConfigurationError(message, advice="Go to a folder that you may write to.") from error
    return path, has_password
