"""The parts of the demo: how lines look, what is shipped, and what it refuses to call a success."""

from __future__ import annotations

from importlib import resources

import anyio
import click
import pytest

from taskbus import codec, shorthand
from taskbus.client import Bus
from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Artifact,
    Cancellation,
    Completion,
    CriterionResult,
    Delegation,
    ErrorDetails,
    Escalation,
    Parking,
    Question,
    Result,
    Status,
    Verdict,
    compose,
)
from taskbus.errors import TaskbusError, TimedOut
from taskbus.log import Entry
from taskbus.position import START
from taskbus.settings import Settings
from taskbus_agents.demo import play
from taskbus_agents.demo.narration import Narrator
from taskbus_agents.demo.orchestrator import Orchestrator
from taskbus_agents.demo.play import Summary

CRITERION = CriterionResult(criterion="it works", met=True, evidence="seen")
ERROR = ErrorDetails(level=2, category="execution", message="no key", attempted_recovery="looked for it")
SAID = [
    (Delegation(goal="do it"), "delegates", "do it"),
    (Acknowledgment(accepted=True, model="m"), "takes it on", ""),
    (Acknowledgment(accepted=False, decline_reason="busy"), "declines", "declined: busy"),
    (Status(progress="half"), "reports", "half"),
    (Question(question="which?"), "asks", "which?"),
    (Answer(answer="that"), "answers", "that"),
    (Completion(result=Result(status="success", description="done")), "completes", "done"),
    (Completion(result=Result(status="partial")), "completes", ""),
    (Completion(result=Result(status="failure"), error_details=ERROR), "fails", "no key"),
    (Verdict(decision="accepted", criteria=(CRITERION,)), "accepts", "seen"),
    (
        Verdict(decision="rejected", criteria=(CRITERION, CriterionResult(criterion="it is fast", met=False))),
        "rejects",
        "it is fast",
    ),
    (Escalation(error_details=ERROR), "escalates", "no key. looked for it"),
    (Cancellation(reason="over"), "cancels", "over"),
    (Parking(parking="parked", agent="@b", message="no"), "sets aside", "parked for @b: no"),
    (Parking(parking="replayed", agent="@b"), "replays", "replayed for @b"),
    (Parking(parking="replayed", agent="@b", resumes=True), "resumes", "replayed for @b, resuming the task"),
    (Parking(parking="dropped", agent="@b"), "drops", "dropped for @b"),
]


def entry(payload, *, task: str = "t") -> Entry:
    """An entry of the log."""
    envelope = compose(payload, sender="@a", recipient="@b", task=task)
    body = codec.validated(envelope)
    return Entry(START, envelope.id, envelope.type, "@a", "@b", task, task, "normal", codec.JSON, body)


def told(width: int, *entries: Entry) -> list[str]:
    """The lines that entries become."""
    lines: list[str] = []
    narrator = Narrator(lines.append, width)
    for each in entries:
        narrator.entry(each)
    return [plain(line) for line in lines]


def plain(line: str) -> str:
    """A line without its colours."""
    return click.unstyle(line)


@pytest.mark.parametrize(("payload", "verb", "text"), SAID)
def test_every_message_is_one_line_of_the_story(payload, verb, text):
    """Who, to whom, what it does, what it says."""
    (line,) = told(80, entry(payload))
    assert line == f"  @a → @b                   {verb:<11}  {text}".rstrip()


@pytest.mark.parametrize(("payload", "verb", "text"), SAID)
def test_on_a_narrow_terminal_what_is_said_goes_below(payload, verb, text):
    """A route and a text side by side would leave room for neither."""
    first, *rest = told(50, entry(payload))
    assert first == f"  @a → @b  {verb}"
    assert rest == ([f"      {text}"] if text else [])


def test_long_words_are_cut_and_wrapped():
    """No agent can push the story off the screen, nor steer the terminal."""
    lines = told(80, entry(Delegation(goal="word " * 100)))
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert max(map(len, lines)) <= 80
    assert told(80, entry(Question(question="\u202eder")))[0].endswith("\\u202eder")


def test_a_chapter_begins_once():
    """A task that is delegated again does not begin its chapter again."""
    lines = told(80, entry(Delegation(goal="pack it"), task="pack"), entry(Delegation(goal="again"), task="pack"))
    assert [line for line in lines if line.startswith("4.")] == [
        "4. The archive: one agent crashes and escalates, another gets the same task."
    ]


def test_a_failure_shows_how_it_ended_and_why():
    """The first line says how, the last of stderr says why; what is between is for the audit."""
    error = ErrorDetails(level=1, category="execution", message="exit code 1.\nTraceback\nKeyError: 'x'")
    (line,) = told(80, entry(Completion(result=Result(status="failure"), error_details=error)))
    assert line.endswith("fails        exit code 1. KeyError: 'x'")


def test_the_documents_are_valid_as_they_stand():
    """A user may take them for a pattern: one in the handoff shorthand, one in XML."""
    documents = resources.files("taskbus_agents.demo") / "documents"
    short = shorthand.read_delegation((documents / "release.json").read_bytes())
    assert short.recipient == "@orchestrator"
    assert short.payload.acceptance_criteria
    found = codec.read((documents / "notes.xml").read_bytes())
    assert (found.content_type, found.envelope.recipient) == (codec.XML, "@writer")


@pytest.fixture
async def connected(valkey, namespace, tmp_path):
    """A bus in a namespace of this test."""
    settings = Settings.load(url=valkey, namespace=namespace, environ={}, cwd=tmp_path)
    async with Bus.connect(settings=settings) as bus:
        yield bus


@pytest.mark.anyio
async def test_a_story_that_went_another_way_is_no_success(connected):
    """Each way in which log, tasks and read models can disagree is named."""
    for task in play.OUTCOME:
        await connected.publish(compose(Delegation(goal="x"), sender="@human", recipient="@a", task=task))
    summary = Summary("Valkey", "f", "h", 1)
    summary.tasks = [{"id": "release", "state": "failed", "attempt": 1, "assignee": "@a", "envelopes": 3}]
    summary.costs = {"total": {"cost_microusd": 5}}
    with pytest.raises(TaskbusError) as raised:
        await play._checked(connected, summary)
    for part in (
        "task pack is ('submitted', 1, '@a')",
        "the task board has",
        "3 envelopes were folded, and 6 stand in the log",
        "the log has costs of 0",
    ):
        assert part in raised.value.message


@pytest.mark.anyio
@pytest.mark.parametrize(
    "payload",
    [Completion(result=Result(status="failure"), error_details=ERROR), Escalation(error_details=ERROR)],
)
async def test_the_orchestrator_knows_what_it_waits_for(connected, tmp_path, payload):
    """Another outcome than the story has ends the story, instead of being waited out."""
    orchestrator = Orchestrator(connected, tmp_path)
    for each in (Status(progress="half"), payload):
        await orchestrator._mail.put(compose(each, sender="@a", recipient="@orchestrator", task="t"))
    with pytest.raises(TaskbusError, match="which the story does not have"):
        await orchestrator._next("t", Question)


@pytest.mark.anyio
async def test_a_result_that_is_rejected_twice_ends_the_story(connected, tmp_path):
    """The second attempt was the last; nobody tries for ever."""
    orchestrator = Orchestrator(connected, tmp_path)
    (tmp_path / "evidence.json").write_text('{"it works": [false, "it does not"]}')
    order = compose(Delegation(goal="release"), sender="@human", recipient="@orchestrator", task="release")
    await connected.publish(order)

    async def say(payload, task, agent="@writer"):
        envelope = compose(payload, sender=agent, recipient="@orchestrator", task=task)
        await orchestrator._mail.put(envelope)
        await connected.publish(envelope)

    done = Completion(result=Result(status="success", artifacts=(Artifact(path="x"),)))

    async def writer():
        async for found in connected.log.follow():
            if found.recipient == "@writer" and found.type in ("delegation", "answer", "verdict"):
                if found.type != "answer":
                    await say(Acknowledgment(accepted=True), "notes")
                await say(Question(question="?") if found.type == "delegation" else done, "notes")
            if found.recipient == "@tester" and found.type == "delegation":
                await say(Acknowledgment(accepted=True), found.task, "@tester")
                await say(done, found.task, "@tester")

    async with anyio.create_task_group() as group:
        group.start_soon(writer)
        with pytest.raises(TaskbusError, match="rejected twice"):
            await orchestrator._write_notes(order)
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_story_that_does_not_end_is_timed_out(monkeypatch):
    """A minute is what is promised; the exit code then says that it was too long, and nothing is left."""
    monkeypatch.setattr(play, "TIME", 0.3)
    lines: list[str] = []
    with pytest.RaisesGroup(pytest.RaisesExc(TimedOut, match="not over after"), flatten_subgroups=True):
        await play.play(Narrator(lines.append, 80))
    assert "Done" not in "".join(lines)
