"""Bad input: whatever comes in, the exit code is the documented one, the message has the place, the log stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from taskbus import codec
from taskbus.envelope import Completion, Delegation, Question, Result, compose

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskbus.envelope import AnyEnvelope
    from tests.conftest import BusCommand, Finished
    from tests.scenarios.conftest import Console

DELEGATION: AnyEnvelope = compose(Delegation(goal="a goal"), sender="@human", recipient="@kilo", task="NEW")
COMPLETION: AnyEnvelope = compose(
    Completion(result=Result(status="success", description="a goal")),
    sender="@kilo",
    recipient="@human",
    task="OPEN",
)
COMMANDS = ("publish", "validate", "delegate", "complete")


def good(command: str) -> AnyEnvelope:
    """A valid envelope of the kind that a command takes."""
    return COMPLETION if command == "complete" else DELEGATION


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[str], bytes]:
    """A document whose plain form was changed."""

    def make(command: str) -> bytes:
        plain = json.loads(codec.encode(good(command)))
        change(plain)
        return json.dumps(plain).encode()

    return make


def replaced(old: bytes, new: bytes, content_type: str = codec.JSON) -> Callable[[str], bytes]:
    """A document whose bytes were changed."""

    def make(command: str) -> bytes:
        document = codec.encode(good(command), content_type)
        assert old in document
        return document.replace(old, new)

    return make


def before(prefix: bytes, *, entity: bytes = b"a goal") -> Callable[[str], bytes]:
    """An XML document with something in front of it, and a text replaced."""

    def make(command: str) -> bytes:
        return prefix + codec.encode(good(command), codec.XML).replace(b"a goal", entity)

    return make


def cut(content_type: str) -> Callable[[str], bytes]:
    """A document that ends in its middle."""

    def make(command: str) -> bytes:
        document = codec.encode(good(command), content_type)
        return document[: len(document) // 2]

    return make


DTD = b'<!DOCTYPE agent-message [<!ENTITY x "y">]>'
EXTERNAL = b'<!DOCTYPE agent-message [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
BOMB = b'<!DOCTYPE z [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'

USAGE = b'"usage":[{"provider":"p","model":"m","input_tokens":'

# Name → the document for a command, and what its message must have.
DOCUMENTS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "empty": (lambda _: b"", "nothing"),
    "blank": (lambda _: b" \n\t\n", "nothing"),
    "no document": (lambda _: b"hello", "line 1"),
    "a list": (lambda _: b"[1, 2]", "line 1"),
    "truncated JSON": (cut(codec.JSON), "line 1, column"),
    "truncated XML": (cut(codec.XML), "line 1"),
    "DOCTYPE": (before(b"<!DOCTYPE agent-message>"), "DOCTYPE"),
    "entity": (before(DTD, entity=b"&x;"), "DOCTYPE"),
    "external entity": (before(EXTERNAL, entity=b"&x;"), "DOCTYPE"),
    "entities of entities": (before(BOMB, entity=b"&b;"), "DOCTYPE"),
    "external subset": (before(b'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">'), "DOCTYPE"),
    "unknown entity": (before(b"", entity=b"&nbsp;"), "line 1"),
    "deep brackets": (lambda _: b"[" * 100_000, ""),
    "deep JSON": (changed(lambda plain: plain.update(payload=_nested(900))), "payload"),
    "very deep JSON": (replaced(b'"a goal"', b'{"a":' * 50_000 + b"1" + b"}" * 50_000), ""),
    "deep XML": (replaced(b"a goal", b"<a>" * 10_000 + b"</a>" * 10_000, codec.XML), ""),
    "NUL in JSON": (replaced(b"a goal", rb"a\u0000goal"), "U+0000"),
    "NUL byte in JSON": (replaced(b"a goal", b"a\0goal"), "line 1, column"),
    "NUL in XML": (replaced(b"a goal", b"a&#0;goal", codec.XML), "line 1"),
    "NUL byte in XML": (replaced(b"a goal", b"a\0goal", codec.XML), "line 1"),
    "escape in JSON": (replaced(b"a goal", rb"\u001b[31m"), "U+001B"),
    "escape byte in XML": (replaced(b"a goal", b"\x1b[31m", codec.XML), "line 1"),
    "lone surrogate": (replaced(b"a goal", rb"\ud800"), "U+D800"),
    "lone surrogate in UTF-8": (replaced(b"a goal", b"\xed\xa0\x80"), "line 1"),
    "not UTF-8": (replaced(b"a goal", b"caf\xe9"), "line 1"),
    "UTF-16": (lambda command: codec.encode(good(command)).decode().encode("utf-16"), "UTF-16"),
    "key twice": (replaced(b'"sender":', b'"sender":"@a","sender":'), "sender"),
    "key twice, deep": (replaced(b'"task_id":', b'"task_id":"A","task_id":'), "context.task_id"),
    "element twice": (replaced(b"<sender>", b"<sender>@a</sender><sender>", codec.XML), "sender"),
    "unknown field": (changed(lambda plain: plain.update(colour="red")), "colour"),
    "unknown field, deep": (changed(lambda plain: plain["context"].update(colour="red")), "context.colour"),
    "unknown element": (replaced(b"<sender>", b"<colour>red</colour><sender>", codec.XML), "colour"),
    "missing field": (changed(lambda plain: plain.pop("sender")), "sender"),
    "wrong type": (changed(lambda plain: plain.update(sender=7)), "sender"),
    "null": (changed(lambda plain: plain.update(payload=None)), "payload"),
    "a name without @": (changed(lambda plain: plain.update(sender="kilo")), "sender"),
    "naive time": (changed(lambda plain: plain["context"].update(timestamp="2026-11-20T09:30:00")), "timestamp"),
    "year 9999": (changed(lambda plain: plain["context"].update(timestamp="9999-12-31T23:59:59Z")), "timestamp"),
    "year 1": (changed(lambda plain: plain["context"].update(timestamp="0001-01-01T00:00:00Z")), "timestamp"),
    "30 February": (changed(lambda plain: plain["context"].update(timestamp="2026-02-30T09:30:00Z")), "timestamp"),
    "a number for a time": (changed(lambda plain: plain["context"].update(timestamp=1763625600)), "context.timestamp"),
    "NaN": (replaced(b'"context":', USAGE + b'NaN}],"context":'), "usage[0]"),
    "a huge number": (replaced(b'"context":', USAGE + b"1" * 5000 + b'}],"context":'), "usage[0]"),
    "another version": (changed(lambda plain: plain.update(spec="2.0")), "spec"),
    "an ID of another kind": (changed(lambda plain: plain.update(id="7")), "id"),
}  # fmt: skip


def _nested(depth: int) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for _ in range(depth):
        plain = {"goal": plain}
    return plain


@pytest.fixture
def there(bus: Console) -> Console:
    """A bus with one task that @kilo works on."""
    bus.ok("delegate", "@kilo", "g", "--task", "OPEN")
    bus.ok("ack", "OPEN")
    return bus


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_bad_documents(there: Console, command: str, name: str) -> None:
    """Every bad document is refused by every command with 8, with its place, and without a trace in the log."""
    make, fragment = DOCUMENTS[name]
    done = there(command, "-", input=make(command))
    assert done.code == 8, done
    told = done.stdout + done.stderr
    if command == "validate":  # it writes places as compilers do
        fragment = fragment.replace("line 1, column", "<stdin>:1:").replace("line 1", "<stdin>:1:")
    assert fragment in told
    assert told.strip()
    assert len(told) < 20_000
    assert told.replace("\n", "").isprintable()
    assert len(there.log()) == 2


@pytest.mark.parametrize("name", ["truncated JSON", "unknown field", "naive time", "DOCTYPE"])
@pytest.mark.parametrize("command", ["publish", "delegate", "complete"])
def test_bad_documents_as_json(there: Console, command: str, name: str) -> None:
    """With --json the refusal is one object that lists every problem with its place."""
    make, fragment = DOCUMENTS[name]
    printed = there(command, "-", "--json", input=make(command)).json()
    assert printed["error"] == "InvalidEnvelope"
    assert fragment in json.dumps(printed["problems"])
    assert all({"place", "found", "expected"} == problem.keys() for problem in printed["problems"])


def test_every_problem_has_a_line(there: Console) -> None:
    """Not only the first problem of a document is told, and each stands on a line of its own."""
    plain = json.loads(codec.encode(DELEGATION))
    plain.update(sender=7, colour="red", recipient=None)
    plain["payload"]["goal"] = ""
    done = there("delegate", "-", input=json.dumps(plain))
    for place in ("sender", "colour", "recipient", "payload.goal"):
        assert any(line.strip().startswith(place) for line in done.stderr.splitlines()), done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_hundred_megabytes_in_a_file(there: Console, command: str) -> None:
    """A file that is far too long is refused after the first megabyte."""
    with Path("big.json").open("wb") as big:
        big.write(b'{"payload": "')
        big.truncate(100 << 20)
    done = there(command, "./big.json")
    assert done.code == 8
    assert "more than 1048576 bytes" in done.stdout + done.stderr
    assert len(there.log()) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_a_hundred_megabytes_on_stdin(run_bus: BusCommand, command: str) -> None:
    """A producer that never ends is cut off early: the command neither reads nor holds what it will refuse."""
    process = subprocess.Popen(
        [sys.executable, "-m", "taskbus", command, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=run_bus.environment,
    )
    assert process.stdin is not None
    written = 0
    try:
        while written < 100 << 20:
            written += os.write(process.stdin.fileno(), b"<" + b"x" * 65535)
    except BrokenPipeError:
        pass
    printed, told = process.communicate(timeout=30)
    assert process.returncode == 8
    assert b"more than 1048576 bytes" in printed + told
    assert written < 8 << 20


def outcome(there: Console, *arguments: str, input: str = "") -> Finished:
    """What a command that the bus refuses printed; the log must be as it was."""
    length = len(there.log())
    done = there(*arguments, input=input)
    assert len(there.log()) == length
    return done


def text(envelope: AnyEnvelope) -> str:
    """An envelope as JSON."""
    return codec.encode(envelope).decode()


def completion(task: str, sender: str = "@kilo") -> str:
    """A completion as JSON."""
    payload = Completion(result=Result(status="success"))
    return text(compose(payload, sender=sender, recipient="@human", task=task))


@pytest.mark.parametrize("command", ["publish", "complete"])
def test_somebody_else_s_task(there: Console, command: str) -> None:
    """A completion from another agent than the assignee is a conflict that names both."""
    done = outcome(there, command, "-", input=completion("OPEN", "@opencode"))
    assert done.code == 4
    told = done.stdout + done.stderr
    assert "@kilo" in told
    assert "@opencode" in told
    assert outcome(there, "complete", "OPEN", "--status", "success", "--as", "@opencode").code == 4


@pytest.mark.parametrize("command", ["publish", "complete"])
def test_a_finished_task(there: Console, command: str) -> None:
    """A second completion of a task is a conflict that says which state it is in."""
    there.ok("complete", "OPEN", "--status", "success")
    done = outcome(there, command, "-", input=completion("OPEN"))
    assert done.code == 4
    assert "completed" in done.stdout + done.stderr
    assert outcome(there, "complete", "OPEN", "--status", "success").code == 4


@pytest.mark.parametrize("command", ["publish", "complete"])
def test_a_task_that_is_not_there(there: Console, command: str) -> None:
    """What is about an unknown task ends with 3 and says what to check."""
    done = outcome(there, command, "-", input=completion("LOST"))
    assert done.code == 3
    assert "LOST" in done.stdout + done.stderr
    assert outcome(there, "complete", "LOST", "--status", "success").code == 3


@pytest.mark.parametrize("command", ["publish", "delegate"])
def test_an_id_used_again(there: Console, command: str) -> None:
    """The same ID with other content is a conflict that says where the first one stands."""
    there.ok(command, "-", input=text(DELEGATION))
    where = str(there.last().position)
    done = outcome(there, command, "-", input=text(DELEGATION).replace("a goal", "another goal"))
    assert done.code == 4
    assert where in done.stdout + done.stderr
    assert there(command, "-", input=text(DELEGATION)).code == 0, "the same content is a repeat, and no conflict"


@pytest.mark.parametrize("state", ["submitted", "working", "completed"])
def test_a_task_delegated_again_in_the_middle(bus: Console, state: str) -> None:
    """A task that somebody works on, or whose result waits for a verdict, is not handed out a second time."""
    steps: dict[str, list[tuple[str, ...]]] = {
        "submitted": [],
        "working": [("ack", "T")],
        "completed": [("ack", "T"), ("complete", "T", "--status", "success")],
    }
    bus.ok("delegate", "@kilo", "g", "--task", "T")
    for step in steps[state]:
        bus.ok(*step)
    assert outcome(bus, "delegate", "@opencode", "g", "--task", "T").code == 4
    document = text(compose(Delegation(goal="g"), sender="@human", recipient="@opencode", task="T"))
    assert outcome(bus, "publish", "-", input=document).code == 4


def test_a_failed_task_of_somebody_else(there: Console) -> None:
    """A failed task is handed out again by its delegator, and by nobody else."""
    there.ok("complete", "OPEN", "--status", "failure")
    assert outcome(there, "delegate", "@opencode", "g", "--task", "OPEN", "--as", "@stranger").code == 4


def test_the_state_of_the_bus_is_no_fault_of_a_document(there: Console) -> None:
    """`validate` looks at documents only: one that the bus would refuse is valid."""
    assert there("validate", "-", input=completion("LOST")).code == 0


@pytest.mark.parametrize("shorthand", ["delegate", "complete"])
@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"colour": "red"}, "colour"),
        ({"artifacts": "a.py"}, "artifacts"),
        ({"status": "done", "target_agent": "not a name"}, ""),
        ({"next_steps": "\u0000", "task_type": "\u0000"}, "U+0000"),
    ],
)
def test_bad_shorthand(there: Console, shorthand: str, change: dict[str, Any], place: str) -> None:
    """The handoff shorthand is read as strictly as envelopes are."""
    plain: dict[str, Any] = {"target_agent": "kilo", "context": {"goal": "g"}}
    task = ()
    if shorthand == "complete":
        plain, task = {"status": "success"}, ("OPEN",)
    done = outcome(there, shorthand, *task, "-", input=json.dumps({**plain, **change}))
    assert done.code == 8
    assert place in done.stderr


def test_a_document_of_another_kind(there: Console) -> None:
    """A verb takes its own kind of document only, and says which command takes the others."""
    done = outcome(there, "complete", "-", input=text(DELEGATION))
    assert done.code == 2
    assert "bus publish" in done.stderr
    question = compose(Question(question="q?"), sender="@kilo", recipient="@human", task="OPEN")
    assert "a question, and an escalation is wanted" in outcome(there, "escalate", "-", input=text(question)).stderr


@pytest.mark.parametrize("command", ["delegate", "complete", "publish", "validate"])
def test_a_file_that_is_not_there(there: Console, command: str) -> None:
    """A missing file ends with 3, and its name is in the message."""
    done = outcome(there, command, "./none.json")
    assert done.code == 3
    assert "none.json" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("delegate", "@kilo", ""),
        ("delegate", "@kilo", "a\x00b"),
        ("delegate", "@kilo", "\x1b[31m"),
        ("delegate", "@kilo", "\udc80"),
        ("delegate", "@kilo", "g", "--constraint", ""),
        ("complete", "OPEN", "--status", "success", "--description", "\x1b"),
        ("delegate", "@kilo", "x" * (1 << 20)),
    ],
)
def test_bad_text_in_arguments(there: Console, arguments: tuple[str, ...]) -> None:
    """What no envelope can carry is refused on the command line as in a document, with its place."""
    done = outcome(there, *arguments)
    assert done.code == 8, done
    assert "found" in done.stderr
