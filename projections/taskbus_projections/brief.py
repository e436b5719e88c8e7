"""The brief of a task: what is asked for, what came of it, and what it waits for, as its envelopes say it.

Owns which envelopes count: the newest delegation, and the newest of each other type after it. They are decoded
from the audit trail, since the board keeps only what is listed and sorted by. Called by the command about one
task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from taskbus.codec import decode
from taskbus.envelope import Acknowledgment, Cancellation, Completion, Delegation, Escalation, Question, Verdict
from taskbus_projections.queries.answer import rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskbus.envelope import Payload
    from taskbus_projections.database import Database
    from taskbus_projections.queries import Row

P = TypeVar("P")

# The plus keeps SQLite from going through all delegations of the log, of which it knows no number.
_NEWEST: Final = """
    SELECT type, id, content_type, body FROM events WHERE n IN (
        SELECT max(n) FROM events
        WHERE task = :task AND n >= (SELECT max(n) FROM events WHERE task = :task AND +type = 'delegation')
        GROUP BY type
    )
"""


def brief(database: Database, task: Row) -> Row:
    """What the envelopes of a task say, by name; what none of them says is None or empty.

    `constraints`, `artifacts`, `criteria`, `justification` and `route` are the newest delegation's; each criterion has
    `met` and `evidence` once a verdict has judged it, until then None. `result` is the last completion, `verdict` the
    last decision and its comment. `question` and `escalation` are there while the task waits for an answer, `reason`
    where it was declined or canceled.
    """
    payloads = [
        decode(row["body"], row["content_type"], id=row["id"], type=row["type"]).payload
        for row in rows(database, _NEWEST, {"task": task["id"]})
    ]
    state = task["state"]
    delegation, verdict = _of(payloads, Delegation), _of(payloads, Verdict)
    question = _of(payloads, Question) if state == "input-required" else None
    escalation = _of(payloads, Escalation) if state == "escalated" else None
    declined = _of(payloads, Acknowledgment) if state == "rejected" else None
    canceled = _of(payloads, Cancellation) if state == "canceled" else None
    return {
        "constraints": _each(delegation.constraints) if delegation else [],
        "artifacts": _each(delegation.artifacts) if delegation else [],
        "criteria": _judged(delegation, verdict),
        "justification": delegation.paid_model_justification if delegation else None,
        "route": _plain(delegation.route) if delegation and delegation.route else None,
        "result": _result(_of(payloads, Completion)),
        "verdict": {"decision": verdict.decision, "comment": verdict.comment} if verdict else None,
        "question": {"question": question.question, "blocks": list(question.blocks)} if question else None,
        "escalation": _plain(escalation.error_details) if escalation else None,
        "reason": canceled.reason if canceled else declined.decline_reason if declined else None,
    }


def _of(payloads: list[Payload], kind: type[P]) -> P | None:
    return next((payload for payload in payloads if isinstance(payload, kind)), None)


def _judged(delegation: Delegation | None, verdict: Verdict | None) -> list[Row]:
    """The criteria in the order of the delegation, then those that the verdict has added."""
    wanted = delegation.acceptance_criteria if delegation else ()
    judged = {each.criterion: each for each in verdict.criteria} if verdict else {}
    found: list[Row] = []
    for criterion in dict.fromkeys((*wanted, *judged)):
        verdict_on = judged.get(criterion)
        found.append(
            {
                "criterion": criterion,
                "met": verdict_on.met if verdict_on else None,
                "evidence": verdict_on.evidence if verdict_on else None,
            }
        )
    return found


def _result(completion: Completion | None) -> Row | None:
    if completion is None:
        return None
    return {
        "status": completion.result.status,
        "description": completion.result.description,
        "artifacts": _each(completion.result.artifacts),
        "verification_result": completion.verification_result,
        "next_steps": completion.next_steps,
        "termination_reason": completion.termination_reason,
        "error_details": _plain(completion.error_details) if completion.error_details else None,
    }


def _each(values: Sequence[object]) -> list[Any]:
    return [_plain(value) for value in values]


def _plain(value: object) -> Any:
    """As JSON has it: what is not said is left out."""
    return msgspec.to_builtins(value)
