"""The `bus` command for scenarios: in this process where a process of its own is not the point."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from taskbus.cli import main
from taskbus.client import Bus
from taskbus.log import Entry
from tests.conftest import BusCommand, Finished

VARIABLES = (
    *("BUS_AGENT", "BUS_TOKEN", "BUS_TASK", "BUS_DURABILITY", "BUS_POLICY"),
    *("REDIS_URL", "REDIS_PREFIX", "COLUMNS", "NO_COLOR"),
)


@dataclass(frozen=True)
class Console:
    """Runs `bus` in this process, against the same bus and in the same folder as `command` does."""

    command: BusCommand

    def __call__(
        self, *arguments: str | Path, input: str | bytes = b"", env: Mapping[str, str] | None = None
    ) -> Finished:
        """Run a command to its end; `env` adds to its environment."""
        environment = {**dict.fromkeys(VARIABLES), **self.command.environment, **(env or {})}
        done = CliRunner().invoke(main, [*map(str, arguments)], input=input, env=environment, prog_name="bus")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Finished(done.exit_code, done.stdout, done.stderr)

    def ok(self, *arguments: str | Path, **options: Any) -> str:
        """Run a command that must succeed; what it printed on stdout."""
        done = self(*arguments, **options)
        assert done.code == 0, done
        return done.stdout.strip()

    def on_bus(self, function: Callable[[Bus], Any]) -> Any:
        """Do something with the library on the same bus, and return what it returns."""

        async def run() -> Any:
            environment = self.command.environment
            async with Bus.connect(environment["BUS_URL"], namespace=environment["BUS_NAMESPACE"]) as bus:
                return await function(bus)

        return asyncio.run(run())

    def log(self) -> list[Entry]:
        """Everything that stands in the log."""

        async def entries(bus: Bus) -> list[Entry]:
            return [entry async for entry in bus.log.read()]

        return self.on_bus(entries)

    def last(self) -> Entry:
        """The newest entry of the log."""
        return self.log()[-1]


@pytest.fixture
def bus(run_bus: BusCommand, monkeypatch: pytest.MonkeyPatch) -> Console:
    """`bus` in this process, in a namespace and a folder of this test."""
    monkeypatch.chdir(run_bus.folder)
    return Console(run_bus)
