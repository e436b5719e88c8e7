"""A proxy that loses replies: the server has run the command, and the client never hears of it.

It stands between clients and a server on a unix socket or TCP, and understands RESP just well enough to
find where each reply ends. Of the replies to commands it drops every n-th, and cuts the client's connection
instead of delivering it. The handshake of a connection (AUTH, HELLO, CLIENT, SELECT, PING, INFO) is never
dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# The server's socket, or its host and port.
Target: TypeAlias = "str | Path | tuple[str, int]"

HANDSHAKE = frozenset({b"AUTH", b"HELLO", b"CLIENT", b"SELECT", b"PING", b"INFO"})


@dataclass
class Proxy:
    """What went through it, and how to reach it.

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
        """The URL of the server, by way of this proxy: its user and password, and the proxy's socket."""
        login, at, _ = server_url.partition("://")[2].rpartition("@")
        return f"unix://{login}{at}{self.path}"

    def _is_unlucky(self, name: bytes) -> bool:
        if name in HANDSHAKE:
            return False
        unlucky = self.every > 0 and (self.delivered + self.dropped + 1) % self.every == 0
        if unlucky:
            self.dropped += 1
            self.lost.append(name)
        else:
            self.delivered += 1
        return unlucky


@asynccontextmanager
async def losing_replies(path: Path, server: str | Path | tuple[str, int], *, every: int) -> AsyncIterator[Proxy]:
    """Listen on the unix socket `path`, and pass everything on to the server."""
    proxy = Proxy(path, every)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await _carry(proxy, server, reader, writer)
        finally:
            tasks.discard(task)
            writer.close()

    listener = await asyncio.start_unix_server(accept, path=str(path))
    try:
        yield proxy
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _carry(
    proxy: Proxy,
    server: Target,
    client_reader: asyncio.StreamReader,
    client_writer: asyncio.StreamWriter,
) -> None:
    if isinstance(server, tuple):
        reader, writer = await asyncio.open_connection(*server)
    else:
        reader, writer = await asyncio.open_unix_connection(str(server))
    asked: deque[bytes] = deque()

    async def forth() -> None:
        while command := await _message(client_reader):
            asked.append(_name(command))
            writer.write(command)
            await writer.drain()

    async def back() -> None:
        while reply := await _message(reader):
            if proxy._is_unlucky(asked.popleft()):
                return
            client_writer.write(reply)
            await client_writer.drain()

    ways = [asyncio.create_task(forth()), asyncio.create_task(back())]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        writer.close()


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


def _name(command: bytes) -> bytes:
    """The first word of a command, in capitals."""
    parts = command.split(b"\r\n", 3)
    return parts[2].upper() if len(parts) > 2 else b""
