"""GitHub Copilot CLI: one headless run of `copilot`, and what its JSON lines and its file of usage mean.

Its lines tell whether it succeeded, and none of the tokens: those it sums up in a file, also when it is told to end.
With a URL it talks to that server alone and needs no account; without one it is its user's account that is charged,
in credits whose price in dollars it does not tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskbus.envelope import Usage
from taskbus_agents.adapter import Launch, Report
from taskbus_agents.adapters import signs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskbus_agents.adapter import Job, Trouble
    from taskbus_agents.adapters.signs import Plain
    from taskbus_agents.definition import Permission
    from taskbus_agents.runner import Ended

_MODES: Final[Mapping[Permission, tuple[str, ...]]] = {
    "read": ("--deny-tool=write", "--deny-tool=shell", "--disallow-temp-dir"),
    "edit": ("--allow-tool=write", "--disallow-temp-dir"),
    "bypass": ("--allow-all",),
}
"""What is neither allowed nor denied would be asked for, and headless nobody answers."""


class Copilot:
    """GitHub Copilot CLI, headless. The task comes on its stdin."""

    name = "copilot"
    program = "copilot"
    package = "npm @github/copilot"
    tried = ("1.0.102",)

    def launch(self, job: Job) -> Launch:
        """`copilot` with JSON lines, and a file for what it used."""
        definition = job.definition
        used = job.home / "copilot-usage.json"
        words = ["--output-format", "json", "--usage-output-file", str(used), "--no-auto-update"]
        words += ["--disable-client-telemetry", *_MODES[definition.permission]]
        if definition.model is not None:
            words += ["--model", definition.model]
        if definition.permission == "edit":
            words += [f"--allow-tool={tool}" for tool in definition.tools]
        environment: dict[str, str | None] = {"COPILOT_ALLOW_ALL": None}
        if definition.base_url is not None:
            environment["COPILOT_OFFLINE"] = "true"
            environment["COPILOT_PROVIDER_BASE_URL"] = definition.base_url
            environment["COPILOT_PROVIDER_TYPE"] = "anthropic" if definition.provider == "anthropic" else "openai"
        if job.key is not None:
            variable = "COPILOT_GITHUB_TOKEN" if definition.base_url is None else "COPILOT_PROVIDER_API_KEY"
            environment[variable] = job.key
        return Launch(
            command=(self.program, *words),
            environment=environment,
            stdin=job.prompt.encode(),
            reads={"usage": str(used)},
        )

    def report(self, ended: Ended, job: Job, read: Mapping[str, bytes]) -> Report:
        """What its last line says, and the file of what it used."""
        found = list(signs.records(ended.stdout))
        results = [each for each in found if each.get("type") == "result"]
        final = results[-1] if results else None
        trouble, message = signs.several(len(results)) or _trouble(ended, found, final)
        usage = _usage(read.get("usage", b""), job)
        said = [text for each in found if (text := signs.text(_data(each, "assistant.message"), "content"))]
        return Report(
            said=said[-1] if said else "",
            trouble=trouble,
            message=message,
            until=signs.reset(message) if trouble == "quota" else None,
            usage=usage,
            refused=_refused(found),
            tools=sum(each.get("type") == "tool.execution_start" for each in found) if found else None,
            notes=() if usage else ("It told of no tokens.",),
        )


def _data(record: Plain, kind: str) -> Plain:
    return signs.part(record, "data") if record.get("type") == kind else {}


def _trouble(ended: Ended, found: list[Plain], final: Plain | None) -> tuple[Trouble | None, str]:
    if (stopped := signs.stopped(ended)) is not None:
        return stopped
    if any(each.get("type") == "abort" for each in found):
        return "killed", "It was told to end."  # and then reports an exit code of 0
    if final is not None and final.get("exitCode") == 0 and ended.code == 0:
        return None, ""
    errors = [error for each in found if (error := _data(each, "session.error"))]
    if not errors:
        trouble, message = signs.unread(ended)
        is_key = signs.trouble(None, message) == "authentication"
        return ("authentication" if is_key else trouble), message
    message = signs.text(errors[-1], "message") or "It ended with an error that it did not describe."
    return signs.trouble(signs.count(errors[-1], "statusCode"), message), message


def _refused(found: list[Plain]) -> tuple[str, ...]:
    names = {
        signs.text(each, "toolCallId"): signs.text(each, "toolName")
        for record in found
        if (each := _data(record, "tool.execution_start"))
    }
    ends = [each for record in found if (each := _data(record, "tool.execution_complete"))]
    denied = [each for each in ends if signs.text(signs.part(each, "error"), "code") in {"denied", "rejected"}]
    return tuple(names.get(signs.text(each, "toolCallId")) or "a tool" for each in denied)


def _usage(used: bytes, job: Job) -> tuple[Usage, ...]:
    models = signs.part(signs.plain(used), "modelMetrics")
    found: list[Usage] = []
    for name in models:
        told = signs.part(models, name, "usage")
        call = Usage(
            provider=job.definition.provider or "github",
            model=signs.name(name, job.definition.model),
            input_tokens=signs.count(told, "inputTokens"),
            output_tokens=signs.count(told, "outputTokens"),
            cache_read_tokens=signs.count(told, "cacheReadTokens"),
            cache_write_tokens=signs.count(told, "cacheWriteTokens"),
            reasoning_tokens=signs.count(told, "reasoningTokens"),
        )
        if call.input_tokens or call.output_tokens:
            found.append(call)
    return tuple(found)
