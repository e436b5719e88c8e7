"""The schemas: what is committed comes from the model, and all four judges of a document agree."""

from __future__ import annotations

import copy
import json as standard
import random
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from taskbus import json, schema, shape, shorthand, xml, xsd
from taskbus.envelope import (
    MARKERS,
    MESSAGE_TYPES,
    Acknowledgment,
    Answer,
    Artifact,
    Budget,
    Cancellation,
    Completion,
    Cost,
    Delegation,
    ErrorDetails,
    Escalation,
    Gate,
    Hold,
    Parking,
    QualityGates,
    Question,
    Result,
    Status,
    Usage,
    Verdict,
    compose,
)
from taskbus.errors import InvalidEnvelope, Problem
from taskbus.findings import findings
from tests.taskbus.strategies import envelopes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from taskbus.envelope import AnyEnvelope, MessageType, Payload

ROOT = Path(__file__).parents[2]
PROTOCOL = ROOT / "tests" / "data" / "protocol"
mutating = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
randoms = st.randoms(use_true_random=False)


@cache
def json_schema(name: str = "envelope") -> jsonschema_rs.Draft202012Validator:
    """A committed JSON Schema, with formats checked."""
    text = (ROOT / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8")
    return jsonschema_rs.Draft202012Validator(standard.loads(text), validate_formats=True)


@cache
def xml_schema() -> etree.XMLSchema:
    """The committed XML Schema."""
    return etree.XMLSchema(etree.parse(ROOT / "schemas" / "envelope.xsd"))


def reads(reader: Callable[[bytes], object], document: bytes) -> bool:
    """Whether a reader takes the document; where it does not, it says why in words of its own."""
    problems: tuple[Problem, ...] = ()
    try:
        reader(document)
    except InvalidEnvelope as error:
        problems = error.problems
    # msgspec's words would mean that the walk over the shape has missed something.
    assert not any("Expected" in problem.found for problem in problems)
    return not problems


def agreed_on_json(plain: object) -> bool:
    """The verdict of reader and JSON Schema on one document, which must be the same."""
    verdict = json_schema().is_valid(plain)
    assert reads(json.read, standard.dumps(plain).encode()) == verdict, plain
    return verdict


def agreed_on_xml(document: bytes) -> bool:
    """The verdict of reader and XML Schema on one document, which must be the same."""
    verdict = xml_schema().validate(etree.fromstring(document))
    assert reads(xml.read, document) == verdict, (document, xml_schema().error_log.last_error)
    return verdict


def test_what_is_committed_comes_from_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody has edited the generated files, and nobody has forgotten to generate them."""
    assert schema.main([str(ROOT / "schemas"), "--check"]) == 0
    assert capsys.readouterr().out == ""


def test_the_check_tells_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is missing, and one that was edited, are shown as a diff; writing them anew mends both."""
    assert schema.main([str(tmp_path / "new")]) == 0
    assert {each.name for each in (tmp_path / "new").iterdir()} == set(schema.files())
    (tmp_path / "new" / "envelope.xsd").unlink()
    readme = tmp_path / "new" / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8").replace("deadline", "due"), encoding="utf-8")
    assert schema.main(["--check", str(tmp_path / "new")]) == 1
    told = capsys.readouterr().out
    assert "+++ envelope.xsd from the model" in told
    assert "-| `due`" in told
    assert "+| `deadline`" in told
    assert schema.main([str(tmp_path / "new")]) == 0
    assert schema.main([str(tmp_path / "new"), "--check"]) == 0


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--check"], ["--help"]])
def test_a_wrong_call_writes_nothing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It says how it is called."""
    assert schema.main(arguments) == 2
    assert capsys.readouterr().err == "usage: python -m taskbus.schema FOLDER [--check]\n"


def test_the_sample_documents_are_valid() -> None:
    """Reader and schema take the documents by which the formats were given."""
    assert agreed_on_xml((PROTOCOL / "agent-message.xml").read_bytes())
    for name in ("delegation", "completion"):
        assert json_schema(name).is_valid(standard.loads((PROTOCOL / f"{name}.json").read_bytes()))


def test_every_field_is_documented_with_its_place() -> None:
    """No field of the model is missing in the documentation, and each says what it means."""
    page = (ROOT / "schemas" / "README.md").read_text(encoding="utf-8")

    def visit(record: shape.Record) -> Iterator[shape.Field]:
        for field in record.fields:
            yield field
            if isinstance(field.node, shape.Record):
                yield from visit(field.node)

    records = [shape.envelope(), *shape.payloads().values(), shape.record(shorthand.Handoff)]
    for field in [field for record in records for field in visit(record)]:
        assert field.description
        assert f"| `{field.name}` |" in page
        assert field.description in page
        if field.place == "element" and field.brief is None:
            assert f"<{field.element}>" in page or field.element.count("-") == field.name.count("_")


def test_asyncapi_names_the_keys_of_the_bus() -> None:
    """The channels are the keys that the code uses, and JSON is what YAML readers read too."""
    page = standard.loads((ROOT / "schemas" / "asyncapi.yaml").read_bytes())
    assert page["asyncapi"] == "3.0.0"
    assert page["channels"]["log"]["address"] == "{namespace}{shard}:log"
    assert page["channels"]["inbox"]["address"] == "{namespace}{shard}:inbox:{agent}:{priority}"


@given(envelopes())
def test_every_envelope_is_valid_by_all_four(envelope: AnyEnvelope) -> None:
    """What the model allows, both readers and both schemas allow."""
    assert agreed_on_json(standard.loads(json.write(envelope)))
    assert agreed_on_xml(xml.write(envelope))
    assert agreed_on_xml(xml.write(envelope, pretty=True))


_JUNK: list[object] = [
    None, True, False, 0, 1, 5, -1, 1.0, 0.5, 1.5, 2**53, 2**53 - 1, 10**30, 1e300, "", "x", "@a", "true",
    "success", "status", "lost", "2026-02-30T00:00:00Z", "2026-11-20 09:30:00Z", "2026-11-20T09:30:00z",
    "2026-11-20T09:30:00", "2026-11-20T24:00:00Z", "2026-11-20T09:30:60Z", "1999-12-31T23:59:59Z",
    "2026-11-20T09:30:00.1234567Z", "2026-11-20T09:30:00+14:00", "2026-11-20T09:30:00+14:01",
    "2026-11-20T09:30:00-00:00", "2024-02-29T00:00:00Z", "2100-02-29T00:00:00Z", "a\0", "\x07", "\uffff",
    "x\n", " x", [], [""], ["a"], [1], {}, {"path": "a"}, [{}], {"outcome": "passed"},
    {"level": 1, "category": "execution", "message": "m"}, "delegation", "task-completion",
    "0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58", "0199f0a2-7c4e-4d31-9b5a-3e6f1c2d4a58",
]  # fmt: skip
_NAMES = sorted({field.name for record in shape.payloads().values() for field in record.fields})
_NAMES += ["sender", "context", "payload", "type", "cost", "summary", "unknown", ""]


def _places(plain: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document, as a container and a key of it."""
    for key in list(plain) if isinstance(plain, dict) else range(len(plain)):
        yield plain, key
        if isinstance(plain[key], dict | list):
            yield from _places(plain[key])


def _mutated(plain: Any, chance: random.Random) -> Any:
    container, key = chance.choice(list(_places(plain)))
    way = chance.random()
    if way < 0.3:
        del container[key]
    elif way < 0.8:
        container[key] = deepcopy(chance.choice(_JUNK))
    else:
        target = container if isinstance(container, dict) else plain
        target[chance.choice(_NAMES)] = deepcopy(chance.choice(_JUNK))
    return plain


@mutating
@given(envelopes(), randoms)
def test_reader_and_json_schema_agree_on_any_document(envelope: AnyEnvelope, chance: random.Random) -> None:
    """Whatever is done to a good document, both take it or neither does."""
    plain = standard.loads(json.write(envelope))
    for _ in range(chance.randint(1, 2)):
        plain = _mutated(plain, chance)
        if agreed_on_json(plain) and "id" in plain:
            assert json.write(json.read(standard.dumps(plain).encode()))


_TEXTS = [
    "", " ", "x", "@a", "@a b", "true", "false", "1", "0", "5", "007", "+1", "-1", "1.0", "0.5", "1.5",
    "1e999", "1e-5", "1e-400", ".5", "5.", "9007199254740991", "9007199254740992", "9" * 30, "-0", "-0.0",
    "0e0", "1E+0", "INF", "NaN", "0x1", "1_0", "1 0", "\u00a01", "\u0661", "4 ", "\t4\n", "status",
    " status\n", "task-completion", "completion", "success", "partial", "2026-02-30T00:00:00Z",
    "2026-11-20T09:30:00", "2026-11-20T24:00:00Z", "2026-11-20T09:30:00Z\n", " 2026-11-20T09:30:00Z",
    "2199-12-31T23:59:59.999999-13:59", "✓ Passed", "✓  Passed", "✓\u00a0Passed", "Not triggered",
    "not-triggered", "0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58", "1.0000000000000000000000001",
    "0.99999999999999999999999", "delegation", "escalation", "parked", " lost ",
]  # fmt: skip
_TAGS = [
    "goal", "accepted", "progress", "question", "answer", "result", "decision", "error-details", "reason",
    "id", "spec", "sender", "type", "action", "usage", "call", "file", "artifacts", "constraint", "unknown",
    "text", "layer-1-input", "{urn:x}goal", "parking", "agent", "failure-reason", "deliveries", "envelope",
]  # fmt: skip
_ATTRIBUTES = [
    "path", "size", "note", "unknown", "message-type", "id", "source",
    "{http://www.w3.org/XML/1998/namespace}space",
]  # fmt: skip


def _mangle(root: Any, chance: random.Random) -> None:
    element = chance.choice(list(root.iter()))
    parent = element.getparent()
    ways = ["text", "attribute", "no attributes", "child"]
    ways += [] if parent is None else ["remove", "remove", "tail", "double", "move", "rename"]
    match chance.choice(ways):
        case "remove":
            parent.remove(element)
        case "text":
            element.text = chance.choice(_TEXTS)
        case "tail":
            element.tail = chance.choice(_TEXTS)
        case "double":
            parent.insert(chance.randint(0, len(parent)), copy.deepcopy(element))
        case "move":
            parent.insert(chance.randint(0, len(parent)), element)
        case "rename":
            element.tag = chance.choice(_TAGS)
        case "attribute":
            element.set(chance.choice(_ATTRIBUTES), chance.choice(_TEXTS))
        case "no attributes":
            element.attrib.clear()
        case _:
            etree.SubElement(element, chance.choice(_TAGS)).text = chance.choice(_TEXTS)


@mutating
@given(envelopes(), randoms)
def test_reader_and_xml_schema_agree_on_any_document(envelope: AnyEnvelope, chance: random.Random) -> None:
    """Whatever is done to a good document, both take it or neither does."""
    root = etree.fromstring(xml.write(envelope))
    for _ in range(chance.randint(1, 2)):
        _mangle(root, chance)
        agreed_on_xml(etree.tostring(root, encoding="utf-8"))


_PARKED = Parking(
    parking="parked",
    agent="@a",
    deliveries=("0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58",),
    resumes=True,
    reason="lost",
    attempts=3,
    message="m",
)


def _full_documents() -> list[bytes]:
    """Documents in which every kind of value occurs."""
    cost = Cost(source="priced", table="t", microusd=5)
    gates = QualityGates(input=Gate(outcome="passed", note="n"))
    artifact = Artifact(path="p", size=4, sha256="a" * 64, summary="s")
    trouble = ErrorDetails(level=1, category="execution", message="m")
    return [
        xml.write(
            compose(
                Status(progress="p", fraction=0.5),
                sender="@a",
                recipient="@b",
                usage=(Usage(provider="p", model="m", input_tokens=5, cost=cost),),
                quality_gates=gates,
            )
        ),
        xml.write(
            compose(
                Completion(result=Result(status="success", artifacts=(artifact,)), error_details=trouble),
                sender="@a",
                recipient="@b",
                by_hand=True,
            )
        ),
        xml.write(compose(Acknowledgment(accepted=True, hold=Hold(id="h", microusd=5)), sender="@a", recipient="@b")),
        xml.write(compose(_PARKED, sender="@a", recipient="@b")),
    ]


@pytest.mark.parametrize("text", _TEXTS)
def test_reader_and_xml_schema_agree_on_every_spelling_of_every_value(text: str) -> None:
    """Each text in the place of each value: numbers, times, words, names, in elements and in attributes."""
    for document in _full_documents():
        for index, element in enumerate(etree.fromstring(document).iter()):
            for attribute in (None, *element.attrib):
                root = etree.fromstring(document)
                there = list(root.iter())[index]
                if attribute is None:
                    there.text = text
                else:
                    there.set(attribute, text)
                agreed_on_xml(etree.tostring(root, encoding="utf-8"))


_TROUBLE = ErrorDetails(level=2, category="integration", message="m")
_PAYLOADS: dict[MessageType, Payload] = {
    "delegation": Delegation(goal="x"),
    "acknowledgment": Acknowledgment(accepted=True),
    "status": Status(progress="x"),
    "question": Question(question="x"),
    "answer": Answer(answer="x"),
    "completion": Completion(result=Result(status="partial"), error_details=_TROUBLE),
    "verdict": Verdict(decision="accepted"),
    "escalation": Escalation(error_details=_TROUBLE),
    "cancellation": Cancellation(reason="x"),
    "parking": _PARKED,
    "budget": Budget(budget="cap", account="agent:@kilo", period="day"),
}


@pytest.mark.parametrize("kind", MESSAGE_TYPES)
@pytest.mark.parametrize("payload", MESSAGE_TYPES)
def test_a_payload_goes_with_its_type_alone(kind: MessageType, payload: MessageType) -> None:
    """All four refuse each payload under any other type; a completion's error makes no escalation of it."""
    envelope = compose(_PAYLOADS[payload], sender="@a", recipient="@b")
    good = kind == payload
    plain = standard.loads(json.write(envelope)) | {"type": kind}
    assert agreed_on_json(plain) == good
    word = shape.type_scalar().word
    document = xml.write(envelope).replace(
        f"<type>{word(payload)}</type>".encode(), f"<type>{word(kind)}</type>".encode()
    )
    assert agreed_on_xml(document) == good


def test_the_marker_is_the_first_required_field_of_each_payload() -> None:
    """What comes before it is optional and the same everywhere: so XML Schema can tell the payloads apart."""
    for kind, record in shape.payloads().items():
        required = next(field for field in record.fields if field.required)
        assert required.name == MARKERS[kind]
        before = record.fields[: record.fields.index(required)]
        assert [field.name for field in before] == ["action"]


def test_the_elements_of_a_name_have_one_type_in_all_payloads() -> None:
    """XML Schema demands it, and so the reason of a parking has an element of another name than a cancellation's."""
    limits: dict[str, set[object]] = {}
    for record in shape.payloads().values():
        for field in record.fields:
            node = field.node
            limits.setdefault(field.element, set()).add(
                (node.kind, node.free, node.pattern, node.min_length, node.values)
                if isinstance(node, shape.Scalar)
                else node
            )
    assert {name for name, kinds in limits.items() if len(kinds) > 1} == set()
    reason = shape.payloads()["parking"].by_name["reason"]
    assert (reason.element, shape.markers()["reason"], shape.markers()["parking"]) == (
        "failure-reason",
        "cancellation",
        "parking",
    )


def test_an_attribute_that_the_schema_would_add_is_taken() -> None:
    """Validators that write defaults into the document do not make it invalid."""
    document = xml.write(compose(Status(progress="p"), sender="@a", recipient="@b"))
    marked = document.replace(b"<progress>", b'<progress message-type="status">')
    assert agreed_on_xml(marked)
    assert not agreed_on_xml(document.replace(b"<progress>", b'<progress message-type="answer">'))
    parked = xml.write(compose(_PARKED, sender="@a", recipient="@b"))
    assert agreed_on_xml(parked.replace(b"<parking>", b'<parking message-type="parking">'))
    marked = parked.replace(b"<failure-reason>", b'<failure-reason message-type="cancellation">')
    assert not agreed_on_xml(marked)


def test_two_types_cannot_share_a_name_in_the_xml_schema() -> None:
    """A change of the model that would silently loosen the schema stops its generation."""
    writing = xsd._Schema()
    level = shape.record(ErrorDetails).by_name["level"]
    writing.simple(level.scalar, level)
    other = shape.Scalar(kind="integer", least=1, most=3)
    with pytest.raises(ValueError, match="two types of the name level"):
        writing.simple(other, level)


def test_the_shape_refuses_what_has_no_place_in_the_wire_forms() -> None:
    """A field of a kind that XML cannot hold is found when the shape is made, not when it is written."""

    class Odd(msgspec.Struct):
        raw: bytes

    with pytest.raises(TypeError, match="no place in the wire forms"):
        shape.record(Odd)
    with pytest.raises(TypeError, match="not a struct"):
        shape.record(int)
    with pytest.raises(TypeError, match="context is not a single value"):
        _ = shape.envelope().by_name["context"].scalar


@mutating
@given(st.sampled_from(["delegation", "completion"]), randoms)
def test_reader_and_json_schema_agree_on_the_shorthand(name: str, chance: random.Random) -> None:
    """The shorthand's schema and its reader take the same documents."""
    readers = {"delegation": shorthand.read_delegation, "completion": shorthand.read_completion}
    plain = standard.loads((PROTOCOL / f"{name}.json").read_bytes())
    for _ in range(chance.randint(1, 2)):
        plain = _mutated(plain, chance)
        if not plain:
            return
        verdict = json_schema(name).is_valid(plain)
        assert reads(readers[name], standard.dumps(plain).encode()) == verdict, plain


@given(envelopes())
def test_a_good_document_has_no_findings(envelope: AnyEnvelope) -> None:
    """The walk that collects problems finds none where msgspec finds none."""
    assert findings(standard.loads(json.write(envelope)), shape.envelope(), "json") == []
