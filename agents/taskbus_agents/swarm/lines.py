"""The lines that a crew tells the swarm on its stdout, one JSON object each.

A crew is told what to do by one line on its stdin, which then stays open: its end says that the swarm is gone.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

USAGE: Final = 2
"""A crew's exit code where nothing that was ordered can be done, and trying again would not change that."""


class Order(Struct, frozen=True, kw_only=True):
    """What a crew is to do: work for these agents. `grace` is in seconds."""

    agents: tuple[str, ...]
    grace: float = 30.0


class Ready(Struct, frozen=True, kw_only=True, tag_field="event", tag="ready"):
    """The workers of these agents have begun."""

    agents: tuple[str, ...]


class Started(Struct, frozen=True, kw_only=True, tag_field="event", tag="started"):
    """An agent began with a delivery."""

    agent: str
    task: str
    type: str


class Settled(Struct, frozen=True, kw_only=True, tag_field="event", tag="settled"):
    """A delivery was settled or parked; `seconds` is how long it took, where that is known."""

    agent: str
    task: str
    received: str
    result: Literal["succeeded", "failed", "asked", "escalated", "parked", "read"]
    outcome: str | None = None
    seconds: float | None = None
    message: str | None = None


class Incident(Struct, frozen=True, kw_only=True, tag_field="event", tag="incident"):
    """Something odd, told by a worker; of the whole crew where no agent is named."""

    text: str
    agent: str | None = None


class Broken(Struct, frozen=True, kw_only=True, tag_field="event", tag="broken"):
    """An agent cannot be run as it is defined: starting it again would not help."""

    agent: str
    text: str


Line = Ready | Started | Settled | Incident | Broken
