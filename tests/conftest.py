"""Fixtures that every test may ask for: servers, connections, namespaces, and the `bus` command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import bundled_binary, redis7_binary, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from taskbus.connection import Connection
    from tests.servers import Server


def pytest_addoption(parser: pytest.Parser) -> None:
    """Know the option for tests with real agents' programs, which cost minutes and gigabytes."""
    parser.addoption(
        "--real-clis",
        action="store_true",
        help="install real agents' programs into .real-clis/, and run the tests with them alone",
    )


def pytest_configure(config: pytest.Config) -> None:
    """With --real-clis and no paths, run the tests with real programs and no others."""
    if config.getoption("real_clis") and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args[:] = [str(config.rootpath / "tests" / "agents" / "real")]


@pytest.fixture
def anyio_backend() -> str:
    """The library's client is asyncio only."""
    return "asyncio"


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    """The bundled Valkey, one for all tests; a test that breaks its server starts one of its own."""
    with running(bundled_binary()) as server:
        yield server


@pytest.fixture(scope="session")
def valkey(valkey_server: Server) -> str:
    """The URL of the shared Valkey."""
    return valkey_server.url


@pytest.fixture(scope="session")
def redis7() -> Iterator[str]:
    """The URL of a Redis 7, where the machine has one; TASKBUS_REQUIRE_REDIS=1 makes its absence an error."""
    binary = redis7_binary()
    if binary is None:
        reason = "no redis-server of version 7 or newer on the PATH"
        if os.environ.get("TASKBUS_REQUIRE_REDIS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with running(binary) as server:
        yield server.url


@pytest.fixture(params=["valkey", "redis7"])
def server_url(request: pytest.FixtureRequest) -> str:
    """The URL of each kind of server in turn, for tests that must hold on all of them."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"test_{uuid.uuid4().hex[:12]}:"


@pytest.fixture
async def connection(valkey: str) -> AsyncIterator[Connection]:
    """A connection to the shared Valkey."""
    from taskbus.connection import Connection

    async with Connection.open(valkey) as connection:
        yield connection


@pytest.fixture(params=["valkey", "redis7", "fakeredis"])
async def any_connection(request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """A connection to each kind of server in turn, and to fakeredis, for what must hold on all of them."""
    import fakeredis

    from taskbus.connection import Connection

    if request.param == "fakeredis":
        client = fakeredis.FakeAsyncRedis()
        yield Connection(client)
        await client.aclose()
    else:
        async with Connection.open(request.getfixturevalue(request.param)) as connection:
            yield connection


@pytest.fixture
async def fake_connection() -> AsyncIterator[Connection]:
    """A connection to a fakeredis with Lua: no blocking, no INFO, but fast and always there."""
    import fakeredis

    from taskbus.connection import Connection

    client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
    yield Connection(client)
    await client.aclose()


@dataclass(frozen=True)
class Finished:
    """What a `bus` process left: its exit code and what it printed."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)

    def lines(self) -> list[Any]:
        """The JSON documents on stdout, one per line."""
        return [json.loads(line) for line in self.stdout.splitlines()]


@dataclass(frozen=True)
class BusCommand:
    """Runs `bus` as a user does, in a folder of its own, with next to nothing of the caller's environment."""

    environment: Mapping[str, str]
    folder: Path

    def __call__(
        self,
        *arguments: str | Path,
        input: str | bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> Finished:
        """Run a command to its end; `env` adds to the environment, `timeout` is in seconds."""
        done = subprocess.run(
            [sys.executable, "-m", "taskbus", *map(str, arguments)],
            input=input.encode() if isinstance(input, str) else input,
            capture_output=True,
            env={**self.environment, **(env or {})},
            cwd=self.folder,
            timeout=timeout,
            check=False,
        )
        return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command that goes on; the test ends it and reads its pipes."""
        return subprocess.Popen(
            [sys.executable, "-m", "taskbus", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.environment, **(env or {})},
            cwd=self.folder,
            text=True,
        )


@pytest.fixture
def bus_environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a `bus` process: no server is named, so the embedded one would be used."""
    passed = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TMPDIR", "COVERAGE_PROCESS_CONFIG")
    inherited = {name: os.environ[name] for name in passed if name in os.environ}
    return {**inherited, "HOME": str(tmp_path), "NO_COLOR": "1", "BUS_HOME": str(tmp_path / ".bus")}


@pytest.fixture
def run_bus(bus_environment: dict[str, str], valkey: str, namespace: str, tmp_path: Path) -> BusCommand:
    """Runs `bus` against the shared Valkey, in a namespace of this test."""
    return BusCommand({**bus_environment, "BUS_URL": valkey, "BUS_NAMESPACE": namespace}, tmp_path)


@pytest.fixture
def run_bus_embedded(bus_environment: dict[str, str], tmp_path: Path) -> Iterator[BusCommand]:
    """Runs `bus` against an embedded server of this test, which is ended after it."""
    command = BusCommand(bus_environment, tmp_path)
    yield command
    command("down")
