"""The servers that the promises of delivery are tested on, and what each of them can do.

Each test of this folder is one promise, and runs on every backend that has the features it needs. Another backend
joins by an entry in `BACKENDS`: a name, the features that it declares, and two ways to reach one. `connect` gives a
connection to one that all tests share, each in a namespace of its own; `own`, where it declares `restart`, starts one
for a single test, which may empty it, kill it and start it again on its data. What it does not declare is skipped,
with the name of the missing feature; what it declares has to pass.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import fakeredis

from taskbus.connection import Connection
from tests.servers import bundled_binary, end, redis7_binary, running, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.servers import Server

FEATURES = {
    "blocking": "a blocked read wakes up when something arrives",
    "sharing": "several connections and processes reach it by a URL",
    "sockets": "it listens on a unix socket, which a proxy can stand before",
    "accounting": "it tells how much memory a key takes, and counts commands",
    "restart": "a test may have one of its own, empty it, kill it, and start it again on its data",
    "replication": "a replica can be promoted in its place",
}
EVERYTHING = frozenset(FEATURES)


@dataclass
class Own:
    """A server of one test. `url` stays the same whatever becomes of it."""

    binary: Path
    server: Server
    port: int

    @property
    def url(self) -> str:
        """Where it is reached."""
        return self.server.url

    def kill(self) -> None:
        """End it as a crash does."""
        self.server.process.kill()
        self.server.process.wait()

    def back(self) -> None:
        """Start it again on what it has kept."""
        self.server = start(self.binary, self.server.folder, port=self.port)


@dataclass(frozen=True)
class Backend:
    """A kind of server. `binary` is what it runs; None for what runs inside the tests."""

    name: str
    features: frozenset[str]
    binary: Path | None = None
    shared: Server | None = None

    @property
    def url(self) -> str:
        """The URL of the one that all tests share."""
        assert self.shared is not None
        return self.shared.url

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """A connection of its own to the one that all tests share."""
        if self.shared is None:
            client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
            yield Connection(client)
            await client.aclose()
        else:
            async with Connection.open(self.url) as connection:
                yield connection

    @contextmanager
    def own(self, *, tcp: bool = False) -> Iterator[Own]:
        """One for this test alone."""
        assert self.binary is not None
        with running(self.binary, tcp=tcp) as server:
            own = Own(self.binary, server, server.port)
            yield own
            end(own.server)

    def lacking(self, needed: frozenset[str]) -> str | None:
        """Why it cannot be tested for what needs these features."""
        missing = [f"{feature} ({FEATURES[feature]})" for feature in sorted(needed - self.features)]
        return f"{self.name} does not declare {', '.join(missing)}" if missing else None


BACKENDS = {
    "valkey": Backend("valkey", EVERYTHING),
    "redis7": Backend("redis7", EVERYTHING),
    "fakeredis": Backend("fakeredis", frozenset()),
}


@contextmanager
def available(name: str) -> Iterator[Backend | str]:
    """A backend for all tests; a reason where this machine has none. TASKBUS_REQUIRE_REDIS=1 makes that an error."""
    backend = BACKENDS[name]
    binary = {"valkey": bundled_binary, "redis7": redis7_binary}.get(name, lambda: None)()
    if name == "fakeredis":
        yield backend
    elif binary is None:
        assert os.environ.get("TASKBUS_REQUIRE_REDIS") != "1", f"{name} is required"
        yield f"this machine has no {name}"
    else:
        with running(binary) as server:
            yield replace(backend, binary=binary, shared=server)
