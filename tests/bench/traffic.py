"""What a fleet of agents says: the envelopes of many tasks under way at a time, in an order that the lifecycle allows.

Half of the tasks go straight through; of the others some are asked about, rejected once, escalated or failed. Every
completion reports its calls, with and without prices; the same seed gives the same story, but for times and IDs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from samples import completion, delegation, status

from taskbus.envelope import (
    Acknowledgment,
    Answer,
    AnyEnvelope,
    Cost,
    CriterionResult,
    ErrorDetails,
    Escalation,
    Gate,
    Payload,
    QualityGates,
    Question,
    Usage,
    Verdict,
    compose,
)

AGENTS = tuple(f"@agent-{number}" for number in range(47))
MODELS = (*(("anthropic", f"claude-{name}") for name in ("opus", "sonnet", "haiku")), ("local", "qwen"))
AT_ONCE = 200
BOSS = "@orchestrator"

ASKED, DONE, REPORT = delegation().payload, completion(), status("t").payload
GATES = QualityGates(
    input=Gate(outcome="passed"),
    hallucination=Gate(outcome="passed", note="Every path that is named is there"),
    boundary=Gate(outcome="passed"),
    output=Gate(outcome="failed", note="One test is missing"),
    escalation=Gate(outcome="not-triggered"),
)


def traffic(count: int, seed: int = 0) -> Iterator[AnyEnvelope]:
    """So many envelopes, of about 600 bytes."""
    rng = random.Random(seed)
    tasks = [task(rng, None) for _ in range(min(AT_ONCE, count))]
    roots: list[str] = []
    for _ in range(count):
        which = rng.randrange(len(tasks))
        envelope = next(tasks[which], None)
        if envelope is None:
            tasks[which] = task(rng, rng.choice(roots) if roots and rng.random() < 0.3 else None)
            envelope = next(tasks[which])
            roots = [*roots[-20:], envelope.task] if envelope.context.parent_task is None else roots
        yield envelope


def task(rng: random.Random, root: str | None) -> Iterator[AnyEnvelope]:
    """One task, from its delegation to its end."""
    agent = rng.choice(AGENTS)
    first = compose(ASKED, sender=BOSS, recipient=agent, parent=root)
    last = first

    def says(payload: Payload, *, usage: tuple[Usage, ...] = (), gates: QualityGates | None = None) -> AnyEnvelope:
        nonlocal last
        mine = not isinstance(payload, Answer | Verdict)
        sender, recipient = (agent, BOSS) if mine else (BOSS, agent)
        last = compose(
            payload, sender=sender, recipient=recipient, task=first.task, cause=last, usage=usage, quality_gates=gates
        )
        return last

    yield first
    for attempt in range(2):
        provider, model = rng.choice(MODELS)
        yield says(Acknowledgment(accepted=True, provider=provider, model=model))
        for _ in range(rng.randrange(3)):
            yield says(REPORT)
        if rng.random() < 0.1:
            yield says(Question(question="Which of the two schemas is the one in use?"))
            yield says(Answer(answer="The newer one; the other is kept for the old pages."))
        if rng.random() < 0.08:
            category = rng.choice(("execution", "validation", "integration", "architectural"))
            error = ErrorDetails(level=rng.randint(1, 4), category=category, message="The server refuses the prefix.")
            yield says(Escalation(error_details=error))
            yield says(Answer(answer="Use the prefix of the project."))
        yield says(DONE, usage=tuple(call(rng, provider, model) for _ in range(rng.randint(1, 2))), gates=GATES)
        accepted = attempt or rng.random() < 0.8
        criteria = (CriterionResult(criterion="Passes verify_redis.py", met=bool(accepted), evidence="Ran it"),)
        yield says(Verdict(decision="accepted" if accepted else "rejected", criteria=criteria))
        if accepted:
            return


def call(rng: random.Random, provider: str, model: str) -> Usage:
    """One call of a model; what runs here has no price."""
    return Usage(
        provider=provider,
        model=model,
        input_tokens=rng.randrange(1000, 60000),
        output_tokens=rng.randrange(100, 4000),
        cache_read_tokens=rng.randrange(1000),
        cost=None
        if provider == "local"
        else Cost(source="priced", microusd=rng.randrange(1000, 900_000), table="2026-11"),
    )
