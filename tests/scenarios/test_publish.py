"""`bus publish`: documents and streams of them, answered in order, each for itself or all at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from taskbus import codec
from taskbus.envelope import MAX_BYTES, Acknowledgment, Completion, Delegation, Result, Status, compose
from tests.conftest import BusCommand
from tests.scenarios.conftest import Console
from tests.servers import bundled_binary, running

if TYPE_CHECKING:
    from taskbus.client import Bus
    from taskbus.delivery import Delivery
    from taskbus.envelope import AnyEnvelope

PROTOCOL = Path(__file__).parents[1] / "data" / "protocol"


def line(goal: str = "g", **options: str) -> str:
    """A delegation as one line of JSON."""
    return document(compose(Delegation(goal=goal), sender="@lead", recipient="@kilo", **options))


def document(envelope: AnyEnvelope) -> str:
    """An envelope as one line of JSON."""
    return codec.encode(envelope).decode()


def test_lines_are_answered_in_order(bus: Console) -> None:
    """Each line has its position or its error; the bad one stops nobody; the exit code is that of the first error."""
    lines = [line("1"), '{"type": "status"}', line("2"), "", line("3"), "not JSON"]
    done = bus("publish", "--json", input="\n".join(lines))
    answers = done.lines()
    assert [answer["line"] for answer in answers] == [1, 2, 3, 5, 6]
    assert ["position" in answer for answer in answers] == [True, False, True, True, False]
    assert answers[1]["error"] == "InvalidEnvelope"
    assert any(problem["place"] == "payload" for problem in answers[1]["problems"])
    assert [str(entry.position) for entry in bus.log()] == [answers[at]["position"] for at in (0, 2, 3)]
    assert done.code == 8


def test_the_answers_for_people(bus: Console) -> None:
    """Without --json each answer is one line of text: the position, or the place and what is wrong there."""
    done = bus("publish", input=f"{line()}\n{{}}\n")
    good, bad = done.stdout.splitlines()
    assert good.startswith(str(bus.last().position))
    assert bad.startswith("error  <stdin>:2: ")
    assert "sender" in bad


def test_the_first_error_decides_the_exit_code(bus: Console) -> None:
    """An unknown task before an invalid document ends with 3, and not with 8."""
    lost = document(compose(Acknowledgment(accepted=True), sender="@kilo", recipient="@lead", task="T"))
    assert bus("publish", input=f"{lost}\n{{}}\n{line()}").code == 3
    assert len(bus.log()) == 1


def test_the_bytes_stay_as_they_were_written(bus: Console) -> None:
    """XML stays XML, and pretty JSON stays pretty."""
    pretty = json.dumps(json.loads(line(task="3f0c9a52-6c0e-4d0c-9f3a-0d6c1b6f7a10")), indent=4) + "\n"
    swapped = pretty.replace("@lead", "@backend-coordinator").replace("@kilo", "@python-expert")
    bus.ok("publish", "-", input=swapped)
    bus.ok("ack", "3f0c9a52-6c0e-4d0c-9f3a-0d6c1b6f7a10")
    bus.ok("publish", PROTOCOL / "agent-message.xml")
    delegation, _, completion = bus.log()
    assert delegation.body.decode() == swapped
    assert completion.body == (PROTOCOL / "agent-message.xml").read_bytes()


def test_files_are_published_in_order(bus: Console) -> None:
    """Several files, one of them with a document per line, are answered by name and line."""
    Path("one.json").write_text(line("1"), encoding="utf-8")
    Path("many.ndjson").write_text(f"{line('2')}\n{line('3')}\n", encoding="utf-8")
    done = bus("publish", "--json", "one.json", "many.ndjson")
    assert [(each["source"], each.get("line")) for each in done.lines()] == [
        ("one.json", 1),
        ("many.ndjson", 1),
        ("many.ndjson", 2),
    ]
    assert len(bus.log()) == 3


@pytest.mark.parametrize(("name", "code"), [("none.json", 3), (".", 2)])
def test_nothing_is_published_when_a_file_is_missing(bus: Console, name: str, code: int) -> None:
    """All files are looked for before the first is published."""
    Path("one.json").write_text(line(), encoding="utf-8")
    assert bus("publish", "one.json", name).code == code
    assert bus.log() == []


def test_twice_is_once(bus: Console) -> None:
    """Publishing the same stream again repeats nothing, and says so."""
    stream = "\n".join(line(str(number)) for number in range(250))
    first = bus("publish", "--json", input=stream).lines()
    again = bus("publish", "--json", input=stream).lines()
    assert [each["position"] for each in again] == [each["position"] for each in first]
    assert not any(each["repeated"] for each in first)
    assert all(each["repeated"] for each in again)
    assert len(bus.log()) == 250


def test_all_or_nothing(bus: Console) -> None:
    """--atomic appends all of them or none, whether a document is invalid or the bus refuses one."""
    lost = document(compose(Acknowledgment(accepted=True), sender="@kilo", recipient="@lead", task="T"))
    for bad, code in (("{}", 8), (lost, 3)):
        done = bus("publish", "--atomic", "--json", input=f"{line()}\n{bad}\n{line()}")
        assert done.code == code
        assert [each["error"] for each in done.lines()][::2] == ["Skipped", "Skipped"]
        assert bus.log() == []
    assert len(bus("publish", "--atomic", "--json", input=f"{line()}\n{line()}").lines()) == 2
    assert len(bus.log()) == 2


def test_one_step_has_a_limit(bus: Console) -> None:
    """More than one step should hold is refused before anything is appended."""
    stream = "\n".join(line() for _ in range(1001))
    assert bus("publish", "--atomic", input=stream).code == 2
    assert bus.log() == []


def test_a_model_s_free_text(bus: Console) -> None:
    """--lenient finds the envelope in what a model wrote around it, and the log keeps the whole text."""
    bus.ok("delegate", "@kilo", "g", "--task", "T")
    bus.ok("ack", "T")
    text = (
        "Sure! Here is the message:\n\n```xml\n<agent-message><sender>@kilo</sender><recipient>@human</recipient>\n"
        "<type>task-completion</type><context><task-id>T</task-id><timestamp>2026-11-20T09:30:00Z</timestamp>"
        "</context><payload><result><success>true</success><description>R & D</description></result></payload>"
        "</agent-message>\n```\nLet me know!"
    )
    assert bus("publish", input=text).code == 8
    bus.ok("publish", "--lenient", input=text)
    entry = bus.last()
    completion = entry.envelope.payload
    assert isinstance(completion, Completion)
    assert completion.result.description == "R & D"
    assert entry.source == text.encode()
    long = bus("publish", "--lenient", "--json", input=text + " " * MAX_BYTES)
    assert long.code == 8
    assert str(MAX_BYTES) in long.json()["problems"][0]["expected"]
    hopeless = bus("publish", "--lenient", input="I have finished the task.")
    assert hopeless.code == 8
    assert len(bus.log()) == 3


def test_a_worker_s_subprocess_publishes_under_its_token(bus: Console) -> None:
    """BUS_TOKEN fences what a subprocess publishes about its task; --token goes before it."""
    bus.ok("delegate", "@kilo", "g", "--task", "T")

    async def take(on: Bus) -> Delivery:
        taken = await on.inbox("@kilo", consumer="w").take()
        return taken.deliveries[0]

    token = str(bus.on_bus(take).token)
    said = document(compose(Acknowledgment(accepted=True), sender="@kilo", recipient="@human", task="T"))
    environment = {"BUS_TOKEN": token, "BUS_TASK": "T"}
    assert bus("publish", input=said).code == 4
    assert bus("publish", "--token", "999", input=said, env=environment).code == 4
    assert bus("publish", input=said, env=environment).code == 0


def test_an_interactive_producer_gets_each_answer_at_once(run_bus: BusCommand) -> None:
    """A producer that writes a line and waits for its answer before the next one is never kept waiting."""
    with run_bus.start("publish", "--json") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            process.stdin.write(f"{line(str(number))}\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["line"] == number + 1
        process.stdin.close()
        assert process.wait(20) == 0


XML = codec.encode(compose(Delegation(goal="g"), sender="@lead", recipient="@kilo"), codec.XML).decode()


@pytest.mark.parametrize("first", ["oops", "null", "[1]", '{"a": oops}', XML.replace("\n", "")])
def test_the_first_line_is_answered_at_once_whatever_it_is(run_bus: BusCommand, bus: Console, first: str) -> None:
    """A bad line at the beginning is a line like any other, and so is a whole XML document: nobody waits for it."""
    with run_bus.start("publish", "--json") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number, sent in enumerate((first, line()), start=1):
            process.stdin.write(f"{sent}\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["line"] == number
        process.stdin.close()
        assert process.wait(20) == (0 if first.startswith("<") else 8)
    assert len(bus.log()) == 1 + first.startswith("<")


@pytest.mark.parametrize("first", [b"oops", b"[1]", b"null", b"\xff\xfe", b'{"a": 1', b'"x"', b"{}"])
def test_a_bad_first_line_stops_nobody(bus: Console, first: bytes) -> None:
    """It has its error, and what stands behind it is published."""
    done = bus("publish", "--json", input=first + f"\n{line()}\n{line()}\n".encode())
    assert ["error" in each for each in done.lines()] == [True, False, False]
    assert done.code == 8
    assert len(bus.log()) == 2


def test_free_text_without_lenient(bus: Console) -> None:
    """Whoever forgot --lenient is told of it, once."""
    done = bus("publish", input="I have\nfinished the task.\n")
    assert done.code == 8
    assert done.stderr.count("--lenient") == 1
    assert "--lenient" not in bus("publish", input=f"oops\n{line()}\n").stderr


def test_an_interruption_loses_nothing_that_was_answered(run_bus: BusCommand, bus: Console) -> None:
    """Ctrl-C ends a publish that waits for input at once, and whatever was answered stands in the log."""
    with run_bus.start("publish", "--json") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{line()}\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert [str(entry.position) for entry in bus.log()] == [answer["position"]]


def test_a_reader_that_has_had_enough(run_bus: BusCommand) -> None:
    """A closed pipe on stdout ends it quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "taskbus", "publish"],
        input=f"{line()}\n",
        stdout=writer,
        stderr=subprocess.PIPE,
        env=run_bus.environment,
        text=True,
        timeout=30,
        check=False,
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode != 0


@pytest.mark.parametrize(("closed", "code"), [("<&-", 8), (">&-", 0), ("2>&-", 0)])
def test_closed_streams(run_bus: BusCommand, bus: Console, closed: str, code: int) -> None:
    """A standard stream that the caller has closed is an empty one, and no fault."""
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m taskbus publish {closed}', sys.executable],
        input=f"{line()}\n",
        capture_output=True,
        env=run_bus.environment,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert len(bus.log()) == (code == 0)


def test_a_long_line_is_refused_and_the_next_one_is_read(bus: Console) -> None:
    """A line longer than any document may be is answered with an error; its rest is not taken for other lines."""
    long = json.dumps({"payload": "x" * (3 << 20)})
    done = bus("publish", "--json", input=f"{line()}\n{long}\n{line()}\n")
    assert ["error" in each for each in done.lines()] == [False, True, False]
    assert len(bus.log()) == 2


def test_lenient_and_lines_exclude_each_other(bus: Console) -> None:
    """A model's free text has lines of its own."""
    assert bus("publish", "--lenient", "--lines", input=line()).code == 2


def test_a_story_in_one_stream(bus: Console) -> None:
    """A delegation and what follows from it may come in one batch, and in one step."""
    delegation = compose(Delegation(goal="g", review_required=False), sender="@lead", recipient="@kilo", task="T")
    taken = compose(Acknowledgment(accepted=True), sender="@kilo", recipient="@lead", task="T", cause=delegation)
    result = Completion(result=Result(status="success"))
    done = compose(result, sender="@kilo", recipient="@lead", task="T", cause=taken)
    bus.ok("publish", "--atomic", input="\n".join(map(document, (delegation, taken, done))))
    assert [entry.type for entry in bus.log()] == ["delegation", "acknowledgment", "completion"]


def test_a_server_that_gives_up_in_the_middle(bus_environment: dict[str, str], namespace: str, tmp_path: Path) -> None:
    """When the server refuses on the way, the exit code is 5, and the user learns how far it came."""
    with running(bundled_binary()) as server:
        command = BusCommand({**bus_environment, "BUS_URL": server.url, "BUS_NAMESPACE": namespace}, tmp_path)
        console = Console(command)
        with command.start("publish", "--json") as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{line()}\n")
            process.stdin.flush()
            assert "position" in json.loads(process.stdout.readline())

            async def fill(on: Bus) -> None:
                await on.connection.execute("CONFIG", "SET", "maxmemory", "1")

            console.on_bus(fill)
            printed, told = process.communicate(f"{line()}\n", timeout=30)
        assert process.returncode == 5
        assert "Answered before: 1" in told
        assert json.loads(printed)["error"] == "OutOfMemory"


def test_a_refused_line_says_what_is_legal(bus: Console) -> None:
    """A document on one line answers with the advice, too."""
    task = bus.ok("delegate", "@kilo", "g")
    envelope = compose(Status(progress="x"), sender="@kilo", recipient="@human", task=task)
    done = bus("publish", input=f"{document(envelope)}\n")
    assert done.code == 4
    assert "Legal now: " in done.stdout


@pytest.mark.parametrize("command", ["publish", "convert"])
@pytest.mark.parametrize(
    ("short", "right"),
    [
        ({"target_agent": "kilo", "context": {"goal": "g"}}, "`bus delegate FILE`"),
        ({"status": "success"}, "`bus complete TASK FILE`"),
    ],
)
def test_the_handoff_shorthand_is_sent_where_it_belongs(
    bus: Console, command: str, short: dict[str, object], right: str
) -> None:
    """Where only envelopes are taken, the shorthand is one problem, and the command that takes it is named."""
    done = bus(command, "-", input=json.dumps(short))
    assert done.code == 8
    told = done.stdout + done.stderr
    assert right in told
    assert told.count("found") == 1
