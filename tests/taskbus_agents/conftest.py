"""The place in which a test of a worker happens, and workers that are processes."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager

import anyio
import pytest

from taskbus.client import Bus
from taskbus.settings import Settings
from tests.taskbus_agents.place import Place


@pytest.fixture
async def place(valkey, namespace, tmp_path):
    """A bus on the shared server, in a namespace and a home of this test."""
    settings = Settings.load(url=valkey, namespace=namespace, home=tmp_path / "home", environ={}, cwd=tmp_path)
    async with Bus.connect(settings=settings) as bus:
        yield Place(bus, settings)


@pytest.fixture
def delegate(run_bus):
    """Delegates a task to @kilo."""

    def delegated(task: str = "t") -> None:
        done = run_bus("delegate", "@kilo", "do it", "--task", task)
        assert done.code == 0, done.stderr

    return delegated


@pytest.fixture
def worker(run_bus):
    """Starts workers for @kilo; whatever of them still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    @contextmanager
    def running(*words: str):
        process = run_bus.start("agent", "run", "kilo", *words)
        started.append(process)
        yield process

    yield running
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def state(valkey, namespace):
    """Asks the bus for the state of a task."""

    async def ask(task: str) -> str:
        async with Bus.connect(valkey, namespace=namespace) as bus:
            return (await bus.task(task)).state

    return lambda task="t": anyio.run(ask, task)
