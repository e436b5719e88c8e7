"""The gatekeeper: the handler of what a run delegates to itself, its checks and its questions to people.

A command is looked up in the run's own document, never taken from an envelope. What it came to is a completion with
its evidence, like everybody's. Called by the worker of the plan's agent.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Final

import anyio

from taskbus.envelope import Answer, Completion, Delegation, ErrorDetails, Question, Result
from taskbus.errors import Failure, Permanent, TimedOut, Unavailable
from taskbus.lifecycle import HUMAN
from taskbus.work import Outcome
from taskbus_agents.command import environment
from taskbus_agents.masking import Mask
from taskbus_agents.plans import answers, report
from taskbus_agents.plans.following import fold
from taskbus_agents.plans.model import CHECK_TIME

if TYPE_CHECKING:
    from pathlib import Path

    from taskbus.client import Bus
    from taskbus.log import Entry
    from taskbus.settings import Settings
    from taskbus.work import Work
    from taskbus_agents.plans.model import Check, Node, Plan
    from taskbus_agents.runner import Ended, Runner

_TOLD: Final = 4000
_TRIES: Final = 10
_UNSAID: Final = ", which is all that a command without a `timeout` has. A plan in TOML can give it another one"
_AGAIN: Final = "That was neither a clear yes nor a clear no. "


class Gatekeeper:
    """Handles the checks and questions of one run; its commands run in `folder`."""

    def __init__(self, bus: Bus, settings: Settings, plan: Plan, order: Entry, *, folder: Path, runner: Runner) -> None:
        self._bus = bus
        self._settings = settings
        self._plan = plan
        self._order = order
        self._folder = folder
        self._runner = runner

    async def keep(self, work: Work) -> Outcome | Completion:
        """Run the check, or ask the question, that a delivery stands for.

        Raises Permanent for anything else, and for what fails again and again in a way that nobody foresaw.
        """
        try:
            return await self._keep(work)
        except (Failure, Unavailable, TimedOut):
            raise
        except Exception as error:
            if work.delivery.tries < _TRIES:
                raise
            raise Permanent(f"{type(error).__name__}: {error}") from error

    async def _keep(self, work: Work) -> Outcome | Completion:
        task = work.delivery.task
        if work.envelope.type == "delegation" and work.envelope.sender != self._plan.agent:
            raise Permanent(f"{work.envelope.sender} may not delegate to {self._plan.agent}: only its own runs do.")
        if task.startswith(f"{self._order.task}:check-"):
            return await self._judge(work)
        name, _, aside = task[len(self._order.task) + 1 :].partition(":")
        node = self._plan.nodes.get(name)
        if node is None:
            raise Permanent(f"The plan {self._plan.name} has no step or gate {name!r}.")
        if "check-" in aside:
            return await self._check(work, node.check or "", node.timeout)
        if "review-" in aside or "question-" in aside or node.kind == "approval":
            return await self._ask(work, node, is_question="question-" in aside)
        if node.kind != "check":
            raise Permanent(f"{name} of the plan {self._plan.name} is no gate.")
        return await self._check(work, node.command, node.timeout)

    async def _ask(self, work: Work, node: Node, *, is_question: bool) -> Outcome | Completion:
        payload = work.envelope.payload
        if isinstance(payload, Delegation):
            return self._asked(node, payload.goal)
        answer, sender = payload.answer if isinstance(payload, Answer) else "", work.envelope.sender
        if sender != HUMAN:
            # The delegator of what a run asks is the run itself, so that the lifecycle lets its name answer as well.
            foreign = f"The answer of {sender} does not count, since only a person's does. "
            return self._asked(node, f"{foreign}{await self._question(work)}")
        if is_question:
            return Completion(result=Result(status="success", description=answer))
        says = answers.approval(answer)
        if says is None:
            return self._asked(node, f"{_AGAIN}{await self._question(work)}")
        said = f"{sender} said: {answer}"
        if says:
            return Completion(result=Result(status="success", description=answer), verification_result=said)
        return _failed(said, "refused", evidence=said)

    def _asked(self, node: Node, question: str) -> Outcome:
        return Outcome(Question(question=question, blocks=_blocked(self._plan, node)), recipient=HUMAN)

    async def _question(self, work: Work) -> str:
        """What was to be asked at first."""
        run = await fold(self._bus, self._plan, self._order, work.delivery.entry.position)
        payload = run.pieces[work.delivery.task].delegation.envelope.payload
        return payload.goal if isinstance(payload, Delegation) else ""

    async def _check(self, work: Work, command: str, timeout: float | None, stdin: bytes = b"") -> Completion:
        """Run a command of the plan; it passes with exit code 0, within `timeout` or the time that all have."""
        if not self._folder.is_dir():
            raise Permanent(
                f"The folder of the run, {self._folder}, is not on this machine: run `bus plan resume "
                f"{self._order.task}` where it is, then `bus parked replay {work.delivery.task}`."
            )
        address = self._bus.connection.address
        variables = environment(
            os.environ,
            agent=self._plan.agent,
            url=address.url() if address is not None else "",
            namespace=self._bus.namespace,
            home=self._settings.home,
        )
        variables |= {"BUS_PLAN_RUN": self._order.task, "BUS_TASK": work.delivery.task}
        ended: Ended | None = None
        seconds = timeout or CHECK_TIME
        with anyio.move_on_after(seconds):
            ended = await self._runner.run(("/bin/sh", "-c", command), stdin=stdin, cwd=self._folder, env=variables)
        if ended is None:
            return _failed(f"$ {command}: ended after {seconds:g} s{'' if timeout else _UNSAID}", "timeout")
        ended = Mask.of(variables).ended(ended)
        evidence = f"$ {command}: exit code {ended.code}, {ended.seconds:.1f} s"
        output = (ended.stdout[-_TOLD:] + ended.stderr[-_TOLD:]).decode(errors="replace").strip()
        output = "".join(each for each in output if each.isprintable() or each in "\n\t")[-_TOLD:]
        if ended.code == 0 and ended.cut is None:
            return Completion(result=Result(status="success", description=output or None), verification_result=evidence)
        return _failed(f"{evidence}\n{output}".strip(), "check", evidence=evidence)

    async def _judge(self, work: Work) -> Completion:
        """The plan's own check, of the report as it stands at this delegation."""
        check = self._plan.check
        if check is None:
            raise Permanent(f"The plan {self._plan.name} has no check of its own.")
        run = await fold(self._bus, self._plan, self._order, work.delivery.entry.position)
        run.refresh()
        document = report.plain(run)
        evidence: list[str] = []
        for path in check.files:
            if not (self._folder / path).exists():
                return _failed(f"file {path}: it is not there", "check")
            evidence.append(f"file {path}: it is there")
        if check.schema is not None:
            if problem := self._schema(check, document):
                return _failed(problem, "check")
            evidence.append(f"schema {check.schema}: the report fits")
        if check.command is not None:
            stdin = json.dumps(document, ensure_ascii=False).encode()
            done = await self._check(work, check.command, check.timeout, stdin)
            if done.result.status == "failure":
                return done
            evidence.append(done.verification_result or "")
        return Completion(result=Result(status="success"), verification_result="\n".join(evidence) or None)

    def _schema(self, check: Check, document: object) -> str | None:
        """What is wrong with the report by its schema; None where it fits."""
        import jsonschema_rs  # heavy, and most plans have no schema

        try:
            schema: object = json.loads((self._folder / (check.schema or "")).read_bytes())
            validator = jsonschema_rs.validator_for(schema)  # type: ignore[arg-type]
        except (OSError, ValueError) as error:
            return f"schema {check.schema}: it cannot be used: {error}"[:_TOLD]
        found = next(iter(validator.iter_errors(document)), None)
        return f"schema {check.schema}: {found.message}"[:_TOLD] if found is not None else None


def _blocked(plan: Plan, node: Node) -> tuple[str, ...]:
    return plan.followers[node.name][:20] if node.kind == "approval" else (node.name,)


def _failed(message: str, reason: str, *, evidence: str | None = None) -> Completion:
    return Completion(
        result=Result(status="failure"),
        verification_result=evidence or message,
        termination_reason=reason,
        error_details=ErrorDetails(level=2, category="validation", message=message or "it failed"),
    )
