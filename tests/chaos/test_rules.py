"""The history checker: a good history breaks no rule, and each rule is broken by a history that was forged for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from taskbus.codec import JSON, encode
from taskbus.envelope import (
    Acknowledgment,
    Completion,
    Delegation,
    ErrorDetails,
    Escalation,
    Parking,
    Result,
    Status,
    Verdict,
    compose,
)
from taskbus.lifecycle import Task
from taskbus.log import Entry
from taskbus.position import Position
from tests.chaos.evidence import Evidence
from tests.chaos.rules import RULES, check

PREFIX = "chaos:{0}:"


def entry(number, envelope):
    """An envelope where it stands in the log."""
    return Entry(
        position=Position.parse(f"{number}-0"),
        id=envelope.id,
        type=envelope.type,
        sender=envelope.sender,
        recipient=envelope.recipient,
        task=envelope.task,
        root=envelope.task,
        priority=envelope.priority,
        content_type=JSON,
        body=encode(envelope),
    )


def completion(delegation, nonce="1-1"):
    """What a call of a handler made of a delegation."""
    result = Result(status="success", description=nonce)
    return compose(Completion(result=result), sender="@anna", recipient="@boss", task="plain.1", cause=delegation)


def story():
    """A task that was delegated, acknowledged, done and accepted, and everything that was noted of it."""
    delegation = compose(Delegation(goal="g"), sender="@boss", recipient="@anna", task="plain.1")
    taken = compose(Acknowledgment(accepted=True), sender="@anna", recipient="@boss", task="plain.1", cause=delegation)
    done = completion(delegation)
    verdict = compose(Verdict(decision="accepted"), sender="@boss", recipient="@anna", task="plain.1", cause=done)
    log = [entry(number, envelope) for number, envelope in enumerate((delegation, taken, done, verdict), start=1)]
    events = [
        {"who": "producer-1", "what": "send", "id": delegation.id, "task": "plain.1"},
        {"who": "producer-1", "what": "told", "id": delegation.id, "task": "plain.1", "position": "1-0"},
        *handled("worker-a1", "1-1", "@anna", delegation, token=7, outcomes=[done], positions=["3-0"]),
        *handled("boss-1", "2-1", "@boss", done, token=8, outcomes=[verdict], positions=["4-0"]),
        *({"who": "tail-1", "what": "seen", "id": each.id, "position": str(each.position)} for each in log),
        {"who": "stage", "what": "exit", "victim": "worker-a1", "of": 1, "status": -9, "expected": True},
    ]
    return Evidence(
        events=timed(events),
        log=log,
        sizes={PREFIX + "log": 4, PREFIX + "index": 5, PREFIX + "meta": 1, PREFIX + "inbox:@anna:normal": 0},
        names={PREFIX + "index": frozenset({*(each.id for each in log), "task:plain.1"})},
        records={"plain.1": Task("accepted", "@boss", "@anna", "@boss")},
        projection=("d", "d"),
        attempts=3,
    )


def handled(who, nonce, agent, envelope, *, token, outcomes=(), positions=()):
    """What is noted of a delivery that is handled and settled."""
    about = {"who": who, "pid": int(nonce[0]), "id": envelope.id, "task": envelope.task, "agent": agent}
    types = [outcome.type for outcome in outcomes]
    ids = [outcome.id for outcome in outcomes]
    return [
        {**about, "what": "begin", "nonce": nonce, "type": envelope.type, "token": token, "tries": 1},
        {"who": who, "pid": int(nonce[0]), "what": "end", "nonce": nonce, "how": "completion"},
        {**about, "what": "settled", "token": token, "outcomes": ids, "types": types, "positions": positions},
    ]


def timed(events):
    """One second between any two events."""
    return [{"pid": 9, **event, "t": float(number)} for number, event in enumerate(events)]


def noting(evidence, *events, at=None):
    """The same evidence with more events, at the end or before the one at `at`."""
    found = list(evidence.events)
    found[at if at is not None else len(found) : at if at is not None else len(found)] = events
    return replace(evidence, events=timed(found))


def logging(evidence, *envelopes):
    """The same evidence with more entries, which the tail has seen and the index holds."""
    log = list(evidence.log)
    log += [entry(len(log) + number, envelope) for number, envelope in enumerate(envelopes, start=1)]
    seen = [
        {"who": "tail-1", "what": "seen", "id": each.id, "position": str(each.position)}
        for each in log[len(evidence.log) :]
    ]
    fields = {each.id for each in log} | {f"task:{each.task}" for each in log}
    return noting(naming(replace(evidence, log=log), "index", fields), *seen)


def naming(evidence, key, fields):
    """The same evidence with other names in a key of the server."""
    return replace(evidence, names={**evidence.names, PREFIX + key: frozenset(fields)})


def swapped(evidence):
    """The acknowledgment stands before the delegation."""
    first, second, *rest = evidence.log
    return replace(evidence, log=[second, first, *rest])


def again(token=9, nonce="3-1", outcomes=(), tries=1):
    """Somebody else takes the delivery of the delegation, and settles it."""

    def forge(evidence):
        begin, end, settled = handled(
            "worker-a2",
            nonce,
            "@anna",
            evidence.log[0].envelope,
            token=token,
            outcomes=outcomes,
            positions=["3-0" for _ in outcomes],
        )
        return noting(evidence, {**begin, "tries": tries}, end, settled)

    return forge


def failing_four_times(evidence):
    """A delivery that was given to a handler four times, and failed each time."""
    delegation = evidence.log[0].envelope
    calls = [handled("worker-a2", f"3-{n}", "@anna", delegation, token=n)[:2] for n in range(1, 5)]
    return noting(evidence, *({**note, "how": "Retryable"} for call in calls for note in call))


def parked(task="broken.2", attempts=3):
    """A task that was parked and escalated."""
    delegation = compose(Delegation(goal="g"), sender="@boss", recipient="@anna", task=task)
    trouble = ErrorDetails(level=2, category="execution", message="m")
    escalation = compose(Escalation(error_details=trouble), sender="@bus", recipient="@boss", task=task)
    record = Parking(
        parking="parked", agent="@anna", deliveries=(delegation.id,), reason="retryable", attempts=attempts
    )
    parking = compose(record, sender="@bus", recipient="@bus", task=task)
    return delegation, escalation, parking


def with_parked(evidence, *, attempts=3, held=True):
    """The same evidence with a parked task, which the bus may have forgotten."""
    envelopes = parked(attempts=attempts)
    sent = {"who": "producer-1", "what": "send", "id": envelopes[0].id, "task": "broken.2"}
    records = {**evidence.records, "broken.2": Task("escalated", "@boss", "@anna", "@boss")}
    held_now = {"@anna": frozenset({"broken.2"})} if held else {}
    return noting(replace(logging(evidence, *envelopes), records=records, parked=held_now), sent)


def told_twice(evidence):
    """An escalation of what is escalated already."""
    trouble = ErrorDetails(level=2, category="execution", message="m")
    once_more = compose(Escalation(error_details=trouble), sender="@bus", recipient="@boss", task="broken.2")
    return logging(with_parked(evidence), once_more)


def without_verdict(evidence):
    """A result that nobody has judged."""
    shorter = replace(evidence, log=evidence.log[:3], records={"plain.1": Task("completed", "@boss", "@anna", "@boss")})
    return replace(shorter, events=[event for event in shorter.events if event["pid"] != 2])


def said_by_nobody(evidence):
    """A status that no process has sent, of a delivery that nobody was given."""
    stranger = compose(Status(progress="p"), sender="@bert", recipient="@boss", task="plain.1")
    return logging(evidence, stranger)


FORGED = {
    "acknowledged: not in the log": lambda e: replace(e, log=e.log[1:]),
    "acknowledged: elsewhere": lambda e: replace(e, log=[entry(9, e.log[0].envelope), *e.log[1:]]),
    "once: twice": lambda e: replace(e, log=[*e.log, entry(5, e.log[3].envelope)]),
    "refused: and stands": lambda e: noting(
        e,
        {"who": "w", "what": "refused", "id": e.log[1].id, "task": "plain.1", "error": "Fenced"},
    ),
    "order: after what came later": lambda e: noting(
        e,
        {"who": "w", "what": "told", "id": e.log[3].id, "task": "plain.1", "position": "4-0"},
        at=0,
    ),
    "order: of one producer": lambda e: noting(
        replace(e, events=[event for event in e.events if event["what"] != "told"]),
        {"who": "producer-1", "what": "send", "id": e.log[3].id, "task": "plain.1"},
        at=0,
    ),
    "lifecycle: work before its delegation": swapped,
    "lifecycle: another state": lambda e: replace(e, records={"plain.1": Task("working", "@boss", "@anna", "@boss")}),
    "lifecycle: a task without a log": lambda e: replace(e, records={**e.records, "x": e.records["plain.1"]}),
    "delegated: no delegation": lambda e: replace(e, log=e.log[1:]),
    "delegated: two completions": lambda e: logging(e, completion(e.log[0].envelope, "3-1")),
    "effect: two outcomes": lambda e: again(outcomes=[e.log[2].envelope])(
        logging(e, completion(e.log[0].envelope, "3-1"))
    ),
    "effect: of a call that never was": lambda e: replace(
        e, log=[*e.log[:2], entry(3, completion(e.log[0].envelope, "8-8")), e.log[3]]
    ),
    "effect: said by nobody": said_by_nobody,
    "fenced: an old token has outcomes": lambda e: again(token=6, outcomes=[e.log[2].envelope])(e),
    "fenced: taken after it was settled": lambda e: noting(
        e, handled("worker-a2", "3-1", "@anna", e.log[0].envelope, token=9)[0]
    ),
    "tries: four of three": failing_four_times,
    "tries: the fourth": again(token=7, tries=4),
    "tries: parked too early": lambda e: with_parked(e, attempts=2),
    "escalated: twice": told_twice,
    "finished: nobody judges": without_verdict,
    "finished: parked and forgotten": lambda e: with_parked(e, held=False),
    "finished: parked and not said": lambda e: replace(e, parked={"@bert": frozenset({"plain.1"})}),
    "drained: an inbox": lambda e: replace(e, sizes={**e.sizes, PREFIX + "inbox:@anna:normal": 1}),
    "drained: a lease": lambda e: replace(e, sizes={**e.sizes, PREFIX + "leases:@boss": 1}),
    "drained: too late": lambda e: noting(e, {"who": "stage", "what": "stuck"}),
    "projected: another fold": lambda e: replace(e, projection=("d", "e")),
    "followed: a gap": lambda e: replace(
        e, events=[event for event in e.events if event.get("position") != "2-0" or event["what"] != "seen"]
    ),
    "followed: twice": lambda e: noting(e, {"who": "tail-1", "what": "seen", "id": "x", "position": "4-0"}),
    "followed: too late": lambda e: noting(e, {"who": "stage", "what": "behind", "victim": "projector-1"}),
    "clean: another key": lambda e: replace(e, sizes={**e.sizes, "other": 1}),
    "clean: a loud bell": lambda e: replace(e, sizes={**e.sizes, PREFIX + "bell:@anna": 2}),
    "clean: the index forgets": lambda e: naming(e, "index", e.names[PREFIX + "index"] - {e.log[1].id}),
    "clean: the index remembers": lambda e: naming(e, "index", e.names[PREFIX + "index"] | {"task:x"}),
    "clean: a deadline of what has ended": lambda e: naming(e, "deadlines", {"plain.1"}),
    "clean: an escalation of what has ended": lambda e: naming(e, "escalations", {"plain.1"}),
    "clean: more workers than there were": lambda e: naming(e, "workers", {"@anna worker-1"}),
    "clean: what a dead worker took": lambda e: naming(e, "meta", {"token", "turn:@anna", "took:worker-1"}),
    "alive: it crashed": lambda e: noting(
        e,
        {"who": "worker-a1", "what": "died", "pid": 4, "why": "Traceback\nValueError: v"},
        {"who": "stage", "what": "exit", "victim": "worker-a1", "of": 4, "status": 70, "expected": False},
    ),
    "alive: it does not stop": lambda e: noting(e, {"who": "stage", "what": "late", "victim": "boss-1", "limit": 2.3}),
}


def test_a_good_history_breaks_no_rule():
    """Nothing is wrong with a task that was done, nor with one that was parked and escalated."""
    assert check(story()) == []
    assert check(with_parked(story())) == []


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_history_breaks_its_rule(case):
    """What the rule is there for is found."""
    assert case.partition(":")[0] in {breach.rule for breach in check(FORGED[case](story()))}


def test_every_rule_can_be_broken():
    """A rule that no history breaks would prove nothing."""
    assert {case.partition(":")[0] for case in FORGED} == set(RULES)


def test_an_answer_that_was_lost_binds_nobody():
    """Whoever does not know what became of an append may find it done or not, and may be refused later."""
    evidence = story()
    unclear = {"who": "w", "task": "plain.1", "error": "late"}
    other = "01a1f8b8-c3a1-708b-abae-2902d01d6c3b"
    evidence = noting(
        evidence,
        *(
            {**unclear, "what": what, "id": found}
            for found in (evidence.log[1].id, other)
            for what in ("unknown", "refused")
        ),
    )
    assert check(evidence) == []


def test_a_settlement_that_changes_nothing_may_come_late():
    """A worker that was stopped may be told that what it had is settled, as long as it has published nothing."""
    assert check(again(token=6)(story())) == []


def test_a_crash_names_its_error():
    """What is told of a process that ended by itself is the error, also when it stands within a group of errors."""
    why = (
        "  + Exception Group Traceback:\n  |\n  +-+---------------- 1 ----------------\n    | ValueError: v\n    +----"
    )
    evidence = noting(
        story(),
        {"who": "worker-a1", "what": "died", "pid": 4, "why": why},
        {"who": "stage", "what": "exit", "victim": "worker-a1", "of": 4, "status": 70, "expected": False},
    )
    assert [breach.what for breach in check(evidence)] == ["worker-a1 ended by itself with 70: ValueError: v"]
