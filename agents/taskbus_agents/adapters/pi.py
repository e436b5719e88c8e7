"""pi: one run of `pi -p`, and what the file of its session means.

The file has each message once, with its usage; what it prints as JSON repeats a message with every piece of it. It
has no permissions of its own, only a list of tools: one that may change files may change them anywhere. Its input
tokens leave out the cache. It takes a reply whose stream broke off for a whole one, but for its tokens.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from taskbus.envelope import Cost, Usage
from taskbus_agents.adapter import Launch, Report
from taskbus_agents.adapters import endpoints, signs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskbus_agents.adapter import Job, Trouble
    from taskbus_agents.adapters.signs import Plain
    from taskbus_agents.definition import Permission
    from taskbus_agents.runner import Ended

_TOOLS: Final[Mapping[Permission, tuple[str, ...]]] = {
    "read": ("read", "grep", "find", "ls"),
    "edit": ("read", "grep", "find", "ls", "edit", "write"),
    "bypass": ("read", "grep", "find", "ls", "edit", "write", "bash"),
}
_SESSION: Final = "session"
_SERVED: Final = "bus"
_KEY: Final = "BUS_MODEL_KEY"
_SETTINGS: Final[Mapping[str, object]] = {"retry": {"enabled": True, "maxRetries": 1, "provider": {"maxRetries": 0}}}
_ENDS: Final[Mapping[str, tuple[Trouble, str]]] = {
    "length": ("turn-limit", "The model's reply was cut off at its limit of tokens."),
    "aborted": ("killed", "The run was aborted."),
}


class Pi:
    """pi, headless. The task comes on its stdin."""

    name = "pi"
    program = "pi"
    package = "npm @mariozechner/pi-coding-agent"
    tried = ("0.73.1",)

    def launch(self, job: Job) -> Launch:
        """`pi -p` with the tools of the permission alone; extensions only where everything is allowed."""
        definition = job.definition
        tools = _TOOLS[definition.permission]
        if definition.permission == "edit":
            tools = tuple(dict.fromkeys((*tools, *(each.lower() for each in definition.tools))))
        session = job.home / "pi-session.jsonl"
        words = ["--print", "--mode", "text", "--session", str(session), "--tools", ",".join(tools)]
        if definition.permission != "bypass":
            words.append("--no-extensions")
        environment: dict[str, str | None] = {"PI_SKIP_VERSION_CHECK": "1"}
        files: dict[str, object] = {}
        if definition.base_url is not None:
            name = endpoints.served_model(definition)
            words += ["--provider", _SERVED, "--model", name]
            served = {
                "baseUrl": definition.base_url,
                "api": "openai-completions",
                "apiKey": _KEY,
                "models": [{"id": name}],
            }
            environment |= {_KEY: job.key or "none", "PI_CODING_AGENT_DIR": str(job.home / "pi"), "PI_OFFLINE": "1"}
            files = {"models.json": {"providers": {_SERVED: served}}, "settings.json": _SETTINGS}
        else:
            provider, name = endpoints.provider(definition), endpoints.full_model(definition)
            words += ["--model", name] if name is not None else []
            if provider is not None and job.key is not None:
                environment[endpoints.key_variable(provider)] = job.key
        return Launch(
            command=(self.program, *words),
            environment=environment,
            stdin=job.prompt.encode(),
            files={job.home / "pi" / name: json.dumps(content).encode() for name, content in files.items()},
            reads={_SESSION: str(session)},
        )

    def report(self, ended: Ended, job: Job, read: Mapping[str, bytes]) -> Report:
        """What the last message of its session says; every message of a model tells what it used."""
        entries = list(signs.records(read.get(_SESSION, b"")))
        messages = [signs.part(each, "message") for each in entries if each.get("type") == "message"]
        own = [each for each in messages if each.get("role") == "assistant"]
        blocks = [block for each in own for block in signs.items(each, "content")]
        last = own[-1] if own and messages[-1] is own[-1] else {}
        texts = [text for block in signs.items(last, "content") if (text := signs.text(block, "text"))]
        trouble, message = _trouble(ended, last)
        return Report(
            said="\n".join(texts),
            trouble=trouble,
            message=message,
            until=signs.reset(message) if trouble == "quota" else None,
            usage=_usage(own, job),
            tools=sum(block.get("type") == "toolCall" for block in blocks) if entries else None,
        )


def _trouble(ended: Ended, last: Plain) -> tuple[Trouble | None, str]:
    reason = signs.text(last, "stopReason")
    if (stopped := signs.stopped(ended)) is not None and (ended.cut is not None or reason in ("", "toolUse")):
        return stopped
    if reason == "stop" and not signs.count(signs.part(last, "usage"), "totalTokens"):
        return "model-error", "The model's last reply tells of no tokens: its stream broke off before its end."
    if reason == "stop":
        return None, ""
    if reason == "error":
        message = signs.text(last, "errorMessage") or "The model's server reported an error, and not which."
        return signs.trouble(None, message), message
    if reason in _ENDS:
        return _ENDS[reason]
    trouble, message = signs.unread(ended)
    printed = ended.stderr.decode(errors="replace")
    said = signs.trouble(None, printed) if printed.strip() else trouble
    return (said if said in ("authentication", "quota") else trouble), message


def _usage(own: Sequence[Plain], job: Job) -> tuple[Usage, ...]:
    """One for each model. A model that it knows no price of costs it nothing: that is left out."""
    sums: dict[str, list[float]] = {}
    for each in own:
        told = signs.part(each, "usage")
        counts = [signs.count(told, name) or 0 for name in ("input", "output", "cacheRead", "cacheWrite")]
        cost = signs.part(told, "cost").get("total")
        dollars = float(cost) if isinstance(cost, int | float) and signs.microusd(cost) else 0.0
        name = signs.name(each.get("model"), endpoints.model(job.definition))
        sums[name] = [a + b for a, b in zip(sums.get(name, [0.0] * 5), (*counts, dollars), strict=True)]
    provider = endpoints.provider(job.definition) or signs.name(*(each.get("provider") for each in own), otherwise="pi")
    return tuple(_call(provider, name, each) for name, each in sums.items() if any(each))


def _call(provider: str, model: str, sums: Sequence[float]) -> Usage:
    given, put, read, written = (int(each) for each in sums[:4])
    cost = signs.microusd(sums[4])
    return Usage(
        provider=provider,
        model=model,
        input_tokens=given + read + written,
        output_tokens=put,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cost=Cost(source="reported", microusd=cost) if cost else None,
    )
