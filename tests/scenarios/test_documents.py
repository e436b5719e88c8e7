"""`bus validate` and `bus convert`, as users and programs call them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Console

DATA = Path(__file__).parents[1] / "data"
PROTOCOL = DATA / "protocol"
SAMPLE = (PROTOCOL / "agent-message.xml").read_text(encoding="utf-8")
STATUS = {
    "sender": "@kilo",
    "recipient": "@human",
    "type": "status",
    "context": {"task_id": "t-1", "timestamp": "2026-11-20T09:30:00Z"},
    "payload": {"progress": "half"},
}


def line(**changes: object) -> str:
    """A status on one line."""
    return json.dumps(STATUS | changes)


def test_the_protocols_documents_are_valid(bus: Console) -> None:
    """A folder of XML, JSON and shorthand passes as it stands; nothing but the rate is said."""
    done = bus("validate", PROTOCOL)
    assert (done.code, done.stdout, done.stderr) == (0, "", "3 of 3 valid (100 %)\n")


def test_every_problem_of_every_file_is_listed_with_file_and_line(bus: Console) -> None:
    """Editors can jump to each; the rate and the exit code tell that not all is well."""
    (bus.command.folder / "good.xml").write_text(SAMPLE, encoding="utf-8")
    bad = SAMPLE.replace("high", "urgent").replace("<level>1", "<level>one").replace("<sender>@", "<sender>")
    (bus.command.folder / "bad.xml").write_text(bad, encoding="utf-8")
    (bus.command.folder / "torn.json").write_text('{\n  "sender": "@a",\n  "recip', encoding="utf-8")
    (bus.command.folder / "short.json").write_text('{"target_agent": "kilo", "context": {}}', encoding="utf-8")
    (bus.command.folder / "many.ndjson").write_text(f"{line()}\n\n{line(sender='x')}\n{{\n", encoding="utf-8")
    done = bus("validate", "good.xml", "bad.xml", "torn.json", "short.json", "many.ndjson")
    assert done.code == 8
    assert done.stdout.splitlines() == [
        (
            'bad.xml:2: agent-message/sender: found "python-expert", '
            "expected a name such as @kilo (@, then at most 64 of A-Z a-z 0-9 . _ -)"
        ),
        'bad.xml:5: agent-message/priority: found "urgent", expected one of critical, high, normal, low',
        ('bad.xml:21: agent-message/payload/error-details/level: found "one", expected a whole number from 1 to 4'),
        "torn.json:3:3: found unterminated string starting, expected JSON",
        "short.json:1: context.goal: found nothing, expected text, not empty",
        ('many.ndjson:3: sender: found "x", expected a name such as @kilo (@, then at most 64 of A-Z a-z 0-9 . _ -)'),
        'many.ndjson:4:2: found the end of the document, expected a "key"',
    ]
    assert done.stderr == "2 of 7 valid (28.5 %)\n"


def test_programs_get_an_object_per_document_and_a_summary(bus: Console) -> None:
    """With --json, everything that is said can be read by a program."""
    stream = f"{line()}\n{line(type='news')}\n"
    done = bus("validate", "--json", "-", PROTOCOL / "delegation.json", "missing.xml", input=stream)
    good, bad, short, summary = done.lines()
    assert (good["file"], good["line"], good["valid"], good["type"]) == ("<stdin>", 1, True, "status")
    assert (bad["line"], bad["valid"]) == (2, False)
    assert bad["problems"][0]["place"] == "type"
    assert bad["problems"][0]["found"] == '"news"'
    assert (short["type"], short["shorthand"]) == ("delegation", True)
    assert summary == {"valid": 2, "documents": 3, "rate": 0.666667, "missing": ["missing.xml"]}
    assert done.code == 3


def test_a_file_that_is_missing_does_not_keep_the_others_from_being_checked(bus: Console) -> None:
    """It is told on stderr, and the exit code says that the check was not complete."""
    done = bus("validate", "missing.xml", PROTOCOL / "agent-message.xml")
    assert done.code == 3
    assert done.stderr.startswith("Error: missing.xml cannot be read: No such file or directory.\n")
    assert done.stderr.endswith("1 of 1 valid (100 %)\n")


def test_a_folder_without_documents_is_told(bus: Console) -> None:
    """Nothing checked is not the same as nothing wrong."""
    (bus.command.folder / "notes").mkdir()
    (bus.command.folder / "notes" / "readme.txt").write_text("hello", encoding="utf-8")
    done = bus("validate", "notes")
    assert done.code == 3
    assert "There are no documents in notes." in done.stderr


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (b"", "<stdin>: document: found nothing, expected an XML or JSON document"),
        (b"x" * 100_000_000, "<stdin>: document: found more than 1048576 bytes, expected at most"),
        (SAMPLE.encode()[:500], "found Premature end of data"),
        (b'{"a": ', "<stdin>:1:7: found the end of the document, expected a value"),
        (f"<!DOCTYPE x>{SAMPLE}".encode(), "<stdin>: document: found a DOCTYPE"),
        (b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><agent-message>&e;</agent-message>', "a DOCTYPE"),
        (f"<!DOCTYPE x>{SAMPLE}".encode("utf-16"), "<stdin>: document: found a DOCTYPE"),
        (b"[" * 200_000, "expected an envelope: < of XML, or { of JSON"),
        (b'{"a":' * 200_000, "<stdin>: document: found too many brackets within brackets"),
        (b"<agent-message>" * 50_000, "Excessive depth in document"),
        (SAMPLE.replace("Human", "\0").encode(), "<stdin>:15:20: found "),
        (SAMPLE.replace("Human", "\x1b[31m").encode(), "<stdin>:15:20: found "),
        (line().replace("half", "\\u001b").encode(), "payload.progress: found the character U+001B (number 1)"),
        (line().replace("half", "\\ud800").encode(), "payload.progress: found the character U+D800 (number 1)"),
        (line().replace('"sender"', '"sender": "@a", "sender"').encode(), "sender: found it more than once"),
        (line(colour="red").encode(), "colour: found an unknown field"),
        (line(payload=5).encode(), "payload: found 5, expected an object with progress"),
        (line().replace("30:00Z", "30:00").encode(), 'context.timestamp: found "2026-11-20T09:30:00", expected'),
        (line().replace("2026-", "9999-").encode(), 'context.timestamp: found "9999-11-20T09:30:00Z", expected'),
    ],
)
def test_bad_input_ends_with_a_clear_message(bus: Console, document: bytes, told: str) -> None:
    """Whatever comes in, the answer is exit code 8 and a line that says what is wrong, never a traceback."""
    done = bus("validate", "-", input=document)
    assert done.code == 8
    assert told in done.stdout
    assert "Traceback" not in done.stderr
    converted = bus("convert", input=document)
    assert (converted.code, converted.stdout) == (8, "")
    assert "Traceback" not in converted.stderr


def test_thousands_of_files_show_a_progress_bar_on_a_terminal(bus: Console) -> None:
    """The bar is drawn on stderr, and the problems are not drawn through it."""
    for number in range(2000):
        text = "no envelope" if number % 500 == 7 else line()
        (bus.command.folder / f"{number:04}.json").write_text(text, encoding="utf-8")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "taskbus", "validate", "."],
        cwd=bus.command.folder,
        env={**bus.command.environment, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the terminal is closed when the process ends
            break
        if not chunk:
            break
        shown += chunk
    os.close(leader)
    assert process.wait(30) == 8
    assert b"Checking" in shown
    assert b"2000/2000" in shown
    bar, _, rest = shown.rpartition(b"2000/2000")
    assert rest.count(b"expected an envelope") == 4
    assert b"expected an envelope" not in bar
    assert b"1996 of 2000 valid (99.8 %)" in rest


def test_an_envelope_is_converted_there_and_back(bus: Console) -> None:
    """Both forms hold the same: XML becomes JSON, and that becomes the same XML."""
    as_json = bus("convert", PROTOCOL / "agent-message.xml")
    assert as_json.code == 0
    assert as_json.json()["payload"]["result"]["status"] == "success"
    back = bus("convert", "-", "--to", "xml", "--pretty", input=as_json.stdout)
    identifier = as_json.json()["id"]
    assert back.stdout == SAMPLE.replace("<sender>", f"<id>{identifier}</id>\n  <sender>", 1)
    same = bus("convert", "--to", "json", input=as_json.stdout)
    assert same.stdout == as_json.stdout


def test_a_stream_of_envelopes_is_converted_line_by_line(bus: Console) -> None:
    """As many lines come out as went in, until one is wrong; XML lines can be read again."""
    texts = ["one\ntwo", "three\r", " four "]
    stream = "\n".join(line(payload={"progress": text}) for text in texts)
    as_xml = bus("convert", "--to", "xml", input=stream)
    assert len(as_xml.stdout.splitlines()) >= len(texts)
    again = bus("convert", "--to", "json", input=stream)
    assert [each["payload"]["progress"] for each in again.lines()] == texts
    broken = bus("convert", input=f"{line()}\n{line(sender='x')}\n{line()}\n")
    assert broken.code == 8
    assert broken.stdout.count("<agent-message>") == 1
    assert "<stdin>:2" in broken.stderr
    assert 'sender: found "x", expected a name' in broken.stderr


def test_conversions_are_given_to_programs_as_json(bus: Console) -> None:
    """With --json, the document is a string in an object, and so is an error."""
    done = bus("convert", "--json", input=line())
    found = done.json()
    assert found["content_type"] == "application/xml"
    assert found["document"].startswith("<agent-message>")
    wrong = bus("convert", "--json", input="{}")
    assert wrong.code == 8
    assert wrong.json()["error"] == "InvalidEnvelope"
    missing = bus("convert", "--json", "missing.xml")
    assert (missing.code, missing.json()["error"]) == (3, "NotFound")


def test_free_text_is_searched_when_asked(bus: Console) -> None:
    """With --lenient an envelope among a model's words is found, and what was mended is told."""
    answer = f"Sure, here it is:\n```xml\n{SAMPLE.replace('File change', 'R&D')}\n```\nAnything else?"
    strict = bus("validate", "-", input=answer)
    assert strict.code == 8
    found = bus("validate", "--lenient", "--json", "-", input=answer)
    assert found.code == 0
    assert found.lines()[0]["type"] == "completion"
    assert found.lines()[0]["repairs"]
    converted = bus("convert", "--lenient", input=answer)
    assert converted.json()["payload"]["result"]["artifacts"][0]["summary"] == "R&D summary"
    assert converted.stderr.startswith("Mended: ")
    hopeless = bus("convert", "--lenient", input="I am done!")
    assert (hopeless.code, hopeless.stdout) == (8, "")


def test_lines_may_be_demanded(bus: Console) -> None:
    """Where each line is to be a document, one that is none does not swallow the rest."""
    done = bus("validate", "--lines", "-", input=f"hello\n{line()}\n")
    assert (done.code, done.stderr) == (8, "1 of 2 valid (50 %)\n")
    assert done.stdout.startswith('<stdin>:1:1: found "hello"')
    assert bus("validate", "--lines", "--lenient", "-").code == 2


def test_nothing_is_asked_of_a_server(bus: Console) -> None:
    """Documents can be checked on a machine without any bus."""
    done = bus("validate", PROTOCOL, env={"BUS_URL": "redis://127.0.0.1:1"})
    assert done.code == 0


def test_names_of_files_do_not_steer_the_terminal(bus: Console) -> None:
    """A name with an escape sequence in it is shown, not obeyed."""
    name = "evil\x1b[2J.json"
    (bus.command.folder / name).write_text("{}", encoding="utf-8")
    done = bus("validate", ".")
    assert done.stdout.startswith("evil\\x1b[2J.json:1: sender: found nothing")
