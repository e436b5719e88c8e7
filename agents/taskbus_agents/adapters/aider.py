"""aider: one run of `aider --message-file`, and what the log of its events means.

It ends with 0 whatever happens: only the log tells that a message was sent to the end. It has no tools, runs nothing
where not everything is allowed, and edits whatever file the model names. The log does not tell of a cache, and its
costs leave it out: they are not taken.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from taskbus.envelope import Usage
from taskbus_agents.adapter import Launch, Report
from taskbus_agents.adapters import endpoints, signs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskbus_agents.adapter import Job, Trouble
    from taskbus_agents.adapters.signs import Plain
    from taskbus_agents.runner import Ended

_SWITCHES: Final = (
    *("--yes-always", "--no-stream", "--no-pretty", "--no-check-update", "--no-show-release-notes"),
    *("--no-show-model-warnings", "--no-detect-urls", "--no-suggest-shell-commands", "--no-gitignore"),
    *("--no-auto-commits", "--no-dirty-commits", "--no-analytics"),
)
_BOUNDS: Final = ("--no-auto-test", "--no-auto-lint", "--no-notifications", "--load")
"""What a project's settings could have it run; the last one takes a file of its commands, here an empty one."""
_EVENTS: Final = "events"
_TALK: Final = "talk"
_REPLY: Final = re.compile(r"^LLM RESPONSE \S+$", re.MULTILINE)
_PROVIDERS: Final[Mapping[str, str]] = {"google": "gemini"}
_ERRORS: Final[Sequence[tuple[str, Trouble]]] = (
    ("AuthenticationError", "authentication"),
    ("PermissionDenied", "authentication"),
    ("RateLimitError", "quota"),
    ("ContextWindowExceeded", "turn-limit"),
)
_ERROR: Final = re.compile(r"^litellm\.(\w+):.*(?:\n(?!Retrying in |litellm\.).+)*", re.MULTILINE)


class Aider:
    """aider, headless. The task comes in a file."""

    name = "aider"
    program = "aider"
    package = "pip aider-chat"
    tried = ("0.86.2",)

    def launch(self, job: Job) -> Launch:
        """`aider` with one message, and all files that it keeps for itself in the run's own folder.

        It looks at git only in a worktree of its own: elsewhere it would make a repository where there is none.
        """
        definition = job.definition
        place = job.home / "aider"
        words = ["--message-file", str(place / "task.md"), *_SWITCHES]
        words += ["--analytics-log", str(place / "events.jsonl"), "--llm-history-file", str(place / "talk.md")]
        words += ["--chat-history-file", str(place / "chat.md"), "--input-history-file", str(place / "input")]
        words += ["--git" if definition.workspace == "worktree" else "--no-git"]
        if definition.permission != "bypass":
            words += [*_BOUNDS, str(place / "none")]
        if definition.permission == "read":
            words += ["--chat-mode", "ask", "--dry-run"]
        environment: dict[str, str | None] = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        provider, name = endpoints.provider(definition), endpoints.model(definition)
        if definition.base_url is not None:
            words += ["--model", f"openai/{endpoints.served_model(definition)}"]
            environment |= {"OPENAI_API_BASE": definition.base_url, "OPENAI_API_KEY": job.key or "none"}
        elif name is not None:
            words += ["--model", f"{_PROVIDERS.get(provider, provider)}/{name}" if provider is not None else name]
        if definition.base_url is None and provider is not None and job.key is not None:
            environment[endpoints.key_variable(provider)] = job.key
        # A message that begins with a sign of its commands would be one, and might be one for the shell.
        files = {place / "task.md": f"The task:\n{job.prompt}".encode(), place / "none": b""}
        if definition.home == "private":
            # What it would fetch: prices, which are not taken from it.
            prices = job.home / ".aider" / "caches" / "model_prices_and_context_window.json"
            files[prices] = json.dumps({"none": {}}).encode()
        return Launch(
            command=(self.program, *words),
            environment=environment,
            files=files,
            reads={_EVENTS: str(place / "events.jsonl"), _TALK: str(place / "talk.md")},
            litter=(".aider*", ".aider*/**"),
        )

    def report(self, ended: Ended, job: Job, read: Mapping[str, bytes]) -> Report:
        """What the log of its events says; the last reply is in the file of its talk with the model."""
        events = list(signs.records(read.get(_EVENTS, b"")))
        sent = [signs.part(each, "properties") for each in events if each.get("event") == "message_send"]
        begun = sum(each.get("event") == "message_send_starting" for each in events)
        trouble, message = _trouble(ended, events, is_answered=0 < begun == len(sent))
        talk = read.get(_TALK, b"").decode(errors="replace")
        return Report(
            said=_said(talk) if sent else "",
            trouble=trouble,
            message=message,
            until=signs.reset(message) if trouble == "quota" else None,
            usage=_usage(sent, job),
            notes=("What it read from a cache is not known: it does not tell.",) if sent else (),
        )


def _said(talk: str) -> str:
    """The last reply; each of its lines stands behind the name of who said it."""
    last = _REPLY.split(talk)[-1]
    lines = [line.removeprefix("ASSISTANT").removeprefix(" ") for line in last.splitlines()]
    return "\n".join(lines).strip()


def _trouble(ended: Ended, events: Sequence[Plain], *, is_answered: bool) -> tuple[Trouble | None, str]:
    is_over = any(
        each.get("event") == "exit" and signs.text(signs.part(each, "properties"), "reason").startswith("Completed")
        for each in events
    )
    if (stopped := signs.stopped(ended)) is not None and (ended.cut is not None or not is_over):
        return stopped
    if is_over and is_answered:
        return None, ""
    printed = ended.stdout.decode(errors="replace")
    said = list(_ERROR.finditer(printed))
    if not said:
        return signs.unread(ended)
    message = " ".join(said[-1][0].split())
    for name, trouble in _ERRORS:
        if name in said[-1][1]:
            return trouble, message
    return "model-error", message


def _usage(sent: Sequence[Plain], job: Job) -> tuple[Usage, ...]:
    given, put = (sum(signs.count(each, name) or 0 for each in sent) for name in ("prompt_tokens", "completion_tokens"))
    if not given and not put:
        return ()
    return (
        Usage(
            provider=endpoints.provider(job.definition) or "aider",
            model=signs.name(endpoints.model(job.definition)),
            input_tokens=given,
            output_tokens=put,
        ),
    )
