"""The scene in which the shared run of agents is tested."""

from __future__ import annotations

import pytest

from taskbus.client import Bus
from taskbus.settings import Settings
from tests.agents.scene import Scene


@pytest.fixture
async def scene(valkey, namespace, tmp_path):
    """A bus on the shared server, in a namespace and a home of this test."""
    settings = Settings.load(url=valkey, namespace=namespace, home=tmp_path / "home", environ={}, cwd=tmp_path)
    settings.home.mkdir()
    async with Bus.connect(settings=settings) as bus:
        yield Scene(bus, settings.home)
