"""The gist: what each kind of envelope says, in short."""

from __future__ import annotations

import pytest

from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Artifact,
    Budget,
    Cancellation,
    Completion,
    CriterionResult,
    Delegation,
    ErrorDetails,
    Escalation,
    Hold,
    Parking,
    Question,
    Result,
    Status,
    Verdict,
    compose,
)
from taskbus.gist import gist

ID = "0199f0a2-7c4e-7d31-9b5a-3e6f1c2d4a58"
STUCK = ErrorDetails(level=2, category="execution", message="no disk")
HOLD = Hold(id="h1", microusd=500_000)
MADE = (Artifact(path="src/a.py"), Artifact(path="src/b.py"))


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (Delegation(goal="Make it"), "Make it"),
        (Delegation(goal="Make it", task_type="review"), "[review] Make it"),
        (Acknowledgment(accepted=True), "accepted"),
        (Acknowledgment(accepted=True, model="qwen3"), "accepted, to run on qwen3"),
        (Acknowledgment(accepted=False), "declined"),
        (Acknowledgment(accepted=False, decline_reason="busy"), "declined: busy"),
        (Status(progress="half"), "half"),
        (Status(progress="half", fraction=0.5), "50% half"),
        (Question(question="Which?"), "Which?"),
        (Answer(answer="That."), "That."),
        (Completion(result=Result(status="success")), "success"),
        (
            Completion(
                result=Result(status="failure", description="No.", artifacts=MADE),
                verification_result="Looked at it",
                next_steps="Buy one",
                error_details=STUCK,
            ),
            "failure: No.\nmade src/a.py, src/b.py\nchecked: Looked at it\nexecution: no disk\nnext: Buy one",
        ),
        (Verdict(decision="accepted"), "accepted"),
        (
            Budget(budget="cap", account="provider:x", period="month", microusd=20_000_000, reason="Sprint"),
            "provider:x may spend $20.00 by month: Sprint",
        ),
        (Budget(budget="cap", account="task:t1", period="task"), "task:t1 may spend without a cap"),
        (Budget(budget="reserved", hold=HOLD, provider="x", model="big"), "$0.50 reserved for x/big"),
        (Budget(budget="settled", hold=HOLD), "settled, of $0.50 reserved"),
        (Budget(budget="settled"), "settled"),
        (Budget(budget="released", hold=HOLD, ended="lost"), "$0.50 given back (lost)"),
        (
            Budget(
                budget="warned", account="agent:@a", period="day", span="2026-11-20", microusd=9, committed=7, held=1
            ),
            "agent:@a in 2026-11-20: $0.000007 spent and $0.000001 reserved of $0.000009",
        ),
        (
            Verdict(
                decision="rejected",
                comment="Not yet",
                criteria=(CriterionResult(criterion="fast", met=False), CriterionResult(criterion="small", met=True)),
            ),
            "rejected: Not yet. not met: fast",
        ),
        (Escalation(error_details=STUCK), "level 2, execution: no disk"),
        (Cancellation(reason="Too late"), "Too late"),
        (
            Parking(parking="parked", agent="@kilo", reason="retryable", attempts=3, message="no disk"),
            "parked for @kilo after 3 attempts (retryable): no disk",
        ),
        (
            Parking(parking="parked", agent="@kilo", reason="permanent", attempts=1),
            "parked for @kilo after 1 attempt (permanent)",
        ),
        (Parking(parking="replayed", agent="@kilo"), "replayed for @kilo"),
        (Parking(parking="replayed", agent="@kilo", resumes=True), "replayed for @kilo, resuming the task"),
        (Parking(parking="dropped", agent="@kilo", deliveries=(ID, ID)), "2 deliveries dropped for @kilo"),
    ],
)
def test_the_gist_of_each_type(payload, said):
    """What a person needs to know of it, and no more."""
    assert gist(compose(payload, sender="@a", recipient="@b")) == said
