"""The envelope verbs: what each publishes, who speaks, and what becomes of the task."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from taskbus.envelope import Answer, Completion, Delegation, Escalation, Question, Status, Verdict, compose

if TYPE_CHECKING:
    from taskbus.client import Bus
    from taskbus.delivery import Delivery
    from tests.conftest import BusCommand
    from tests.scenarios.conftest import Console

PROTOCOL = Path(__file__).parents[1] / "data" / "protocol"


def test_a_verdict_on_a_criterion_that_nobody_asked_for_is_told_of(bus: Console) -> None:
    """It is accepted all the same: on stderr stands what the delegation has, or that it has none."""
    for criteria, has in ((("--criterion", "passes"), "It has: 'passes'."), ((), "It has none.")):
        task = bus.ok("delegate", "@kilo", "Add a cache", *criteria)
        bus.ok("ack", task)
        bus.ok("complete", task, "--status", "success")
        done = bus("accept", task, "--criterion", "pases=yes")
        assert (done.code, done.stdout.strip()) == (0, "accepted")
        assert "no such criterion: 'pases'" in done.stderr
        assert has in done.stderr


def test_a_task_from_delegation_to_acceptance(bus: Console) -> None:
    """Each verb moves the task on, and prints the state that it is in then."""
    task = bus.ok("delegate", "@kilo", "Add a cache")
    assert bus.ok("ack", task) == "working"
    assert bus.ok("progress", task, "half way", "--fraction", "50%") == "working"
    assert bus.ok("ask", task, "Which version?") == "input-required"
    assert bus.ok("answer", task, "Version 7.") == "working"
    assert bus.ok("complete", task, "--status", "partial") == "completed"
    assert bus.ok("reject", task, "--comment", "half is missing") == "submitted"
    assert bus.ok("ack", task) == "working"
    assert bus.ok("complete", task, "--status", "success") == "completed"
    assert bus.ok("accept", task) == "accepted"
    types = [entry.type for entry in bus.log()]
    assert types == [
        "delegation", "acknowledgment", "status", "question", "answer", "completion", "verdict",
        "acknowledgment", "completion", "verdict",
    ]  # fmt: skip


def test_a_task_that_goes_wrong_and_is_handed_out_again(bus: Console) -> None:
    """Declined, failed, escalated and canceled tasks are in the state that the lifecycle says."""
    task = bus.ok("delegate", "kilo", "Fix it", "--as", "@lead")
    assert bus.ok("ack", task, "--decline", "no access") == "rejected"
    assert bus.ok("delegate", "@opencode", "Fix it", "--task", task, "--as", "@lead") == task
    bus.ok("ack", task)
    assert bus.ok("escalate", task, "the schema is wrong", "--to", "@chief", "--level", "3") == "escalated"
    assert bus.ok("answer", task, "use the new one") == "working"
    assert bus.ok("complete", task, "--status", "failure", "--reason", "turn-limit") == "failed"
    assert bus.ok("delegate", "@kilo", "Fix it", "--task", task, "--as", "@chief") == task
    assert bus.ok("cancel", task, "not wanted", "--as", "@lead") == "canceled"
    entries = bus.log()
    assert [entry.recipient for entry in entries if entry.type == "escalation"] == ["@chief"]
    assert entries[-1].recipient == "@kilo"


def test_what_is_said_names_its_cause_and_its_tree(bus: Console) -> None:
    """Each envelope follows from the one that brought the task into its state, so that an audit can say why."""
    root = bus.ok("delegate", "@kilo", "Add a cache")
    part = bus.ok("delegate", "@cline", "Measure it", "--parent", root, "--as", "@kilo")
    bus.ok("ack", part)
    bus.ok("progress", part, "half way")
    bus.ok("complete", part, "--status", "success")
    entries = [entry for entry in bus.log() if entry.task == part]
    delegated, taken, told, done = (entry.envelope for entry in entries)
    causes = [envelope.context.causation_id for envelope in (taken, told, done)]
    assert causes == [delegated.id, taken.id, taken.id]
    assert {envelope.context.correlation_id for envelope in (delegated, taken, told, done)} == {root}


def test_a_delegation_carries_every_flag(bus: Console) -> None:
    """What the flags say stands in the envelope, in its place."""
    before = datetime.now(UTC)
    task = bus.ok(
        "delegate", "@kilo", "Add a cache", "--constraint", "no ORM", "--constraint", "Python 3.11",
        "--artifact", "plan.md", "--criterion", "tests pass", "--type", "implementation", "--priority", "critical",
        "--deadline", "2h", "--no-review", "--justification", "the free ones failed",
    )  # fmt: skip
    envelope = bus.last().envelope
    payload = envelope.payload
    assert isinstance(payload, Delegation)
    assert (payload.goal, payload.task_type) == ("Add a cache", "implementation")
    assert payload.constraints == ("no ORM", "Python 3.11")
    assert [artifact.path for artifact in payload.artifacts] == ["plan.md"]
    assert payload.acceptance_criteria == ("tests pass",)
    assert payload.paid_model_justification == "the free ones failed"
    assert not payload.review_required
    assert envelope.priority == "critical"
    deadline = envelope.context.deadline
    assert deadline is not None
    assert timedelta(hours=1, minutes=59) < deadline - before < timedelta(hours=2, minutes=1)
    bus.ok("ack", task)
    assert bus.ok("complete", task, "--status", "success") == "accepted"


def test_the_other_verbs_carry_their_flags(bus: Console) -> None:
    """Fraction, blocked work, usage in microdollars, criteria with evidence: each arrives as it was said."""
    task = bus.ok("delegate", "@kilo", "g")
    bus.ok("ack", task, "--constraint", "no ORM", "--provider", "openrouter", "--model", "qwen3")
    bus.ok("progress", task, "p", "--fraction", "0.25")
    status = bus.last().envelope.payload
    assert isinstance(status, Status)
    assert status.fraction == 0.25
    bus.ok("ask", task, "q?", "--blocks", "a", "--blocks", "b", "--to", "@human")
    question = bus.last().envelope.payload
    assert isinstance(question, Question)
    assert question.blocks == ("a", "b")
    bus.ok("answer", task, "yes")
    bus.ok(
        "complete", task, "--status", "success", "--description", "d", "--artifact", "a.py", "--verification", "v",
        "--next-steps", "n", "--provider", "openrouter", "--model", "qwen3", "--input-tokens", "10",
        "--output-tokens", "2", "--cost", "0.031207",
    )  # fmt: skip
    envelope = bus.last().envelope
    completion = envelope.payload
    assert isinstance(completion, Completion)
    assert (completion.result.description, completion.verification_result) == ("d", "v")
    assert completion.next_steps == "n"
    [usage] = envelope.usage
    assert usage.cost is not None
    assert (usage.cost.microusd, usage.cost.source) == (31207, "reported")
    assert (usage.input_tokens, usage.output_tokens) == (10, 2)
    bus.ok("reject", task, "--criterion", "fast=took 2=3 s", "--met", "tests pass=all")
    verdict = bus.last().envelope.payload
    assert isinstance(verdict, Verdict)
    assert [(each.criterion, each.met, each.evidence) for each in verdict.criteria] == [
        ("tests pass", True, "all"),
        ("fast", False, "took 2=3 s"),
    ]
    bus.ok("escalate", task, "m", "--category", "validation", "--recovery", "r")
    escalation = bus.last().envelope.payload
    assert isinstance(escalation, Escalation)
    details = escalation.error_details
    assert (details.level, details.category, details.attempted_recovery) == (2, "validation", "r")


def test_a_usage_without_a_cost_is_unpriced(bus: Console) -> None:
    """No --cost means that nobody knows the price, which is not zero."""
    task = bus.ok("delegate", "@kilo", "g")
    bus.ok("ack", task)
    bus.ok("complete", task, "--status", "success", "--provider", "p", "--model", "m", "--input-tokens", "5")
    [usage] = bus.last().envelope.usage
    assert usage.cost is None


def test_the_shorthand_is_taken_as_it_stands(bus: Console) -> None:
    """The handoff documents delegate and complete, and the log keeps them as the source."""
    shutil.copy(PROTOCOL / "delegation.json", "delegation.json")
    task = bus.ok("delegate", "delegation.json", "--priority", "high")
    delegated = bus.last()
    assert delegated.recipient == "@kilo"
    assert delegated.priority == "high"
    assert delegated.source == (PROTOCOL / "delegation.json").read_bytes()
    assert delegated.source_type == "application/json"
    bus.ok("ack", task)
    assert bus.ok("complete", task, "-", input=(PROTOCOL / "completion.json").read_bytes()) == "completed"
    completion = bus.last().envelope.payload
    assert isinstance(completion, Completion)
    assert [artifact.path for artifact in completion.result.artifacts] == ["src/lib/redis.ts", "tests/redis.test.ts"]


def test_a_whole_envelope_is_published_as_it_stands(bus: Console) -> None:
    """The bytes of an envelope that needs nothing are in the log, in XML too; a repeat changes nothing."""
    xml = (PROTOCOL / "agent-message.xml").read_bytes()
    task = "3f0c9a52-6c0e-4d0c-9f3a-0d6c1b6f7a10"
    bus.ok("delegate", "python-expert", "g", "--task", task, "--as", "backend-coordinator")
    bus.ok("ack", task)
    assert bus.ok("complete", PROTOCOL / "agent-message.xml") == "completed"
    assert bus.last().body == xml
    assert bus.last().content_type == "application/xml"
    again = bus("complete", PROTOCOL / "agent-message.xml", "--json").json()
    assert again["repeated"] is True
    assert len(bus.log()) == 3


def test_flags_fill_what_an_envelope_lacks(bus: Console) -> None:
    """An option adds to a document, the log keeps the document as its source, and the ID stays."""
    envelope = compose(Delegation(goal="g"), sender="@lead", recipient="@kilo", task="T")
    document = json.dumps(json.loads(_json(envelope)), indent=2)
    bus.ok("delegate", "-", "--criterion", "tests pass", "--deadline", "1d", input=document)
    entry = bus.last()
    payload = entry.envelope.payload
    assert isinstance(payload, Delegation)
    assert payload.acceptance_criteria == ("tests pass",)
    assert entry.id == envelope.id
    assert entry.source == document.encode()


@pytest.mark.parametrize(
    "options",
    [
        ("--as", "@other"),
        ("--task", "U"),
        ("--priority", "low"),
        ("--constraint", "another"),
        ("--type", "research"),
    ],
)
def test_flags_that_contradict_a_document_are_refused(bus: Console, options: tuple[str, str]) -> None:
    """Nobody can tell which was meant, so neither is published; the message names the option and both values."""
    payload = Delegation(goal="g", constraints=("one",), task_type="review")
    envelope = compose(payload, sender="@lead", recipient="@kilo", task="T", priority="high")
    done = bus("delegate", "-", *options, input=_json(envelope))
    assert done.code == 2
    assert options[0] in done.stderr
    assert options[1] in done.stderr
    assert bus.log() == []


def test_the_agent_may_be_named_beside_a_document(bus: Console) -> None:
    """`bus delegate @agent FILE` takes the document when it names the same agent, and no other."""
    document = (PROTOCOL / "delegation.json").read_text()
    bus.ok("delegate", "@kilo", "-", input=document)
    assert bus("delegate", "@opencode", "-", input=document).code == 2
    assert len(bus.log()) == 1


def test_who_speaks_when_nobody_says_so(bus: Console) -> None:
    """A delegator's words come from @human, an assignee's from the assignee, and those say that they came by hand."""
    task = bus.ok("delegate", "@kilo", "g")
    bus.ok("ack", task)
    delegation, acknowledgment = bus.log()
    assert (delegation.sender, delegation.envelope.context.by_hand) == ("@human", False)
    assert (acknowledgment.sender, acknowledgment.envelope.context.by_hand) == ("@kilo", True)
    assert acknowledgment.recipient == "@human"


def test_who_speaks_when_it_is_said(bus: Console) -> None:
    """--as goes before BUS_AGENT, and neither is by hand."""
    task = bus.ok("delegate", "@kilo", "g", "--as", "lead", env={"BUS_AGENT": "@other"})
    bus.ok("ack", task, env={"BUS_AGENT": "kilo"})
    delegation, acknowledgment = bus.log()
    assert delegation.sender == "@lead"
    assert acknowledgment.sender == "@kilo"
    assert not acknowledgment.envelope.context.by_hand


def test_a_human_may_answer_for_another_delegator(bus: Console) -> None:
    """An answer may come from @human; a verdict may not, and the refusal says as whom to speak."""
    task = bus.ok("delegate", "@kilo", "g", "--as", "@lead")
    bus.ok("ack", task)
    bus.ok("ask", task, "q?")
    assert bus.ok("answer", task, "a") == "working"
    bus.ok("complete", task, "--status", "success")
    refused = bus("accept", task)
    assert refused.code == 4
    assert "--as @lead" in refused.stderr
    assert bus.ok("accept", task, "--as", "@lead") == "accepted"


def test_a_worker_s_subprocess_speaks_under_its_token(bus: Console) -> None:
    """BUS_TOKEN makes it the worker's word: not by hand, under its lease, and fenced once the token is old."""
    task = bus.ok("delegate", "@kilo", "g")

    async def take(on: Bus) -> Delivery:
        taken = await on.inbox("@kilo", consumer="w").take()
        return taken.deliveries[0]

    token = str(bus.on_bus(take).token)
    by_hand = bus("ack", task)
    assert by_hand.code == 4
    assert "lease" in by_hand.stderr
    worker = {"BUS_TOKEN": token, "BUS_TASK": task, "BUS_AGENT": "@kilo"}
    assert bus.ok("ack", task, env=worker) == "working"
    assert not bus.last().envelope.context.by_hand
    assert bus.ok("progress", task, "p", "--token", token) == "working"
    fenced = bus("progress", task, "p", "--json", "--token", "999")
    assert fenced.code == 4
    assert fenced.json()["error"] == "Fenced"
    other = bus.ok("delegate", "@kilo", "another", env=worker)
    assert bus.ok("ack", other, env=worker) == "working", "the token is for the worker's own task"


def test_a_part_of_a_task_carries_the_root_of_its_tree(bus: Console) -> None:
    """The correlation of a grandchild is the root, not its parent."""
    root = bus.ok("delegate", "@lead", "g")
    child = bus.ok("delegate", "@kilo", "g", "--parent", root)
    bus.ok("delegate", "@opencode", "g", "--parent", child)
    entry = bus.last()
    assert entry.root == root
    assert entry.envelope.context.correlation_id == root
    assert entry.envelope.context.parent_task == child


def test_the_result_as_json(bus: Console) -> None:
    """--json prints one object with the ID, the task, the position and the state."""
    printed = bus("delegate", "@kilo", "g", "--task", "T", "--json").json()
    entry = bus.last()
    assert printed == {
        "id": entry.id,
        "type": "delegation",
        "task": "T",
        "position": str(entry.position),
        "state": "submitted",
        "repeated": False,
    }


def test_a_conflict_says_what_would_be_legal(bus: Console) -> None:
    """The refusal has the state, the holder and what is legal, for people and for programs; nothing was added."""
    task = bus.ok("delegate", "@kilo", "g")
    refused = bus("progress", task, "p")
    assert refused.code == 4
    assert "submitted" in refused.stderr
    assert "@kilo" in refused.stderr
    assert "acknowledgment by assignee" in refused.stderr
    printed = bus("progress", task, "p", "--json").json()
    assert (printed["state"], printed["holder"]) == ("submitted", "@kilo")
    assert {"type": "acknowledgment", "by": ["assignee"]} in printed["legal"]
    assert len(bus.log()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("delegate",),
        ("delegate", "@kilo"),
        ("delegate", "kilo"),
        ("delegate", "@kilo", "add", "a cache"),
        ("delegate", "@ki lo", "g"),
        ("delegate", "@kilo", "g", "--priority", "urgent"),
        ("delegate", "@kilo", "g", "--deadline", "2020-01-01T00:00:00Z"),
        ("delegate", "@kilo", "g", "--deadline", "2099-01-01T00:00:00"),
        ("delegate", "@kilo", "g", "--deadline", "soon"),
        ("delegate", "@kilo", "g", "--deadline", "99999w"),
        ("delegate", "@kilo", "g", "--timeout", "5s"),
        ("delegate", "@kilo", "g", "--task", "../x"),
        ("delegate", "@kilo", "g", "--as", "not a name"),
        ("ack",),
        ("ack", "a b"),
        ("progress", "T"),
        ("progress", "T", "half", "way"),
        ("progress", "T", "p", "--fraction", "2"),
        ("ask", "T", "q?", "--timeout", "5s"),
        ("complete", "T"),
        ("complete", "T", "--status", "done"),
        ("complete", "T", "--status", "success", "--cost", "1"),
        ("complete", "T", "--status", "success", "--provider", "p", "--model", "m", "--cost", "0.0000001"),
        ("reject", "T"),
        ("cancel", "T"),
        ("escalate", "T", "m", "--level", "5"),
    ],
)
def test_wrong_calls_are_usage_errors(bus: Console, arguments: tuple[str, ...]) -> None:
    """What cannot be meant ends with 2 and a message, before anything is sent."""
    done = bus(*arguments)
    assert done.code == 2, done
    assert done.stderr.strip()
    assert done.stdout == ""
    assert bus.log() == []


def test_who_can_be_asked(bus: Console) -> None:
    """Only who may answer: the delegator and @human. Anybody else is a conflict that says so, as the help does."""
    task = bus.ok("delegate", "@kilo", "g", "--as", "@lead")
    bus.ok("ack", task)
    refused = bus("ask", task, "q?", "--to", "@expert", "--json")
    assert refused.code == 4
    assert refused.json()["reason"] == "recipient"
    assert "--to @human" in refused.json()["advice"]
    assert bus.ok("ask", task, "q?", "--to", "@human") == "input-required"
    bus.ok("answer", task, "a")
    assert bus.ok("ask", task, "q?", "--to", "@lead") == "input-required"
    assert "or @human" in bus.ok("ask", "--help")
    nobody = bus("delegate", "@bus", "g")
    assert nobody.code == 4
    assert "Name the agent" in nobody.stderr


@pytest.mark.parametrize(
    ("options", "environment", "code"),
    [(("--token", "0"), {}, 2), (("--token", "-1"), {}, 2), ((), {"BUS_TOKEN": "0"}, 4)],
)
def test_a_token_that_nobody_gave_out(
    bus: Console, options: tuple[str, ...], environment: dict[str, str], code: int
) -> None:
    """Of a task that no worker ever took there is no token: 0 is not one, and nobody becomes its worker with it."""
    bus.ok("delegate", "@kilo", "g", "--task", "T")
    assert bus("ack", "T", *options, env=environment).code == code
    assert len(bus.log()) == 1


def test_the_advice_is_what_can_be_done(bus: Console) -> None:
    """To speak as the delegator is advised only where the delegator may say it."""
    task = bus.ok("delegate", "@kilo", "g", "--as", "@lead")
    assert "--as @lead" in bus("cancel", task, "over").stderr
    refused = bus("delegate", "@opencode", "g", "--task", task)
    assert refused.code == 4
    assert "--as" not in refused.stderr
    assert "Legal now" in refused.stderr


def test_the_wait_for_a_task_ends_with_it(bus: Console, run_bus: BusCommand) -> None:
    """`delegate --wait` shows what happens, and ends with 0 when the task is completed."""
    with run_bus.start("delegate", "@kilo", "g", "--wait") as process:
        assert process.stdout is not None
        task = process.stdout.readline().strip()
        bus.ok("ack", task)
        bus.ok("complete", task, "--status", "success", "--description", "it is done")
        _, told = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "it is done" in told


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (("complete", "--status", "failure"), "failed"),
        (("escalate", "help"), "escalated"),
        (("cancel", "over"), "canceled"),
    ],
)
def test_the_wait_for_a_task_that_goes_wrong(
    bus: Console, run_bus: BusCommand, last: tuple[str, ...], expected: str
) -> None:
    """`delegate --wait` ends with 1 when the task ended otherwise; --json has the state and the last envelope."""
    with run_bus.start("delegate", "@kilo", "g", "--task", "T", "--wait", "--json") as process:
        _until_there(bus, "T")
        bus.ok("ack", "T")
        verb, *rest = last
        bus.ok(verb, "T", *rest)
        printed, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    outcome = json.loads(printed)
    assert (outcome["task"], outcome["state"]) == ("T", expected)
    assert outcome["outcome"]["id"] == bus.last().id


def test_the_wait_for_a_task_has_an_end(bus: Console) -> None:
    """After --timeout the wait ends with 6, the task goes on, and its ID was printed."""
    done = bus("delegate", "@kilo", "g", "--task", "T", "--wait", "--timeout", "0.1s")
    assert done.code == 6
    assert done.stdout == "T\n"
    assert bus.ok("ack", "T") == "working"


def test_the_wait_for_an_answer_prints_it(bus: Console, run_bus: BusCommand) -> None:
    """`ask --wait` prints the text of the answer, and nothing else, on stdout."""
    bus.ok("delegate", "@kilo", "g", "--task", "T")
    bus.ok("ack", "T")
    with run_bus.start("ask", "T", "Which?", "--wait") as process:
        _until_there(bus, "T", state="input-required")
        bus.ok("answer", "T", "the second\nof both")
        printed, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert printed == "the second\nof both\n"
    answer = bus.last().envelope.payload
    assert isinstance(answer, Answer)


def test_the_wait_for_an_answer_ends_with_the_task(bus: Console, run_bus: BusCommand) -> None:
    """`ask --wait` ends with 1 and prints no answer when the task is canceled instead."""
    bus.ok("delegate", "@kilo", "g", "--task", "T")
    bus.ok("ack", "T")
    with run_bus.start("ask", "T", "Which?", "--wait") as process:
        _until_there(bus, "T", state="input-required")
        bus.ok("cancel", "T", "over")
        printed, told = process.communicate(timeout=20)
    assert process.returncode == 1
    assert printed == ""
    assert "over" in told


def test_nobody_waits_for_an_answer_under_a_worker(bus: Console) -> None:
    """A worker ends its subprocess at a question, so `ask --wait` is refused there instead of hanging."""
    bus.ok("delegate", "@kilo", "g", "--task", "T")
    done = bus("ask", "T", "q?", "--wait", env={"BUS_TOKEN": "1", "BUS_TASK": "T"})
    assert done.code == 2
    assert "delivery" in done.stderr


def _json(envelope: object) -> str:
    import msgspec

    return msgspec.json.encode(envelope).decode()


def _until_there(bus: Console, task: str, *, state: str = "submitted") -> None:
    """Wait until a task is in a state, by following the log."""

    async def watch(on: Bus) -> None:
        import anyio

        with anyio.fail_after(20):
            async for entry in on.log.follow():
                if entry.task == task and (await on.task(task)).state == state:
                    return

    bus.on_bus(watch)


def test_a_completion_in_short_needs_its_task(bus: Console) -> None:
    """The shorthand does not say which task it is about: the argument does, or the worker that runs the agent."""
    short = (PROTOCOL / "completion.json").read_text()
    bus.ok("delegate", "@kilo", "g", "--task", "T")
    bus.ok("ack", "T")
    lost = bus("complete", "-", input=short)
    assert lost.code == 2
    assert "which task" in lost.stderr
    assert bus.ok("complete", "-", "--description", "said beside it", input=short, env={"BUS_TASK": "T"}) == "completed"
    completion = bus.last().envelope.payload
    assert isinstance(completion, Completion)
    assert completion.result.description == "said beside it"
    assert len(completion.result.artifacts) == 2


def test_a_part_of_an_unknown_task(bus: Console) -> None:
    """A parent that this bus does not know is taken for the root."""
    bus.ok("delegate", "@kilo", "g", "--parent", "elsewhere")
    assert bus.last().root == "elsewhere"
    assert bus.last().envelope.context.correlation_id is None


@pytest.mark.parametrize(
    "environment", [{"BUS_TOKEN": "seven", "BUS_TASK": "T"}, {"BUS_AGENT": "not a name"}], ids=["token", "agent"]
)
def test_a_wrong_environment(bus: Console, environment: dict[str, str]) -> None:
    """A variable that cannot be meant is a usage error, and nothing is sent."""
    bus.ok("delegate", "@kilo", "g", "--task", "T")
    assert bus("ack", "T", env=environment).code == 2
    assert len(bus.log()) == 1


def test_the_answer_as_json(bus: Console, run_bus: BusCommand) -> None:
    """`ask --wait --json` prints the question's place and the record of the answer, as one object."""
    bus.ok("delegate", "@kilo", "g", "--task", "T")
    bus.ok("ack", "T")
    with run_bus.start("ask", "T", "Which?", "--wait", "--json") as process:
        _until_there(bus, "T", state="input-required")
        bus.ok("answer", "T", "this")
        printed, _ = process.communicate(timeout=20)
    asked = json.loads(printed)
    assert asked["outcome"]["envelope"]["payload"] == {"answer": "this"}
    assert asked["position"] == str(bus.log()[-2].position)


def test_a_wait_is_for_one_task(bus: Console, run_bus: BusCommand) -> None:
    """Other tasks' envelopes do not end a wait, nor are they shown."""
    with run_bus.start("delegate", "@kilo", "g", "--task", "T", "--wait") as process:
        _until_there(bus, "T")
        bus.ok("delegate", "@kilo", "another one", "--task", "U")
        bus.ok("cancel", "U", "over")
        bus.ok("ack", "T")
        bus.ok("complete", "T", "--status", "success")
        _, told = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "another one" not in told


def test_the_beginning_of_an_id_is_enough(bus: Console) -> None:
    """What the board shows of an ID names its task, for verbs and for what reads the log."""
    task = bus.ok("delegate", "@kilo", "g", "--task", "01a1f847-c5aa")
    bus.ok("delegate", "@kilo", "another", "--task", "01a1f900-c5bb")
    assert bus.ok("ack", "01a1f847-c5") == "working"
    assert bus.last().task == task
    assert "another" not in bus.ok("tail", "--no-follow", "--task", "01a1f847")
    assert len(bus("replay", "--json", "--task", "01a1f847").lines()) == 2
    assert len(bus("replay", "--json", "--tree", "01a1f847", "--task", "01a1f847").lines()) == 2


def test_the_beginning_of_several_ids(bus: Console) -> None:
    """Where several begin so they are listed; where none does, or it is too short to be meant, nothing is found."""
    for task in ("01a1f847", "01a1f900"):
        bus.ok("delegate", "@kilo", "g", "--task", task)
    several = bus("ack", "01a1f")
    assert several.code == 2
    assert "01a1f847, 01a1f900" in several.stderr
    assert bus("tail", "--no-follow", "--task", "01a1f").code == 2
    none = bus("ack", "01b1")
    assert none.code == 3
    assert "bus doctor" in none.stderr
    assert bus("ack", "01a").code == 3
    assert len(bus.log()) == 2


def test_a_whole_id_comes_before_the_beginning_of_another(bus: Console) -> None:
    """A task whose ID begins that of another is named by it."""
    for task in ("release", "release-api"):
        bus.ok("delegate", "@kilo", "g", "--task", task)
    bus.ok("ack", "release")
    assert bus.last().task == "release"


def test_a_goal_from_a_file(bus: Console) -> None:
    """--goal-file takes plain text, from a file or stdin; the name of a file is never taken for a goal."""
    Path("goal.md").write_text("# Add a cache\n\nIn front of the price list.\n")
    bus.ok("delegate", "@kilo", "--goal-file", "goal.md")
    payload = bus.last().envelope.payload
    assert isinstance(payload, Delegation)
    assert payload.goal == "# Add a cache\n\nIn front of the price list."
    bus.ok("delegate", "@kilo", "--goal-file", "-", input="from stdin")
    refused = bus("delegate", "@kilo", "./goal.md")
    assert refused.code == 2
    assert "--goal-file" in refused.stderr
    Path("empty").touch()
    Path("binary").write_bytes(b"\xff\xfe\x00")
    Path("large").write_bytes(b"x" * (1 << 20 | 1))
    for name, code in (("empty", 2), ("binary", 2), ("large", 8), ("missing", 3)):
        assert bus("delegate", "@kilo", "--goal-file", name).code == code
    assert bus("delegate", "@kilo", "goal", "--goal-file", "goal.md").code == 2
    assert len(bus.log()) == 2


def test_a_criterion_that_nobody_set(bus: Console) -> None:
    """The verdict stands, and its sender learns which criteria the delegation has."""
    task = bus.ok("delegate", "@kilo", "g", "--criterion", "tests pass")
    bus.ok("ack", task)
    bus.ok("complete", task, "--status", "success")
    done = bus("accept", task, "--criterion", "tests pas=142")
    assert (done.code, done.stdout) == (0, "accepted\n")
    assert "'tests pas'" in done.stderr
    assert "It has: 'tests pass'." in done.stderr


def test_a_criterion_that_was_set(bus: Console) -> None:
    """A verdict on what was asked for warns of nothing."""
    task = bus.ok("delegate", "@kilo", "g", "--criterion", "tests pass")
    bus.ok("ack", task)
    bus.ok("complete", task, "--status", "success")
    assert "criterion" not in bus("accept", task, "--criterion", "tests pass=142").stderr


@pytest.mark.parametrize(
    "words",
    [
        ("complete", "T", "missing.json"),
        ("convert", "missing.json"),
        ("validate", "missing.json"),
        ("publish", "missing.json"),
        ("complete", "T", "/etc"),
    ],
)
def test_a_document_that_cannot_be_read_has_advice(bus: Console, words: tuple[str, ...]) -> None:
    """Whoever mistypes a path is told what to check."""
    done = bus(*words)
    assert done.code == 3
    assert "Check the path" in done.stderr or "a file in it" in done.stderr
