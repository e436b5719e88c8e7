"""@orchestrator: the one agent of the demo that is a coroutine, written against the library.

It hands the parts of a release to the crew, judges what comes back by looking at the files itself, and hands out
anew what failed. Its handler shows how an agent in Python is written.
"""

from __future__ import annotations

import asyncio
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, cast
from xml.sax.saxutils import quoteattr

from taskbus import codec
from taskbus.envelope import (
    Answer,
    Artifact,
    Completion,
    CriterionResult,
    Delegation,
    Escalation,
    Question,
    Result,
    Verdict,
    compose,
    now,
)
from taskbus.errors import TaskbusError

if TYPE_CHECKING:
    from taskbus.client import Bus
    from taskbus.envelope import AnyEnvelope, Payload
    from taskbus.work import Work

P = TypeVar("P", bound="Completion | Escalation | Question")

NAME: Final = "@orchestrator"
DOCUMENTS: Final = Path(__file__).parent / "documents"
OUTCOMES: Final = frozenset({"completion", "question", "escalation"})


class Orchestrator:
    """The handler of @orchestrator, for a worker that serves two deliveries at a time: the release, and its mail."""

    def __init__(self, bus: Bus, project: Path) -> None:
        self._bus = bus
        self._project = project
        self._mail: asyncio.Queue[AnyEnvelope] = asyncio.Queue()

    async def handle(self, work: Work) -> Completion | None:
        """Begin the release that was delegated; whatever else arrives is mail about its parts."""
        if work.envelope.type == "delegation":
            return await self._release(work.envelope)
        await self._mail.put(work.envelope)
        return None

    async def _release(self, order: AnyEnvelope) -> Completion:
        await self._find_changes(order)
        await self._write_notes(order)
        archive = await self._pack(order)
        return Completion(
            result=Result(status="success", description="Version 1.4.0 is packed", artifacts=archive),
            verification_result="Every part was judged by its criteria",
        )

    async def _find_changes(self, order: AnyEnvelope) -> None:
        criterion = "findings.json lists every change"
        await self._delegate(order, "@scout", "scout", "Find every change in notes/", criterion)
        await self._next("scout", Completion)
        files = self._project.glob("notes/*.md")
        noted = sum(line.startswith("- ") for file in files for line in file.read_text("utf-8").splitlines())
        found = len(json.loads((self._project / "findings.json").read_text("utf-8"))["changes"])
        evidence = f"{found} listed, {noted} lines in notes/ begin with a dash"
        await self._judge("@scout", "scout", {criterion: (found == noted, evidence)})

    async def _write_notes(self, order: AnyEnvelope) -> None:
        await self._bus.publish(codec.read(self._xml(order)))
        await self._next("notes", Question)
        await self._say("@writer", "notes", Answer(answer="1.4.0"))
        for number in (1, 2):
            await self._next("notes", Completion)
            check = f"check-{number}"
            await self._delegate(order, "@tester", check, "Check RELEASE.md against its criteria", review=False)
            await self._next(check, Completion)
            seen = cast("dict[str, tuple[bool, str]]", json.loads((self._project / "evidence.json").read_text("utf-8")))
            if await self._judge("@writer", "notes", seen):
                return
        raise TaskbusError("@writer was rejected twice.")

    async def _pack(self, order: AnyEnvelope) -> tuple[Artifact, ...]:
        criterion = "The archive can be unpacked"
        pack = "Pack RELEASE.md and notes/"
        await self._delegate(order, "@flaky", "pack", pack, criterion)
        crashed = await self._next("pack", Completion, status="failure")
        # The same task once more: a crash may be bad luck.
        await self._delegate(order, "@flaky", "pack", pack, criterion, cause=crashed)
        stuck = await self._next("pack", Escalation)
        await self._delegate(order, "@packer", "pack", f"{pack}, without a signature", criterion, cause=stuck)
        done = await self._next("pack", Completion)
        with tarfile.open(self._project / "release.tar.gz") as archive:
            names = [member.name for member in archive.getmembers() if member.isfile()]
        evidence = f"{len(names)} files, RELEASE.md among them"
        await self._judge("@packer", "pack", {criterion: ("RELEASE.md" in names, evidence)})
        return cast("Completion", done.payload).result.artifacts

    def _xml(self, order: AnyEnvelope) -> bytes:
        """The delegation that lies here as a document, about this project and at this moment."""
        text = (DOCUMENTS / "notes.xml").read_text("utf-8")
        said = {
            "2026-11-20T09:30:00Z": now().isoformat(),
            "<parent-task>release<": f"<parent-task>{order.task}<",
            'path="project"': f"path={quoteattr(str(self._project))}",
        }
        for there, here in said.items():
            text = text.replace(there, here)
        return text.encode()

    async def _delegate(
        self,
        order: AnyEnvelope,
        agent: str,
        task: str,
        goal: str,
        *criteria: str,
        review: bool = True,
        cause: AnyEnvelope | None = None,
    ) -> None:
        delegation = Delegation(
            goal=goal,
            artifacts=(Artifact(path=str(self._project), summary="The folder of the project"),),
            acceptance_criteria=criteria,
            review_required=review,
        )
        await self._bus.publish(
            compose(
                delegation,
                sender=NAME,
                recipient=agent,
                task=task,
                parent=order.task,
                priority=order.priority,
                cause=cause or order,
            )
        )

    async def _judge(self, agent: str, task: str, seen: dict[str, tuple[bool, str]]) -> bool:
        """Accept or reject a completion, with what was seen for each criterion; tells which."""
        results = tuple(
            CriterionResult(criterion=text, met=met, evidence=evidence) for text, (met, evidence) in seen.items()
        )
        accepted = all(result.met for result in results)
        verdict = Verdict(decision="accepted" if accepted else "rejected", criteria=results)
        await self._say(agent, task, verdict)
        return accepted

    async def _say(self, agent: str, task: str, payload: Payload) -> None:
        await self._bus.publish(compose(payload, sender=NAME, recipient=agent, task=task))

    async def _next(self, task: str, kind: type[P], *, status: str = "success") -> AnyEnvelope:
        """The next outcome of a task. Raises TaskbusError where it is another than the story has."""
        while True:
            envelope = await self._mail.get()
            if envelope.type not in OUTCOMES or envelope.task != task:
                continue
            payload = envelope.payload
            fits = not isinstance(payload, Completion) or payload.result.status == status
            if isinstance(payload, kind) and fits:
                return envelope
            raise TaskbusError(f"Task {task} came to {envelope.type}, which the story does not have: {payload}")
