"""The JSON form: what the strict reader takes and refuses and says of it, and that writing loses nothing."""

from __future__ import annotations

import json as standard
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given

from taskbus import codec, json, xml
from taskbus.envelope import MAX_BYTES
from taskbus.errors import InvalidEnvelope
from tests.taskbus.strategies import envelopes, forbidden

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskbus.envelope import AnyEnvelope

PROTOCOL = Path(__file__).parents[1] / "data" / "protocol"
STATUS: dict[str, Any] = {
    "id": "0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58",
    "sender": "@kilo",
    "recipient": "@human",
    "type": "status",
    "context": {"task_id": "t-1", "timestamp": "2026-11-20T09:30:00Z"},
    "payload": {"progress": "half"},
}


def document(change: Callable[[dict[str, Any]], object] | None = None) -> bytes:
    """A good status as JSON, after `change` has had its way with it."""
    plain = standard.loads(standard.dumps(STATUS))
    if change is not None:
        change(plain)
    return standard.dumps(plain).encode()


def problems(data: bytes) -> list[str]:
    """What the reader finds wrong with a document."""
    with pytest.raises(InvalidEnvelope) as caught:
        json.read(data)
    return [str(problem) for problem in caught.value.problems]


def test_a_good_document_is_read() -> None:
    """Every value of a document stands in the envelope."""
    envelope = json.read(document())
    assert (envelope.id, envelope.sender, envelope.type) == (STATUS["id"], "@kilo", "status")
    assert envelope.context.timestamp.isoformat() == "2026-11-20T09:30:00+00:00"
    assert envelope.payload.progress == "half"


@given(envelopes())
def test_any_envelope_survives_json_and_xml_and_json(envelope: AnyEnvelope) -> None:
    """Any envelope → JSON → XML → JSON is the same envelope, with any text that there is."""
    written = codec.validated(envelope)
    read = json.read(written)
    assert read == envelope
    assert json.write(xml.read(xml.write(read))) == json.write(read)


@given(envelopes())
def test_pretty_json_is_the_same_envelope(envelope: AnyEnvelope) -> None:
    """Indentation changes nothing but the looks."""
    assert json.read(json.write(envelope, pretty=True)) == envelope


def test_what_has_its_default_value_is_not_written() -> None:
    """The canonical form holds nothing that goes without saying."""
    written = json.write(json.read(document(lambda plain: plain.update(priority="normal", spec="1.0"))))
    assert b"priority" not in written
    assert b"spec" not in written


@given(envelopes(types=("answer",)), forbidden)
def test_text_that_xml_cannot_carry_is_refused(envelope: AnyEnvelope, character: str) -> None:
    """What one form cannot hold, no form may: it is refused with its code point, and never dropped."""
    plain = standard.loads(json.write(envelope))
    plain["payload"]["answer"] = f"before{character}after"
    [problem] = problems(standard.dumps(plain).encode())
    assert problem.startswith(f"payload.answer: found the character U+{ord(character):04X} (number 7)")


def test_all_problems_are_listed_in_the_order_of_the_document() -> None:
    """One reading names everything that is wrong: where, what stands there, what should."""
    text = """{
  "sender": "kilo",
  "recipient": "@human",
  "colour": "red",
  "type": "completion",
  "context": {"task_id": "a b",
    "timestamp": "2026-02-30T00:00:00Z"},
  "payload": {
    "result": {"status": "done", "artifacts": [
      {"path": "a"},
      {"path": "", "size": -1}
    ]},
    "goal": "x"
  }
}"""
    name = "a name such as @kilo (@, then at most 64 of A-Z a-z 0-9 . _ -)"
    names = "id, spec, sender, recipient, type, priority, context, payload, quality_gates, usage"
    assert problems(text.encode()) == [
        f'line 2, sender: found "kilo", expected {name}',
        f"line 4, colour: found an unknown field, expected only {names}",
        'line 6, context.task_id: found "a b", expected an ID (at most 128 of A-Z a-z 0-9 . _ : -)',
        (
            'line 7, context.timestamp: found "2026-02-30T00:00:00Z", '
            "expected a time such as 2026-11-20T09:30:00Z, of the years 2000 to 2199"
        ),
        'line 9, payload.result.status: found "done", expected one of "success", "partial", "failure"',
        'line 11, payload.result.artifacts[1].path: found "", expected text, not empty',
        ("line 11, payload.result.artifacts[1].size: found -1, expected a whole number from 0 to 9007199254740991"),
        (
            "line 13, payload.goal: found an unknown field, expected only action, result, "
            "verification_result, next_steps, termination_reason, error_details"
        ),
    ]


def test_a_lone_surrogate_in_a_key_or_a_word_is_a_problem_like_any_other() -> None:
    """What has no bytes cannot break the reader, nor the terminal on which the problem is shown."""
    text = document(lambda plain: plain.update({"se\udc80nder": 1, "priority": "\ud800"}))
    found = problems(text)
    assert [each.partition(": found")[0] for each in found] == ["se\\udc80nder", "priority"]
    assert "\n".join(found).encode()


def test_a_document_of_one_line_has_paths_without_lines() -> None:
    """The number of the only line says nothing."""
    assert problems(document(lambda plain: plain["payload"].clear())) == [
        "payload.progress: found nothing, expected text, not empty"
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d.pop("sender"), "sender: found nothing, expected a name such as @kilo"),
        (lambda d: d.pop("payload"), "payload: found nothing, expected an object"),
        (lambda d: d.update(payload=[]), "payload: found a list, expected an object with progress"),
        (lambda d: d.update(type="news"), 'type: found "news", expected one of "delegation", '),
        (lambda d: d.update(type=None), "type: found null, expected one of "),
        (lambda d: d.update(type=[1]), "type: found a list, expected one of "),
        (lambda d: d.update(type={}, payload="x"), 'payload: found "x", expected an object'),
        (lambda d: d.update(type="answer"), "payload.answer: found nothing, expected text, not empty"),
        (lambda d: d.update(id="1234"), 'id: found "1234", expected a UUIDv7 such as '),
        (lambda d: d.update(id=None), "id: found null, expected a UUIDv7 such as "),
        (
            lambda d: d.update(priority="urgent"),
            'priority: found "urgent", expected one of "critical", "high", ',
        ),
        (lambda d: d.update(spec="2.0"), 'spec: found "2.0", expected "1.0"'),
        (lambda d: d.update(usage={}), "usage: found an object, expected a list"),
        (lambda d: d.update(usage=[5]), "usage[0]: found 5, expected an object with provider, model"),
        (lambda d: d.update(quality_gates=True), "quality_gates: found true, expected an object"),
        (
            lambda d: d["payload"].update(fraction=1.5),
            "payload.fraction: found 1.5, expected a number from 0 to 1",
        ),
        (
            lambda d: d["payload"].update(fraction=True),
            "payload.fraction: found true, expected a number from 0 to 1",
        ),
        (
            lambda d: d["payload"].update(fraction="1"),
            'payload.fraction: found "1", expected a number from 0 to 1',
        ),
        (lambda d: d["payload"].update(progress=""), 'payload.progress: found "", expected text, not empty'),
        (lambda d: d["payload"].update(progress=5), "payload.progress: found 5, expected text, not empty"),
        (
            lambda d: d["payload"].update(progress=False),
            "payload.progress: found false, expected text, not empty",
        ),
        (lambda d: d["payload"].update(action=5), "payload.action: found 5, expected text"),
        (
            lambda d: d["context"].update(by_hand="yes"),
            'context.by_hand: found "yes", expected true or false',
        ),
        (
            lambda d: d["context"].update(traceparent="x"),
            'context.traceparent: found "x", expected a W3C traceparent',
        ),
        (
            lambda d: d["context"].update(deadline=1_800_000_000),
            "context.deadline: found 1800000000, expected a time",
        ),
    ],
)
def test_each_problem_says_what_stands_there_and_what_should(
    change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    """A wrong value is named with its path, itself and what is allowed."""
    assert any(each.startswith(problem) for each in problems(document(change)))


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-20T09:30:00",
        "2026-11-20",
        "2026-11-20 09:30:00Z",
        "2026-11-20t09:30:00z",
        "2026-11-20T09:30Z",
        "2026-11-20T24:00:00Z",
        "2026-11-20T09:30:60Z",
        "2026-11-20T09:30:00.1234567Z",
        "2026-11-20T09:30:00+14:01",
        "2026-11-20T09:30:00-15:00",
        "2026-02-29T00:00:00Z",
        "1999-12-31T23:59:59Z",
        "2200-01-01T00:00:00Z",
        "0000-00-00T00:00:00Z",
        "99999-01-01T00:00:00Z",
        " 2026-11-20T09:30:00Z",
        "yesterday",
    ],
)
def test_naive_and_absurd_times_are_refused(time: str) -> None:
    """A time has a date that exists, seconds, an offset from UTC, and a year of two centuries."""
    [problem] = problems(document(lambda plain: plain["context"].update(timestamp=time)))
    assert problem.startswith(f'context.timestamp: found "{time}", expected a time such as')


def test_times_come_out_in_utc() -> None:
    """A time in another zone is the same instant in UTC, also as a deadline."""
    zoned = {"timestamp": "2026-11-20T09:30:00.5+02:00", "deadline": "2026-11-20T01:00:00-08:00"}
    envelope = json.read(document(lambda plain: plain["context"].update(zoned)))
    assert b'"2026-11-20T07:30:00.5' in json.write(envelope)
    assert b'"deadline":"2026-11-20T09:00:00Z"' in json.write(envelope)


@pytest.mark.parametrize("time", ["2000-01-01T00:00:00+02:00", "2199-12-31T23:30:00-01:00"])
def test_a_time_at_the_ends_of_the_years_stays_readable(time: str) -> None:
    """Where UTC would leave the years of the format, the offset is kept: what is written can be read."""
    envelope = json.read(document(lambda plain: plain["context"].update(timestamp=time)))
    assert json.read(json.write(envelope)) == envelope
    assert xml.read(xml.write(envelope)) == envelope


def test_a_key_given_twice_is_refused_where_it_stands() -> None:
    """JSON leaves open which of two equal keys counts; here neither does, at any depth."""
    text = document().replace(b'"progress"', b'"progress": "1", "progress"').replace(b'"sender"', b'"type":1,"sender"')
    assert problems(text) == [
        "type: found it more than once, expected it once",
        "payload.progress: found it more than once, expected it once",
    ]
    [problem, _] = problems(document().replace(b'"sender"', b'"x": 1, "x": 2, "sender"'))
    assert problem == "x: found it more than once, expected it once"


def test_keys_that_are_equal_only_after_decoding_are_equal() -> None:
    """An escape does not hide a key given twice."""
    [problem] = problems(document().replace(b'"sender"', b'"send\\u0065r": "@a", "sender"'))
    assert problem == "sender: found it more than once, expected it once"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "1" + "0" * 400])
def test_numbers_that_no_field_can_hold_are_refused_in_their_place(number: str) -> None:
    """NaN, infinities and endless digits are told as they were written, beside all other problems."""
    text = document(lambda plain: plain["payload"].update(fraction=0.5)).replace(b"0.5", number.encode())
    [problem] = problems(text)
    assert problem.startswith(f"payload.fraction: found {number[:20]}")
    assert len(problem) < 200


def test_an_integer_may_be_written_with_a_fraction_of_zero() -> None:
    """To JSON Schema, and here, 5.0 and 5e0 are the integer 5; from the log it can be read again."""
    for number in ("5.0", "5e0", "50E-1"):
        usage = '{"provider": "p", "model": "m", "input_tokens": ' + number + "}"
        text = document(lambda plain: plain.update(usage=[]))
        text = text.replace(b'"usage": []', f'"usage": [{usage}]'.encode())
        assert json.read(text).usage[0].input_tokens == 5
        assert codec.decode(text) == json.read(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "document: found nothing, expected an XML or JSON document"),
        (b" \n\t ", "document: found nothing, expected an XML or JSON document"),
        (b"[]", "document: found a list, expected an object with sender, "),
        (b'"x"', 'document: found "x", expected an object with sender, '),
        (b"5", "document: found 5, expected an object with sender, "),
        (b"null", "document: found null, expected an object with sender, "),
        (b"NaN", "document: found NaN, expected an object with sender, "),
        (b"1e999", "document: found 1e999, expected an object with sender, "),
        (b'{"a": 1', "line 1, column 8: found the end of the document, expected ',' delimiter"),
        (b'{"a": ', "line 1, column 7: found the end of the document, expected a value"),
        (b'{\n"a": 1,}', "line 2, column "),  # Python 3.13 says more of it than 3.11
        (b"{'a': 1}", 'line 1, column 2: found "\'", expected a "key"'),
        (b'{"a" 1}', "line 1, column 6: found \"1\", expected ':' delimiter"),
        (b'{"a": "\n"}', "line 1, column 8: found invalid control character, expected JSON"),
        (b'{"a": "\x00"}', "line 1, column 8: found invalid control character, expected JSON"),
        (b'{"a": "x', "line 1, column 7: found unterminated string starting, expected JSON"),
        (b'{"a": "\\q"}', "line 1, column 8: found invalid \\escape, expected JSON"),
        (b"{}\n{}", 'line 2, column 1: found "{", expected the end of the document'),
        (b'{"a": "\xff"}', "line 1, byte 7 of the document: found the byte 0xff, expected UTF-8"),
        (b'{\n"a": "\xed\xa0\x80"}', "line 2, byte 8 of the document: found the byte 0xed, expected UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "line 1, byte 0 of the document: found UTF-16, expected UTF-8"),
    ],
)
def test_what_is_no_json_is_refused_with_line_and_column(text: bytes, problem: str) -> None:
    """A syntax error names its place and what was expected there."""
    [found] = problems(text)
    assert found.startswith(problem)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000])
def test_endless_nesting_is_refused(text: bytes) -> None:
    """A hundred thousand brackets end neither in a crash nor in a long wait."""
    assert problems(text) == [
        "document: found too many brackets within brackets, expected the few levels of an envelope"
    ]


def test_deep_nesting_in_an_unknown_field_is_just_an_unknown_field() -> None:
    """Nobody looks into what is not known."""
    deep = standard.loads("[" * 400 + "]" * 400)
    [problem] = problems(document(lambda plain: plain.update(extra=deep)))
    assert problem.startswith("extra: found an unknown field")


def test_a_document_that_is_too_long_is_refused_before_it_is_parsed() -> None:
    """The cap comes first; just below it everything is read."""
    [problem] = problems(b"[" * (MAX_BYTES + 1))
    assert problem.startswith(f"document: found more than {MAX_BYTES} bytes, expected at most {MAX_BYTES} bytes")
    room = MAX_BYTES - len(document())
    full = document(lambda plain: plain["payload"].update(progress="half" + "x" * room))
    assert len(full) == MAX_BYTES
    assert json.read(full).payload.progress.endswith("x")


def test_a_byte_order_mark_is_passed_over() -> None:
    """Editors on Windows write one; the bytes are the sender's all the same."""
    marked = b"\xef\xbb\xbf" + document()
    assert json.read(marked) == json.read(document())
    assert codec.decode(marked) == json.read(document())


def test_very_many_problems_are_counted_and_not_listed() -> None:
    """A hundred are shown; a document made of mistakes does not fill the screen or the memory."""
    wrong = {f"field{number}": number for number in range(20_000)}
    found = problems(document(lambda plain: plain.update(wrong)))
    assert len(found) == 101
    assert found[-1] == "document: found 19900 more problems, expected none"


def test_what_is_shown_of_a_wrong_value_is_short_and_safe() -> None:
    """A problem neither fills the screen nor steers the terminal."""
    [problem] = problems(document(lambda plain: plain.update(sender="\x1b[31m" + "x" * 10_000)))
    assert "\\u001b[31mxxx" in problem
    assert len(problem) < 250
    [name, *_] = problems(document(lambda plain: plain.update({"\x1b[2J\u202e": 1})))
    assert name.startswith("\\u001b[2J\\u202e: found an unknown field")


def test_a_null_stands_for_what_may_be_left_out() -> None:
    """Models write null for what they do not know; where a field has another default, null is no value."""
    envelope = json.read(document(lambda plain: plain.update(quality_gates=None)))
    assert envelope.quality_gates is None
    assert problems(document(lambda plain: plain.update(priority=None)))


def test_the_source_is_named_in_the_error() -> None:
    """A message says which document it is about."""
    with pytest.raises(InvalidEnvelope, match=r"^notes\.json: document: found nothing") as caught:
        json.read(b"", source="notes.json")
    assert caught.value.details()["source"] == "notes.json"


def test_the_shorthand_is_no_envelope() -> None:
    """The handoff shorthand is read by commands of its own; here it says what is missing."""
    data = (PROTOCOL / "delegation.json").read_bytes()
    assert any("target_agent: found an unknown field" in each for each in problems(data))
