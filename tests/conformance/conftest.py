"""Fixtures of the conformance suite: each test runs on each backend that declares what the test needs."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from taskbus.client import Bus
from tests.conformance.backends import BACKENDS, Backend, available

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.conformance.backends import Own


def pytest_configure(config: pytest.Config) -> None:
    """Tests name the features of a backend that they need."""
    config.addinivalue_line("markers", "needs(feature, ...): what a backend has to declare for this promise")


@pytest.fixture(scope="session")
def started() -> Iterator[Callable[[str], Backend | str]]:
    """Gives each backend by its name, started when it is first asked for."""
    found: dict[str, Backend | str] = {}
    with ExitStack() as stack:

        def get(name: str) -> Backend | str:
            if name not in found:
                found[name] = stack.enter_context(available(name))
            return found[name]

        yield get


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest, started: Callable[[str], Backend | str]) -> Backend:
    """Each backend in turn; skipped where it lacks what the test is marked to need."""
    needed = frozenset(name for mark in request.node.iter_markers("needs") for name in mark.args)
    reason = BACKENDS[request.param].lacking(needed)
    found = started(request.param) if reason is None else reason
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture
async def bus(backend: Backend, namespace: str) -> AsyncIterator[Bus]:
    """A bus in a namespace of this test, on the server that all tests share."""
    async with backend.connect() as connection:
        yield Bus(connection, namespace)


@pytest.fixture
def own(backend: Backend) -> Iterator[Own]:
    """A server of this test alone."""
    with backend.own() as server:
        yield server


@pytest.fixture
async def own_bus(own: Own, namespace: str) -> AsyncIterator[Bus]:
    """A bus on the server of this test alone."""
    from taskbus.connection import Connection

    async with Connection.open(own.url, timeout=1.0) as connection:
        yield Bus(connection, namespace)
