"""The one door to the server: everything that the bus asks of Redis or Valkey goes through `Connection`.

Owns the client library (no other module imports it), scripts by content hash, time limits, reconnecting, and
the way from the client's exceptions to taskbus.errors. Knows nothing of envelopes, keys or namespaces. Called
by the append, the log, the deliveries and the doctor.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import hiredis
from redis import exceptions as client_errors
from redis.asyncio import connection as client_links

from taskbus import faults, replies
from taskbus.address import Address
from taskbus.injected import Injected
from taskbus.reading import Reading
from taskbus.replies import Entry, ServerInfo

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from taskbus.errors import TaskbusError
    from taskbus.injected import InjectedClient

Word: TypeAlias = str | bytes | int
Link: TypeAlias = client_links.AbstractConnection

DEFAULT_TIMEOUT: Final = 5.0
FLOOR: Final = (7, 0)

# At most so many commands are under way at once; further ones wait for their turn instead of failing.
LINKS: Final = 32

# Pauses before a command whose connection was lost is tried again; the last one repeats until the time is up.
PAUSES: Final = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)

# The type says a tuple of one; it packs any number, five times as fast as the library's own Python.
_packed = cast("Callable[[tuple[Word, ...]], bytes]", hiredis.pack_command)

_FAULTS = (client_errors.RedisError, OSError)
_LOST = (client_errors.ConnectionError, client_errors.TimeoutError, OSError)
_REFUSED = (client_errors.AuthenticationError, client_errors.AuthorizationError)


@dataclass(frozen=True)
class Script:
    """A Lua script; `sha` is the content hash by which the server knows it."""

    source: str

    @cached_property
    def sha(self) -> str:
        """SHA-1 of the source, in hexadecimal digits, as EVALSHA wants it."""
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Connection(Reading):
    """Commands to one server, from any number of tasks of one event loop.

    Made with `Connection.open(url)`, which checks the server and closes everything at the end of the block;
    or around a client that the caller made and closes, with no checks (for tests with fakeredis).

    Every method raises taskbus.errors only: Unavailable and its kinds, or TimedOut. Scripts and reads are
    tried again, within the timeout, when their connection is lost, so a write must be a script that may run
    twice. A cancelled call may or may not have run on the server; its connection is dropped, so that no other
    call can read its reply.
    """

    def __init__(self, client: InjectedClient, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.address: Address | None = None
        self.info = ServerInfo()
        self._door: _Links | Injected = Injected(client, timeout=timeout, turns=LINKS)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, timeout: float = DEFAULT_TIMEOUT) -> AsyncGenerator[Connection, None]:
        """Connect, and check who answers: Redis 7.0 or newer or Valkey, no replica, the password right.

        `timeout` in seconds bounds each command, reconnecting included. Raises ConfigurationError for a URL
        that cannot be read.
        """
        address = Address.parse(url)
        links = _Links(address, timeout)
        self = cls.__new__(cls)
        self.address = address
        self._door = links
        try:
            self.info = await _introduced(links)
            yield self
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Disconnect; also a client that was given. Whoever opened with `async with` need not call it."""
        await self._door.aclose()

    async def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Word]) -> object:
        """Run a script by its hash, sending its source only where the server does not know it.

        The script may run twice when a reply is lost. Replies are as the protocol has them: bytes, int, None,
        list.
        """
        try:
            return await self._door.call(("EVALSHA", script.sha, len(keys), *keys, *args))
        except client_errors.NoScriptError:
            return await self._ask("EVAL", script.source, len(keys), *keys, *args)
        except _FAULTS as error:
            raise _translated(error, self._door) from error

    async def execute(self, *words: Word) -> object:
        """Send any command once: it is not tried again, so its effect may be unknown after an error."""
        try:
            return await self._door.call(words, again=False)
        except _FAULTS as error:
            raise _translated(error, self._door) from error

    async def wait(
        self, streams: Mapping[str, str], *, timeout: float, count: int | None = None
    ) -> dict[str, list[Entry]]:
        """Entries after the given IDs; waits up to `timeout` seconds for the first, and is empty without any.

        Uses a connection of its own, and does not reconnect: a lost server raises NoServer, and the caller
        goes on from the last ID that it has seen. On a cluster, all streams must be in one slot.
        """
        limit: tuple[Word, ...] = () if count is None else ("COUNT", count)
        words: tuple[Word, ...] = ("STREAMS", *streams, *streams.values())
        try:
            (reply,) = await self._door.block(("XREAD", *limit), words, timeout)
        except _FAULTS as error:
            raise _translated(error, self._door) from error
        return {replies.text(stream): replies.entries(entries) for stream, entries in replies.pairs(reply)}

    async def wait_and_run(
        self,
        streams: Mapping[str, str],
        script: Script,
        keys: Sequence[str | bytes],
        args: Sequence[Word],
        *,
        timeout: float,
    ) -> object:
        """Wait as `wait` does, and run a script as `run` does once something came or the time is over.

        Both are sent together, so that the script runs the moment that the server ends the wait. Cancelled or lost,
        it may run all the same.
        """
        words: tuple[Word, ...] = ("STREAMS", *streams, *streams.values())
        then: tuple[Word, ...] = ("EVALSHA", script.sha, len(keys), *keys, *args)
        try:
            return (await self._door.block(("XREAD", "COUNT", 1), words, timeout, then))[-1]
        except client_errors.NoScriptError:
            return await self.run(script, keys, args)
        except _FAULTS as error:
            raise _translated(error, self._door) from error

    async def _ask(self, *words: Word) -> object:
        try:
            return await self._door.call(words)
        except _FAULTS as error:
            raise _translated(error, self._door) from error


class _Links:
    """Connections of the client library, with a pool of our own around them.

    The library's own pool and command path cost a fifth of an awaited append (115 against 90 µs, redis-py
    8.1: a task per write for its timeout, locks, metrics), and raise when all connections are in use.
    """

    def __init__(self, address: Address, timeout: float) -> None:
        self.address = address
        self.place = address.place
        self.timeout = timeout
        self._turns = asyncio.Semaphore(LINKS)
        self._idle: list[Link] = []
        self._blocking: list[Link] = []
        self._all: list[Link] = []
        self._ends: dict[Link, float] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._cutting: list[asyncio.Future[None]] = []

    async def call(self, words: tuple[Word, ...], *, again: bool = True) -> object:
        loop = asyncio.get_running_loop()
        end = loop.time() + self.timeout
        if self._turns.locked():
            async with asyncio.timeout_at(end):
                await self._turns.acquire()
        else:
            await self._turns.acquire()
        link = self._idle.pop() if self._idle else self.make()
        self._ends[link] = end
        if self._sweeper is None:
            self._sweeper = loop.call_later(self.timeout / 16, self._sweep)
        try:
            if not again:
                await _freshen(link)
            try:
                return await _exchange(link, words)
            except _LOST as error:
                lost = self._judged(error, end, again=again)
            return await self._again(link, words, end, lost)
        finally:
            del self._ends[link]
            self._idle.append(link)
            self._turns.release()

    async def _again(self, link: Link, words: tuple[Word, ...], end: float, lost: Exception) -> object:
        loop = asyncio.get_running_loop()
        tries = 0
        while loop.time() < end:
            await asyncio.sleep(min(PAUSES[min(tries, len(PAUSES) - 1)], max(0.0, end - loop.time())))
            tries += 1
            try:
                return await _exchange(link, words)
            except _LOST as error:
                if loop.time() < end:
                    lost = self._judged(error, end, again=True)
        raise lost

    def _judged(self, error: Exception, end: float, *, again: bool) -> Exception:
        """What to raise if no other try succeeds; raises at once what no other try can change."""
        if asyncio.get_running_loop().time() >= end:
            return TimeoutError()
        if not again or isinstance(_root(error), _REFUSED):
            raise error
        return error

    def _sweep(self) -> None:
        # One timer for all calls, a little late, costs each of them a tenth less than a timer of its own.
        loop = asyncio.get_running_loop()
        late = [link for link, end in self._ends.items() if end <= loop.time()]
        self._cutting = [asyncio.ensure_future(link.disconnect(nowait=True)) for link in late]
        self._sweeper = loop.call_later(self.timeout / 16, self._sweep) if self._ends else None

    async def block(
        self, before: tuple[Word, ...], after: tuple[Word, ...], timeout: float, *then: tuple[Word, ...]
    ) -> list[object]:
        block = ("BLOCK", math.ceil(timeout * 1000)) if timeout > 0 else ()
        link = self._blocking.pop() if self._blocking else self.make()
        try:
            # The server ends the wait by itself; this limit is for a server or a network that died meanwhile.
            async with asyncio.timeout(max(timeout, 0) + self.timeout):
                await _freshen(link)
                return await _exchange_all(link, [(*before, *block, *after), *then])
        finally:
            self._blocking.append(link)

    async def introduce(self) -> dict[str, str]:
        """The server's INFO (what HELLO says, where INFO is not permitted), with no second try."""
        link = self.make()
        link.socket_timeout = self.timeout
        await _exchange(link, ("PING",))
        try:
            reply = await _exchange(link, ("INFO",))
            facts = replies.fields(replies.text(reply))
        except client_errors.NoPermissionError:
            facts = replies.texts(await _exchange(link, ("HELLO",)))
        # From here on each call sets its own time limit, which costs less than the library's.
        link.socket_timeout = None
        self._idle.append(link)
        return facts

    def make(self) -> Link:
        """A new connection, which connects with its first command."""
        address = self.address
        options: dict[str, Any] = {
            "db": address.db,
            "username": address.username,
            "password": address.password,
            "socket_timeout": None,
            "socket_connect_timeout": self.timeout,
            "driver_info": None,
            "protocol": 2,
        }
        if address.scheme == "unix":
            link: Link = client_links.UnixDomainSocketConnection(path=address.path, **options)
        elif address.scheme == "redis":
            link = client_links.Connection(host=address.host, port=address.port, **options)
        else:
            tls: dict[str, Any] = dict(address.tls)
            if "ssl_check_hostname" in tls:
                tls["ssl_check_hostname"] = tls["ssl_check_hostname"].lower() == "true"
            link = client_links.SSLConnection(host=address.host, port=address.port, **tls, **options)
        self._all.append(link)
        return link

    async def aclose(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for link in self._all:
            # Without waiting, so that closing also works inside a cancelled scope.
            await link.disconnect(nowait=True)


async def _exchange(link: Link, words: tuple[Word, ...]) -> object:
    # Cut short by whatever, both drop the link (redis-py 8.1), so that nobody else reads a reply that comes late.
    await link.send_packed_command(_packed(words))
    return cast("object", await link.read_response())


async def _exchange_all(link: Link, commands: list[tuple[Word, ...]]) -> list[object]:
    await link.send_packed_command(b"".join(map(_packed, commands)))
    try:
        return [cast("object", await link.read_response()) for _ in commands]
    except client_errors.ResponseError:
        # The replies to the commands after the refused one are still to come, and nobody is to take them for its own.
        await link.disconnect(nowait=True)
        raise


async def _freshen(link: Link) -> None:
    if link.is_connected and await link.can_read():
        await link.disconnect(nowait=True)


async def _introduced(links: _Links) -> ServerInfo:
    try:
        facts = await links.introduce()
    except client_errors.TimeoutError as error:
        if "connecting" not in str(error):
            raise faults.silent(links.place, links.timeout) from error
        is_tls = links.address.scheme == "rediss"
        raise faults.unreachable(links.place, links.timeout, tls=is_tls) from error
    except _FAULTS as error:
        raise _translated(error, links) from error
    info = ServerInfo.of(facts, tls=links.address.scheme == "rediss")
    if not info.version:
        raise faults.garbage(links.place)
    if info.mode == "sentinel":
        raise faults.sentinel(links.place)
    if info.product == "Redis" and info.numbers < FLOOR:
        raise faults.too_old(str(info), links.place)
    if info.role != "master":
        raise faults.from_reply("READONLY", "", links.place)
    return info


def _translated(error: Exception, door: _Links | Injected) -> TaskbusError:
    root = _root(error)
    match root:
        case client_errors.InvalidResponse():
            return faults.garbage(door.place)
        case client_errors.TimeoutError() | TimeoutError():
            return faults.late(door.place, door.timeout)
        case client_errors.RedisError() if root.status_code:
            return faults.from_reply(root.status_code, str(root), door.place)
        case client_errors.AuthenticationError():
            return faults.from_reply("WRONGPASS", str(root), door.place)
        case client_errors.ResponseError():
            code, _, text = str(root).partition(" ")
            code, text = (code, text) if code.isalpha() and code.isupper() else ("ERR", str(root))
            return faults.from_reply(code, text, door.place)
        case OSError():
            return faults.from_socket(root, door.place)
        case _:
            return faults.closed(door.place)


def _root(error: BaseException) -> BaseException:
    """What a ConnectionError was made from: the library wraps socket errors and replies to its handshake."""
    while type(error) is client_errors.ConnectionError:
        inner = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if not isinstance(inner, _FAULTS):
            break
        error = inner
    return error
