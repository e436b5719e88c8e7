"""Real agents' programs, installed in the versions that they were tried with; only with --real-clis.

They are kept in .real-clis/ and used again by the next run. Nothing of this leaves the machine but their installation.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from taskbus_agents.adapters import adapter
from tests.agents.real.workplace import Workplace, remains
from tests.agents.record import ROOT, install

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import BusCommand

FOLDER = ROOT / ".real-clis"
PLACES: dict[str, Path | str] = {}
"""By the adapter's name the folder in which its program is found, or why it is in none."""


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Without --real-clis these tests are not there."""
    return None if config.getoption("real_clis") else True


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Install what the tests need before the first of them, which may take longer than any test should."""
    if session.config.option.collectonly:
        return
    asked = [item for item in session.items if isinstance(item, pytest.Function) and "workplace" in item.fixturenames]
    for name in sorted({item.callspec.params["name"] for item in asked}):
        PLACES[name] = placed(name)


def placed(name: str) -> Path | str:
    """Install a program, unless it is there; returns where, or why not."""
    known = adapter(name)
    if known.package.startswith("npm ") and shutil.which("npm") is None:
        return f"{name} cannot be installed: there is no npm on the PATH. Install Node.js 20 or newer."
    print(f"{known.package} {known.tried[-1]}", file=sys.stderr, flush=True)
    try:
        return install(known, FOLDER)
    except subprocess.CalledProcessError as error:
        return f"{name} could not be installed: {error}. What it said stands above. Is a package index within reach?"


@pytest.fixture
def workplace(request: pytest.FixtureRequest, run_bus: BusCommand, tmp_path: Path) -> Iterator[Workplace]:
    """A bus with one real agent, by the parameter `name` of the test."""
    name: str = request.getfixturevalue("name")
    programs = PLACES[name]
    if isinstance(programs, str):
        pytest.fail(programs, pytrace=False)
    place = Workplace(name, run_bus, programs, tmp_path)
    yield place
    for process in remains(place.mark):
        process.kill()
