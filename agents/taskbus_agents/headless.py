"""The headless agent: one run of a real agent's program for each delivery, whichever program it is.

A handler over an adapter and a definition. Owns the order of a run: workspace, prompt, money, program, evidence,
outcome. Nothing is success by the program's word alone, and no run ends without its usage being told. What the
program says is read by its adapter, what follows from it decided in `trouble` and `evidence`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio.to_thread
from msgspec import structs

from taskbus import codec
from taskbus.envelope import Acknowledgment, Completion, Delegation, Escalation, QualityGates
from taskbus.errors import ConfigurationError, LifecycleConflict, OverBudget, Permanent, RefusedByBudget
from taskbus.work import Outcome
from taskbus_agents import evidence, files, outcome, room, surroundings, trouble
from taskbus_agents.adapter import Job, Report
from taskbus_agents.checks import Seen
from taskbus_agents.coordination import Office, further, settling
from taskbus_agents.masking import Mask
from taskbus_agents.prompt import prompt
from taskbus_agents.spending import Spending
from taskbus_agents.taken import answered, asks_for_work, begun, going, is_ours, lines_to, place_of
from taskbus_agents.trouble import Conduct

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taskbus.budget import Run
    from taskbus.codec import Document
    from taskbus.envelope import AnyEnvelope, Gate, Payload, Usage
    from taskbus.work import Work
    from taskbus_agents.adapter import Adapter, Launch
    from taskbus_agents.checks import Checked, Checks
    from taskbus_agents.definition import Definition
    from taskbus_agents.runner import Ended, Runner
    from taskbus_agents.taken import Begun
    from taskbus_agents.workspace import Changes, Going, Workspace, Workspaces

OUTPUT: Final = 64 << 20
"""Bytes that a program may print: a stream of records has every call and every file in it."""
USUAL_TIMEOUT: Final = 3600.0
"""Seconds that a run may take where its agent's definition does not say it: some programs try again without end."""
_SOON: Final = 1.0


@dataclass(frozen=True, slots=True)
class HeadlessAgent:
    """A handler that runs one agent's program for each delivery.

    `environment` is what the program finds besides its own; `on_start` is told of each run, `on_incident` of what is
    odd and no failure, `on_stderr` is given each line of stderr with its task. Raises ConfigurationError for an agent
    that may do anything unasked where the policy does not say so.
    """

    definition: Definition
    adapter: Adapter
    runner: Runner
    workspaces: Workspaces
    checks: Checks
    environment: Mapping[str, str]
    office: Office | None = None
    spending: Spending = field(default_factory=Spending)
    conduct: Conduct = field(default_factory=Conduct)
    on_start: Callable[[Work], None] = lambda _work: None
    on_incident: Callable[[str], None] = lambda _incident: None
    on_stderr: Callable[[str, str], None] | None = None

    def __post_init__(self) -> None:
        """Refuse what the policy does not allow, before anything runs."""
        if self.definition.permission == "bypass" and not self.conduct.bypass:
            raise ConfigurationError(
                f'{self.definition.name} may not run with permission = "bypass": the policy does not say so.',
                advice=f'Add "{self.definition.name}" to `bypass` under [permissions] in the policy, or use "edit".',
            )

    @property
    def coordinator(self) -> str | None:
        """To whom goes what is given up."""
        return self.definition.coordinator

    def acknowledgment(self, work: Work) -> Acknowledgment | None:
        """With what work is taken on: it names the model that will run. None where only the log tells which one."""
        payload = work.envelope.payload
        if not isinstance(payload, Delegation):
            return None
        return _accepted(self._running(payload))

    async def __call__(self, work: Work) -> list[Document] | None:
        """Run the program, and return what it came to; nothing for a message that asks for no work.

        Cancelling it ends the program and whatever it started, and tells what it used. Raises a Failure as `trouble`
        says, OverBudget and RefusedByBudget before anything runs.
        """
        if not asks_for_work(work):
            return None
        task = await begun(work)
        decides = work.delivery.is_to_decide
        definition = self.definition if decides else self._running(task.delegation)
        await work.acknowledged(_accepted(definition))
        claim = self.workspaces.claim(shared=definition.permission == "read")
        waits = f"Task {work.delivery.task}: it waits for {claim.folder}, in which another delivery is worked on."
        try:
            is_over = not await claim.taken(lambda: not decides and task.is_over, lambda: self.on_incident(waits))
            if is_over or (not decides and task.is_over):
                return [outcome.failure(work, "timeout", "The deadline was over before the work began.")]
            return await self._worked_on(work, task, definition)
        except LifecycleConflict:
            if not decides:
                raise
            return None  # somebody has decided before there was money for it
        finally:
            claim.leave()

    async def _worked_on(self, work: Work, task: Begun, definition: Definition) -> list[Document] | None:
        """In a workspace that is made for it, and left."""
        workspace = await anyio.to_thread.run_sync(
            self.workspaces.make, work.delivery.task, place_of(work, task.task), self._going(work, task)
        )
        changes = None
        try:
            left = None if work.delivery.is_to_decide else task.left(self.runner.grace)
            one = await self._prepared(work, task, workspace, left, definition)
            changes, settled = await one.done()
            return settled and [one.mask().document(each) for each in settled]
        except (OverBudget, RefusedByBudget):
            await anyio.to_thread.run_sync(workspace.drop)  # nothing has run in it, and it may be tried often
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(workspace.leave, changes)

    def _going(self, work: Work, task: Begun) -> Going:
        """How it is begun: in a folder as it is, a run before may have done what this one finds done already."""
        how = going(task.said)
        is_again = work.delivery.tries > 1 or task.task.attempt > 1
        return "on" if how == "anew" and is_again and self.workspaces.kind == "as-is" else how

    def writes(self, work: Work) -> bool:
        """Whether a run for this delivery makes files, and does not only look or decide."""
        return self.definition.permission != "read" and not work.delivery.is_to_decide

    def _running(self, delegation: Delegation) -> Definition:
        """The definition with the model that will really run: the route of the delegation may name another one."""
        route = delegation.route
        return self.definition if route is None else self.definition.running(route.provider, route.model)

    async def _prepared(
        self, work: Work, task: Begun, workspace: Workspace, left: float | None, definition: Definition
    ) -> _One:
        """One run, ready to begin. Raises Permanent where it cannot be, however often it is tried."""
        unfit = trouble.unfit(self.definition, definition, self.adapter)
        if unfit is not None:
            raise unfit
        await anyio.to_thread.run_sync(workspace.check_room, self.writes(work))
        text = prompt(
            task.said,
            definition,
            folder=workspace.folder,
            previous=workspace.previous,
            attempt=task.task.attempt,
            deadline=task.deadline,
            office=(self.office or Office(definition.name, definition.coordinator))
            if work.delivery.is_to_decide
            else None,
        )
        limits = [definition.timeout or USUAL_TIMEOUT, *([left] if left is not None else [])]
        job = Job(
            prompt=text,
            folder=workspace.folder.resolve(),  # as programs see it, whose rules name it
            home=workspace.home,
            definition=definition,
            timeout=min(limits),
            key=surroundings.key(self.environment, self.definition),
        )
        return _One(self, work, task, workspace, job)


@dataclass(slots=True)
class _One:
    """One run of one delivery."""

    agent: HeadlessAgent
    work: Work
    task: Begun
    workspace: Workspace
    job: Job
    launch: Launch | None = None
    before: Mapping[Path, files.Stamp] = field(default_factory=dict["Path", "files.Stamp"])

    async def done(self) -> tuple[Changes | None, list[Document] | None]:
        """Run it, and see what came of it."""
        agent, work = self.agent, self.work
        self._launch()  # what cannot be started costs nothing
        spending = agent.spending.held(work, self.job.definition, self.job.prompt, self.task.delegation)
        async with spending as money:
            self.job, self.launch = replace(self.job, limit=money.hold.microusd or None), None
            ended, report = await self._ran(money)
            changes = await anyio.to_thread.run_sync(self.workspace.changes, self._launch().litter)
            now_task = await answered(lambda: work.bus.task(work.delivery.task))
            if not is_ours(work, now_task):
                # It was taken away, or somebody has ended it: what was used is all that is still to be told.
                await work.bus.budget.settle(money.hold, money.usage)
                return changes, None
            kept = self.workspace.keep(ended) if report.trouble is not None else None
            failure = trouble.failure(
                report,
                ended,
                adapter=agent.adapter,
                definition=self.job.definition,
                conduct=agent.conduct,
                kept=kept,
            )
            if failure is not None:
                raise failure
            if work.delivery.is_to_decide:
                await work.bus.budget.settle(money.hold, money.usage)
                office = agent.office or Office(work.delivery.agent, agent.coordinator)
                if report.trouble is not None:
                    why = trouble.explained(report, ended, agent.adapter, kept)
                    return changes, [further(work, self.task, office, why)]
                return changes, [await settling(work, self.task, office, report.said.encode(errors="replace"))]
            if agent.writes(work):
                await anyio.to_thread.run_sync(room.check, self.workspace.folder)  # the last of it may be cut off
            return changes, [await self._outcome(ended, report, changes, kept, tuple(money.usage))]

    async def _ran(self, money: Run) -> tuple[Ended, Report]:
        """Run the program, and read what it left. What is known of its usage is in `money` from then on."""
        agent = self.agent
        launch, mask = self._launch(), self.mask()

        def over(ended: Ended) -> Report:
            report = self._report(ended, launch)
            known = report.trouble not in ("authentication", "missing") or bool(report.usage)
            money.usage[:] = agent.spending.priced(report.usage, self.job.definition) if known else ()
            return report

        def cancelled(ended: Ended) -> None:
            self.workspace.keep(mask.ended(ended))
            over(ended)

        await anyio.to_thread.run_sync(files.write, launch.files, self.workspace.home)
        agent.on_start(self.work)
        self.before = await anyio.to_thread.run_sync(files.stamps, launch.reads, self._home())
        listen = lines_to(mask.lines(agent.on_stderr), self.work.delivery.task)
        try:
            ended = await agent.runner.run(
                launch.command,
                stdin=launch.stdin,
                cwd=self.workspace.folder,
                env=self._environment(launch),
                timeout=self.job.timeout,
                output=OUTPUT,
                on_stderr=listen,
                on_cancelled=cancelled,
            )
        except OSError as error:
            said = f"{launch.command[0]} could not be started: {error.strerror or error}."
            raise Permanent(said) from error
        finally:
            if listen is not None:
                listen.end()
        if ended.left:
            left = ", ".join(map(str, ended.left))
            self._tell(f"What the agent started could not be ended, and still runs: process {left}.")
        # Beside the event loop: what prints without end takes minutes to read, while leases are to be renewed.
        report = await anyio.to_thread.run_sync(over, ended)
        return await anyio.to_thread.run_sync(mask.ended, ended), mask.report(report)

    def _launch(self) -> Launch:
        if self.launch is None:
            try:
                self.launch = self.agent.adapter.launch(self.job)
            except ConfigurationError as error:
                raise Permanent(f"{error.message} {error.advice or ''}".strip()) from error
            if shutil.which(self.launch.command[0], path=self.agent.environment.get("PATH")) is None:
                raise trouble.missing(self.agent.adapter)
        return self.launch

    def _report(self, ended: Ended, launch: Launch) -> Report:
        try:
            read = files.read(launch.reads, self._home(), before=self.before)
            found = self.agent.adapter.report(ended, self.job, read)
        except Exception as error:  # noqa: BLE001 - a fault of ours in reading must not cost what is known of the run
            self._tell(f"What {self.agent.adapter.name} printed could not be read: {error!r}.")
            found = Report(trouble="garbage", message="its adapter could not read it")
        return trouble.told(found, ended)

    def _home(self) -> Path:
        return surroundings.home(self.agent.environment, self.job.definition, self.workspace)

    def mask(self) -> Mask:
        """What is to be seen of nobody in what comes of it."""
        agent, launch = self.agent, self._launch()
        return Mask.of(self._environment(launch), agent.environment, agent.checks.environment, key=self.job.key)

    def _environment(self, launch: Launch) -> dict[str, str]:
        return surroundings.environment(self.agent.environment, self.job.definition, launch, self.workspace)

    async def _outcome(
        self, ended: Ended, report: Report, changes: Changes, kept: Path | None, usage: tuple[Usage, ...]
    ) -> Document:
        """What the delivery is settled with."""
        work = self.work
        run = evidence.Run(
            workspace=self.workspace,
            changes=changes,
            said=report.said,
            tools=report.tools,
            refused=report.refused,
            notes=report.notes,
            permission=self.job.definition.permission,
            reviewed=self.task.delegation.review_required,
        )
        message = trouble.explained(report, ended, self.agent.adapter, kept)
        match report.trouble:
            case None:
                pass
            case "turn-limit" | "money-limit" | "timeout" as limit:
                return self._made(*evidence.cut_short(run, limit, message), usage, report.said)
            case "quota":
                return outcome.failure(work, "quota", message, usage=usage)
            case _:
                return outcome.failure(work, "garbage", message, usage=usage, words=report.said.encode())
        found, wrong = outcome.reply(work, report.said, coordinator=self.agent.coordinator)
        if wrong:
            return outcome.failure(
                work, "invalid-completion", wrong, category="validation", usage=usage, words=report.said.encode()
            )
        said = found.envelope if found is not None else None
        if said is not None and not isinstance(said.payload, Completion):
            return self._passed_on(said, usage, report.said)
        claim = said.payload if said is not None and isinstance(said.payload, Completion) else None
        checked = await self._checked(changes, claim, report.said)
        made, gate = evidence.completion(replace(run, claim=claim, checked=checked))
        return self._made(made, gate, usage, report.said, said.quality_gates if said is not None else None)

    async def _checked(self, changes: Changes, claim: Completion | None, said: str) -> Sequence[Checked]:
        """The criteria of the delegation, run for as long as its deadline allows."""
        if (claim is not None and claim.result.status == "failure") or changes.is_gone:
            return ()
        left = self.task.left(self.agent.runner.grace)
        checks = replace(self.agent.checks, mask=self.mask())
        if left is not None:
            checks = replace(checks, until=anyio.current_time() + max(left, _SOON))
        answer = (claim.result.description if claim is not None else None) or said
        return await checks.run(self.task.delegation.acceptance_criteria, Seen(self.workspace.folder, changes, answer))

    def _made(
        self,
        completion: Completion,
        gate: Gate,
        usage: tuple[Usage, ...],
        said: str,
        gates: QualityGates | None = None,
    ) -> Document:
        """Our own envelope: what the agent wrote stays beside it, as its source."""
        reply = self.work.reply(Outcome(completion, usage), number=1)
        reply = structs.replace(reply, quality_gates=structs.replace(gates or QualityGates(), output=gate))
        return outcome.sourced(codec.document(reply), said.encode(errors="surrogateescape"))

    def _passed_on(self, envelope: AnyEnvelope, usage: tuple[Usage, ...], said: str) -> Document:
        """A question or an escalation, from this delivery; an acknowledgment can only decline here, too late."""
        payload: Payload = envelope.payload
        if isinstance(payload, Acknowledgment):
            why = payload.decline_reason or "It gave no reason."
            return outcome.failure(
                self.work, "declined", f"The agent declined the task: {why}", usage=usage, words=said.encode()
            )
        recipient = envelope.recipient if isinstance(payload, Escalation) else None
        return outcome.sourced(
            codec.document(self.work.reply(Outcome(payload, usage, recipient), number=1)),
            said.encode(errors="surrogateescape"),
        )

    def _tell(self, incident: str) -> None:
        self.agent.on_incident(f"Task {self.work.delivery.task}: {incident}")


def _accepted(definition: Definition) -> Acknowledgment:
    return Acknowledgment(accepted=True, provider=definition.provider, model=definition.model)
