"""The programs themselves, as they are installed, through the real bus, its worker and the shared run of agents."""

from __future__ import annotations

import hashlib

import pytest

from taskbus_agents.adapters import ADAPTERS
from tests.agents.real.workplace import INPUT, OUTPUT, remains
from tests.agents.recording import MADE
from tests.agents.stub_dialects import WRITTEN, Tokens
from tests.agents.stub_model_server import ModelServer

NAMES = sorted(ADAPTERS)
WITHOUT_PROGRAM = frozenset({"acp"})
EVERY = pytest.mark.parametrize("name", [each for each in NAMES if each not in WITHOUT_PROGRAM])
DEADLINES = (15, 45, 120)
"""Seconds until a deadline: the first one that leaves a program the time to ask for a model, on a busy machine too."""
LONGEST = 300.0
"""Seconds that a program may try again when its model fails, and more than any of them does."""


@EVERY
def test_writes_a_file(name, workplace):
    """A delegation that has a file written is completed with evidence, and its tokens and their cost are known."""
    with ModelServer(tokens=Tokens()) as server:
        workplace.define(server.url)
        goal = f"Write {MADE}. [[stub:write {workplace.made}]]"
        task = workplace.delegate(goal, "--criterion", f"changed: {MADE}", "--criterion", f"check: grep -q stub {MADE}")
        done = workplace.work(timeout=LONGEST)
        replies = sum(request.told for request in server.requests)
    assert done.code == 0, done.stderr
    assert workplace.made.read_text(encoding="utf-8") == WRITTEN
    told = workplace.task(task)
    assert told["task"]["state"] == "completed", told["timeline"]
    result = told["task"]["result"]
    assert result["status"] == "success"
    assert "2 of 2 criteria" in result["verification_result"]
    artifacts = [(each["path"], each["sha256"]) for each in result["artifacts"]]
    assert artifacts == [(MADE, hashlib.sha256(WRITTEN.encode()).hexdigest())]
    assert [gate["outcome"] for gate in told["gates"]] == ["passed"]
    assert [hold["state"] for hold in told["holds"]] == ["settled"]
    total = workplace.costs()["total"]
    assert (total["input_tokens"], total["output_tokens"]) == (replies * 1234, replies * 56)
    assert total["cost_microusd"] == replies * (1234 * INPUT + 56 * OUTPUT)
    assert remains(workplace.mark) == []


@EVERY
def test_a_model_that_fails_is_no_success(name, workplace):
    """A models' server that answers with 500 leaves the delivery parked, and said why, whatever the exit code."""
    with ModelServer("status-500") as server:
        workplace.define(server.url)
        task = workplace.delegate("Say that you are done.")
        done = workplace.work(timeout=LONGEST)
    assert done.code == 0, done.stderr
    told = workplace.task(task)
    assert told["task"]["state"] == "escalated", told["timeline"]
    assert "its model failed" in str(told["parked"])
    assert remains(workplace.mark) == []


@EVERY
def test_a_deadline_cuts_a_run_off(name, workplace):
    """A run whose model does not answer is ended at the task's deadline, which fails it, and nothing of it is left."""
    with ModelServer("delay-600") as server:
        workplace.define(server.url)
        for seconds in DEADLINES:
            task = workplace.delegate("Say that you are done.", "--deadline", f"{seconds}s")
            done = workplace.work(timeout=LONGEST)
            assert done.code == 0, done.stderr
            if server.hung.is_set():
                break
        assert server.hung.is_set()
    told = workplace.task(task)
    # A program that does not heed TERM is still being ended when the bus sees that the deadline is over.
    assert told["task"]["state"] in {"failed", "escalated"}, told["timeline"]
    if told["task"]["state"] == "failed":
        assert told["task"]["result"]["termination_reason"] == "timeout"
    else:
        assert "deadline" in str(told["escalations"])
    assert remains(workplace.mark) == []
