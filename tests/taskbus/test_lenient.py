"""The lenient reader: the corpus, and what may stand around, in and in place of an envelope."""

from __future__ import annotations

import html
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskbus import codec
from taskbus.envelope import SPOKEN, AnyEnvelope, Delegation, Result
from taskbus.errors import InvalidEnvelope, UsageError
from taskbus.lenient import find
from tests.taskbus.strategies import envelopes

CORPUS = Path(__file__).parents[1] / "data" / "lenient"
EXPECTED: dict[str, dict[str, Any]] = json.loads((CORPUS / "expected.json").read_text(encoding="utf-8"))
KNOWN = {"sender": "@kilo", "recipient": "@lead", "task_id": "t-1", "timestamp": "2026-11-20T09:30:00Z"}


def output(name: str) -> str:
    """A text of the corpus, with its line ends as they are."""
    return (CORPUS / f"{name}.txt").read_bytes().decode()


def names(outcome: str) -> list[str]:
    """The texts of the corpus that have this outcome."""
    return [name for name, expected in EXPECTED.items() if expected["outcome"] == outcome]


def value(envelope: AnyEnvelope, path: str) -> object:
    """The value at a path of an envelope's JSON form, with times as JSON writes them."""
    found: Any = envelope
    for step in path.split("."):
        found = found[int(step)] if isinstance(found, tuple) else getattr(found, step)
    return msgspec.to_builtins(found)


def message(payload: str, *, kind: str = "status", head: str = "", tail: str = "") -> str:
    """An XML message with this payload."""
    return (
        f"<agent-message><sender>@kilo</sender><recipient>@lead</recipient><type>{kind}</type>{head}<context>"
        "<task-id>t-1</task-id><timestamp>2026-11-20T09:30:00Z</timestamp></context>"
        f"<payload>{payload}</payload>{tail}</agent-message>"
    )


def progress(text: str) -> str:
    """What the reader makes of a progress text."""
    return find(message(f"<progress>{text}</progress>")).envelope.payload.progress


def wrong_with(name: str) -> list[str]:
    """Everything in which the reader does other than the corpus says of a salvageable text."""
    text, expected = output(name), EXPECTED[name]
    try:
        found = find(text, defaults=expected.get("defaults"))
    except InvalidEnvelope as error:
        return [f"{name}: {error}"]
    wrong = [
        f"{name}: {path} is {value(found.envelope, path)!r}, not {wanted!r}"
        for path, wanted in expected["fields"].items()
        if value(found.envelope, path) != wanted
    ]
    if found.source not in text:
        wrong.append(f"{name}: the source does not stand in the text")
    if codec.read(found.document).envelope != found.envelope:
        wrong.append(f"{name}: the document holds another envelope")
    if bool(found.repairs) == expected.get("clean", False):
        wrong.append(f"{name}: repairs are {found.repairs}")
    return wrong


def test_salvageable_outputs_are_salvaged(capsys: pytest.CaptureFixture[str]) -> None:
    """At least 99 of 100 salvageable outputs give the expected envelope, in a document that is strictly valid."""
    salvageable = names("salvage")
    wrong = [found for name in salvageable if (found := wrong_with(name))]
    rate = 1 - len(wrong) / len(salvageable)
    with capsys.disabled():
        print(f"\nlenient reader: {rate:.1%} of {len(salvageable)} salvageable outputs")
    assert rate >= 0.99, wrong


@pytest.mark.parametrize("name", names("hopeless"))
def test_hopeless_outputs_are_refused(name: str) -> None:
    """No envelope comes out of a hopeless text, and the error names what it lacks."""
    with pytest.raises(InvalidEnvelope) as caught:
        find(output(name), defaults=EXPECTED[name].get("defaults"))
    assert EXPECTED[name]["problem"] in str(caught.value)


def test_corpus_is_complete() -> None:
    """Each text has its expectation, each type that models write occurs in both forms; enough of both outcomes."""
    assert {path.stem for path in CORPUS.glob("*.txt")} == EXPECTED.keys()
    assert len(names("salvage")) >= 55
    assert len(names("hopeless")) >= 20
    forms = Counter[tuple[str, str]]()
    for name in names("salvage"):
        found = find(output(name), defaults=EXPECTED[name].get("defaults"))
        forms[found.envelope.type, found.content_type] += 1
    assert all(forms[kind, form] for kind in SPOKEN for form in (codec.XML, codec.JSON)), forms


BEFORE = [
    "",
    "Done.\n\n",
    "As asked, one `<agent-message>` with { type, sender }:\n",
    "1. a & b < c\n2. {x}\n\n",
    "结果如下:\n",
    "<think>\n<agent-message><sender>@no</sender>\n</think>\n",
    '{"name": "site", "payload": 1}\n',
    "it's \"quoted\n",
    "\x1b[32mok\x1b[0m\n",
    '```json\n{"a": 1}\n```\n',
    "> quoted\n",
]
AFTER = [
    "",
    "\n",
    "\n\nLet me know!",
    '\nCoverage: {"lines": 91.2}',
    "\n`</agent-message>` closes it. {",
    "\n</div> & more",
    "\n| a | b |\n| - | - |",
]


def in_front(prefix: str, text: str) -> str:
    """The text with something in front of each line."""
    return "\n".join(prefix + line for line in text.split("\n"))


WRAPPINGS = {
    "none": lambda text: text,
    "fence": lambda text: f"```xml\n{text}\n```",
    "tildes": lambda text: f"~~~\n{text}\n~~~",
    "open fence": lambda text: f"```\n{text}",
    "indented": lambda text: in_front("   ", text),
    "fence in a list": lambda text: in_front("    ", f"```\n{text}\n```"),
    "quoted": lambda text: in_front("> ", text),
    "quoted twice": lambda text: in_front("> > ", text),
    "added lines": lambda text: in_front("+", text),
    "Windows line ends": lambda text: text.replace("\n", "\r\n"),
    "coloured": lambda text: text.replace("<", "\x1b[36m<").replace(">", ">\x1b[0m"),
    "escaped": lambda text: html.escape(text, quote=False) if text.startswith("<") else text,
    "in a JSON string": lambda text: (
        json.dumps({"part": {"text": text}}) if text.startswith("<agent-message>\n") else text
    ),
}


@given(
    envelope=envelopes(),
    form=st.sampled_from([codec.XML, codec.JSON]),
    pretty=st.booleans(),
    before=st.sampled_from(BEFORE),
    after=st.sampled_from(AFTER),
    wrapping=st.sampled_from(sorted(WRAPPINGS)),
)
def test_wrapping_changes_nothing(
    *, envelope: AnyEnvelope, form: str, pretty: bool, before: str, after: str, wrapping: str
) -> None:
    """Any envelope in either form is found again, whatever stands around it."""
    document = codec.encode(envelope, form, pretty=pretty).decode().rstrip("\n")
    wanted = codec.read(document.encode()).envelope
    text = before + WRAPPINGS[wrapping](document) + after
    found = find(text)
    assert found.envelope == wanted
    assert codec.read(found.document).envelope == wanted
    assert found.source in text


@pytest.mark.parametrize(
    "name", ["001-fence-xml-completion", "066-underscored-names", "125-json-xml-names", "160-shorthand-completion"]
)
def test_text_that_breaks_off_says_the_same_or_nothing(name: str) -> None:
    """Cut anywhere, a text gives what the whole text gives, or it is hopeless: nothing is lost unnoticed."""
    text, defaults = output(name), EXPECTED[name].get("defaults")
    whole = msgspec.structs.replace(find(text, defaults=defaults).envelope, id="any")
    found = 0
    for end in range(len(text)):
        try:
            part = find(text[:end], defaults=defaults)
        except InvalidEnvelope:
            continue
        found += 1
        assert msgspec.structs.replace(part.envelope, id="any") == whole, text[:end]
    assert found


def test_clean_document_stays_byte_for_byte() -> None:
    """Where nothing is mended, the document is what the model wrote."""
    document = message("<progress>Half &amp; half</progress>")
    found = find(f"Here:\n```xml\n{document}\n```\nBye")
    assert (found.document, found.source, found.repairs) == (document.encode(), document, ())
    assert found.content_type == codec.XML
    assert found.envelope == codec.read(document.encode()).envelope


def test_same_text_gives_the_same_envelope() -> None:
    """An ID is derived from what the model wrote, so that publishing it twice publishes it once."""
    text = message("<progress>a & b</progress>")
    assert find(text).envelope == find(f"Again:\n{text}\n").envelope
    assert find(text).envelope.id != find(text.replace("a & b", "a & c")).envelope.id


def test_defaults_stand_in_only_where_nothing_stands() -> None:
    """What the caller knows fills gaps, is told in the repairs, and overrides nothing."""
    given = find('{"type": "status", "sender": "@gemini", "payload": {"progress": "x"}}', defaults=KNOWN)
    assert given.envelope.sender == "@gemini"
    assert given.envelope.recipient == "@lead"
    assert given.envelope.task == "t-1"
    assert [repair for repair in given.repairs if "caller" in repair] == [
        "recipient: taken from the caller",
        "task_id: taken from the caller",
        "timestamp: taken from the caller",
    ]


def test_default_timestamp_may_be_a_datetime() -> None:
    """A time of the caller's is written as the format has it."""
    moment = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
    text = '{"status": "success", "outputs": ["a.py"]}'
    assert find(text, defaults={**KNOWN, "timestamp": moment}).envelope.context.timestamp == moment


@pytest.mark.parametrize("defaults", [{"success": True}, {"timestamp": datetime(2026, 11, 20)}])  # noqa: DTZ001
def test_defaults_that_cannot_be(defaults: dict[str, object]) -> None:
    """What a model must say itself is no default, and a time without an offset is none either."""
    with pytest.raises(UsageError):
        find(message("<progress>x</progress>"), defaults=defaults)


def test_last_message_counts() -> None:
    """Of several messages the last one is found, and the others are listed."""
    found = find(message("<progress>one</progress>") + "\n" + message("<progress>two</progress>"))
    assert found.envelope.payload.progress == "two"
    assert found.repairs == ("passed over what stands on line 1",)


def test_quoted_message_of_somebody_else_does_not_count() -> None:
    """A message of the known sender goes before one that was merely quoted behind it."""
    mine = message("<progress>mine</progress>")
    quoted = mine.replace("@kilo", "@other").replace("mine", "quoted")
    assert find(f"{mine}\n{quoted}").envelope.sender == "@other"
    assert find(f"{mine}\n{quoted}", defaults=KNOWN).envelope.sender == "@kilo"
    assert find(f"{quoted}\n{quoted}", defaults=KNOWN).envelope.sender == "@other"


def test_message_before_an_unreadable_one_does_not_count() -> None:
    """A correction that cannot be read leaves no valid word; a message of somebody else stays what it is."""
    mine, broken = message("<progress>mine</progress>"), message("<progress></progress>")
    other = mine.replace("@kilo", "@other")
    with pytest.raises(InvalidEnvelope, match="progress"):
        find(f"{mine}\n{broken}")
    assert find(f"{mine}\n{broken}\n{other}", defaults=KNOWN).envelope.sender == "@other"


def test_snippets_that_look_alike_are_no_messages() -> None:
    """Objects of other programs with a type and a payload are left alone, valid or not."""
    mine = message("<progress>mine</progress>")
    others = [
        '{"type": "todos/add", "payload": {"text": "x"}}',
        "{ type: string; payload: unknown }",
        '{"type": "result", "subtype": "success", "result": "done"}',
        '{"outputs": [], "cells": []}',
    ]
    for other in others:
        assert find(f"{mine}\n{other}").repairs == ()


def test_what_is_left_out_is_listed_with_its_content() -> None:
    """An element that the format does not have is told with what it says."""
    found = find(message("<progress>x</progress><mood level='9'>fine</mood>"))
    assert any("fine" in repair and "level='9'" in repair for repair in found.repairs)


def test_marker_of_another_type_is_refused() -> None:
    """A payload that says two things is not reduced to one of them."""
    with pytest.raises(InvalidEnvelope, match="question"):
        find(message("<progress>x</progress><question>Why?</question>"))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a & b < c && d > e", "a & b < c && d > e"),
        ("<b>x</b> &amp; <br/>", "<b>x</b> & <br/>"),
        ("a <![CDATA[</progress> & <x>]]> & b", "a </progress> & <x> & b"),
        ("&#x2713; &#10003; & &#99999999; &#x110000;", "✓ ✓ & &#99999999; &#x110000;"),
        ("&nbsp;&mdash;&bogus; &copy=1", "\u00a0—&bogus; &copy=1"),
        ("see <!-- here --> & there", "see <!-- here --> & there"),
        ("the </result> & <Context>x</Context> tags", "the </result> & <Context>x</Context> tags"),
        ("NUL \x00 and & \x1b", "NUL \\x00 and & \\x1b"),
        ("a lone \ud83d here", "a lone \\ud83d here"),
        ("&#0; &", "\\x00 &"),
        ("<agent-message><sender>@x</sender></agent-message> & so on", None),
    ],
)
def test_text_is_kept(written: str, read: str | None) -> None:
    """Bare markup, references and characters that XML cannot carry end up in the text, visibly."""
    assert progress(written) == (read or written)


@pytest.mark.parametrize(
    "payload",
    [
        "<progress>a & b</payload>",
        "<progress>a</progress>stray & text",
        "<progress>a & b<progress>c</progress>",
        "<progress>a & b</progress></result>",
        "<progress>a & b</progress><!-- open",
        "<progress>a & b</progress><!DOCTYPE x>",
        "<progress>a & <![CDATA[b</progress>",
        "<progress>a & b</progress><mood>",
        "<progress>a & b</progress><?open",
        '<progress note="a>a & b</progress>',
    ],
)
def test_doubtful_structure_is_refused(payload: str) -> None:
    """Where it is not clear what belongs to what, nothing is guessed; the error has its line."""
    with pytest.raises(InvalidEnvelope, match="line 1"):
        find(message(payload))


@pytest.mark.parametrize(
    ("payload", "artifacts"),
    [
        ("<artifacts><file>a.py</file></artifacts>", ["a.py"]),
        ("<artifacts>a.py</artifacts>", ["a.py"]),
        ("<artifacts>\n- a.py\n- b.py\n</artifacts>", ["a.py", "b.py"]),
        ("<artifacts>none</artifacts>", []),
        ("<artifacts/>", []),
        ("<file path='a.py'/><file path='b.py'/>", ["a.py", "b.py"]),
        ("<artifacts count='1'><x><path>a.py</path></x></artifacts>", ["a.py"]),
        ("<artifacts><file></file><file path=“a.py”>x</file></artifacts>", ["a.py"]),
    ],
)
def test_lists_in_many_spellings(payload: str, artifacts: list[str]) -> None:
    """A list is read from items, from text, from bullets and from items without it."""
    result = find(message(f"<result><success>yes</success>{payload}</result>", kind="completion")).envelope
    assert [each.path for each in result.payload.result.artifacts] == artifacts


def test_parts_are_put_where_they_belong() -> None:
    """Fields of the context, the payload and the result are found one level too high, or in a header."""
    text = (
        "<agent-message><header><from>kilo</from><to>lead</to><type>completion</type></header><task-id>t-1</task-id>"
        "<timestamp>2026-11-20T09:30:00Z</timestamp><success>false</success><description>x</description></agent-message>"
    )
    found = find(text).envelope
    assert (found.sender, found.recipient, found.task) == ("@kilo", "@lead", "t-1")
    assert found.payload.result == Result(status="failure", description="x")


@pytest.mark.parametrize("context", ["null", '""', "{}"])
def test_parts_are_put_into_an_empty_context(context: str) -> None:
    """A context that says nothing takes up what stands beside it; the caller's values do not get in between."""
    text = (
        '{"header": {"sender": "@gemini", "type": "status", "priority": "medium"}, "payload": {"progress": "x"},'
        f' "task_id": 42, "context": {context}}}'
    )
    found = find(text, defaults=KNOWN).envelope
    assert (found.sender, found.task, found.priority) == ("@gemini", "42", "normal")


@pytest.mark.parametrize("context", ["5", '"later"', '{"task_id": "t-2"}', '{"x": 1, "x": 2}'])
def test_field_in_two_places_is_refused(context: str) -> None:
    """What stands both beside and in the part it belongs to is not merged, nor put over something else."""
    text = '{"sender": "@kilo", "type": "status", "payload": {"progress": "x"}, "task_id": "t-1", "context": %s}'
    with pytest.raises(InvalidEnvelope, match="context"):
        find(text % context, defaults=KNOWN)


def test_repetition_that_agrees_counts_once() -> None:
    """The same element twice and alike is one; twice and different is refused."""
    assert progress("a</progress><progress>a") == "a"
    with pytest.raises(InvalidEnvelope, match="more than once"):
        progress("a</progress><progress>b")


@pytest.mark.parametrize(
    ("json_text", "goal"),
    [
        ("{'goal': 'don\\'t \"stop\"'}", 'don\'t "stop"'),
        ('{"goal": "a\\_b \\x \\u12"}', "a\\_b \\x \\u12"),
        ('{"goal": "a\nb\tc\\\nd"}', "a\nb\tc\\\nd"),
        ('{goal: “a "b"”,}', 'a "b"'),
        ('{"goal": "\\ud800 \\u0000"}', "\\ud800 \\x00"),
        ('{/* c */ "goal": "x" // y\n, "deadline": None, }', "x"),
        ('{"goal": ["a", "b"]}', "a\nb"),
    ],
)
def test_json_is_read_as_models_write_it(json_text: str, goal: str) -> None:
    """Quotation marks, escapes, comments, commas and words that JSON does not have are put right."""
    text = f'{{"sender": "@lead", "recipient": "@kilo", "type": "delegation", "payload": {json_text}}}'
    payload = find(text, defaults=KNOWN).envelope.payload
    assert payload == Delegation(goal=goal)


@pytest.mark.parametrize(
    "payload",
    [
        '{"progress": "a" "b"}',
        '{"progress": "a", "fraction": NaN}',
        '{"progress": "a", "fraction": 1e999}',
        '{"progress": "a", "fraction": "half"}',
        '{"progress": ["a", 1]}',
        '{"progress": 5}',
        '["progress"]',
        '{"progress": [}',
        '{"progress": /* x',
        '{"progress": x}',
        "{" + '"a": [' * 40 + "]" * 40 + "}",
    ],
)
def test_json_that_is_none_is_refused(payload: str) -> None:
    """What is no JSON even with good will, or no value of its field, is hopeless."""
    text = f'{{"sender": "@kilo", "recipient": "@lead", "type": "status", "payload": {payload}}}'
    with pytest.raises(InvalidEnvelope):
        find(text, defaults=KNOWN)


def test_resumes_behind_an_object_that_breaks_off() -> None:
    """A draft in JSON that breaks off does not hide the message behind it, nor count by one of its parts."""
    draft = '{"sender": "@kilo", "payload": {"status": "success", "outputs": ["a.py"]}, "x": '
    whole = '{"status": "failure", "outputs": [], "next_steps": "again"}'
    found = find(f"```json\n{draft}\n```\nOnce more:\n```json\n{whole}\n```\n", defaults=KNOWN)
    assert found.envelope.payload.result.status == "failure"
    with pytest.raises(InvalidEnvelope):
        find(draft, defaults=KNOWN)


def test_shorthand_problems_are_told() -> None:
    """All that is wrong with a shorthand is listed, as for any document."""
    with pytest.raises(InvalidEnvelope) as caught:
        find('{"target_agent": "two words", "context": {"goal": ""}, "priority": 3}', defaults=KNOWN)
    places = {problem.place for problem in caught.value.problems}
    assert {"target_agent", "context.goal", "priority"} <= places


def test_shorthand_with_a_key_twice_is_refused() -> None:
    """Which of the two is meant is not guessed."""
    with pytest.raises(InvalidEnvelope, match="more than once"):
        find('{"status": "success", "status": "failure", "outputs": []}', defaults=KNOWN)


def test_quotation_with_careless_marks() -> None:
    """A mark without its blank is taken away as well."""
    lines = [
        "> <agent-message type='status'>",
        ">  <payload><progress>a",
        ">",
        ">b</progress></payload>",
        "></agent-message>",
    ]
    assert find("\n".join(lines), defaults=KNOWN).envelope.payload.progress == "a\n\nb"


def test_careless_indentation_stays() -> None:
    """Where not every line is indented, the indentation is the model's own."""
    text = in_front("  ", message("<progress>a</progress>").replace("><", ">\n<")).replace("  <type>", "<type>")
    assert find(text).repairs == ()


def test_backslashes_of_its_own() -> None:
    """A message on one line that holds backslashes is no JSON string."""
    text = '<agent-message type="status">' + message('<progress>class=\\"x\\"</progress>').partition("</type>")[2]
    assert find(text, defaults=KNOWN).envelope.payload.progress == 'class=\\"x\\"'


def test_quoted_json_with_a_raw_line_end() -> None:
    """In a quotation, JSON that must be mended is found as well."""
    text = in_front("> ", '{"status": "success",\n"outputs": ["a.py"],\n}')
    found = find(text, defaults=KNOWN)
    assert found.envelope.payload.result.artifacts[0].path == "a.py"
    assert "took away the > in front of each line" in found.repairs


@pytest.mark.parametrize("text", ['log\n{"status": "success"}', 'log\n{"question": "which?"}'])
def test_a_status_alone_is_no_envelope_where_no_outcome_is_expected(text: str) -> None:
    """Any text may hold an object with a status; only a worker knows that it is its agent's."""
    with pytest.raises(InvalidEnvelope, match="no envelope"):
        find(text, defaults=KNOWN)
    assert find(text, defaults=KNOWN, outcome=True).in_short
