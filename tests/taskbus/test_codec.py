"""The face of the codecs: telling XML from JSON, reading the log, and checking what Python has built."""

from __future__ import annotations

import io
import json as standard
import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from taskbus import codec, json, xml
from taskbus.codec import JSON, XML
from taskbus.envelope import MAX_BYTES, Answer, Delegation, Status, compose
from taskbus.errors import InvalidEnvelope
from taskbus.validation import derived_id
from tests.taskbus.strategies import envelopes, forbidden, times

if TYPE_CHECKING:
    from taskbus.envelope import AnyEnvelope

SAMPLE = (Path(__file__).parents[1] / "data" / "protocol" / "agent-message.xml").read_bytes()
STATUS = compose(Status(progress="half"), sender="@kilo", recipient="@human")


def refused(envelope: AnyEnvelope) -> list[str]:
    """What is wrong with an envelope that was built in Python."""
    with pytest.raises(InvalidEnvelope) as caught:
        codec.validated(envelope)
    return [str(problem) for problem in caught.value.problems]


def with_payload(payload: object) -> AnyEnvelope:
    """A status with another payload, which Python does not check."""
    return structs.replace(STATUS, payload=payload)


@given(envelopes())
def test_the_first_character_tells_the_form(envelope: AnyEnvelope) -> None:
    """XML and JSON are told apart, and the bytes are kept as they were."""
    for content_type in (JSON, XML):
        body = codec.encode(envelope, content_type, pretty=True)
        read = codec.read(body)
        assert (read.envelope, read.body, read.content_type) == (envelope, body, content_type)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_xml_is_known_in_any_encoding(encoding: str) -> None:
    """Byte order marks, zero bytes and leading white space hide no document; some of it only XML may not have."""
    text = "\n " + SAMPLE.decode()
    if encoding in ("utf-16-le", "utf-16-be"):
        with pytest.raises(InvalidEnvelope):  # without a mark, it would have to declare its encoding
            codec.read(text.encode(encoding))
    else:
        assert codec.read(text.encode(encoding)).content_type == XML


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (b"", "document: found nothing, expected an XML or JSON document"),
        (b"\n\t \r\n", "document: found nothing, expected an XML or JSON document"),
        (b"x" * (MAX_BYTES + 1), f"document: found more than {MAX_BYTES} bytes, "),
        (b"\n Sure! Here it is:\n<agent-message>", 'line 2, column 2: found "Sure! Here it is:\\n<agent-mess…", '),
        (b"[1]", 'line 1, column 1: found "[1]", expected an envelope: < of XML, or { of JSON'),
        (b"\xfe\xff\0{\0}", "line 1, byte 0 of the document: found UTF-16, expected UTF-8"),
        (b"\x89PNG\r\n", "line 1, column 1: found "),
        (b"\0\0\0", "line 1, column 1: found "),
    ],
)
def test_what_is_neither_is_refused(document: bytes, problem: str) -> None:
    """It is said what stands there, and what an envelope begins with."""
    with pytest.raises(InvalidEnvelope) as caught:
        codec.read(document, source="mail.txt")
    assert str(caught.value).startswith(f"mail.txt: {problem}")


def test_a_stream_is_read_no_further_than_a_document_may_go() -> None:
    """Of an endless input, one byte too many is enough to refuse it."""

    class Endless(io.RawIOBase):
        taken = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:
            self.taken += len(buffer)
            return len(buffer)

    endless = Endless()
    with pytest.raises(InvalidEnvelope, match="at most"):
        codec.read_capped(io.BufferedReader(endless), source="<stdin>")
    assert endless.taken < 2 * MAX_BYTES
    assert codec.read_capped(io.BytesIO(b"x" * MAX_BYTES)) == b"x" * MAX_BYTES


@given(envelopes())
def test_the_log_reads_what_was_validated(envelope: AnyEnvelope) -> None:
    """What was checked is read again as it was, whether type and ID are known beside the body or not."""
    body = codec.validated(envelope)
    assert codec.decode(body) == envelope
    assert codec.decode(body, type=envelope.type, id=envelope.id) == envelope
    assert codec.decode(codec.encode(envelope, XML), XML) == envelope


def test_the_entry_gives_the_id_to_a_body_without_one() -> None:
    """The body stays as the sender wrote it; the ID stands beside it in the log, or is derived once more."""
    plain = standard.loads(json.write(STATUS))
    plain.pop("id")
    body = standard.dumps(plain).encode()
    read = codec.read(body).envelope
    assert read.id == derived_id(STATUS.context.timestamp, body)
    assert codec.decode(body) == read
    assert codec.decode(body, id=STATUS.id) == STATUS
    assert codec.decode(body, id=STATUS.id, type="status") == STATUS
    assert codec.decode(SAMPLE, XML) == xml.read(SAMPLE)
    assert codec.decode(SAMPLE, XML, id=STATUS.id).id == STATUS.id


def test_times_from_the_log_are_in_utc() -> None:
    """An envelope is the same, and is written the same, whichever way it was read."""
    zoned = json.write(STATUS).replace(b'Z"', b'-05:00"')
    assert zoned != json.write(STATUS)
    assert codec.encode(codec.decode(zoned)) == codec.encode(json.read(zoned))
    assert codec.decode(zoned).context.timestamp.tzinfo is UTC


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"type":"news"}',
        b'{"type":"status"}',
        b"\xff",
        b'{"type":"status","id":"\xff"}',
        b"[" * 5000,
    ],
)
def test_a_body_that_was_never_published_is_an_invalid_envelope(body: bytes) -> None:
    """Whatever stands in the log, reading it ends in an envelope or in one kind of error."""
    for known in ({}, {"type": "status", "id": STATUS.id}, {"type": "news", "id": STATUS.id}):
        with pytest.raises(InvalidEnvelope):
            codec.decode(body, **known)
    with pytest.raises(InvalidEnvelope):
        codec.decode(body, XML)


@given(envelopes(types=("answer",)), forbidden)
def test_an_envelope_built_with_forbidden_text_is_refused(envelope: AnyEnvelope, character: str) -> None:
    """Structs are not checked when they are built; nothing gets past this check."""
    [problem] = refused(structs.replace(envelope, payload=Answer(answer=f"x{character}")))
    assert problem.startswith(f"payload.answer: found the character U+{ord(character):04X} (number 2)")


@pytest.mark.parametrize(
    ("envelope", "problem"),
    [
        (structs.replace(STATUS, sender="kilo"), 'sender: found "kilo", expected a name'),
        (structs.replace(STATUS, id="1"), 'id: found "1", expected a UUIDv7'),
        (structs.replace(STATUS, context=None), "context: found null, expected an object with task_id"),
        (structs.replace(STATUS, usage=(None,)), "usage[0]: found null, expected an object"),
        (with_payload(Status(progress="")), 'payload.progress: found "", expected text, not empty'),
        (with_payload(Status(progress=5)), "payload.progress: found 5, expected text, not empty"),  # type: ignore[arg-type]
        (with_payload(Status(progress="x", fraction=math.nan)), "payload.fraction: found nan, expected a number"),
        (with_payload(Status(progress="x", fraction=math.inf)), "payload.fraction: found inf, expected a number"),
        (with_payload(Status(progress="x", fraction=2)), "payload.fraction: found 2, expected a number"),
        (with_payload(Status(progress=object())), "envelope: found Encoding objects of type object"),  # type: ignore[arg-type]
    ],
)
def test_an_envelope_built_in_python_is_checked(envelope: AnyEnvelope, problem: str) -> None:
    """Whatever Python let through is refused here, with its path."""
    assert refused(envelope)[0].startswith(problem)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task_id", "a +b"),
        ("task_id", "a "),
        ("task_id", ""),
        ("parent_task", ""),
        ("parent_task", "+a"),
        ("parent_task", "a +b"),
        ("correlation_id", " "),
        ("correlation_id", "x" * 129),
        ("causation_id", ""),
        ("causation_id", "0199f0a2-7c4e-4d31-9b5a-3e6f1c2d4a58"),
    ],
)
def test_one_look_at_the_whole_header_finds_each_field_that_is_wrong(field: str, value: str) -> None:
    """Also where two that are wrong together would read as two that are right; built in Python, read, or in the log."""
    envelope = structs.replace(STATUS, context=structs.replace(STATUS.context, **{field: value}))
    [problem] = refused(envelope)
    assert problem.startswith(f"context.{field}: found ")
    body = json.write(envelope)
    for reader in (codec.read, codec.decode):
        with pytest.raises(InvalidEnvelope) as caught:
            reader(body)
        assert [each.place for each in caught.value.problems] == [f"context.{field}"]


@pytest.mark.parametrize("text", ["C:\\bin\\utf", "\\u0001", "é\t\n\u2028\x7f", "\ufffd", "😀"])
def test_text_that_looks_like_an_escape_is_text(text: str) -> None:
    """Whichever way it is written: only characters that XML cannot carry are refused."""
    envelope = with_payload(Status(progress=text))
    assert codec.decode(codec.validated(envelope)) == envelope
    escaped = standard.dumps(standard.loads(json.write(envelope))).encode()
    assert codec.decode(escaped) == codec.read(escaped).envelope == envelope


@given(forbidden)
def test_the_log_is_not_read_with_forbidden_text(character: str) -> None:
    """However it came there, it is found, written as an escape or as itself."""
    plain = standard.loads(json.write(STATUS))
    plain["payload"]["progress"] = f"x{character}"
    written = [standard.dumps(plain).encode()]
    if not "\ud800" <= character <= "\udfff":
        written.append(standard.dumps(plain, ensure_ascii=False).encode())
    for body in written:
        with pytest.raises(InvalidEnvelope):
            codec.decode(body)


def test_all_problems_of_an_envelope_are_listed() -> None:
    """Also of one that was built in Python."""
    payload = Delegation(goal="", constraints=("", "x"), artifacts=None)  # type: ignore[arg-type]
    envelope = compose(payload, sender="a", recipient="@b")
    assert [each.partition(":")[0] for each in refused(envelope)] == [
        "sender",
        "payload.goal",
        "payload.constraints[0]",
        "payload.artifacts",
    ]


@pytest.mark.parametrize(
    "time",
    [
        datetime(2026, 1, 1),  # noqa: DTZ001
        datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2200, 1, 1, tzinfo=UTC),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
    ],
)
def test_naive_and_absurd_times_are_refused_in_python_too(time: datetime) -> None:
    """A deadline without an offset would mean another moment on each machine."""
    envelope = compose(Answer(answer="x"), sender="@a", recipient="@b", deadline=time)
    [problem] = refused(envelope)
    assert problem.startswith("context.deadline: found ")
    assert "expected a time such as 2026-11-20T09:30:00Z" in problem


@given(times, times)
def test_what_is_published_has_its_times_in_utc(timestamp: datetime, deadline: datetime) -> None:
    """Whatever zone Python reckoned in, the bus says the same instants in UTC, and can read them again."""
    context = structs.replace(STATUS.context, timestamp=timestamp, deadline=deadline)
    envelope = structs.replace(STATUS, context=context)
    body = codec.validated(envelope)
    assert json.read(body) == envelope
    written = standard.loads(body)["context"]
    for name, time in (("timestamp", timestamp), ("deadline", deadline)):
        assert written[name].endswith("Z") or not 2000 <= time.astimezone(UTC).year < 2200


def test_a_list_where_the_model_has_a_tuple_does_no_harm() -> None:
    """It is written the same."""
    constraints: list[str] = ["a", "b"]
    listed = compose(Delegation(goal="x", constraints=constraints), sender="@a", recipient="@b")  # type: ignore[arg-type]
    read = codec.decode(codec.validated(listed))
    assert read.payload.constraints == ("a", "b")


def test_an_envelope_that_is_too_long_is_refused() -> None:
    """What could not be read again must not be written."""
    [problem] = refused(with_payload(Status(progress="x" * MAX_BYTES)))
    assert problem.startswith(f"document: found more than {MAX_BYTES} bytes")


def test_an_envelope_becomes_a_document_once() -> None:
    """What was read keeps its bytes; what was built gets the canonical ones."""
    built = codec.document(STATUS)
    assert (built.envelope, built.body, built.content_type) == (STATUS, codec.validated(STATUS), JSON)
    read = codec.read(SAMPLE)
    assert codec.document(read) is read
    with pytest.raises(InvalidEnvelope):
        codec.document(structs.replace(STATUS, recipient="nobody"))


@given(times, st.binary())
def test_a_derived_id_is_a_uuid7_of_the_time(time: datetime, document: bytes) -> None:
    """It fits the model's pattern, sorts by time, and comes from nothing but time and bytes."""
    found = derived_id(time, document)
    plain = standard.loads(json.write(STATUS)) | {"id": found}
    assert json.read(standard.dumps(plain).encode()).id == found
    milliseconds = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert int(found.replace("-", "")[:12], 16) == milliseconds
    assert derived_id(time, document) == found != derived_id(time, document + b" ")
