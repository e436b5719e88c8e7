"""The sheet of one task: what people read, and what is left out for them."""

from __future__ import annotations

from taskbus_projections.sheet import sheet

ROW = {
    "id": "task-1",
    "root": "task-1",
    "parent": None,
    "state": "working",
    "goal": "Make it",
    "task_type": None,
    "assignee": "@kilo",
    "delegator": "@boss",
    "coordinator": "@boss",
    "priority": "normal",
    "attempt": 1,
    "review": True,
    "deadline": None,
    "progress": "half way",
    "fraction": 0.5,
    "created": "c",
    "updated": "u",
    "finished": None,
    "envelopes": 3,
    "questions": 0,
    "escalations": 0,
    "position": "1-0",
    "n": 3,
}
SAID = {
    "constraints": [],
    "artifacts": [],
    "criteria": [],
    **dict.fromkeys(("route", "justification", "result", "verdict", "question", "escalation", "reason")),
}
NOTHING = {"calls": 0, "unpriced_calls": 0, "cost_microusd": None}


def lines(row=None, said=None, spent=NOTHING):
    """The sheet by its names."""
    return dict(sheet({**ROW, **(row or {})}, {**SAID, **(said or {})}, spent, lambda time: f"<{time}>"))


def test_what_says_nothing_is_left_out():
    """No counts of nothing, no cost of nothing, no coordinator who is the delegator, no numbers of the log."""
    assert list(lines()) == [
        "id", "state", "assignee", "delegator", "goal", "priority", "review", "attempt", "progress", "created",
        "updated",
    ]  # fmt: skip
    more = lines({"coordinator": "@lead", "escalations": 2}, spent={**NOTHING, "calls": 1, "unpriced_calls": 1})
    assert (more["coordinator"], more["escalations"], more["cost"]) == ("@lead", "2", "1 unpriced call")


def test_progress_is_that_of_work_that_goes_on():
    """Half way is not where a finished task stands."""
    assert lines()["progress"] == "50% half way"
    assert "progress" not in lines({"state": "accepted", "finished": "f"})


def test_criteria_show_whether_and_by_what_they_were_met():
    """Met, not met, not judged; the evidence stands below its criterion."""
    criteria = [
        {"criterion": "fast\nand small", "met": True, "evidence": "3 ms"},
        {"criterion": "documented", "met": False, "evidence": None},
        {"criterion": "tested", "met": None, "evidence": None},
    ]
    assert lines(said={"criteria": criteria})["criteria"] == ("✓ fast\n  and small\n  3 ms\n✗ documented\n· tested")


def test_a_failure_says_what_went_wrong_and_why_it_ended():
    """Trouble, what was tried, and the reason for the end are lines of their own."""
    error = {"level": 1, "category": "execution", "message": "no disk", "attempted_recovery": "emptied it"}
    result = {
        "status": "failure",
        "description": None,
        "artifacts": [],
        "verification_result": None,
        "next_steps": None,
        "termination_reason": "timeout",
        "error_details": error,
    }
    shown = lines({"state": "failed"}, {"result": result})
    assert shown["result"] == "failure"
    assert shown["trouble"] == "level 1, execution: no disk\ntried: emptied it"
    assert shown["ended by"] == "timeout"
