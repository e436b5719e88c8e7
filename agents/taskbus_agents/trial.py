"""The trial: one tiny real run of an agent, outside of any bus, and what works of it.

The program is asked to write a file into an empty folder that is deleted afterwards. Nothing is published, reserved or
settled; what the run costs is the user's, and no cap holds it. Called by `bus agents test`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskbus import codec, lenient, shorthand
from taskbus.amount import dollars
from taskbus.envelope import Delegation, compose
from taskbus.errors import ConfigurationError, InvalidEnvelope, TaskbusError
from taskbus_agents import files
from taskbus_agents.adapter import Job
from taskbus_agents.adapters import COMMAND, PROVIDERS, adapter
from taskbus_agents.programs import install, version
from taskbus_agents.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskbus.envelope import Usage
    from taskbus_agents.adapter import Adapter, Report
    from taskbus_agents.definition import Definition
    from taskbus_agents.runner import Ended

FILE: Final = "taskbus-check.txt"
_WORDS: Final = "taskbus works"
_PROMPT: Final = (
    f"Create a file named {FILE} in the current folder whose only content is the text: {_WORDS}\n"
    "Do nothing else. Then answer with the single word: done."
)
_SHOWN: Final = 300
_OUTPUT: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Check:
    """Something that was looked at; `good` is None where it neither works nor fails, such as a cost not told."""

    name: str
    good: bool | None
    note: str


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it."""

    agent: str
    checks: tuple[Check, ...]
    seconds: float
    usage: tuple[Usage, ...] = ()

    @property
    def good(self) -> bool:
        """Whether nothing failed."""
        return all(check.good is not False for check in self.checks)

    def priced(self, refused: str | None) -> Trial:
        """The same with why a run for the bus would be refused for want of a price, if it would."""
        if refused is None:
            return self
        return replace(self, checks=(*self.checks, Check("price", good=False, note=refused)))


async def tried(
    definition: Definition, *, timeout: float = 180.0, environment: Mapping[str, str] = os.environ
) -> Trial:
    """Run an agent once, for `timeout` seconds at most. Whatever goes wrong is told in the checks."""
    began = time.perf_counter()
    # What is tried must not take itself for a worker, nor find the bus that somebody works on.
    inherited = {name: value for name, value in environment.items() if not name.startswith(("BUS_", "REDIS_"))}
    with tempfile.TemporaryDirectory(prefix="taskbus-trial-", ignore_cleanup_errors=True) as place:
        work, home = Path(place, "work"), Path(place, "home")
        one = _One(definition, work, home, inherited, timeout)
        usage = await one.run()
    return Trial(definition.name, tuple(one.checks), time.perf_counter() - began, usage)


class _One:
    """One trial, in folders of its own."""

    def __init__(
        self, definition: Definition, work: Path, home: Path, inherited: dict[str, str], timeout: float
    ) -> None:
        usual = PROVIDERS.get(definition.adapter)
        self.definition = replace(definition, provider=definition.provider or usual)
        self.checks: list[Check] = []
        self._work, self._home, self._inherited, self._timeout = work, home, inherited, timeout
        work.mkdir()
        home.mkdir(mode=0o700)

    async def run(self) -> tuple[Usage, ...]:
        """Check one thing after the other; what cannot work any more is not looked at."""
        key = self.definition.key
        if key is not None:
            there = bool(self._key())
            self._check("key", good=there, note=f"{key} is {'set' if there else 'not set in the environment'}")
            if not there:
                return ()
        if self.definition.adapter == COMMAND:
            await self._command()
            return ()
        try:
            program = adapter(self.definition.adapter)
            found = shutil.which(program.program, path=self._inherited.get("PATH"))
            if found is None:
                manager, _, package = program.package.partition(" ")
                how = install(manager, package, program.tried)
                self._check("program", good=False, note=f"{program.program} is not on the PATH; to install it: {how}")
                return ()
            told = await version(found, self._inherited)
            newest = program.tried[-1] if program.tried else "none"
            self._check("program", good=True, note=f"{found}, version {told or 'not told'}; tried with {newest}")
            return await self._program(program)
        except (TaskbusError, OSError) as error:
            advice = f" {error.advice}" if isinstance(error, TaskbusError) and error.advice else ""
            self._check("run", good=False, note=f"{error}{advice}")
            return ()

    def _check(self, name: str, *, good: bool | None, note: str) -> None:
        self.checks.append(Check(name, good, " ".join(note.split())[:_SHOWN]))

    def _key(self) -> str | None:
        name = self.definition.key or ""
        return self.definition.environment.get(name) or self._inherited.get(name)

    async def _program(self, program: Adapter) -> tuple[Usage, ...]:
        definition = self.definition
        if definition.permission == "read":
            definition = replace(definition, permission="edit")
        job = Job(
            prompt=_PROMPT,
            folder=self._work,
            home=self._home,
            definition=definition,
            timeout=self._timeout,
            key=self._key(),
        )
        launch = program.launch(job)
        files.write(launch.files, self._home)
        home = self._home if definition.home == "private" else Path(self._inherited.get("HOME") or Path.home())
        environment = {**self._inherited, "HOME": str(home), **definition.environment}
        for name, value in launch.environment.items():
            environment.pop(name, None)
            if value is not None:
                environment[name] = value
        before = files.stamps(launch.reads, home)
        ended = await self._ran(launch.command, launch.stdin, environment)
        if ended is None:
            return ()
        report = program.report(ended, job, files.read(launch.reads, home, before=before))
        self._judge(ended, report)
        return report.usage

    def _judge(self, ended: Ended, report: Report) -> None:
        trouble = report.trouble or ("timeout" if ended.cut == "timeout" else None)
        if trouble == "authentication":
            self._check("login", good=False, note=report.message or "it is not logged in, or its key is refused")
        elif trouble is None:
            self._check("login", good=True, note="a model answered")
        said = report.message or f"it ended with {trouble}"
        self._check(
            "run", good=trouble is None, note=f"{ended.seconds:.1f} s" if trouble is None else f"{trouble}: {said}"
        )
        used = sum((call.input_tokens or 0) + (call.output_tokens or 0) for call in report.usage)
        models = ", ".join(sorted({call.model for call in report.usage}))
        self._check("usage", good=bool(used) or None, note=f"{used:,} tokens of {models}" if used else "not told")
        priced = [call.cost.microusd for call in report.usage if call.cost is not None]
        self._check(
            "cost",
            good=True if priced else None,
            note=dollars(sum(priced)) if priced else "not told by the program; the bus prices the tokens",
        )
        if trouble is None:
            self._file(report.refused)

    def _file(self, refused: tuple[str, ...]) -> None:
        try:
            good = _WORDS in (self._work / FILE).read_text(encoding="utf-8", errors="replace")
            self._check("file", good=good, note="written as asked" if good else "written, with something else in it")
        except OSError:
            why = f"; it was not allowed to use {', '.join(refused)}" if refused else ""
            self._check("file", good=False, note=f"it said that it is done, and wrote nothing{why}")

    async def _command(self) -> None:
        """A program of the user's own: it gets a delegation, and is to leave an outcome."""
        command = self.definition.command
        found = shutil.which(command[0], path=self._inherited.get("PATH")) if command else None
        self._check(
            "program", good=found is not None, note=found or f"{command[0] if command else 'nothing'} cannot be run"
        )
        if found is None:
            return
        envelope = compose(Delegation(goal=_PROMPT), sender="@human", recipient=self.definition.name, task="trial")
        environment = {**self._inherited, **self.definition.environment, "BUS_TASK": "trial", "BUS_ATTEMPT": "1"}
        ended = await self._ran(command, codec.encode(envelope) + b"\n", environment)
        if ended is None:
            return
        good = ended.code == 0 and ended.cut is None
        how = "its time was up" if ended.cut else f"exit code {ended.code}"
        said = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        self._check("run", good=good, note=f"{ended.seconds:.1f} s" if good else f"{how}: {said}")
        if good:
            self._outcome(ended.stdout)

    def _outcome(self, printed: bytes) -> None:
        left = self._work / "completion.json"
        words = left.read_bytes() if left.is_file() else printed
        try:
            if shorthand.is_question(words):
                shorthand.read_question(words)
                self._check("outcome", good=True, note="a question in short")
            elif shorthand.is_shorthand(words):
                status = shorthand.read_completion(words).payload.result.status
                self._check("outcome", good=True, note=f"a completion in short: {status}")
            else:
                known = {"sender": self.definition.name, "recipient": "@human", "task_id": "trial"}
                kind = lenient.find(words.decode(errors="surrogateescape"), defaults=known, outcome=True).envelope.type
                self._check("outcome", good=True, note=f"an envelope: {kind}")
        except InvalidEnvelope as error:
            self._check("outcome", good=False, note=f"neither completion.json nor stdout holds one: {error.message}")

    async def _ran(self, command: tuple[str, ...], stdin: bytes, environment: dict[str, str]) -> Ended | None:
        environment["PWD"] = str(self._work)
        try:
            async with Runner(timeout=self._timeout, output=_OUTPUT) as runner:
                return await runner.run(command, stdin=stdin, cwd=self._work, env=environment)
        except (OSError, ConfigurationError) as error:
            self._check("run", good=False, note=f"it could not be started: {error}")
            return None
