"""The workplace of a test with a real agent: its definition, its folder, the policy, and what is left of its run."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any

import psutil

from tests.agents.record import MODELS
from tests.agents.recording import MADE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import BusCommand, Finished

AGENT = "@real"
MARK = "TASKBUS_TEST_MARK"
PRICES = """\
[prices]
version = "stub-1"

[prices."stub/*"]
input = 3
output = 15
cache_read = 3
"""
INPUT, OUTPUT = 3, 15
"""What a token costs, in microdollars."""
DEFINITION = """\
policy = "policy.toml"

[agents."{agent}"]
adapter = "{adapter}"
provider = "stub"
model = "{model}"
base_url = "{url}"
key = "STUB_KEY"
home = "private"
workspace = "as-is"
folder = "work"
attempts = 1
environment = {{ {mark} = "{value}" }}
"""


class Workplace:
    """One bus with one agent, `name` by its adapter, that works in `folder`."""

    def __init__(self, name: str, bus: BusCommand, programs: Path, root: Path) -> None:
        self.name = name
        self.bus = bus
        self.root = root
        self.folder = root / "work"
        self.folder.mkdir()
        self.made = self.folder / MADE
        self.mark = uuid.uuid4().hex
        self.environment = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "STUB_KEY": "made-up",
            "HOME": str(root),
        }

    def define(self, url: str) -> None:
        """Say who the agent is, and where its models are."""
        (self.root / "policy.toml").write_text(PRICES, encoding="utf-8")
        text = DEFINITION.format(
            agent=AGENT,
            adapter=self.name,
            model=MODELS.get(self.name, "stub-model"),
            url=url,
            mark=MARK,
            value=self.mark,
        )
        (self.root / "bus.toml").write_text(text, encoding="utf-8")

    def delegate(self, goal: str, *words: str) -> str:
        """Hand a task out; returns its ID."""
        done = self.bus("delegate", AGENT, goal, "--json", *words)
        assert done.code == 0, done.stderr
        task: str = done.json()["task"]
        return task

    def work(self, *, timeout: float) -> Finished:
        """Let a worker do one delivery."""
        return self.bus("agent", "run", AGENT, "--once", env=self.environment, timeout=timeout)

    def task(self, task: str) -> dict[str, Any]:
        """What became of a task."""
        shown = self.bus("task", task, "--json")
        assert shown.code == 0, shown.stderr
        found: dict[str, Any] = shown.json()
        return found

    def costs(self) -> dict[str, Any]:
        """What everything cost."""
        shown = self.bus("costs", "--json")
        assert shown.code == 0, shown.stderr
        found: dict[str, Any] = shown.json()
        return found


def remains(mark: str) -> list[psutil.Process]:
    """The processes of a run that still live: they inherited its mark."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # it has just ended, or is another user's
            continue
    return found
