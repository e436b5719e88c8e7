"""OpenCode: one run of `opencode run`, and what its JSON lines mean.

Its permissions are named one by one and for its agent too, so that no settings of a project widen them. Each step
tells its own tokens, whose input leaves out the cache and whose output the reasoning. Before its first run in a home
it would fetch a library for plugins, and miss a TERM meanwhile: a private home says that the library is there.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar, Final

from taskbus.envelope import Cost, Usage
from taskbus_agents.adapter import Launch, Report
from taskbus_agents.adapters import endpoints, signs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from taskbus_agents.adapter import Job, Trouble
    from taskbus_agents.adapters.signs import Plain
    from taskbus_agents.definition import Definition
    from taskbus_agents.runner import Ended

_KEY: Final = "BUS_MODEL_KEY"
_SERVED: Final = "bus"
"""What the provider at a base URL is called in its settings."""
_LOOKING: Final = ("read", "glob", "grep", "list", "todowrite", "todoread", "lsp", "skill")
_CHANGING: Final = ("edit",)
_REST: Final = ("bash", "task", "webfetch", "websearch", "codesearch", "external_directory")
_SAME: Final[Mapping[str, str]] = {"write": "edit", "multiedit": "edit", "patch": "edit", "ls": "list"}
_ENDS: Final[Mapping[str, tuple[Trouble, str]]] = {
    "length": ("turn-limit", "The model's reply was cut off at its limit of tokens."),
    "content-filter": ("model-error", "The model's reply was held back by a filter of its provider."),
}
_WAITING: Final = re.compile(
    r'^timestamp=(?P<when>\S+) level=ERROR .*message="stream error".* error\.error="(?P<error>[^\n]*)"', re.MULTILINE
)
_REFUSALS: Final = ("rule which prevents", "rejected permission")


class OpenCode:
    """OpenCode, headless. The task comes on its stdin."""

    name = "opencode"
    program = "opencode"
    package = "npm opencode-ai"
    tried = ("1.18.33",)

    _prefix: ClassVar[str] = "OPENCODE"
    _agent: ClassVar[str] = "build"
    _library: ClassVar[str] = "@opencode-ai/plugin"
    _switches: ClassVar[tuple[tuple[str, str], ...]] = ()

    def launch(self, job: Job) -> Launch:
        """`opencode run`, its settings in its environment, where nobody's files can overrule them."""
        definition = job.definition
        allowed = _permissions(definition)
        settings: dict[str, object] = {
            "autoupdate": False,
            "share": "disabled",
            "permission": allowed,
            "agent": {self._agent: {"permission": allowed}},
        }
        words = ["run", "--format", "json", "--title", "taskbus", "--agent", self._agent]
        words += ["--print-logs", "--log-level", "ERROR"]
        name = endpoints.full_model(definition)
        environment: dict[str, str | None] = {f"{self._prefix}_DISABLE_AUTOUPDATE": "1", **dict(self._switches)}
        if job.key is not None:
            environment[_KEY] = job.key
        if definition.base_url is not None:
            name = f"{_SERVED}/{endpoints.served_model(definition)}"
            settings |= _served(job, name)
            environment[f"{self._prefix}_DISABLE_MODELS_FETCH"] = "1"
        elif job.key is not None and (provider := endpoints.provider(definition)) is not None:
            settings["provider"] = {provider: {"options": {"apiKey": f"{{env:{_KEY}}}"}}}
        if name is not None:
            words += ["--model", name]
        environment[f"{self._prefix}_CONFIG_CONTENT"] = json.dumps(settings)
        environment[f"{self._prefix}_PERMISSION"] = json.dumps(allowed)
        files: Mapping[Path, bytes] = {}
        if definition.home == "private":
            files = self._seeds(job.home / ".config" / self.name)
        return Launch(command=(self.program, *words), environment=environment, stdin=job.prompt.encode(), files=files)

    def report(self, ended: Ended, job: Job, read: Mapping[str, bytes]) -> Report:
        """What its last step says, or the error after it; every step before it tells what it used."""
        del read
        found = list(signs.records(ended.stdout))
        steps = [signs.part(each, "part") for each in found if each.get("type") == "step_finish"]
        tools = [signs.part(each, "part") for each in found if each.get("type") == "tool_use"]
        said = (signs.text(signs.part(each, "part"), "text") for each in reversed(found) if each.get("type") == "text")
        trouble, message, until = _trouble(ended, found, steps)
        notes: list[str] = []
        if any(signs.text(each, "tool") == "task" for each in tools):
            notes.append("What its own sub-agents used is not known: it does not tell.")
        return Report(
            said=next(said, ""),
            trouble=trouble,
            message=message,
            until=until,
            usage=_usage(steps, job, self.name),
            refused=tuple(signs.name(each.get("tool"), otherwise="a tool") for each in tools if _is_refused(each)),
            tools=len(tools) if found else None,
            notes=tuple(notes),
        )

    def _seeds(self, folder: Path) -> Mapping[Path, bytes]:
        """What tells it that its library is there; it needs it only for plugins that a home of its own has not."""
        wanted = {"dependencies": {self._library: "*"}}
        return {
            folder / "package.json": json.dumps(wanted).encode(),
            folder / "package-lock.json": json.dumps({"packages": {"": wanted}}).encode(),
            folder / "node_modules" / ".keep": b"",
        }


def _permissions(definition: Definition) -> Mapping[str, object]:
    if definition.permission == "bypass":
        return dict.fromkeys(("*", *_LOOKING, *_CHANGING, *_REST), "allow") | {"question": "deny"}
    may = (*_LOOKING, *_CHANGING) if definition.permission == "edit" else _LOOKING
    allowed = {**dict.fromkeys(("*", *_CHANGING, *_REST, "question"), "deny"), **dict.fromkeys(may, "allow")}
    some: dict[str, dict[str, str]] = {}
    for tool in definition.tools if definition.permission == "edit" else ():
        name, bracket, pattern = tool.partition("(")
        name = _SAME.get(name.lower(), name.lower())
        if bracket:
            some.setdefault(name, {"*": "deny"})[pattern.rstrip(")").replace(":*", "*")] = "allow"
        else:
            allowed[name] = "allow"
    return {**allowed, **{name: each for name, each in some.items() if allowed.get(name) != "allow"}}


def _served(job: Job, name: str) -> Mapping[str, object]:
    """Settings that know one provider, which speaks OpenAI's protocol at the base URL."""
    options = {"baseURL": job.definition.base_url, "apiKey": f"{{env:{_KEY}}}" if job.key is not None else "none"}
    provider: Plain = {
        "npm": "@ai-sdk/openai-compatible",
        "name": _SERVED,
        "options": options,
        "models": {name.removeprefix(f"{_SERVED}/"): {}},
    }
    return {"model": name, "small_model": name, "enabled_providers": [_SERVED], "provider": {_SERVED: provider}}


def _trouble(
    ended: Ended, found: Sequence[Plain], steps: Sequence[Plain]
) -> tuple[Trouble | None, str, datetime | None]:
    ends = [each for each in found if each.get("type") in ("error", "step_start", "step_finish")]
    none: Plain = {}
    last = ends[-1] if ends else none
    if last.get("type") == "error":
        return _failed(signs.part(last, "error"))
    reason = signs.text(steps[-1], "reason") if steps else ""
    is_over = last.get("type") == "step_finish" and reason != "tool-calls"
    if (stopped := signs.stopped(ended)) is not None and (ended.cut is not None or not is_over):
        return _waited(ended, found) or (stopped[0], stopped[1], None)
    if not is_over:
        return "garbage", signs.unread(ended)[1], None
    if reason == "stop":
        return None, "", None
    trouble, message = _ENDS.get(reason, ("model-error", f"The model's reply ended with {reason or 'no reason'}."))
    return trouble, message, None


def _waited(ended: Ended, found: Sequence[Plain]) -> tuple[Trouble, str, datetime | None] | None:
    """A quota that it still waited for when it was ended: it keeps to what the server says, however long that is."""
    said = list(_WAITING.finditer(ended.stderr.decode(errors="replace")))
    last = max((signs.count(each, "timestamp") or 0 for each in found), default=0)
    if not said or _milliseconds(said[-1]["when"]) < last or signs.trouble(None, said[-1]["error"]) != "quota":
        return None
    return "quota", said[-1]["error"], signs.reset(said[-1]["error"])


def _milliseconds(moment: str) -> float:
    try:
        return datetime.fromisoformat(moment).timestamp() * 1000
    except (ValueError, OverflowError):
        return -1.0


def _failed(error: Plain) -> tuple[Trouble | None, str, datetime | None]:
    data = signs.part(error, "data")
    kind = signs.text(error, "name")
    message = signs.text(data, "message") or kind or "It reported an error, and does not say which."
    if kind == "MessageAbortedError":
        return "killed", message, None
    if kind == "MessageOutputLengthError":
        return "turn-limit", message, None
    trouble = (
        "authentication" if kind == "ProviderAuthError" else signs.trouble(signs.count(data, "statusCode"), message)
    )
    wait = signs.text(signs.part(data, "responseHeaders"), "retry-after")
    until = signs.reset(message) or signs.reset(f"retry-after: {wait}")
    return trouble, message, until if trouble == "quota" else None


def _is_refused(tool: Plain) -> bool:
    state = signs.part(tool, "state")
    return state.get("status") == "error" and any(each in signs.text(state, "error") for each in _REFUSALS)


def _usage(steps: Sequence[Plain], job: Job, otherwise: str) -> tuple[Usage, ...]:
    """The sum of the steps. A model that it knows no price of costs it nothing: that is left out."""
    told = [(signs.part(each, "tokens"), signs.part(each, "tokens", "cache"), each.get("cost")) for each in steps]

    def total(place: int, name: str) -> int:
        return sum(signs.count((each[0], each[1])[place], name) or 0 for each in told)

    read, written, thought = total(1, "read"), total(1, "write"), total(0, "reasoning")
    costs = [Decimal(str(cost)) for _, _, cost in told if isinstance(cost, int | float) and signs.microusd(cost)]
    cost = signs.microusd(float(sum(costs))) if costs else None
    given, put = total(0, "input") + read + written, total(0, "output") + thought
    if not given and not put and cost is None:
        return ()
    return (
        Usage(
            provider=endpoints.provider(job.definition) or otherwise,
            model=signs.name(endpoints.model(job.definition)),
            input_tokens=given,
            output_tokens=put,
            cache_read_tokens=read,
            cache_write_tokens=written,
            reasoning_tokens=thought,
            cost=Cost(source="reported", microusd=cost) if cost is not None else None,
        ),
    )
