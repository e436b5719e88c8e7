"""The other side of the Agent Client Protocol: a program that lets one agent do one task, and tells of it on stdout.

`python -m taskbus_agents.acp_client` reads its order from stdin, starts the agent, and prints one JSON object per
line: who the agent is, each tool call, each permission that it asked for and what it was told, what it spent, and at
the end a result or an error. So an agent that is talked to is run, cut and recorded like one that only prints: by the
shared runner. Only this module imports the protocol's library, which the extra `acp` brings.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import acp
import msgspec
from acp import schema

from taskbus_agents.acp_lines import Order, Told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from acp.interfaces import Agent

LINE: Final = 16 << 20
"""The longest message that an agent may send, in bytes."""
_READING: Final = frozenset({"read", "search", "think", "fetch"})
_EDITING: Final = frozenset({"edit", "delete", "move"})
_NOT_FOUND: Final = -32002
"""The protocol's error code for something that is not there."""
_STARTING: Final = 120.0
"""Seconds in which an agent must have begun its conversation."""


def tell(told: Told) -> None:
    """Print a line, at once, so that a run that is cut has told what it knew."""
    sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
    sys.stdout.buffer.flush()


class Client:
    """What the agent may ask of us: permission for its tools, and nothing else. It hears and tells its updates."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._said: list[str] = []
        self._cost: tuple[float, str] | None = None

    @property
    def said(self) -> str:
        """What the agent said since its last tool call."""
        return "".join(self._said)

    def on_connect(self, conn: Agent) -> None:
        """Nothing is to be done when the agent is there."""

    async def request_permission(
        self, session_id: str, tool_call: schema.ToolCallUpdate, options: list[schema.PermissionOption], **_: Any
    ) -> schema.RequestPermissionResponse:
        """Allow what the permission mode allows, once; reject what it does not."""
        del session_id
        allowed = self._allows(tool_call)
        tell(
            Told(
                event="permission",
                id=tool_call.tool_call_id,
                name=tool_call.title,
                kind=tool_call.kind,
                allowed=allowed,
            )
        )
        wanted = ("allow_once", "allow_always") if allowed else ("reject_once", "reject_always")
        option = next((each for kind in wanted for each in options if each.kind == kind), None)
        if option is None:
            return schema.RequestPermissionResponse(outcome=schema.DeniedOutcome(outcome="cancelled"))
        chosen = schema.AllowedOutcome(outcome="selected", option_id=option.option_id)
        return schema.RequestPermissionResponse(outcome=chosen)

    async def session_update(self, session_id: str, update: object, **_: Any) -> None:
        """Hear what the agent says, does and spends."""
        del session_id
        if isinstance(update, schema.AgentMessageChunk) and isinstance(update.content, schema.TextContentBlock):
            self._said.append(update.content.text)
        elif isinstance(update, schema.ToolCallStart | schema.ToolCallProgress):
            if isinstance(update, schema.ToolCallStart):
                self._said.clear()
            tell(Told(event="tool", id=update.tool_call_id, name=update.title, kind=update.kind, status=update.status))
        elif isinstance(update, schema.UsageUpdate) and update.cost is not None:
            tell(Told(event="cost", amount=update.cost.amount, currency=update.cost.currency))

    def _allows(self, call: schema.ToolCallUpdate) -> bool:
        if self._order.permission == "bypass" or call.kind in _READING:
            return True
        if self._order.permission != "edit" or call.kind not in _EDITING or not call.locations:
            return False
        return all(_within(self._order.folder, location.path) for location in call.locations)


def _within(folder: str, path: str) -> bool:
    """Whether a path leads into the folder, links followed."""
    try:
        return Path(folder, path).resolve().is_relative_to(Path(folder).resolve())
    except (OSError, ValueError, RuntimeError):
        return False


async def talk(order: Order) -> bool:
    """Let the agent do its task; whether it came to a result. Tells what happens meanwhile."""
    client = Client(order)
    try:
        async with acp.spawn_agent_process(
            client,  # pyright: ignore[reportArgumentType] - it offers no files and no terminals, and says so
            *order.command,
            env=dict(os.environ),
            cwd=order.folder,
            transport_kwargs={"stderr": None, "limit": LINE},
        ) as (agent, _):
            return await _converse(order, client, agent)
    except acp.RequestError as error:
        data = None if error.data is None else msgspec.json.encode(error.data, enc_hook=str).decode()
        tell(Told(event="error", code=error.code, message=str(error), data=data))
    except (OSError, ConnectionError, EOFError) as error:
        tell(Told(event="error", message=f"The conversation with the agent ended: {error or type(error).__name__}"))
    return False


async def _converse(order: Order, client: Client, agent: acp.ClientSideConnection) -> bool:
    try:
        async with asyncio.timeout(_STARTING):
            begun = await agent.initialize(
                protocol_version=acp.PROTOCOL_VERSION,
                client_capabilities=schema.ClientCapabilities(),
                client_info=schema.Implementation(name="taskbus", version="1"),
            )
            info = begun.agent_info
            if info is not None:
                tell(Told(event="agent", name=info.name, version=info.version))
            opened = await agent.new_session(cwd=order.folder)
            if order.model is not None and not await _choose(order.model, agent, opened):
                return False
    except TimeoutError:
        tell(Told(event="error", message=f"The agent did not begin a conversation within {_STARTING:g} s."))
        return False
    ended = await agent.prompt(session_id=opened.session_id, prompt=[acp.text_block(order.prompt)])
    usage = ended.usage.model_dump(exclude={"field_meta"}) if ended.usage is not None else None
    # What the protocol leaves to the agents: Gemini CLI tells its tokens there.
    data = msgspec.json.encode(ended.field_meta, enc_hook=str).decode() if ended.field_meta else None
    tell(Told(event="result", stop=ended.stop_reason, said=client.said, usage=usage, data=data))
    return True


async def _choose(model: str, agent: acp.ClientSideConnection, opened: schema.NewSessionResponse) -> bool:
    """Choose the model where the agent lets its client do that; False where it is none of those that there are.

    Another one would run at another price than the one that was reserved.
    """
    for option in opened.config_options or ():
        if not isinstance(option, schema.SessionConfigOptionSelect) or option.category != "model":
            continue
        offered = list(_values(option.options))
        if model in offered:
            if option.current_value != model:
                await agent.set_config_option(config_id=option.id, session_id=opened.session_id, value=model)
            tell(Told(event="model", model=model))
            return True
        tell(Told(event="error", code=_NOT_FOUND, message=f"{model} is not offered: {', '.join(offered[:20])}"))
        return False
    tell(Told(event="model", message="The agent offers no choice of models."))
    return True


def _values(options: Sequence[schema.SessionConfigSelectOption | schema.SessionConfigSelectGroup]) -> list[str]:
    found: list[str] = []
    for each in options:
        found += [each.value] if isinstance(each, schema.SessionConfigSelectOption) else _values(each.options)
    return found


def main() -> None:
    """Read the order from stdin, and carry it out. Exits with 1 where there was no result."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    sys.exit(0 if asyncio.run(talk(order)) else 1)


if __name__ == "__main__":
    main()
