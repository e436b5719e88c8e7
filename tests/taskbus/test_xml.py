"""The XML form: what the strict reader takes and refuses and says of it, and that writing loses nothing."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given

from taskbus import json, xml
from taskbus.envelope import (
    MAX_BYTES,
    Answer,
    Artifact,
    Completion,
    Delegation,
    QualityGates,
    Result,
    Status,
    compose,
)
from taskbus.errors import InvalidEnvelope
from tests.taskbus.strategies import envelopes, forbidden, words

if TYPE_CHECKING:
    from taskbus.envelope import AnyEnvelope

PROTOCOL = Path(__file__).parents[1] / "data" / "protocol"
SAMPLE = (PROTOCOL / "agent-message.xml").read_text(encoding="utf-8")
STATUS = """<agent-message>
  <id>0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58</id>
  <sender>@kilo</sender>
  <recipient>@human</recipient>
  <type>status</type>
  <context>
    <task-id>t-1</task-id>
    <timestamp>2026-11-20T09:30:00Z</timestamp>
  </context>
  <payload>
    <progress>half</progress>
  </payload>
</agent-message>
"""
ORDER = "the order <id> <spec> <sender> <recipient> <type> <priority> <context> <payload> <quality-gates> <usage>"


def problems(document: str | bytes) -> list[str]:
    """What the reader finds wrong with a document."""
    with pytest.raises(InvalidEnvelope) as caught:
        xml.read(document.encode() if isinstance(document, str) else document)
    return [str(problem) for problem in caught.value.problems]


def changed(old: str, new: str, document: str = STATUS) -> str:
    """The document with something else in one place."""
    assert document.count(old) == 1
    return document.replace(old, new)


def test_the_sample_document_is_read_as_it_stands() -> None:
    """The document by which the format was given is a valid one."""
    envelope = xml.read(SAMPLE.encode())
    assert envelope.type == "completion"
    assert envelope.payload.result.status == "success"
    assert envelope.payload.result.artifacts == (Artifact(path="path/to/file", summary="File change summary"),)
    assert envelope.payload.error_details.attempted_recovery == "Steps taken to recover"
    assert envelope.quality_gates.escalation.outcome == "not-triggered"


def test_a_document_is_written_in_the_style_of_the_sample() -> None:
    """What was read from the sample is written back as it was, with the ID that it got."""
    envelope = xml.read(SAMPLE.encode())
    written = xml.write(envelope, pretty=True).decode()
    assert written == SAMPLE.replace("<sender>", f"<id>{envelope.id}</id>\n  <sender>", 1)


@given(envelopes())
def test_any_envelope_survives_xml(envelope: AnyEnvelope) -> None:
    """Written and read again, with line breaks or without, an envelope is the same, and written the same."""
    written = xml.write(envelope)
    assert xml.read(written) == envelope
    assert xml.read(xml.write(envelope, pretty=True)) == envelope
    assert xml.write(json.read(json.write(xml.read(written)))) == xml.write(xml.read(written))


@given(words, forbidden)
def test_text_that_xml_cannot_carry_is_not_written(before: str, character: str) -> None:
    """The writer names place and character, and writes nothing, for envelopes that nobody has validated."""
    envelope = compose(Answer(answer=f"{before}{character}"), sender="@a", recipient="@b")
    with pytest.raises(InvalidEnvelope) as caught:
        xml.write(envelope)
    [problem] = caught.value.problems
    assert problem.place == "agent-message/payload/answer"
    assert problem.found == f"the character U+{ord(character):04X} (number {len(before) + 1})"


def test_white_space_in_text_is_kept_and_around_values_is_not() -> None:
    """Text is verbatim, leading blanks included; a name or a time may stand on a line of its own."""
    document = changed("half", "  \n half\t", STATUS)
    document = changed("@kilo", "\n    @kilo\n  ", document)
    document = changed("2026-11-20T09:30:00Z", " 2026-11-20T09:30:00Z\n", document)
    document = changed("<type>status", "<type>\tstatus ", document)
    envelope = xml.read(document.encode())
    assert envelope.payload.progress == "  \n half\t"
    assert envelope.sender == "@kilo"
    assert envelope.type == "status"


def test_line_ends_survive() -> None:
    """A carriage return is written so that a parser does not take it for a line feed, in attributes as well."""
    path = "a\r\nb\r\tc\n"
    result = Result(status="partial", description="x\r\ny\r", artifacts=(Artifact(path=path),))
    envelope = compose(Completion(result=result), sender="@a", recipient="@b")
    written = xml.write(envelope)
    assert b"\r" not in written
    assert xml.read(written) == envelope


def test_empty_and_absent_are_not_the_same() -> None:
    """An empty text, an empty record and nothing stay what they are; an empty list is none."""
    envelope = compose(
        Completion(result=Result(status="failure", description=""), next_steps=""),
        sender="@a",
        recipient="@b",
        quality_gates=QualityGates(),
    )
    written = xml.write(envelope)
    assert b"<description/>" in written
    assert b"<quality-gates/>" in written
    assert xml.read(written) == envelope
    read = xml.read(changed("</progress>", "</progress><fraction>1e-05</fraction>").encode())
    assert (read.payload.fraction, read.usage) == (1e-05, ())
    assert xml.read(changed("</payload>", "</payload><usage/>").encode()).usage == ()


def test_comments_processing_instructions_and_cdata_are_read_as_xml_has_them() -> None:
    """They are no part of the text; what CDATA holds is."""
    document = changed("half", "ha<!-- not me --><?nor me?><![CDATA[<l>&f]]>")
    document = changed("  <type>", "  <!-- a comment --><?pi?>\n  <type>", document)
    assert xml.read(document.encode()).payload.progress == "ha<l>&f"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "iso-8859-1", "windows-1252"])
def test_any_declared_encoding_is_read(encoding: str) -> None:
    """The bytes decide, not we: a byte order mark or the declaration says how they are to be read."""
    name = {"utf-8-sig": "utf-8"}.get(encoding, encoding)
    document = f'<?xml version="1.0" encoding="{name}"?>\n{changed("half", "hälf")}'
    assert xml.read(document.encode(encoding)).payload.progress == "hälf"


def test_all_problems_are_listed_with_their_lines() -> None:
    """One reading names everything that is wrong, in the order of the document's lines."""
    document = """<agent-message>
  <type>task-completion</type>
  <sender>kilo</sender>
  <recipient>@human</recipient>
  <recipient>@other</recipient>
  <context colour="red">
    <timestamp>2026-11-20 09:30:00</timestamp>
  </context>
  <payload>hello
    <result message-type="status">
      <success>success</success>
      <artifacts>
        <file path="a" size="many">x</file>
        <folder/>
        <file>y</file>
      </artifacts>
    </result>
    <error-details>
      <level>5</level>
      <category>bad <b>luck</b></category>
      <message/>
    </error-details>
  </payload>
  <usage>
    <call>
      <provider>p</provider>
      <cost source="guessed"/>
    </call>
  </usage>
</agent-message>"""
    assert problems(document) == [
        f"line 3, agent-message: found <sender> after <type>, expected {ORDER}",
        (
            'line 3, agent-message/sender: found "kilo", '
            "expected a name such as @kilo (@, then at most 64 of A-Z a-z 0-9 . _ -)"
        ),
        f"line 4, agent-message: found <recipient> after <type>, expected {ORDER}",
        "line 5, agent-message/recipient: found it again, expected it once",
        "line 6, agent-message/context: found the attribute colour, expected no attribute here",
        ("line 6, agent-message/context/task-id: found nothing, expected an ID (at most 128 of A-Z a-z 0-9 . _ : -)"),
        (
            'line 7, agent-message/context/timestamp: found "2026-11-20 09:30:00", '
            "expected a time such as 2026-11-20T09:30:00Z, of the years 2000 to 2199"
        ),
        'line 9, agent-message/payload: found the text "hello" between elements, expected elements only',
        (
            'line 10, agent-message/payload/result: found message-type="status", '
            'expected message-type="task-completion" or none'
        ),
        ('line 11, agent-message/payload/result/success: found "success", expected one of true, partial, false'),
        (
            'line 13, agent-message/payload/result/artifacts/file[1]/@size: found "many", '
            "expected a whole number from 0 to 9007199254740991"
        ),
        "line 14, agent-message/payload/result/artifacts: found <folder>, expected <file>",
        ("line 15, agent-message/payload/result/artifacts/file[2]/@path: found nothing, expected text, not empty"),
        "line 19, agent-message/payload/error-details/level: found 5, expected a whole number from 1 to 4",
        (
            "line 20, agent-message/payload/error-details/category: found <b> in a text, "
            "expected text only, with < written as &lt;"
        ),
        (
            'line 20, agent-message/payload/error-details/category: found "bad", '
            "expected one of execution, validation, integration, architectural"
        ),
        'line 21, agent-message/payload/error-details/message: found "", expected text, not empty',
        "line 25, agent-message/usage/call[1]/model: found nothing, expected text, not empty",
        'line 27, agent-message/usage/call[1]/cost/@source: found "guessed", expected one of reported, priced',
        ('line 27, agent-message/usage/call[1]/cost: found "", expected a whole number from 0 to 9007199254740991'),
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "<type>status",
            "<type>news",
            'line 5, agent-message/type: found "news", expected one of delegation, ',
        ),
        (
            "<type>status",
            "<type>completion",
            'line 5, agent-message/type: found "completion", expected one of ',
        ),
        (
            "  <payload>\n    <progress>half</progress>\n  </payload>\n",
            "",
            "line 1, agent-message/payload: found nothing, expected an element",
        ),
        (
            "<progress>half</progress>",
            "",
            "line 10, agent-message/payload/progress: found nothing, expected text",
        ),
        ("half", "", 'line 11, agent-message/payload/progress: found "", expected text, not empty'),
        (
            "</progress>",
            "</progress><goal/>",
            "line 11, agent-message/payload: found <goal>, expected one of <action> ",
        ),
        (
            "</progress>",
            "</progress>\nx\n",
            'line 11, agent-message/payload: found the text "x" between elements',
        ),
        (
            "<type>",
            "<type x='1'>",
            "line 5, agent-message/type: found the attribute x, expected no attribute here",
        ),
        (
            "</progress>",
            "</progress><fraction>.5</fraction>",
            'line 11, agent-message/payload/fraction: found ".5", expected a number from 0 to 1',
        ),
        (
            "</progress>",
            "</progress><fraction>1e999</fraction>",
            'line 11, agent-message/payload/fraction: found "1e999", expected a number from 0 to 1',
        ),
        (
            "</timestamp>",
            "</timestamp><by-hand>yes</by-hand>",
            'line 8, agent-message/context/by-hand: found "yes", expected true or false',
        ),
        (
            "<sender>",
            "<x:sender xmlns:x='urn:x'/><sender>",
            'line 3, agent-message: found <sender> of the namespace "u',
        ),
        (
            "</agent-message>",
            "<usage x='1'/></agent-message>",
            "line 13, agent-message/usage: found the attribute x, ",
        ),
    ],
)
def test_each_problem_says_what_stands_there_and_what_should(old: str, new: str, problem: str) -> None:
    """A wrong element is named with its line, its path, itself and what is allowed."""
    [found] = problems(changed(old, new))
    assert found.startswith(problem)


def test_whole_numbers_have_one_spelling() -> None:
    """No sign, no leading zero, no fraction, no digits of other scripts, no more than fit."""
    for number in ("007", "+1", "-1", "1.0", "1e0", "1 0", "", "x", "٥", "9007199254740992", "9" * 5000):
        tokens = f"<input-tokens>{number}</input-tokens>"
        call = f"<usage><call><provider>p</provider><model>m</model>{tokens}</call></usage>"
        [problem] = problems(changed("</payload>", f"</payload>{call}"))
        assert "input-tokens: found" in problem
        assert problem.endswith("expected a whole number from 0 to 9007199254740991")
        assert len(problem) < 250


def test_the_marker_may_carry_the_type_of_the_message() -> None:
    """The attribute that a validator adds by default is accepted where it is right, and never written."""
    document = changed("<progress>", '<progress message-type=" status ">')
    envelope = xml.read(document.encode())
    assert envelope == xml.read(STATUS.encode())
    assert b"message-type" not in xml.write(envelope)
    [problem] = problems(changed("<sender>", '<sender message-type="status">'))
    assert "agent-message/sender: found the attribute message-type" in problem


def test_the_place_of_the_schema_is_passed_over_at_the_root() -> None:
    """Editors look there; the reader does not, and takes it nowhere else."""
    hint = ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="envelope.xsd"'
    assert xml.read(STATUS.replace("<agent-message", f"<agent-message{hint}", 1).encode())
    assert "the attribute {http" in problems(STATUS.replace("<context", f"<context{hint}", 1))[0]


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("", "document: found nothing, expected an XML or JSON document"),
        ("<agent-message>", "line 1, column 16: found "),
        ("<agent-message></agent>", "line 1, column 24: found Opening and ending tag mismatch"),
        (
            "<agent-message/><agent-message/>",
            "line 1, column 17: found Extra content at the end of the document",
        ),
        ("<message/>", "line 1: found <message>, expected <agent-message>"),
        (
            '<agent-message xmlns="urn:x"/>',
            'line 1: found <agent-message> of the namespace "urn:x", expected',
        ),
        ("just text", "line 1, column 1: found Start tag expected"),
        ("<agent-message>&nbsp;</agent-message>", "line 1, column 22: found Entity 'nbsp' not defined"),
        ("<agent-message>a & b</agent-message>", "line 1, column 19: found "),
        ("<agent-message>\0</agent-message>", "line 1, column 16: found "),
        ("<agent-message>&#0;</agent-message>", "line 1, column 20: found "),
        ("<agent-message>&#xD800;</agent-message>", "line 1, column 24: found "),
        ("<agent-message>\x1b</agent-message>", "line 1, column 16: found "),
        ("<agent-message a='1' a='2'/>", "line 1, column 27: found Attribute a redefined"),
        ("<agent-message x:a='1'/>", "line 1, column 23: found Namespace prefix x"),
        ('<?xml version="1.0" encoding="klingon"?><agent-message/>', "line 1, column "),
        ("<agent-message>" + "<a>" * 100_000, "line 1, column 783: found Excessive depth in document"),
    ],
)
def test_what_is_no_xml_is_refused_with_line_and_column(document: str, problem: str) -> None:
    """A syntax error names its place."""
    [found] = problems(document)
    assert found.startswith(problem)


def test_bytes_that_are_no_text_are_refused() -> None:
    """Bytes that the encoding does not have are an error, and not replaced."""
    [problem] = problems(STATUS.encode().replace(b"half", b"h\xe4lf"))
    assert problem.startswith("line 11, column ")


def _doctypes(secret: Path) -> dict[str, str]:
    body = changed("half", "&x;")
    lol = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
    return {
        "plain": f"<!DOCTYPE agent-message>{STATUS}",
        "internal": f'<!DOCTYPE agent-message [<!ENTITY x "half">]>{body}',
        "file": f'<!DOCTYPE agent-message [<!ENTITY x SYSTEM "file://{secret}">]>{body}',
        "parameter": f'<!DOCTYPE agent-message [<!ENTITY % x SYSTEM "file://{secret}"> %x;]>{STATUS}',
        "subset": f'<!DOCTYPE agent-message SYSTEM "file://{secret}">{STATUS}',
        "attribute": f'<!DOCTYPE agent-message [<!ATTLIST type x CDATA "1">]>{STATUS}',
        "network": f'<!DOCTYPE agent-message SYSTEM "http://127.0.0.1:9/x.dtd">{STATUS}',
        "laughs": f'<!DOCTYPE agent-message [<!ENTITY l0 "lol">{lol}]>{changed("half", "&l9;")}',
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", list(_doctypes(Path("x"))))
def test_a_doctype_is_refused_whatever_is_in_it(kind: str, encoding: str, tmp_path: Path) -> None:
    """No entity is resolved, no file read and nothing fetched, in any encoding."""
    secret = tmp_path / "secret"
    os.mkfifo(secret)  # whoever opened it would wait for ever
    caught: list[list[str]] = []
    reading = threading.Thread(
        target=lambda: caught.append(problems(_doctypes(secret)[kind].encode(encoding))), daemon=True
    )
    reading.start()
    reading.join(20)
    assert caught == [["document: found a DOCTYPE, expected <agent-message> alone, without DOCTYPE and entities"]]


def test_a_doctype_in_a_text_is_text() -> None:
    """A message may well speak of HTML."""
    document = changed("half", "<![CDATA[<!DOCTYPE html>]]>")
    assert xml.read(document.encode()).payload.progress == "<!DOCTYPE html>"


def test_xinclude_is_not_followed() -> None:
    """An inclusion is an unknown element like any other."""
    include = '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="/etc/hostname" parse="text"/>'
    [problem] = problems(changed("half", include))[:1]
    assert "found <include> of the namespace" in problem


@pytest.mark.parametrize("attribute", ['xml:space="preserve"', 'xml:lang="en"', 'xml:id="x"'])
def test_attributes_of_xml_itself_are_unknown_too(attribute: str) -> None:
    """White space is kept without being asked for."""
    [problem] = problems(changed("<progress>", f"<progress {attribute}>"))
    assert "found the attribute {http://www.w3.org/XML/1998/namespace}" in problem


def test_a_document_that_is_too_long_is_refused_before_it_is_parsed() -> None:
    """The cap comes first."""
    [problem] = problems(b"<" * (MAX_BYTES + 1))
    assert problem.startswith(f"document: found more than {MAX_BYTES} bytes")


def test_the_same_document_gets_the_same_id() -> None:
    """Without an ID, an envelope has one of its timestamp and its bytes: a UUIDv7 that sorts by time."""
    without = changed("  <id>0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58</id>\n", "").encode()
    first, again = xml.read(without), xml.read(without)
    other = xml.read(without.replace(b"half", b"all"))
    later = xml.read(without.replace(b"09:30:00Z", b"09:30:00.001Z"))
    assert first.id == again.id
    assert other.id != first.id
    assert first.id[:13] == other.id[:13] < later.id[:13]
    assert json.read(json.write(first)).id == first.id


def test_threads_read_at_the_same_time() -> None:
    """No parser is shared."""
    found: list[str] = []

    def read(number: int) -> None:
        document = changed("half", f"at {number}").encode()
        found.extend(xml.read(document).payload.progress for _ in range(50))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f"at {number}" for number in range(4) for _ in range(50))


def test_a_list_of_records_is_indented_as_the_rest() -> None:
    """Pretty documents put each element on a line, and break no text."""
    payload = Delegation(goal="a\nb", artifacts=(Artifact(path="p", summary="s"), Artifact(path="q")))
    written = xml.write(compose(payload, sender="@a", recipient="@b"), pretty=True).decode()
    assert (
        '    <goal>a\nb</goal>\n    <artifacts>\n      <file path="p">s</file>\n'
        '      <file path="q"/>\n    </artifacts>\n  </payload>\n</agent-message>\n'
    ) in written


def test_a_fraction_keeps_all_its_digits() -> None:
    """The shortest form that reads back as the same number is written."""
    envelope = compose(Status(progress="x", fraction=0.1 + 0.2), sender="@a", recipient="@b")
    assert b"<fraction>0.30000000000000004</fraction>" in xml.write(envelope)
