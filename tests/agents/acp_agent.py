"""An agent that speaks the Agent Client Protocol and does what its prompt says, for tests: no model, no network.

Prompts: `write PATH` asks for permission and writes, `run` asks for permission to run something, `read`, `stop REASON`,
`fail CODE MESSAGE`, `usage INPUT OUTPUT READ THOUGHT TOTAL`, `cost AMOUNT CURRENCY`, `hang`, `crash`, `noise`, `model`.
Several in a prompt are done one after the other, one in each line.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import acp
from acp import schema


class Agent:
    """One conversation."""

    def __init__(self) -> None:
        self._client: Any = None
        self._folder = Path()
        self._model = "small"
        self._stop = "end_turn"
        self._usage: schema.Usage | None = None
        self._meta: dict[str, Any] | None = None

    def on_connect(self, conn: Any) -> None:
        """Remember whom to talk to."""
        self._client = conn

    async def initialize(self, protocol_version: int, **_: Any) -> schema.InitializeResponse:
        """Say who it is."""
        return schema.InitializeResponse(
            protocol_version=protocol_version, agent_info=schema.Implementation(name="scripted", version="1.2.3")
        )

    async def new_session(self, cwd: str, **_: Any) -> schema.NewSessionResponse:
        """Offer two models."""
        self._folder = Path(cwd)
        offered = [schema.SessionConfigSelectOption(value=each, name=each) for each in ("small", "large")]
        option = schema.SessionConfigOptionSelect(
            type="select", id="model", name="Model", category="model", current_value="small", options=offered
        )
        return schema.NewSessionResponse(session_id="one", config_options=[option])

    async def set_config_option(self, config_id: str, session_id: str, value: Any, **_: Any) -> Any:
        """Take the model that was chosen."""
        del config_id, session_id
        self._model = value
        return schema.SetSessionConfigOptionResponse(config_options=[])

    async def prompt(self, session_id: str, prompt: list[Any], **_: Any) -> schema.PromptResponse:
        """Do what each line says."""
        for line in prompt[0].text.splitlines():
            await self._obey(session_id, line.split())
        text = acp.update_agent_message_text("All done.")
        await self._client.session_update(session_id=session_id, update=text)
        return schema.PromptResponse(stop_reason=self._stop, usage=self._usage, field_meta=self._meta)

    async def _obey(self, session: str, words: list[str]) -> None:  # noqa: C901 - one case for each word
        match words:
            case ["write", path]:
                if await self._may(session, "edit", path):
                    (self._folder / path).write_text("made\n")
            case ["run"]:
                await self._may(session, "execute", ".")
            case ["read"]:
                await self._may(session, "read", ".")
            case ["stop", reason]:
                self._stop = reason
            case ["fail", code, *message]:
                raise acp.RequestError(int(code), " ".join(message))
            case ["usage", *counts]:
                given, put, read, thought, total = map(int, counts)
                self._usage = schema.Usage(
                    input_tokens=given,
                    output_tokens=put,
                    cached_read_tokens=read,
                    thought_tokens=thought,
                    total_tokens=total,
                )
            case ["aside", model]:
                tokens = {"input_tokens": 7, "output_tokens": 3}
                self._meta = {"quota": {"model_usage": [{"model": model, "token_count": tokens}]}}
            case ["cost", amount, currency]:
                cost = schema.Cost(amount=float(amount), currency=currency)
                update = schema.UsageUpdate(session_update="usage_update", used=1, size=2, cost=cost)
                await self._client.session_update(session_id=session, update=update)
            case ["model"]:
                (self._folder / "model.txt").write_text(self._model)
            case ["hang"]:
                await asyncio.sleep(3600)
            case ["crash"]:
                os._exit(9)
            case ["noise"]:
                sys.stdout.write("This is no protocol.\n")
                sys.stdout.flush()
            case _:
                pass

    async def _may(self, session: str, kind: Any, path: str) -> bool:
        call = acp.start_tool_call(
            f"call-{kind}",
            f"{kind} {path}",
            kind=kind,
            status="pending",
            locations=[schema.ToolCallLocation(path=path)],
        )
        await self._client.session_update(session_id=session, update=call)
        options = [
            schema.PermissionOption(option_id="yes", name="Yes", kind="allow_once"),
            schema.PermissionOption(option_id="no", name="No", kind="reject_once"),
        ]
        update = schema.ToolCallUpdate(
            tool_call_id=f"call-{kind}", kind=kind, title=f"{kind} {path}", locations=call.locations
        )
        answer = await self._client.request_permission(session_id=session, tool_call=update, options=options)
        return answer.outcome.outcome == "selected" and answer.outcome.option_id == "yes"


if __name__ == "__main__":
    asyncio.run(acp.run_agent(Agent()))  # type: ignore[arg-type]
