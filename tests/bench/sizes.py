"""What an envelope weighs: its bytes in JSON and XML, what that adds to its content, and what the stream entry adds.

The content is what the sender had to say: every text, number and word of the payload, the quality gates and the
usage. The rest is the envelope's own: all of the header and the context, field names, tags and punctuation.
"""

from __future__ import annotations

from typing import TypedDict

import msgspec
from part import Part

from taskbus.codec import JSON, XML, encode
from taskbus.envelope import (
    AnyEnvelope,
    Artifact,
    Completion,
    Cost,
    Delegation,
    Gate,
    QualityGates,
    Result,
    Status,
    Usage,
    compose,
)


class Weight(TypedDict):
    """One line of the report; overheads are fractions of the content, and of the body for the stream entry."""

    what: str
    content: int
    json: int
    json_overhead: float
    xml: int
    xml_overhead: float
    entry: int
    entry_overhead: float
    ok: bool


SENTENCE = "The cache client reads the URL from the environment, retries twice, and falls back to the database. "


def corpus() -> list[tuple[str, AnyEnvelope]]:
    """A status, a delegation with three artifacts, and a completion with 4 KB of result."""
    passed = Gate(outcome="passed")
    usage = Usage(
        provider="anthropic",
        model="claude-sonnet-4-5",
        input_tokens=51_234,
        output_tokens=4_321,
        cache_read_tokens=40_000,
        cost=Cost(source="reported", microusd=104_542),
    )
    status = Status(progress="Read the schema and wrote the client; tests for time-outs are next.", fraction=0.4)
    delegation = Delegation(
        goal="Implement Redis caching for the product pages",
        task_type="implementation",
        constraints=("Use marketing_tvoje_info: prefix", "Handle connection errors"),
        artifacts=(
            Artifact(path="plans/technical/redis-schema.md", summary="Keys and lifetimes"),
            Artifact(path="scripts/verify_redis.py", summary="Must pass"),
            Artifact(path="src/lib/http.ts", summary="How clients are written here"),
        ),
        acceptance_criteria=("Passes verify_redis.py", "Handles timeout gracefully"),
    )
    completion = Completion(
        result=Result(
            status="success",
            description=(SENTENCE * 50)[:4096],
            artifacts=(Artifact(path="src/lib/redis.ts"), Artifact(path="tests/redis.test.ts")),
        ),
        verification_result="All tests passed",
        next_steps="Review PR #123",
    )
    worker, boss, task = "@python-expert", "@backend-coordinator", "0193457a-6c0e-7d0c-9f3a-0d6c1b6f7a10"
    return [
        ("status", compose(status, sender=worker, recipient=boss, task=task)),
        ("delegation, 3 artifacts", compose(delegation, sender=boss, recipient=worker, task=task)),
        (
            "completion, 4 KB of result",
            compose(
                completion,
                sender=worker,
                recipient=boss,
                task=task,
                quality_gates=QualityGates(input=passed, output=passed),
                usage=(usage,),
            ),
        ),
    ]


def content(value: object) -> int:
    """The bytes of all values, without any names or punctuation."""
    if isinstance(value, dict):
        return sum(content(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(content(item) for item in value)
    return len(str(value).encode())


def entry(envelope: AnyEnvelope) -> int:
    """The bytes that stand beside the body in the stream entry: names and values of its header fields."""
    fields = {
        "id": envelope.id,
        "type": envelope.type,
        "from": envelope.sender,
        "to": envelope.recipient,
        "task": envelope.task,
        "body": "",
    }
    return sum(len(name) + len(value.encode()) for name, value in fields.items())


def measure() -> Part:
    """The report."""
    rows = weigh()
    title = "bytes of an envelope"
    lines = [f"{title:34}{'content':>9}{'JSON':>8}{'over':>8}{'XML':>8}{'over':>8}{'entry':>8}{'over':>8}"]
    lines += [
        f"{row['what']:34}{row['content']:>9}{row['json']:>8}{row['json_overhead']:>8.1%}"
        f"{row['xml']:>8}{row['xml_overhead']:>8.1%}{row['entry']:>8}{row['entry_overhead']:>8.1%}"
        for row in rows
    ]
    return Part(rows, lines, all(row["ok"] for row in rows))


def weigh() -> list[Weight]:
    """The report's lines; the last one has bounds: 15 % in JSON, 25 % in XML, 5 % for the stream entry."""
    lines: list[Weight] = []
    cases = corpus()
    for number, (what, envelope) in enumerate(cases):
        in_json, in_xml = len(encode(envelope, JSON)), len(encode(envelope, XML))
        whole = msgspec.to_builtins(envelope)
        said = content([whole.get(part) for part in ("payload", "quality_gates", "usage") if part in whole])
        beside = entry(envelope)
        line = Weight(
            what=what,
            content=said,
            json=in_json,
            json_overhead=in_json / said - 1,
            xml=in_xml,
            xml_overhead=in_xml / said - 1,
            entry=beside,
            entry_overhead=beside / in_json,
            ok=True,
        )
        if number == len(cases) - 1:
            line["ok"] = line["json_overhead"] < 0.15 and line["xml_overhead"] < 0.25 and beside / in_json < 0.05
        lines.append(line)
    return lines
