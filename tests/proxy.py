"""A proxy that meddles with what passes between clients and a server: it delays, cuts, or falls silent.

It stands on a unix socket before a server on a unix socket or TCP, and understands RESP just well enough to find
where each command and each reply ends. What happens to them is up to its meddler, asked before each command is
passed on, and before each reply is: the server has executed the command in the second case, and not in the first.
The handshake of a connection (AUTH, HELLO, CLIENT, SELECT, PING, INFO) always passes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

# The server's socket, or its host and port.
Target: TypeAlias = "str | Path | tuple[str, int]"

# `pass` it on; `cut` the connection instead; `mute` it: nothing passes any more either way, until the client ends it.
Act: TypeAlias = Literal["pass", "cut", "mute"]

_LIMIT = 1 << 20
HANDSHAKE = frozenset({b"AUTH", b"HELLO", b"CLIENT", b"SELECT", b"PING", b"INFO"})


@dataclass(frozen=True)
class Command:
    """What a client asked for, word by word, and the process that asked (0 where the system does not say)."""

    words: list[bytes]
    peer: int

    @property
    def name(self) -> bytes:
        """Its first word, in capitals."""
        return self.words[0].upper() if self.words else b""


class Meddler(Protocol):
    """Decides what becomes of commands and replies. It may take its time: whatever follows waits."""

    async def before(self, command: Command) -> Act:
        """What becomes of a command that the server has not seen yet."""
        ...

    async def after(self, command: Command, reply: bytes) -> Act:
        """What becomes of the reply to a command that the server has executed."""
        ...


@dataclass
class Proxy:
    """A meddler that cuts the connection instead of delivering every n-th reply, and counts what it does.

    `every` may be changed while it runs: 10 drops each tenth reply, 0 none. `dropped` counts the replies that
    were lost, `delivered` those that were not, `connections` what clients opened. `lost` has the names of the
    commands whose replies were lost.
    """

    path: Path
    every: int
    delivered: int = 0
    dropped: int = 0
    connections: int = 0
    lost: list[bytes] = field(default_factory=list)

    def url(self, server_url: str) -> str:
        """The URL of the server, by way of this proxy."""
        return url_through(self.path, server_url)

    async def before(self, command: Command) -> Act:
        """Every command is executed."""
        return "pass"

    async def after(self, command: Command, reply: bytes) -> Act:
        """Each n-th reply is lost."""
        if self.every > 0 and (self.delivered + self.dropped + 1) % self.every == 0:
            self.dropped += 1
            self.lost.append(command.name)
            return "cut"
        self.delivered += 1
        return "pass"


def url_through(path: Path, server_url: str) -> str:
    """The URL of a server, by way of a proxy's socket: its user and password, and the socket."""
    login, at, _ = server_url.partition("://")[2].rpartition("@")
    return f"unix://{login}{at}{path}"


@asynccontextmanager
async def losing_replies(path: Path, server: Target, *, every: int) -> AsyncIterator[Proxy]:
    """Listen on the unix socket `path`, pass everything on to the server, and lose every n-th reply."""
    proxy = Proxy(path, every)

    def count() -> None:
        proxy.connections += 1

    async with meddling(path, server, proxy, on_connection=count):
        yield proxy


@asynccontextmanager
async def meddling(
    path: Path, server: Target, meddler: Meddler, *, on_connection: Callable[[], None] | None = None
) -> AsyncIterator[None]:
    """Listen on the unix socket `path`, and pass on to the server what the meddler lets pass."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if on_connection is not None:
            on_connection()
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await _carry(meddler, server, reader, writer)
        except asyncio.CancelledError:
            pass  # the proxy ends: nobody waits for this task, and asyncio would log it as an error
        finally:
            tasks.discard(task)
            writer.close()

    listener = await asyncio.start_unix_server(accept, path=str(path), limit=_LIMIT)
    try:
        yield
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _carry(
    meddler: Meddler,
    server: Target,
    client_reader: asyncio.StreamReader,
    client_writer: asyncio.StreamWriter,
) -> None:
    try:
        reader, writer = await _opened(server)
    except OSError:
        return  # a client of a server that is away finds its connection closed
    peer = _peer(client_writer)
    asked: deque[Command] = deque()

    async def forth() -> Act:
        while raw := await _message(client_reader):
            command = Command(_words(raw), peer)
            act: Act = "pass" if command.name in HANDSHAKE else await meddler.before(command)
            if act != "pass":
                return act
            asked.append(command)
            writer.write(raw)
            await writer.drain()
        return "cut"

    async def back() -> Act:
        while reply := await _message(reader):
            command = asked.popleft()
            act: Act = "pass" if command.name in HANDSHAKE else await meddler.after(command, reply)
            if act != "pass":
                return act
            client_writer.write(reply)
            await client_writer.drain()
        return "cut"

    ways = [asyncio.create_task(forth()), asyncio.create_task(back())]
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        acts = {way.result() for way in done if way.exception() is None}
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        while "mute" in acts and await client_reader.read(1 << 16):
            pass  # what the client sends is lost as well
    except OSError:
        pass  # the other side is gone: that is the end of this connection, and no fault of the proxy
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        writer.close()


async def _opened(server: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(server, tuple):
        return await asyncio.open_connection(*server, limit=_LIMIT)
    return await asyncio.open_unix_connection(str(server), limit=_LIMIT)


async def _message(reader: asyncio.StreamReader) -> bytes:
    """The bytes of one whole command or reply; empty at the end of the connection, even in its middle."""
    try:
        head = await reader.readuntil(b"\r\n")
        kind, rest = head[:1], head[1:-2]
        if kind in (b"$", b"=", b"!"):
            return head + (await reader.readexactly(int(rest) + 2) if int(rest) >= 0 else b"")
        parts_of = {b"*": 1, b"~": 1, b">": 1, b"%": 2}
        parts = [head]
        for _ in range(parts_of[kind] * int(rest) if kind in parts_of else 0):
            part = await _message(reader)
            if not part:
                return b""
            parts.append(part)
        return b"".join(parts)
    except (asyncio.IncompleteReadError, ConnectionError):
        # The other side is gone: that is the end of this connection, and no fault of the proxy.
        return b""


def _words(command: bytes) -> list[bytes]:
    """The words of a command, as clients send them: an array of strings."""
    count, at = command.split(b"\r\n", 1)[0][1:], command.find(b"\r\n") + 2
    words: list[bytes] = []
    for _ in range(int(count)):
        end = command.index(b"\r\n", at)
        length = int(command[at + 1 : end])
        words.append(command[end + 2 : end + 2 + length])
        at = end + 4 + length
    return words


def _peer(writer: asyncio.StreamWriter) -> int:
    """The process at the other end of a unix socket."""
    found = writer.get_extra_info("socket")
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return 0
    with suppress(OSError):
        pid, _, _ = struct.unpack("3i", found.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
        return int(pid)
    return 0
