"""The outcome: what an agent left behind, as the document that settles its delivery."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, cast

import pytest

from taskbus import codec
from taskbus.delivery import Delivery
from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Artifact,
    Completion,
    Cost,
    Delegation,
    ErrorDetails,
    Escalation,
    Question,
    Result,
    Status,
    Usage,
    compose,
)
from taskbus.log import Entry
from taskbus.position import START
from taskbus.work import Work
from taskbus_agents.outcome import Words, failure, outcome
from taskbus_agents.runner import Ended

if TYPE_CHECKING:
    from taskbus.client import Bus
    from taskbus.envelope import Payload

AGENT, DELEGATOR, TASK = "@kilo", "@lead", "task-1"
DONE = Completion(result=Result(status="success", description="done"))
USAGE = (Usage(provider="p", model="m", cost=Cost(source="reported", microusd=5)),)
SHORT = {"status": "success", "outputs": ["a.py"], "usage": [{"provider": "p", "model": "m"}]}


def work() -> Work:
    """A delivery of a delegation from @lead to @kilo; the bus is not asked here."""
    delegation = compose(Delegation(goal="do it"), sender=DELEGATOR, recipient=AGENT, task=TASK)
    body = codec.validated(delegation)
    entry = Entry(START, delegation.id, "delegation", DELEGATOR, AGENT, TASK, TASK, "normal", codec.JSON, body)
    delivery = Delivery(AGENT, "normal/1-0", 1, 1, entry, "submitted")
    return Work(cast("Bus", None), delivery, delegation, DELEGATOR)


def ended(code: int = 0, **more) -> Ended:
    """The end of a command."""
    return Ended(**{"code": code, "stdout": b"", "stderr": b"", "seconds": 1.5, **more})


def written(payload: Payload, *, sender: str = AGENT, recipient: str = DELEGATOR, task: str = TASK, usage=()) -> bytes:
    """An envelope as an agent would write it."""
    return codec.validated(compose(payload, sender=sender, recipient=recipient, task=task, usage=usage))


def settled(words: bytes, *, code: int = 0, **more) -> codec.Document:
    """What the delivery is settled with."""
    return outcome(work(), ended(code, **more), Words(words, "stdout"))


def failed(document: codec.Document, reason: str) -> ErrorDetails:
    """The error of a completion that must be a failure for this reason, in the agent's name."""
    envelope = document.envelope
    assert isinstance(envelope.payload, Completion)
    assert envelope.payload.result.status == "failure"
    assert envelope.payload.termination_reason == reason
    assert (envelope.sender, envelope.recipient, envelope.task) == (AGENT, DELEGATOR, TASK)
    assert envelope.payload.error_details is not None
    codec.read(document.body)
    return envelope.payload.error_details


@pytest.mark.parametrize("content_type", [codec.JSON, codec.XML])
def test_an_envelope_stays_as_the_agent_wrote_it(content_type):
    """The log keeps the agent's own bytes, in its own form."""
    envelope = codec.read(written(DONE, usage=USAGE)).envelope
    words = b" \n" + codec.encode(envelope, content_type) + b"\n"
    found = settled(words)
    assert found.envelope == envelope
    assert (found.body, found.content_type, found.source) == (words, content_type, None)


def test_the_shorthand_becomes_a_completion_with_its_source():
    """What the shorthand leaves out is known from the delivery; its bytes stay beside the envelope."""
    words = json.dumps(SHORT).encode()
    found = settled(words)
    result = Result(status="success", artifacts=(Artifact(path="a.py"),))
    assert found.envelope.payload == Completion(result=result)
    assert found.envelope.usage == (Usage(provider="p", model="m"),)
    assert (found.envelope.sender, found.envelope.recipient, found.envelope.task) == (AGENT, DELEGATOR, TASK)
    assert found.envelope.context.causation_id is not None
    assert (found.source, found.source_type) == (words, codec.JSON)


@pytest.mark.parametrize("content_type", [codec.JSON, codec.XML])
def test_an_envelope_is_found_in_free_text(content_type):
    """A model talks around its envelope; the whole text stays as the source."""
    envelope = codec.read(written(DONE)).envelope
    words = "Ich bin fertig – hier: \n\n```\n".encode() + codec.encode(envelope, content_type) + b"\n```\nBye.\n"
    found = settled(words)
    assert found.envelope.payload == DONE
    assert (found.source, found.source_type) == (words, "text/plain")
    assert codec.read(found.body).envelope == found.envelope


def test_the_shorthand_is_found_in_free_text_too():
    """The delivery fills in what only the sender of an envelope would write."""
    found = settled(b"All done:\n```json\n" + json.dumps(SHORT).encode() + b"\n```\n")
    assert found.envelope.payload.result.status == "success"
    assert (found.envelope.sender, found.envelope.recipient, found.envelope.task) == (AGENT, DELEGATOR, TASK)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ('log\n{"status":"success","description":"d"}', "success"),
        ('Done:\n```json\n{"status":"success","description":"d"}\n```\nBye.', "success"),
        ('{"status":"success"}\nmore text', "success"),
        ('log\n{"status":"success"}', "success"),
        ('{"level":"info"}\n{"status":"failure","description":"no"}\n', "failure"),
        ('{"status":"success"}\n{"status":"failure","description":"after all"}', "failure"),
        ('{"status":"success","outputs":["a"]}\n{"status":"failure"}', "failure"),
        ('{"status":"failure"}\n{"status":"success","code":200,"url":"/x"}\n{"status":"ok"}', "failure"),
        ('{"status":"partial"}\n{"tool":{"status":"success"}}', "partial"),
    ],
)
def test_a_short_completion_is_known_by_its_status_alone(words, status):
    """The last one in the output counts; what tools report of themselves is none."""
    found = settled(words.encode())
    assert found.envelope.payload.result.status == status
    assert found.envelope.payload.termination_reason is None
    assert found.source == words.encode()
    assert found.envelope.context.causation_id is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nothing", 'the shorthand {"status": "success"}'),
        ('{"event": 1}\n{"event": 2}', 'the shorthand {"status": "success"}'),
        ('log\n{"status": "success", "code": 200}', 'found an outcome in short with "code"'),
        ('draft {"status": "success"}\n{"status": "failure", "description": "it is', "line 2"),
        ('log {"status": "success", "description": 5}', "description"),
        ('log {"question": ""}', "no envelope"),
    ],
)
def test_what_is_almost_a_short_outcome_is_not_guessed(words, said):
    """The failure says what keeps it from being one."""
    assert said in failed(settled(words.encode()), "invalid-completion").message


@pytest.mark.parametrize("around", ["%s", "I wonder.\n%s\n", "```json\n%s\n```"])
def test_a_question_in_short_is_an_outcome(around):
    """An agent asks in one line; it goes to the delegator."""
    words = around % '{"question": "which?", "blocks": ["the logo"]}'
    found = settled(words.encode())
    assert found.envelope.payload == Question(question="which?", blocks=("the logo",))
    assert (found.envelope.sender, found.envelope.recipient, found.envelope.task) == (AGENT, DELEGATOR, TASK)
    codec.read(found.body)


def test_bytes_that_are_no_text_do_not_hide_an_envelope():
    """A terminal's leavings before the envelope are no reason to lose it."""
    found = settled(b"\xff\xfe\x00 progress\n" + codec.encode(codec.read(written(DONE)).envelope, codec.XML))
    assert found.envelope.payload == DONE


@pytest.mark.parametrize(
    ("payload", "recipient"),
    [
        (Question(question="which?"), DELEGATOR),
        (Question(question="which?"), "@human"),
        (Escalation(error_details=ErrorDetails(level=2, category="execution", message="stuck")), DELEGATOR),
        (Escalation(error_details=ErrorDetails(level=4, category="execution", message="stuck")), "@boss"),
    ],
)
def test_questions_and_escalations_are_outcomes(payload, recipient):
    """An agent may end its turn without a completion: by asking, or by handing the trouble on."""
    found = settled(written(payload, recipient=recipient))
    assert (found.envelope.payload, found.envelope.recipient) == (payload, recipient)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (written(DONE, sender="@codex"), "sender: found @codex, expected @kilo"),
        (written(DONE, recipient="@human"), "recipient: found @human, expected @lead"),
        (written(DONE, task="task-2"), "context.task_id: found task-2, expected task-1"),
        (written(Question(question="?"), recipient="@codex"), "recipient: found @codex"),
        (
            written(
                Escalation(error_details=ErrorDetails(level=1, category="execution", message="m")),
                recipient=AGENT,
            ),
            "recipient: found @kilo, expected somebody else",
        ),
        (written(Status(progress="half")), "type: found status"),
        (written(Acknowledgment(accepted=True)), "type: found acknowledgment"),
        (written(Answer(answer="yes"), sender="@lead", recipient=AGENT), "type: found answer"),
        (b"I am done, everything works.", "no envelope"),
        (b'{"status": "success", "outputs": 7}', "outputs"),
        (b'{"sender": "@kilo"', "line 1"),
        (b"<agent-message><sender>@kilo</sender></agent-message>", "recipient"),
        (b"\x00\x01\x02", "no envelope"),
        (b'{"status": "great"}', "status"),
    ],
)
def test_what_is_no_outcome_of_the_task_is_a_failure_that_says_why(words, said):
    """Exit code 0 is not success: a forged, foreign, unfinished or missing envelope is a failed completion."""
    found = settled(words, stderr=b"warning: late\n")
    error = failed(found, "invalid-completion")
    assert said in error.message
    assert error.message.endswith("\nwarning: late")
    assert error.category == "validation"
    assert (found.source, found.source_type) == (words, "text/plain")


@pytest.mark.parametrize("words", [b"", b" \n\t"])
def test_silence_is_a_failure(words):
    """An agent that says nothing has not said that it succeeded."""
    error = failed(settled(words), "no-completion")
    assert error.message == "The agent ended without a completion: stdout is empty."


def test_a_file_that_cannot_be_read_is_a_failure():
    """The reason stands in the failure, since nobody sees the folder."""
    found = outcome(work(), ended(), Words(b"", "completion.json", "it is no file"))
    error = failed(found, "invalid-completion")
    assert error.message == "What the agent wrote (completion.json) cannot be read: it is no file."


def test_a_decline_is_a_failure_with_the_agents_reason():
    """The worker has acknowledged the task before, so that declining it is failing at it."""
    decline = Acknowledgment(accepted=False, decline_reason="no GPU here")
    found = settled(written(decline, usage=USAGE))
    assert failed(found, "declined").message == "The agent declined the task: no GPU here"
    assert found.envelope.usage == USAGE


def test_a_decline_without_a_reason_says_so():
    """Nothing is made up for it."""
    assert "gave no reason" in failed(settled(written(Acknowledgment(accepted=False))), "declined").message


def test_success_with_another_exit_code_is_a_failure_that_keeps_the_usage():
    """Two things were said; the worse one counts, and what it cost was spent all the same."""
    words = written(DONE, usage=USAGE)
    found = settled(words, code=3, stderr=b"Traceback\nKeyError: 'x'\n")
    error = failed(found, "exit-code")
    assert (
        error.message == "The agent ended with exit code 3, although it wrote a completion.\nTraceback\nKeyError: 'x'"
    )
    assert found.envelope.usage == USAGE
    assert found.source == words


def test_trouble_that_the_agent_reports_itself_stands_as_it_is():
    """Scripts end with 1 after they have said what went wrong: their own words say more than the exit code."""
    own = Completion(
        result=Result(status="failure"),
        error_details=ErrorDetails(level=1, category="integration", message="the API is down"),
    )
    stuck = Escalation(error_details=ErrorDetails(level=2, category="execution", message="stuck"))
    assert settled(written(own), code=1).envelope.payload == own
    assert settled(written(stuck), code=1).envelope.payload == stuck


def test_an_exit_code_without_words_is_a_failure():
    """The last lines of stderr are what there is to go by."""
    stderr = b"".join(b"line %d\n" % number for number in range(20)) + b"\x1b[31mred\xff\n\n"
    error = failed(settled(b"", code=2, stderr=stderr), "exit-code")
    last = "line 16\nline 17\nline 18\nline 19\n\\u001b[31mred�"
    assert error.message == f"The agent ended with exit code 2.\n{last}"


@pytest.mark.parametrize(
    ("code", "name"), [(-signal.SIGKILL, "SIGKILL"), (-signal.SIGSEGV, "SIGSEGV"), (-60, "signal 60")]
)
def test_a_signal_is_named(code, name):
    """Out of memory looks like this."""
    assert failed(settled(b"", code=code), "signal").message == f"The agent was killed by {name}."


def test_time_that_was_up_keeps_what_was_said_until_then():
    """Half an answer is no answer, and still worth reading."""
    words = written(DONE)
    found = settled(words, code=-15, cut="timeout")
    assert failed(found, "timeout").message == "The agent was not done after 1.5 s, and was ended."
    assert found.source == words


def test_too_much_output_is_a_failure_without_the_output():
    """What is over the limit is not kept either."""
    found = settled(b"x" * 2_000_000, code=-15, cut="output")
    assert "more than 1048576 bytes" in failed(found, "output-limit").message
    assert found.source is None


def test_endless_complaints_become_a_short_message():
    """One line of a megabyte does not fill the log."""
    message = failed(settled(b"", code=1, stderr=b"y" * 1_000_000), "exit-code").message
    assert len(message) < 1000


def test_a_failure_of_the_adapter_itself():
    """A command that could not be started has no stderr and no words."""
    found = failure(work(), "not-started", "The agent's command could not be started: it is gone")
    assert failed(found, "not-started").category == "execution"
    assert found.source is None


def test_a_usage_that_stands_alone_is_judged_by_what_is_in_it():
    """One that would be read as a list of one is refused for what is wrong within, at its place as it was written."""
    short = {"status": "success", "usage": {"provider": "p", "model": "m", "input_tokens": -5}}
    envelope = {**json.loads(written(DONE)), "usage": short["usage"]}
    for words in (short, envelope, {"question": "Which?", "usage": short["usage"]}):
        message = failed(settled(json.dumps(words).encode()), "invalid-completion").message
        assert "usage.input_tokens: found -5, expected a whole number" in message
        assert "a list" not in message
    listed = failed(settled(json.dumps({**short, "usage": [short["usage"]]}).encode()), "invalid-completion").message
    assert listed.count("-5") == 1
    assert "usage: found 5" in failed(settled(json.dumps({**short, "usage": 5}).encode()), "invalid-completion").message
