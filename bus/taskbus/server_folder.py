"""The files of the embedded server, under `<home>/server`: password, configuration, socket, log, locks.

Owns where each is and who may read it: the folder is for its owner alone, the password is never printed.
Starts and asks nothing; the launcher in taskbus.server does. Two locks: `lock` is held by whoever starts or
ends the server, `alive` by the server itself for as long as it lives (it inherits the open file), so that
whether one lives is known for sure: from no stale pid file, and by no guess.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import secrets
import socket
import stat
import tempfile
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskbus import home as homes
from taskbus.address import Address
from taskbus.errors import ConfigurationError, TimedOut

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from taskbus.settings import Durability

# The kernel's limit is 107 bytes on Linux and 103 on macOS.
SOCKET_BYTES: Final = 100

LOG_BYTES: Final = 1_000_000


class ServerFolder:
    """The folder of one home's embedded server."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / homes.SERVER
        self.config = self.path / "server.conf"
        self.log = self.path / "server.log"
        self.pid_file = self.path / "server.pid"
        self._password = self.path / "password"
        self._socket_note = self.path / "socket"

    def prepare(self) -> None:
        """Make the folder, for its owner alone, and the password. Raises ConfigurationError."""
        try:
            homes.make(self.home)
            self.path.mkdir(mode=0o700, exist_ok=True)
            self.path.chmod(0o700)
            if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))
        except OSError as error:
            message = f"The folder {self.path} cannot be used: {error.strerror or error}."
            advice = "Name another folder with --home or BUS_HOME, or make this one writable."
            raise ConfigurationError(message, advice=advice) from error

    def password(self) -> str | None:
        """The server's password; None where no server was ever started."""
        return _read(self._password).strip() or None

    def socket(self) -> Path:
        """Where the server listens, or did when it was last started."""
        noted = _read(self._socket_note).rstrip("\n")
        return Path(noted) if noted else self.path / "server.sock"

    def url(self) -> str:
        """The server's URL, with its password."""
        return Address("unix", host="", path=str(self.socket()), password=self.password()).url()

    def durability(self) -> Durability | None:
        """What the last start declared; None before the first."""
        found = re.search(r"(?m)^appendfsync (always|everysec)$", _read(self.config))
        return None if found is None else "always" if found[1] == "always" else "everysec"

    def configure(self, durability: Durability) -> None:
        """Write the server's configuration, choosing a socket and making the password where there is none."""
        password = self.password()
        if password is None:
            password = secrets.token_urlsafe(32)
            _write_private(self._password, password + "\n")
        listen = self._choose_socket()
        _write_private(self._socket_note, f"{listen}\n")
        lines = (
            "# Written by taskbus at each start of the embedded server; changes are lost.",
            "port 0",
            f"unixsocket {_quoted(listen)}",
            "unixsocketperm 700",
            f"requirepass {password}",
            f"dir {_quoted(self.path)}",
            f"logfile {_quoted(self.log)}",
            f"pidfile {_quoted(self.pid_file)}",
            "daemonize yes",
            "appendonly yes",
            f"appendfsync {durability}",
            'save ""',
            "maxmemory-policy noeviction",
            # A delivery is searched for among those that share its node of the inbox, and its lease in a list of those
            # that last: with fewer at once, the server has a fortieth less to do. The log has few in a node anyway.
            "stream-node-max-entries 16",
            "zset-max-listpack-entries 16",
            # With its arguments as they were, the process can be recognized before it is ended by its id.
            "set-proc-title no",
        )
        _write_private(self.config, "\n".join(lines) + "\n")

    def declare(self, durability: Durability) -> None:
        """Change the durability in the configuration, for the next start."""
        text = re.sub(r"(?m)^appendfsync .*$", f"appendfsync {durability}", _read(self.config))
        _write_private(self.config, text)

    def last_words(self, lines: int = 8) -> str:
        """The end of the server's log."""
        return "\n".join(_read(self.log)[-20_000:].splitlines()[-lines:])

    def noted_pid(self) -> int | None:
        """The process id that the server wrote; it may be gone, or another program's by now."""
        noted = _read(self.pid_file).strip()
        return int(noted) if noted.isdecimal() else None

    def tidy(self) -> None:
        """Remove what a server that is gone has left: only to be called while none is alive."""
        for path in (self.socket(), self.pid_file):
            path.unlink(missing_ok=True)

    @asynccontextmanager
    async def turn(self, timeout: float) -> AsyncGenerator[None, None]:
        """The right to start or end the server; waits for its turn up to `timeout` seconds, then TimedOut."""
        descriptor = _opened(self.path / "lock")
        try:
            end = asyncio.get_running_loop().time() + timeout
            while not _locked(descriptor, fcntl.LOCK_EX):
                if asyncio.get_running_loop().time() > end:
                    message = f"Another process has been starting or ending the server for {timeout:g} s."
                    raise TimedOut(message, advice=f"See which one has {self.path / 'lock'} open, then try again.")
                await asyncio.sleep(0.02)
            yield
        finally:
            os.close(descriptor)

    def is_alive(self) -> bool:
        """Whether a server of this folder lives, answering or not."""
        if not self.path.is_dir():
            return False
        descriptor = _opened(self.path / "alive")
        try:
            return not _locked(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    @contextmanager
    def life(self) -> Generator[int | None, None, None]:
        """The lock that a new server is to inherit, as an open file; None while another server has it."""
        descriptor = _opened(self.path / "alive")
        try:
            yield descriptor if _locked(descriptor, fcntl.LOCK_EX) else None
        finally:
            os.close(descriptor)

    def _choose_socket(self) -> Path:
        near = self.path / "server.sock"
        if len(os.fsencode(near)) <= SOCKET_BYTES and _can_listen(near):
            return near
        name = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16] + ".sock"
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        places = [Path(runtime) / "taskbus"] if runtime else []
        places += [Path(folder) / f"taskbus-{os.getuid()}" for folder in (tempfile.gettempdir(), "/tmp")]  # noqa: S108
        for place in places:
            path = place / name
            if len(os.fsencode(path)) <= SOCKET_BYTES and _is_private(place) and _can_listen(path):
                return path
        message = f"No place for the server's socket: {near} is too long or on a file system without sockets."
        raise ConfigurationError(message, advice="Name a shorter folder on a local disk with --home or BUS_HOME.")


def _is_private(folder: Path) -> bool:
    """Make the folder, or see whether the one that is there can only be used by this user."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _can_listen(path: Path) -> bool:
    """Whether the file system there has sockets: some network and shared folders do not."""
    trial = path.with_suffix(".try")
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            trial.unlink(missing_ok=True)
            listener.bind(str(trial))
            trial.unlink()
        except OSError:
            return False
    return True


def _read(path: Path) -> str:
    """The text of a file; empty where there is none. Paths keep bytes that are no UTF-8."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}."
        advice = "Name another folder with --home or BUS_HOME."
        if isinstance(error, PermissionError):
            advice = f"It belongs to another user's embedded server. {advice}"
        raise ConfigurationError(message, advice=advice) from error


def _write_private(path: Path, text: str) -> None:
    """Write a whole file at once, readable by its owner alone from the first moment."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    Path(name).replace(path)


def _quoted(path: Path) -> str:
    """A path as the server's configuration reads it: in quotes, with escapes."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
