"""The command adapter: any program as an agent, one subprocess for each delivery.

The program reads its task from stdin, works in a folder, and leaves a completion, a question or an escalation in
`completion.json` or on stdout. It is the pattern for the adapters of real agents: a handler over the shared runner.
"""

from __future__ import annotations

import os
import sysconfig
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread
from msgspec import structs

from taskbus.codec import Document, document
from taskbus.envelope import MAX_BYTES, Completion, QualityGates
from taskbus_agents import evidence, outcome, retry, talk
from taskbus_agents.checks import Seen, is_runnable
from taskbus_agents.coordination import Office, further, settling
from taskbus_agents.folders import Files, Folders, Printed
from taskbus_agents.masking import Mask
from taskbus_agents.outcome import Words
from taskbus_agents.taken import answered, asks_for_work, begun, going, is_ours, lines_to, place_of, stands
from taskbus_agents.workspace import COMPLETION_FILE, Changes, Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from taskbus.budget import Run
    from taskbus.envelope import AnyEnvelope, Usage
    from taskbus.work import Work
    from taskbus_agents.checks import Checks
    from taskbus_agents.runner import Ended, Runner
    from taskbus_agents.taken import Begun
    from taskbus_agents.workspace import Workspaces


_OF_ANOTHER = frozenset({"BUS_PREVIOUS", "BUS_TOKEN", "BUS_COORDINATOR", "BUS_TEAM"})


@dataclass(frozen=True, slots=True)
class CommandAgent:
    """A handler that runs `command` for each delivery; `environment` is what it finds besides the variables of
    its delivery. `key` names the variable in it whose value is masked, however it is called.

    It works in a folder of `folders`, or in what `workspaces` make where they are given. `checks` run the acceptance
    criteria that can be run; without them none is. `price` puts prices on what the command tells of its usage, and says
    what stands for usage that it does not tell; `hold` reserves money for a run, for as long as it is entered, and is
    told what a run has used that ends without an outcome. `on_start` is told of each run, `on_incident` of what is
    odd and no failure, `on_stderr` is given each line of stderr, with its task.
    """

    command: tuple[str, ...]
    runner: Runner
    folders: Folders
    environment: Mapping[str, str]
    key: str | None = None
    workspaces: Workspaces | None = None
    checks: Checks | None = None
    office: Office | None = None
    price: Callable[[Sequence[Usage]], tuple[Usage, ...]] = tuple
    hold: Callable[[Work, Begun], AbstractAsyncContextManager[Run]] | None = None
    on_start: Callable[[Work], None] = lambda _work: None
    on_incident: Callable[[str], None] = lambda _incident: None
    on_stderr: Callable[[str, str], None] | None = None

    @property
    def coordinator(self) -> str | None:
        """To whom goes what is given up."""
        return self.office.coordinator if self.office is not None else None

    async def __call__(self, work: Work) -> list[Document] | None:
        """Run the command, and return what it left; nothing for a message that asks for no work.

        Cancelling it ends the command and whatever it started. Raises Retryable and QuotaLimited as `retry` reads
        them from the command's end, Permanent where the log has lost what is to be done, and what `hold` raises.
        """
        if not asks_for_work(work):
            return None
        await work.acknowledged()  # the command may speak about its task from its first moment
        task = await begun(work)
        async with self.hold(work, task) if self.hold is not None else nullcontext() as money:
            settled = await self._ran(work, task, money)
            return settled and [self._mask.document(each) for each in settled]

    async def _ran(self, work: Work, task: Begun, money: Run | None) -> list[Document] | None:
        delivery = work.delivery
        used = money.usage if money is not None else []
        place = await anyio.to_thread.run_sync(self._placed, work, task)
        file = place.folder / COMPLETION_FILE
        before = _fingerprint(file)
        used[:] = self.price(())  # of what it uses from now on nobody may hear
        try:
            ended = await self._run(work, place, task)
        except OSError as error:
            used.clear()
            message = f"The agent's command could not be started: {error.strerror or error}: {self.command[0]}"
            place.leave()
            if delivery.is_to_decide:
                return [further(work, task, self._office(work), message)]
            return [outcome.failure(work, "not-started", message)]
        words = Words(ended.stdout, "stdout")
        if _fingerprint(file) not in (None, before):
            words = _read(file)
        printed = self._printed(work, place, task, ended)
        if ended.left:
            left = ", ".join(map(str, ended.left))
            self._report(delivery.task, f"What the agent started could not be ended, and still runs: process {left}.")
        known = await answered(lambda: work.bus.task(delivery.task))
        if not is_ours(work, known):
            # The agent has published its outcome itself, or the task was taken away from it.
            printed.keep()
            place.leave()
            # Where another worker has it now, what this agent tells of is that one's run.
            is_last = delivery.is_to_decide or known.token == delivery.token
            if money is not None and not (is_last and await answered(lambda: _has_told(work, money))):
                used[:] = await self._told(work, words)
                await answered(lambda: work.bus.budget.settle(money.hold, used))
            return None
        if retry.is_wanted(ended):
            used[:] = await self._told(work, words)
            kept = printed.keep()
            place.leave()
            raise retry.failure(printed.ended, words, kept=kept)
        settle = self._decided if delivery.is_to_decide else self._settling
        return [self._priced(await settle(work, task, place, words, printed))]

    def _priced(self, made: Document) -> Document:
        """The same with prices on what was used."""
        envelope = made.envelope
        usage = self.price(envelope.usage)
        return made if usage == envelope.usage else self._with(made, structs.replace(envelope, usage=usage))

    async def _told(self, work: Work, words: Words) -> tuple[Usage, ...]:
        """The usage, with prices, that stands in what the command wrote, where that is none of its outcome."""
        return self.price(await anyio.to_thread.run_sync(outcome.used, work, words))

    @staticmethod
    def _with(made: Document, envelope: AnyEnvelope) -> Document:
        """Another envelope in the place of one that was written; what was written stays beside it."""
        found = document(envelope)
        source, kind = made.source or made.body, made.source_type or made.content_type
        return Document(found.envelope, found.body, found.content_type, source, kind)

    @property
    def _mask(self) -> Mask:
        of_checks = [self.checks.environment] if self.checks is not None else []
        return Mask.of(self.environment, *of_checks, key=self.environment.get(self.key or ""))

    def _office(self, work: Work) -> Office:
        return self.office or Office(work.delivery.agent)

    async def _decided(self, work: Work, task: Begun, place: Workspace, words: Words, printed: Printed) -> Document:
        """What an escalation is settled with."""
        office = self._office(work)
        why = outcome.trouble(printed.ended) or words.trouble
        if why:
            made = further(work, task, office, why, said=words.text)
        else:
            made = await settling(work, task, office, words.text)
        printed.keep(stdout=words.origin != "stdout")
        place.leave()
        return made

    def _placed(self, work: Work, task: Begun) -> Workspace:
        """Where it works. What changes there is looked at where a criterion is to be run, and in a checkout or copy."""
        name, attempt = work.delivery.task, place_of(work, task.task)
        if self.workspaces is not None:
            return self.workspaces.make(name, attempt, going(task.said))
        folder, is_own = self.folders.make(name, attempt), self.folders.fixed is None
        return Workspace.around(
            folder,
            is_own=is_own,
            previous=self.folders.before(folder),
            looks=self.checks is not None and any(map(is_runnable, task.delegation.acceptance_criteria)),
            skip=frozenset({self.folders.root}),
        )

    def _printed(self, work: Work, place: Workspace, task: Begun, ended: Ended) -> Printed:
        logs = place.logs if place.logs != place.folder else None
        return Printed(
            self.folders, work.delivery.task, place_of(work, task.task), place.folder, self._mask.ended(ended), logs
        )

    async def _run(self, work: Work, place: Workspace, task: Begun) -> Ended:
        delivery = work.delivery
        variables = {"BUS_TASK": delivery.task, "BUS_TOKEN": str(delivery.token)}
        variables |= {"BUS_ATTEMPT": str(task.task.attempt), "BUS_TRY": str(delivery.tries)}
        if delivery.is_to_decide:
            del variables["BUS_TOKEN"]  # whoever decides holds no token of the task's work
        if place.previous is not None:
            variables["BUS_PREVIOUS"] = str(place.previous)
        lines = lines_to(self._mask.lines(self.on_stderr), delivery.task)

        def cancelled(ended: Ended) -> None:
            self._printed(work, place, task, ended).keep()
            place.leave()

        self.on_start(work)
        try:
            return await self.runner.run(
                self.command,
                stdin=talk.lines(task.entries),
                cwd=place.folder,
                env={**self.environment, **variables},
                on_stderr=lines,
                on_cancelled=cancelled,
            )
        finally:
            if lines is not None:
                lines.end()

    async def _settling(self, work: Work, task: Begun, place: Workspace, words: Words, printed: Printed) -> Document:
        """What the delivery is settled with."""
        files = Files(place.folder, place.is_own, partial(self._report, work.delivery.task))
        # Beside the event loop, since it may hash large files while other leases are to be renewed.
        settling = await anyio.to_thread.run_sync(
            partial(
                outcome.outcome,
                work,
                printed.ended,
                words,
                keep=printed.keep,
                published=files.published,
                coordinator=self.coordinator,
            )
        )
        changes = await anyio.to_thread.run_sync(place.changes) if place.looks else None
        settling = await self._proven(task, place, settling, changes)
        # What stdout said as the outcome stands in the log.
        printed.keep(stdout=words.origin != "stdout")
        place.leave(changes)
        # An ID of our own may stand there: an attempt before this one, whose worker was lost, has settled it so.
        is_own = settling.envelope.id == work.delivery.outcome_id(1)
        if not is_own and await answered(lambda: stands(work.bus, settling.envelope.id)):
            # Appending it again would change nothing, and leave the task without an outcome.
            said = f"The envelope that the agent wrote ({settling.envelope.id}) stands in the log already."
            return outcome.failure(work, "invalid-completion", said, category="validation", words=words.text)
        return settling

    async def _proven(self, task: Begun, place: Workspace, settling: Document, changes: Changes | None) -> Document:
        """The same with what the folder and the criteria show of it; as it was written where they were not asked."""
        envelope = settling.envelope
        claim = envelope.payload
        if not isinstance(claim, Completion) or claim.result.status == "failure":
            return settling
        run = evidence.Run(
            place,
            changes or Changes(),
            claim,
            reviewed=task.delegation.review_required,
            word_counts=True,
        )
        if changes is not None and self.checks is not None:
            seen = Seen(place.folder, changes, claim.result.description or "")
            checks = replace(self.checks, mask=self._mask)
            run = replace(run, checked=await checks.run(task.delegation.acceptance_criteria, seen))
        made, gate = evidence.completion(run)
        if changes is None and made.result.status == claim.result.status:
            return settling
        gates = structs.replace(envelope.quality_gates or QualityGates(), output=gate)
        return self._with(settling, structs.replace(envelope, payload=made, quality_gates=gates))

    def _report(self, task: str, incident: str) -> None:
        self.on_incident(f"Task {task}: {incident}")


def environment(
    inherited: Mapping[str, str], *, agent: str, url: str, namespace: str, home: Path, office: Office | None = None
) -> dict[str, str]:
    """What a command finds in its environment, so that it can call `bus` itself.

    The folder of the `bus` that runs comes last on its PATH, so that there is one.
    """
    path = inherited.get("PATH", os.defpath)
    # A worker may have been started by an agent itself, whose previous folder is none of this one's.
    kept = {name: value for name, value in inherited.items() if name not in _OF_ANOTHER}
    return {
        **kept,
        "PATH": f"{path}{os.pathsep}{sysconfig.get_path('scripts')}",
        "BUS_URL": url,
        "BUS_NAMESPACE": namespace,
        "REDIS_PREFIX": namespace,
        "BUS_HOME": str(home),
        "BUS_AGENT": agent,
        **({"BUS_COORDINATOR": office.coordinator} if office is not None and office.coordinator is not None else {}),
        **({"BUS_TEAM": " ".join(office.team)} if office is not None and office.team else {}),
    }


async def _has_told(work: Work, money: Run) -> bool:
    """Whether the agent has told of usage itself since money was reserved for it."""
    mine = work.delivery.task, work.delivery.agent
    async with aclosing(work.bus.history.read(money.hold.position)) as entries:
        async for entry in entries:
            if (entry.task, entry.sender) == mine and entry.envelope.usage:
                return True
    return False


def _fingerprint(file: Path) -> tuple[int, int, int] | None:
    """By what a file that the agent wrote is told from one that lay there before."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(file: Path) -> Words:
    if not file.is_file():
        return Words(b"", file.name, "it is no file")
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_BYTES + 1)
    except OSError as error:
        return Words(b"", file.name, error.strerror or str(error))
    if len(text) > MAX_BYTES:
        return Words(b"", file.name, f"it is longer than {MAX_BYTES} bytes")
    return Words(text, file.name)
