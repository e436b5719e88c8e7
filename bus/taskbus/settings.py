"""What a process was told: the server, the namespace, where its files are, and who speaks.

Owns the order in which the sources are asked (option, environment, `bus.toml` found upward from the current
folder, for the home a `.bus` found likewise, default) and the rules for each value. Called by the command line and
by programs that want to be configured like it; reads nothing after loading.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from taskbus import bus_file
from taskbus import home as homes
from taskbus.address import Address, redacted
from taskbus.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taskbus.supervision import Supervision

__all__ = ["DEFAULT_NAMESPACE", "Durability", "Settings", "checked_namespace", "redacted"]

Durability = Literal["always", "everysec"]

DEFAULT_NAMESPACE: Final = "taskbus:"

# Each setting with the variables that carry it; the first variable that is set and not empty counts.
VARIABLES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "url": ("BUS_URL", "REDIS_URL"),
        "namespace": ("BUS_NAMESPACE", "REDIS_PREFIX"),
        "home": ("BUS_HOME",),
        "durability": ("BUS_DURABILITY",),
        "agent": ("BUS_AGENT",),
        "policy": ("BUS_POLICY",),
        "archive": ("BUS_ARCHIVE",),
    }
)

_SHOWN: Final = 60
"""How many characters of a path that cannot be used are shown."""

_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,62}:")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one process.

    `url` is None where the embedded server under `home` is to be used. `namespace` ends with a colon. `home`
    is absolute. `sources` says for each of these where it came from, in words: `option --url`,
    `environment BUS_URL`, `/path/bus.toml line 3`, `found upward`, `default`. `file` is the bus.toml that was
    read, if any. `announce` is told, in a sentence, of what is done unasked: the start of the embedded server.
    `supervising` are the fields of `supervision` that the file has, times in seconds. `policy` is the file that
    says what models may cost, absolute; whoever needs it reads it. `archive` is the folder of the archive, absolute,
    or a URL that fsspec reaches; None where it is `archive` in the home.
    """

    url: str | None = field(repr=False)
    namespace: str
    home: Path
    durability: Durability
    agent: str | None
    sources: Mapping[str, str]
    file: Path | None = None
    announce: Callable[[str], None] | None = field(default=None, repr=False, compare=False)
    supervising: Mapping[str, float | str] = field(default_factory=lambda: MappingProxyType({}))
    policy: Path | None = None
    archive: str | None = field(default=None, repr=False)

    @property
    def supervision(self) -> Supervision:
        """What is told of when it was not done in time, for workers and `bus supervise`."""
        return self.supervision_with({})

    def supervision_with(self, given: Mapping[str, float | str | None]) -> Supervision:
        """The same, with fields of Supervision that go before those of the file; None is what is not given."""
        from taskbus.supervision import Supervision  # it brings the client library, which most settings do without

        fields = {**self.supervising, **{name: value for name, value in given.items() if value is not None}}
        times = {name: value for name, value in fields.items() if isinstance(value, float)}
        lead = fields.get("lead")
        return Supervision(**times, lead=lead if isinstance(lead, str) else None)

    @classmethod
    def load(
        cls,
        *,
        url: str | None = None,
        namespace: str | None = None,
        home: str | os.PathLike[str] | None = None,
        durability: str | None = None,
        agent: str | None = None,
        policy: str | os.PathLike[str] | None = None,
        archive: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] = os.environ,
        cwd: str | os.PathLike[str] | None = None,
        announce: Callable[[str], None] | None = None,
    ) -> Settings:
        """Ask option, environment, bus.toml and default, in this order, for each setting by itself.

        The arguments are the options. A relative `home` is resolved against `cwd`, or against the folder of
        the bus.toml that says it, so that it means the same folder from wherever the command runs; without
        any, it is `.bus` beside the bus.toml; without a bus.toml the nearest `.bus` of a bus in `cwd` or above it,
        up to the user's home directory; else `.bus` in `cwd`. A relative `policy` or `archive` likewise begins at
        `cwd`, or at the folder of the bus.toml. Raises ConfigurationError.
        """
        here = Path(cwd) if cwd is not None else Path.cwd()
        file = bus_file.find(here)
        in_file, supervising = bus_file.read(file, VARIABLES) if file else ({}, {})
        options = {
            "url": url,
            "namespace": namespace,
            "home": home,
            "durability": durability,
            "agent": agent,
            "policy": policy,
            "archive": archive,
        }
        values: dict[str, str | None] = {}
        sources: dict[str, str] = {}
        for name in VARIABLES:
            values[name], sources[name] = _first(name, options[name], environ, in_file, file)
        anchor = file.parent if file and (values["home"] is None or sources["home"].startswith(str(file))) else here
        if values["home"] is None and file is None and (found := homes.find(here)) and found.parent != here.absolute():
            values["home"], sources["home"] = str(found), "found upward"
        return cls(
            url=_checked_url(values["url"], sources["url"]),
            namespace=checked_namespace(values["namespace"], source=sources["namespace"]),
            home=_absolute(values["home"] or homes.NAME, anchor, sources["home"]),
            durability=_checked_durability(values["durability"], sources["durability"]),
            agent=values["agent"],
            sources=MappingProxyType(sources),
            file=file,
            announce=announce,
            supervising=MappingProxyType(supervising),
            policy=_place("policy", values["policy"], sources["policy"], file, here),
            archive=_archive(values["archive"], sources["archive"], file, here),
        )


def checked_namespace(value: str | None, *, source: str = "the namespace") -> str:
    """The namespace with its closing colon, `taskbus:` for None.

    1 to 64 characters of A-Z, a-z, 0-9, `_`, `.`, `-` and `:`, the first a letter, digit or `_`. Braces would
    choose the hash slot of a cluster, and glob characters and spaces would break patterns; they are refused.
    """
    if value is None:
        return DEFAULT_NAMESPACE
    namespace = value if value.endswith(":") else f"{value}:"
    if not _NAMESPACE.fullmatch(namespace):
        message = f"The namespace {value!r} ({source}) is not valid."
        advice = (
            "Use 1 to 64 of the characters A-Z a-z 0-9 _ . - and `:`, starting with a letter, digit or `_`, "
            "for example my_project:"
        )
        raise ConfigurationError(message, advice=advice)
    return namespace


def _first(
    name: str,
    option: str | os.PathLike[str] | None,
    environ: Mapping[str, str],
    in_file: Mapping[str, tuple[str, int]],
    file: Path | None,
) -> tuple[str | None, str]:
    if option is not None:
        return os.fspath(option), f"option --{name}"
    for variable in VARIABLES[name]:
        if value := environ.get(variable, "").strip():
            return value, f"environment {variable}"
    if name in in_file:
        value, line = in_file[name]
        return value, f"{file} line {line}"
    return None, "default"


def _place(name: str, value: str | None, source: str, file: Path | None, here: Path) -> Path | None:
    """A file that a setting names, from the folder where it is named; None where it names none."""
    if value is None:
        return None
    named_in_file = file is not None and source.startswith(str(file))
    return _absolute(value, file.parent if file and named_in_file else here, source, name)


def _archive(value: str | None, source: str, file: Path | None, here: Path) -> str | None:
    """Where the archive is: a URL as it stands, a folder from where it is named."""
    if value is not None and "://" in value:
        return value
    place = _place("archive", value, source, file, here)
    return str(place) if place is not None else None


def _absolute(value: str, anchor: Path, source: str, name: str = "home") -> Path:
    # Not Path.resolve(): a home behind a symbolic link keeps the name that its user gave it.
    path = Path(os.path.normpath(anchor.absolute() / Path(value).expanduser()))
    try:
        path.lstat()
    except (OSError, ValueError) as error:
        # Whether it is there, and may be used, is seen when it is used; a name that no folder can have is seen now.
        if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:
            why = "its name is too long" if isinstance(error, OSError) else str(error)
            shown = str(path) if len(str(path)) <= _SHOWN else f"{str(path)[:_SHOWN]}…"
            kind = "file" if name == "policy" else "folder"
            message = f"The {name} ({source}) cannot be a {kind}, {why}: {shown!r}"
            advice = f"Name another {kind} with --{name} or BUS_{name.upper()}."
            raise ConfigurationError(message, advice=advice) from error
    return path


def _checked_url(url: str | None, source: str) -> str | None:
    if url is not None:
        try:
            Address.parse(url)
        except ConfigurationError as error:
            raise ConfigurationError(f"{error.message} (From: {source}.)", advice=error.advice) from error
    return url


def _checked_durability(value: str | None, source: str) -> Durability:
    match value:
        case None:
            return "everysec"
        case "always" | "everysec":
            return value
        case _:
            message = f"The durability {value!r} ({source}) is not known."
            advice = (
                "Use `always` (an append returns once it is on disk) or `everysec` (may lose the last second when the"
                " machine dies, or the process while the disk is slow)."
            )
            raise ConfigurationError(message, advice=advice)
