"""Kilo: a fork of OpenCode, with names of its own for the same things.

It takes about twice the time and memory of OpenCode.
"""

from __future__ import annotations

from typing import ClassVar

from taskbus_agents.adapters.opencode import OpenCode


class Kilo(OpenCode):
    """Kilo, headless. The task comes on its stdin."""

    name = "kilo"
    program = "kilo"
    package = "npm @kilocode/cli"
    tried = ("7.7.7",)

    _prefix: ClassVar[str] = "KILO"
    _agent: ClassVar[str] = "code"
    _library: ClassVar[str] = "@kilocode/plugin"
    _switches: ClassVar[tuple[tuple[str, str], ...]] = (
        ("KILO_TELEMETRY_LEVEL", "off"),
        ("KILO_DISABLE_SESSION_INGEST", "1"),
        ("KILO_DISABLE_PRESENCE", "1"),
        ("KILO_SESSION_RETRY_LIMIT", "2"),
    )
