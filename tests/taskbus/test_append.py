"""The append: one atomic step that is idempotent by ID, keeps the lifecycle, and tells refusals apart."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime

import anyio
import msgspec
import pytest

from taskbus.append import Appended, Settlement, Submission, Unit, Unparking, append, commit, script, task_of
from taskbus.codec import JSON, XML, Document, document, encode, read
from taskbus.envelope import (
    MAX_BYTES,
    Acknowledgment,
    Answer,
    Cancellation,
    Completion,
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
from taskbus.errors import (
    Conflict,
    DuplicateID,
    Fenced,
    InvalidEnvelope,
    LifecycleConflict,
    Moved,
    NotFound,
    Skipped,
    Unavailable,
)
from taskbus.keys import Keys
from taskbus.log import Log
from taskbus.position import Position

pytestmark = pytest.mark.anyio


def delegation(goal="make it", *, sender="@boss", recipient="@kilo", **more):
    """A delegation of a new task, or of `task`."""
    return compose(Delegation(goal=goal), sender=sender, recipient=recipient, **more)


def said(payload, task, *, sender="@kilo", recipient="@boss"):
    """Something that the assignee says of a task."""
    return compose(payload, sender=sender, recipient=recipient, task=task)


@pytest.fixture
def keys(namespace):
    """The keys of the test's own namespace."""
    return Keys(namespace)


@pytest.fixture
def bus(any_connection, keys):
    """A function that appends envelopes, on every server."""
    connection = any_connection

    async def put(*envelopes, token=None, **more):
        return await append(connection, keys, [Submission(document(e), token) for e in envelopes], **more)

    put.connection = connection
    put.log = Log(connection, keys)
    return put


async def everything(log):
    """All entries of a log."""
    return [entry async for entry in log.read()]


async def test_one_step_writes_log_inbox_and_task(bus, keys):
    """After a delegation the log holds its bytes, the inbox points at it, and the task is submitted."""
    envelope = delegation(priority="high")
    (answer,) = await bus(envelope)
    (entry,) = await everything(bus.log)
    assert (entry.position, entry.envelope, entry.body) == (answer.position, envelope, encode(envelope))
    ((_, delivery),) = await bus.connection.range(keys.inbox("@kilo", "high"))
    assert delivery == {b"at": str(answer.position).encode()}
    record = await bus.connection.field(keys.index, "task:" + envelope.task)
    task = task_of(envelope.task, record)
    assert (task.state, task.delegator, task.assignee, task.attempt) == ("submitted", "@boss", "@kilo", 1)
    assert " high/" in record


async def test_repeating_an_append_changes_nothing(bus):
    """The same envelope again answers with the first position, however much happened in between."""
    envelope = delegation()
    (first,) = await bus(envelope)
    await bus(said(Acknowledgment(accepted=True), envelope.task))
    (again,) = await bus(envelope)
    assert again == Appended(first.position, repeated=True)
    assert len(await everything(bus.log)) == 2


async def test_the_same_id_with_other_content_is_refused(bus):
    """An ID that was used is not taken for other content, in the same call or later."""
    envelope = delegation()
    other = compose(Delegation(goal="another"), sender="@boss", recipient="@kilo", task=envelope.task)
    clash = type(other)(**{f: getattr(other, f) for f in other.__struct_fields__} | {"id": envelope.id})
    first, second = await bus(envelope, clash, atomic=False)
    assert isinstance(first, Appended)
    assert isinstance(second, DuplicateID)
    (later,) = await bus(clash)
    assert isinstance(later, DuplicateID)
    assert later.position == str(first.position)
    assert len(await everything(bus.log)) == 1


async def test_the_same_envelope_twice_in_one_call_stands_once(bus):
    """A repetition inside one call answers with the same position."""
    envelope = delegation()
    first, again = await bus(envelope, envelope)
    assert (again.position, again.repeated, first.repeated) == (first.position, True, False)


async def test_a_refusal_names_state_holder_and_what_is_legal(bus):
    """A conflict says where the task stands, whose turn it is, and what would be accepted."""
    envelope = delegation()
    await bus(envelope)
    (answer,) = await bus(said(Status(progress="half"), envelope.task))
    assert isinstance(answer, LifecycleConflict)
    assert (answer.state, answer.holder, answer.task) == ("submitted", "@kilo", envelope.task)
    assert ("acknowledgment", ("assignee",)) in answer.legal
    assert "acknowledgment by assignee" in answer.advice
    assert len(await everything(bus.log)) == 1


async def test_somebody_elses_task_is_refused(bus):
    """Who is not the assignee cannot complete the task."""
    envelope = delegation()
    await bus(envelope, said(Acknowledgment(accepted=True), envelope.task))
    done = Completion(result=Result(status="success"))
    (answer,) = await bus(said(done, envelope.task, sender="@thief"))
    assert isinstance(answer, LifecycleConflict)
    assert "@thief" in answer.message


async def test_a_task_that_does_not_exist_is_not_found(bus):
    """Nothing but a delegation begins a task."""
    (answer,) = await bus(said(Status(progress="half"), "nowhere"))
    assert isinstance(answer, NotFound)
    assert await everything(bus.log) == []


async def test_all_or_nothing_writes_nothing_when_one_is_refused(bus, keys):
    """With `atomic`, one refusal keeps every other envelope of the call out, and says so."""
    good, bad = delegation(), said(Status(progress="half"), "nowhere")
    first, second = await bus(good, bad, atomic=True)
    assert isinstance(first, Conflict)
    assert "another envelope" in first.message
    assert isinstance(second, NotFound)
    assert await bus.connection.field(keys.index, "task:" + good.task) is None
    assert await everything(bus.log) == []


async def test_each_for_itself_lets_the_others_in(bus):
    """Without `atomic`, a refusal concerns its own envelope only, and later ones see the earlier ones."""
    good = delegation()
    ack = said(Acknowledgment(accepted=True), good.task)
    answers = await bus(good, said(Status(progress="half"), "nowhere"), ack, atomic=False)
    assert [type(answer) for answer in answers] == [Appended, NotFound, Appended]
    assert [entry.type for entry in await everything(bus.log)] == ["delegation", "acknowledgment"]


async def test_the_root_is_inherited_from_the_parent(bus):
    """A child's tree is that of its parent, and a correlation given by the sender wins for an unknown parent."""
    root = delegation()
    child = delegation(parent=root.task)
    grandchild = delegation(parent=child.task)
    lost = delegation(parent="not-here")
    await bus(root, child, grandchild, lost)
    roots = [entry.root for entry in await everything(bus.log)]
    assert roots == [root.task, root.task, root.task, "not-here"]


async def test_messages_to_the_assignee_must_be_addressed_to_it(bus):
    """An answer that would reach somebody else is refused with the assignee's name."""
    envelope = delegation()
    question = said(Question(question="which?"), envelope.task)
    await bus(envelope, said(Acknowledgment(accepted=True), envelope.task), question)
    lost = compose(Answer(answer="that"), sender="@boss", recipient="@other", task=envelope.task)
    (answer,) = await bus(lost)
    assert isinstance(answer, LifecycleConflict)
    assert (answer.reason, "@kilo" in answer.message) == ("recipient", True)


@pytest.mark.parametrize("payload", [Acknowledgment(accepted=True), Completion(result=Result(status="success"))])
async def test_work_done_by_hand_leaves_the_inbox(bus, keys, payload):
    """Whoever acknowledges by hand, or completes at once, takes the delivery: no worker gets it as well."""
    envelope = delegation()
    await bus(envelope, said(payload, envelope.task))
    assert await bus.connection.range(keys.inbox("@kilo", "normal")) == []


@pytest.mark.parametrize("end", ["cancellation", "completion"])
async def test_the_end_of_the_work_takes_the_delivery_away(bus, keys, end):
    """A task that is done or not wanted any more is not in the assignee's inbox."""
    envelope = delegation()
    await bus(envelope)
    if end == "cancellation":
        await bus(compose(Cancellation(reason="no"), sender="@boss", recipient="@kilo", task=envelope.task))
        kinds = ["cancellation"]
    else:
        done = Completion(result=Result(status="success"))
        await bus(said(Acknowledgment(accepted=True), envelope.task), said(done, envelope.task))
        kinds = []
    left = await bus.connection.range(keys.inbox("@kilo", "normal"))
    found = [(await bus.log.get(Position.parse(f[b"at"].decode()))).type for _, f in left]
    assert found == kinds


async def test_a_rejected_result_is_delivered_again(bus, keys):
    """The verdict that rejects is the assignee's next delivery, and tokens of the attempt before are stale."""
    envelope = delegation()
    done = Completion(result=Result(status="success"))
    await bus(envelope, said(Acknowledgment(accepted=True), envelope.task), said(done, envelope.task))
    await bus(compose(Verdict(decision="rejected"), sender="@boss", recipient="@kilo", task=envelope.task))
    record = await bus.connection.field(keys.index, "task:" + envelope.task)
    assert (task_of(envelope.task, record).state, task_of(envelope.task, record).attempt) == ("submitted", 2)
    assert " normal/" in record
    (late,) = await bus(said(Acknowledgment(accepted=True), envelope.task), token=5)
    assert isinstance(late, Fenced)


async def test_a_token_is_stale_at_once_in_the_same_call(bus, keys):
    """What comes after a rejection in one call cannot use the token of the attempt that it ended."""
    envelope = delegation()
    done = Completion(result=Result(status="success"))
    await bus(envelope, said(Acknowledgment(accepted=True), envelope.task), said(done, envelope.task))
    reject = compose(Verdict(decision="rejected"), sender="@boss", recipient="@kilo", task=envelope.task)
    late = said(Acknowledgment(accepted=True), envelope.task)
    both = [Submission(document(reject)), Submission(document(late), 0)]
    first, second = await append(bus.connection, keys, both, atomic=False)
    assert isinstance(first, Appended)
    assert isinstance(second, Fenced)


async def test_without_a_review_a_completion_is_accepted(bus, keys):
    """Where the delegation asks for no review, the completion ends the task."""
    envelope = compose(Delegation(goal="g", review_required=False), sender="@boss", recipient="@kilo")
    done = Completion(result=Result(status="success"))
    await bus(envelope, said(Acknowledgment(accepted=True), envelope.task), said(done, envelope.task))
    record = await bus.connection.field(keys.index, "task:" + envelope.task)
    assert (task_of(envelope.task, record).state, task_of(envelope.task, record).review) == ("accepted", False)


async def test_a_settlement_with_an_old_token_changes_nothing(bus, keys):
    """A settlement whose delivery was taken again is refused as a whole."""
    envelope = delegation()
    await bus(envelope)
    await bus.connection.execute("HSET", keys.held("@kilo"), "normal/1-0", "9 w2 2")
    old = Settlement("@kilo", "normal/1-0", 8, "w1", envelope.task)
    acknowledged = Submission(document(said(Acknowledgment(accepted=True), envelope.task)))
    (refused,) = await commit(bus.connection, keys, [Unit((acknowledged,), old)])
    assert isinstance(refused, Fenced)
    assert "token 9 of w2" in refused.message
    assert len(await everything(bus.log)) == 1


async def test_units_of_one_call_stand_each_for_itself(bus, keys):
    """A unit that is refused as a whole leaves those before and after it, and they see nothing of it."""
    envelope, good, bad = delegation(), delegation(), said(Status(progress="half"), "nowhere")
    ack = said(Acknowledgment(accepted=True), envelope.task)
    half = said(Status(progress="half"), envelope.task)
    done = said(Completion(result=Result(status="success")), envelope.task)
    units = [unit(envelope), unit(ack, good, bad), unit(half), unit(ack, done)]
    first, second, third, last = await commit(bus.connection, keys, units)
    assert [type(answer) for answer in second] == [Skipped, Skipped, NotFound]
    assert [type(answer) for answer in third] == [LifecycleConflict]
    assert [type(answer) for answer in first + last] == [Appended] * 3
    assert [entry.id for entry in await everything(bus.log)] == [envelope.id, ack.id, done.id]


def unit(*envelopes, move=None):
    """What is one step by itself."""
    return Unit(tuple(Submission(document(each)) for each in envelopes), move)


async def test_what_was_decided_on_an_older_state_is_refused(bus, keys):
    """What is said with the record of a task as it was read is refused when the task has changed since."""
    envelope = delegation()
    await bus(envelope)
    read_before = await bus.connection.field(keys.index, "task:" + envelope.task)
    trouble = Escalation(error_details=ErrorDetails(level=2, category="execution", message="late"))
    late = document(said(trouble, envelope.task, sender="@bus"))
    await bus(said(Acknowledgment(accepted=True), envelope.task))
    (refused,) = await append(bus.connection, keys, [Submission(late, known=read_before)])
    assert isinstance(refused, Moved)
    read_now = await bus.connection.field(keys.index, "task:" + envelope.task)
    (appended,) = await append(bus.connection, keys, [Submission(late, known=read_now)])
    assert isinstance(appended, Appended)


async def test_what_is_not_parked_any_more_is_not_replayed(bus, keys):
    """A replay of deliveries that somebody else has replayed or dropped is refused, and records nothing."""
    envelope = delegation()
    (first,) = await bus(envelope)
    record = said(Parking(parking="replayed", agent="@kilo"), envelope.task, sender="@human")
    move = Unparking("@kilo", envelope.task, (first.position.entry,), replayed=True)
    (refused,) = await commit(bus.connection, keys, [unit(record, move=move)])
    assert isinstance(refused, Moved)
    assert [entry.type for entry in await everything(bus.log)] == ["delegation"]


@pytest.mark.parametrize("parking", ["parked", "replayed", "dropped"])
async def test_a_parking_by_itself_is_refused(bus, parking):
    """Nobody records that a delivery was set aside, replayed or dropped without doing so."""
    envelope = delegation()
    await bus(envelope)
    record = said(Parking(parking=parking, agent="@kilo"), envelope.task, sender="@bus")
    (refused,) = await bus(record)
    assert (type(refused), len(await everything(bus.log))) == (LifecycleConflict, 1)


async def test_what_is_sent_to_the_bus_stands_in_the_log_alone(bus, keys):
    """A record addressed to the bus itself lies in no inbox, for nobody would read it there."""
    envelope = delegation()
    await bus(envelope, said(Acknowledgment(accepted=True), envelope.task))
    await bus(said(Status(progress="half"), envelope.task, recipient="@bus"))
    assert [entry.recipient for entry in await everything(bus.log)] == ["@kilo", "@boss", "@bus"]
    assert [key async for key in bus.connection.scan(keys.prefix + "inbox:@bus*")] == []


async def test_the_cause_is_the_same_in_a_batch_and_one_by_one(bus, keys):
    """What brought the task into its state is its cause, also when more was said in the same call."""
    envelope = delegation()
    ack = said(Acknowledgment(accepted=True), envelope.task)
    await bus(envelope, ack, said(Status(progress="half"), envelope.task))
    assert task_of(envelope.task, await bus.connection.field(keys.index, "task:" + envelope.task)).cause == ack.id


async def test_the_tree_of_a_known_parent_is_a_fact(bus, keys):
    """A sender's claim about the root counts only where the parent is not known."""
    root = delegation()
    child = compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", parent=root.task, root="elsewhere")
    stranger = compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", parent="unknown", root="elsewhere")
    await bus(root, child, stranger)
    assert [entry.root for entry in await everything(bus.log)] == [root.task, root.task, "elsewhere"]


async def test_a_question_goes_to_somebody_who_may_answer(bus):
    """A question to anybody but the delegator and the human is refused, for its answer would be."""
    envelope = delegation()
    await bus(envelope, said(Acknowledgment(accepted=True), envelope.task))
    (refused,) = await bus(said(Question(question="?"), envelope.task, recipient="@expert"))
    assert refused.reason == "recipient"
    assert "@boss, or @human" in refused.message


async def test_a_write_that_the_server_refuses_halfway_is_taken_back(bus, keys):
    """With an inbox key of another type, nothing stands in the log, and repeating it adds nothing."""
    await bus.connection.execute("SET", keys.inbox("@kilo", "normal"), "not a stream")
    good = delegation(recipient="@other")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await bus(good, delegation(), atomic=False)
    assert await everything(bus.log) == []
    assert await bus.connection.range(keys.inbox("@other", "normal")) == []
    assert await bus.connection.field(keys.index, good.id) is None
    await bus(good)
    assert len(await everything(bus.log)) == 1


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"source": b"x", "source_type": "text/plain; charset=utf-8"}, "source type"),
        ({"source": b"x" * (MAX_BYTES + 1), "source_type": "text/plain"}, "source"),
        ({"content_type": "application/json; charset=utf-8"}, "content type"),
    ],
)
async def test_a_document_that_does_not_fit_is_refused_before_it_is_sent(bus, keys, change, place):
    """What the script could not take apart is an invalid envelope, and nothing is appended."""
    ready = msgspec.structs.replace(document(delegation()), **change)
    with pytest.raises(InvalidEnvelope, match=place):
        await append(bus.connection, keys, [Submission(ready)])
    assert await everything(bus.log) == []


async def test_a_deadline_before_its_own_timestamp_is_refused(bus):
    """A deadline that had passed when the envelope was written cannot be meant."""
    past = datetime(2001, 1, 1, tzinfo=UTC)
    with pytest.raises(InvalidEnvelope, match=r"context.deadline: found 2001-01-01T00:00:00Z"):
        await bus(delegation(deadline=past))
    assert await everything(bus.log) == []


async def test_a_header_that_nobody_checked_is_refused(bus, keys):
    """A document around an envelope with a space in a name breaks no record."""
    envelope = compose(Delegation(goal="g"), sender="@bo ss", recipient="@kilo")
    with pytest.raises(InvalidEnvelope, match="header"):
        await append(bus.connection, keys, [Submission(Document(envelope, encode(envelope), JSON))])
    assert await everything(bus.log) == []


async def test_the_senders_bytes_are_kept(bus):
    """An XML document stands in the log as it was written, comments and spaces included."""
    body = (
        "<agent-message>\n  <!-- as typed -->\n  <sender>@boss</sender><recipient>@kilo</recipient>"
        "<type>delegation</type><context><task-id>t-1</task-id>"
        "<timestamp>2026-11-20T09:30:00+01:00</timestamp></context>"
        "<payload><goal>caché &amp; co</goal></payload></agent-message>"
    ).encode()
    written = read(body)
    await append(bus.connection, bus.log._keys, [Submission(written)])
    (entry,) = await everything(bus.log)
    assert (entry.body, entry.content_type, entry.id) == (body, XML, written.envelope.id)
    assert entry.envelope == written.envelope
    (again,) = await append(bus.connection, bus.log._keys, [Submission(read(body))])
    assert again.repeated


async def test_an_invalid_struct_never_reaches_the_server(bus):
    """What Python let pass when the struct was built is found before it is sent."""
    with pytest.raises(InvalidEnvelope, match="goal"):
        await bus(delegation(goal="bell \x07"))
    assert await everything(bus.log) == []


async def test_a_document_that_is_json_is_said_to_be(bus):
    """Entries tell their content type, and what they were read from where that was something else."""
    await bus(delegation())
    (entry,) = await everything(bus.log)
    assert (entry.content_type, entry.source, entry.source_type) == (JSON, None, None)


async def test_concurrent_appends_keep_each_senders_order(connection, keys):
    """Twenty senders append at the same time; what each awaited in turn stands in that order."""
    parent = delegation(sender="@boss", recipient="@all")
    await append(connection, keys, [Submission(document(parent))])
    sent: dict[str, list[str]] = {}

    async def sender(number):
        name = f"@s{number}"
        for _ in range(20):
            envelope = delegation(sender=name)
            await append(connection, keys, [Submission(document(envelope))])
            sent.setdefault(name, []).append(envelope.id)

    async with anyio.create_task_group() as senders:
        for number in range(20):
            senders.start_soon(sender, number)
    entries = [entry async for entry in Log(connection, keys).read()]
    assert len(entries) == 401
    for name, ids in sent.items():
        assert [entry.id for entry in entries if entry.sender == name] == ids


@pytest.mark.parametrize("name", ["append", "take", "renew", "release", "mend", "watch", "trim"])
def test_the_places_of_a_script_have_names_of_their_own(name):
    """No name stands for two places, and none that is used is declared nowhere."""
    source = script(name).source
    names = re.findall(r"\b[A-Z_]+\b", " ".join(re.findall(r"^-- (?:Places|and on): (.+)$", source, re.MULTILINE)))
    assert names
    assert [each for each, times in Counter(names).items() if times > 1] == []
    assert re.findall(r"\w\[[A-Z_]+\]", source) == []
