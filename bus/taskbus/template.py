"""Prompt templates: what a model must know to write a message of one type, as short as it can be said.

The elements, their meaning and the words allowed come from the shape of the model; only the rules and the examples
are written by hand. It leaves out what no model can know (IDs of envelopes, traces, checksums, usage): the bus and
its adapters fill that in. Called by `bus template`, by adapters, and by whoever documents the format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

from taskbus import codec, findings, shape
from taskbus.envelope import (
    MESSAGE_TYPES,
    SPOKEN,
    Acknowledgment,
    Answer,
    AnyEnvelope,
    Artifact,
    Cancellation,
    Completion,
    Context,
    CriterionResult,
    Delegation,
    Envelope,
    ErrorDetails,
    Escalation,
    Gate,
    MessageType,
    Payload,
    QualityGates,
    Question,
    Result,
    Status,
    Verdict,
)
from taskbus.errors import UsageError
from taskbus.shape import Field, Record, Scalar, Variants

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Form: TypeAlias = Literal["xml", "json"]

OMITTED: Final = frozenset(
    {
        "id",
        "spec",
        "correlation_id",
        "causation_id",
        "traceparent",
        "by_hand",
        "usage",
        "hold",
        "sha256",
        "size",
        "media_type",
        "route",
    }
)
"""Fields that a model is not told of: it cannot know them, and an invented value is worse than none."""
RESERVED: Final[Mapping[str, MessageType]] = {"deadline": "delegation", "quality_gates": "completion"}
"""Fields that a model is told of for one type only."""

_RULES: Final[Mapping[Form, str]] = {
    "xml": """\
- Exactly one `<agent-message>`, in one ```xml fence; nothing else in the fence, no text after it.
- Elements in this order. Leave out what does not apply; add no others.
- In text, write & as &amp; and < as &lt;.""",
    "json": """\
- Exactly one object, in one ```json fence; nothing else in the fence, no text after it.
- Leave out what does not apply; add no other keys. No comments.
- In strings, write line breaks as \\n and " as \\".""",
}
_COMMON_RULES: Final = """\
- Times in UTC, such as 2026-11-20T09:30:00Z.
- Take names and IDs from your task; invent none. Claim nothing that you have not checked."""
_ID: Final = "01a1f8ad-7240-7c1d-9b5a-3e6f1c2d4a58"
_LEAD, _KILO = "@lead", "@kilo"


def template(type: MessageType, *, form: Form = "xml") -> str:
    """Write the prompt that tells a model how to write a message of this type, with one valid example.

    Raises UsageError for an unknown type or form, and for a type that no model writes.
    """
    if form not in _RULES:
        raise UsageError(f"There is no form {form!r}.", advice="The forms are xml and json.")
    document = example_document(type, form=form)
    listing = _Listing(type, form)
    record = cast("Variants", shape.envelope().by_name["payload"].node).kinds[type]
    lines = [
        f"Write one message of type {listing.type_word}: {record.description[0].lower()}{record.description[1:]}",
        "",
        _RULES[form],
        _COMMON_RULES,
        "",
        f"{'Elements' if form == 'xml' else 'Keys'} (* must be there):",
        *listing.record(shape.envelope(), 0),
        "",
        "Example:",
        f"```{form}",
        document,
        "```",
        "",
    ]
    return "\n".join(lines)


def example(type: MessageType) -> AnyEnvelope:
    """A message of this type as one would write it: always the same.

    Raises UsageError for an unknown type, and for one that no model writes.
    """
    if type not in _EXAMPLES:
        what = f"No model writes a {type}" if type in MESSAGE_TYPES else f"There is no type {type!r}"
        raise UsageError(f"{what}.", advice=f"The types that one writes are {', '.join(SPOKEN)}.")
    payload = _EXAMPLES[type]
    from_delegator = isinstance(payload, Delegation | Answer | Verdict | Cancellation)
    return Envelope(
        id=_ID,
        sender=_LEAD if from_delegator else _KILO,
        recipient=_KILO if from_delegator else _LEAD,
        type=type,
        context=Context(task_id="carts-12", timestamp=datetime(2026, 11, 20, 9, 30, tzinfo=UTC)),
        payload=payload,
        quality_gates=_GATES if RESERVED["quality_gates"] == type else None,
    )


def example_document(type: MessageType, *, form: Form = "xml") -> str:
    """The example as a model should write it: without an ID, so that none is copied."""
    content_type = codec.XML if form == "xml" else codec.JSON
    document = codec.encode(example(type), content_type, pretty=True).decode()
    line = f"  <id>{_ID}</id>\n" if form == "xml" else f'  "id": "{_ID}",\n'
    return document.replace(line, "").rstrip("\n")


@dataclass
class _Listing:
    """The elements or keys of one type of message, a line each."""

    type: MessageType
    form: Form
    described: set[str] = field(default_factory=set[str])

    @property
    def type_word(self) -> str:
        return shape.type_scalar().word(self.type) if self.form == "xml" else self.type

    def record(self, record: Record, depth: int) -> Iterator[str]:
        for each in record.fields:
            if each.name not in OMITTED and RESERVED.get(each.name, self.type) == self.type:
                yield from self.field(each, depth)

    def field(self, each: Field, depth: int) -> Iterator[str]:
        node = each.node
        if isinstance(node, Variants):
            node = node.kinds[self.type]
        name = each.element if self.form == "xml" else each.name
        head = f"{'  ' * depth}{name}{'*' if each.required else ''}"
        meaning = self.type_word if each.name == "type" else each.description
        if isinstance(node, Scalar):
            yield f"{head}: {meaning}{self.listed(each, '')}{'' if each.name == 'type' else self.allowed(node)}"
        elif node.text is not None and self.form == "xml":
            yield f"{head}: {meaning}{self.listed(each, self.attributes(node))}"
        else:
            yield f"{head}: {meaning}{self.listed(each, '')}" if each.item is not None else head
            if node.name not in self.described:
                yield from self.record(node, depth + 1)
        if isinstance(node, Record):
            self.described.add(node.name)

    def listed(self, each: Field, holds: str) -> str:
        """That there may be several, and what each holds."""
        if each.item is None:
            return holds
        return f" Any number of <{each.item}>{holds}." if self.form == "xml" else " A list."

    def attributes(self, record: Record) -> str:
        """What an element with attributes and a text holds."""
        if record.name in self.described:
            return " (the same)"
        text = cast("Field", record.text)
        names = [
            f"{each.element}{'*' if each.required else ''}"
            for each in record.attributes.values()
            if each.name not in OMITTED
        ]
        holds = self.allowed(text.scalar).strip(" ()") or text.description.rstrip(".")
        return f" ({holds}; attribute {', '.join(names)})"

    def allowed(self, scalar: Scalar) -> str:
        """The values allowed, in as few words as possible."""
        match scalar.kind:
            case _ if scalar.values:
                words = [scalar.word(each) if self.form == "xml" else each for each in scalar.values]
                return f" ({' | '.join(words)})"
            case "boolean":
                return " (true | false)"
            case "integer" | "number" if scalar.most is not None and scalar.most < 1000:
                return f" ({scalar.least:g} to {scalar.most:g})"
            case "string" if not scalar.free:
                return f" ({findings.expected(scalar, self.form).partition(' (')[0]})"
            case _:
                return ""


_GATES: Final = QualityGates(
    input=Gate(outcome="passed"),
    hallucination=Gate(outcome="passed"),
    boundary=Gate(outcome="passed"),
    output=Gate(outcome="passed", note="18 of 18 tests"),
    escalation=Gate(outcome="not-triggered"),
)
_EXAMPLES: Final[Mapping[str, Payload]] = {
    "delegation": Delegation(
        goal="Expire carts after 30 minutes of silence",
        task_type="implementation",
        constraints=("Keep the cookie's name", "No new dependency"),
        artifacts=(Artifact(path="src/carts.py", summary="Creates & stores carts"),),
        acceptance_criteria=("tests/test_carts.py passes",),
    ),
    "acknowledgment": Acknowledgment(
        accepted=True, constraints_accepted=("Keep the cookie's name", "No new dependency")
    ),
    "status": Status(progress="Expiry works; tests are next", fraction=0.6),
    "question": Question(question="Shall a request for a picture count as activity?", blocks=("The rule for renewal",)),
    "answer": Answer(answer="No: pages & API calls only."),
    "completion": Completion(
        action="completed",
        result=Result(
            status="success",
            description="Carts expire after 30 minutes & are renewed on use.",
            artifacts=(
                Artifact(path="src/carts.py", summary="Expiry and renewal"),
                Artifact(path="tests/test_carts.py", summary="6 new tests"),
            ),
        ),
        verification_result="pytest tests/test_carts.py: 18 passed",
        next_steps="Review the default of 30 minutes",
    ),
    "verdict": Verdict(
        decision="rejected",
        criteria=(
            CriterionResult(
                criterion="tests/test_carts.py passes", met=False, evidence="test_renewal fails when age < 1 s"
            ),
        ),
        comment="Compare with <=, and run the tests again.",
    ),
    "escalation": Escalation(
        error_details=ErrorDetails(
            level=2,
            category="integration",
            message="The cart store refuses connections",
            attempted_recovery="Restarted it & waited 5 minutes",
        )
    ),
    "cancellation": Cancellation(reason="Carts move to the gateway"),
}
