"""The stage: a folder with a copy of the project, an embedded server in it, and the processes of the crew.

Owns everything that the demo starts, and its end. Called by `play`.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from taskbus.errors import TaskbusError
from taskbus.server import down, up
from taskbus.settings import DEFAULT_NAMESPACE, Settings
from taskbus_agents.runner import Runner

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from taskbus.server import Running

CREW: Final = ("scout", "writer", "tester", "flaky", "packer")
"""The agents that are processes; each is a script in the folder `crew`."""

_HERE = Path(__file__).parent
_SECONDS = 60.0


class Stage:
    """What the demo runs on. `keep` decides at the end whether folder and server stay."""

    def __init__(self, folder: Path, server: Running, runner: Runner) -> None:
        self.folder = folder
        self.project = folder / "project"
        self.server = server
        self.keep = False
        self._runner = runner
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("BUS_", "REDIS_"))},
            "PATH": f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{sysconfig.get_path('scripts')}",
            "BUS_HOME": str(server.home),
            "BUS_URL": server.url,
            "BUS_NAMESPACE": DEFAULT_NAMESPACE,
        }

    @classmethod
    @asynccontextmanager
    async def set_up(cls) -> AsyncGenerator[Stage]:
        """Make the folder and start the server; at the end of the block both are gone, unless they are to stay."""
        folder = Path(tempfile.mkdtemp(prefix="taskbus-demo-"))
        home, keep = folder / "home", False
        try:
            shutil.copytree(_HERE / "project", folder / "project")
            shutil.copy(_HERE / "documents" / "release.json", folder)
            async with Runner(timeout=_SECONDS) as runner:
                stage = cls(folder, await up(home), runner)
                yield stage
            keep = stage.keep
        finally:
            if not keep:
                with anyio.CancelScope(shield=True):
                    await down(home)
                shutil.rmtree(folder)

    @property
    def settings(self) -> Settings:
        """The settings of the demo's own connection: this server, and nothing of the caller's configuration."""
        return Settings(
            url=self.server.url,
            namespace=DEFAULT_NAMESPACE,
            home=self.server.home,
            durability="everysec",
            agent=None,
            sources={},
        )

    async def bus(self, *words: str) -> str:
        """Run a `bus` command as a process; returns what it printed. Raises TaskbusError where it failed."""
        ended = await self._runner.run(
            [sys.executable, "-m", "taskbus", *words],
            cwd=self.folder,
            env=self._environment,
        )
        if ended.code != 0:
            said = (ended.stderr or ended.stdout).decode(errors="replace").strip()
            raise TaskbusError(f"`bus {' '.join(words)}` ended with {ended.code}: {said}")
        return ended.stdout.decode()

    async def work(self, agent: str) -> None:
        """Run the worker of one of the crew, until it is cancelled. Raises TaskbusError where it ends before."""
        program = (sys.executable, "-m", f"taskbus_agents.demo.crew.{agent}")
        await self.bus("agent", "run", f"@{agent}", "--json", "--", *program)
        raise TaskbusError(f"The worker of @{agent} ended before the story did.")
