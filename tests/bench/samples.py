"""What the benchmark sends: a delegation of about 800 bytes, its completion, and a status."""

from __future__ import annotations

import json
from typing import Any

from taskbus.codec import encode
from taskbus.envelope import AnyEnvelope, Artifact, Completion, Delegation, Result, Status, compose


def delegation() -> AnyEnvelope:
    """A delegation as people write them, of about 800 bytes."""
    return compose(
        Delegation(
            goal="Implement Redis caching for the product pages, with a fallback when the server is away.",
            task_type="implementation",
            constraints=(
                "Use the prefix of the project for every key, and a lifetime of at most one hour",
                "Handle connection errors: the page must come from the database within 200 ms",
                "No new dependency",
            ),
            artifacts=(Artifact(path="plans/technical/redis-schema.md", summary="Keys and lifetimes"),),
            acceptance_criteria=(
                "Passes verify_redis.py",
                "Handles a timeout gracefully, and says so in the log once, not with every request",
            ),
        ),
        sender="@orchestrator",
        recipient="@kilo",
    )


def completion() -> Completion:
    """What the worker made of it, as it returns it."""
    return Completion(
        result=Result(status="success", description="The client caches pages, and falls back to the database."),
        verification_result="All tests passed",
        next_steps="Review the pull request",
    )


def status(task: str) -> AnyEnvelope:
    """A status of a task in work."""
    progress = "Read the schema and wrote the client; the tests for time-outs are next. " * 6
    return compose(Status(progress=progress, fraction=0.4), sender="@kilo", recipient="@orchestrator", task=task)


def request_and_reply() -> tuple[dict[str, Any], dict[str, Any]]:
    """The same delegation and its completion as other buses get them: the very documents, as Python objects."""
    asked = delegation()
    answered = compose(completion(), sender="@kilo", recipient="@orchestrator", task=asked.task, cause=asked)
    return json.loads(encode(asked)), json.loads(encode(answered))
