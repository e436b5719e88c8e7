"""What is said to, and by, the program that talks the Agent Client Protocol: one order, and lines of JSON.

Apart from that program, since its adapter must be read without the protocol's library.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from taskbus_agents.definition import Permission


class Order(Struct, frozen=True, kw_only=True):
    """What is to be done: `command` starts the agent, in `folder`; `model` is chosen where the agent offers it."""

    command: tuple[str, ...]
    folder: str
    prompt: str
    permission: Permission = "edit"
    model: str | None = None


class Told(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line on stdout; what it says depends on `event`."""

    event: Literal["agent", "model", "tool", "permission", "cost", "result", "error"]
    name: str | None = None
    version: str | None = None
    id: str | None = None
    kind: str | None = None
    status: str | None = None
    allowed: bool | None = None
    amount: float | None = None
    currency: str | None = None
    said: str | None = None
    stop: str | None = None
    usage: dict[str, int | None] | None = None
    model: str | None = None
    code: int | None = None
    message: str | None = None
    data: str | None = None
