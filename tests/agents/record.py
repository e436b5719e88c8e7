"""The recorder: runs real agents' programs against the stub model server, and keeps how they ended.

    python -m tests.agents.record [CLI ...] [--case CASE ...] [--folder FOLDER]

Installs each program in the newest version that its adapter was tried with into the folder, unless it is there, and
makes its recordings again; needs npm or pip, and whatever the program runs on. Programs are started as adapters say,
through the runner, with a home of their own, a made-up key, and nothing else of this machine's environment.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from taskbus_agents.adapter import Job
from taskbus_agents.adapters import ADAPTERS, adapter
from taskbus_agents.definition import Definition
from taskbus_agents.runner import Ended, Runner
from tests.agents.recording import HOME, MADE, WORKPLACE, Recording
from tests.agents.scrubbing import Scrubber
from tests.agents.stub_dialects import Tokens
from tests.agents.stub_model_server import ModelServer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from taskbus_agents.adapter import Adapter, Launch

ROOT = Path(__file__).parent.parent.parent
LONGEST = 150.0
"""Seconds after which a run is ended that should have ended by itself."""
OUTPUT = 16 * 1024 * 1024
WRITE = f"Write the file {MADE} as you are told.\n[[stub:write {{folder}}/{MADE}]]"
UNRECORDED = frozenset({"acp"})
"""The adapter for any agent of a protocol, which has no program of its own."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of run: what the program is told, how the server behaves, what the definition allows."""

    prompt: str = "Say in a few words that you are done."
    mode: str = "text"
    after: int = 0
    cached: int = 0
    reasoning: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    definition: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    timeout: float = LONGEST
    is_killed: bool = False
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What is added to the command line, by program; with `words` or `settings` only their programs have the case."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What is written into the home's settings, by program: path, document."""
    only: frozenset[str] = frozenset()

    def has(self, name: str) -> bool:
        """Whether a program has this case."""
        wanted = {*self.words, *self.settings, *self.only}
        return not wanted or name in wanted


CASES: dict[str, Case] = {
    "success": Case(),
    "cached": Case(cached=200),
    "reasoning": Case(reasoning=40),
    "tool": Case(prompt=WRITE),
    "bypass": Case(prompt=WRITE, definition={"permission": "bypass"}),
    "refused": Case(prompt=WRITE, definition={"permission": "read"}),
    "unauthorized": Case(mode="status-401"),
    "quota": Case(mode="status-429"),
    "quota-until": Case(mode="status-429", headers={"retry-after": "1800"}),
    "usage-limit": Case(
        mode="status-429",
        error={
            "error": {
                "type": "usage_limit_reached",
                "message": "The usage limit has been reached",
                "plan_type": "plus",
                "resets_in_seconds": 5400,
            }
        },
        only=frozenset({"codex"}),
    ),
    "subscription-limit": Case(
        mode="status-429",
        headers={
            "anthropic-ratelimit-unified-status": "rejected",
            "anthropic-ratelimit-unified-reset": "2000000000",
            "anthropic-ratelimit-unified-representative-claim": "five_hour",
        },
        only=frozenset({"claude"}),
    ),
    "failing": Case(mode="status-500"),
    "rejected": Case(mode="status-400"),
    "late-failure": Case(prompt=WRITE, mode="status-500", after=1),
    "dropped": Case(mode="cut"),
    "killed": Case(mode="delay-600", is_killed=True),
    "deadline": Case(mode="delay-600", timeout=12.0),
    "late-deadline": Case(prompt=WRITE, mode="delay-600", after=1, timeout=20.0),
    "unknown-model": Case(definition={"model": "stub-model"}, only=frozenset({"claude"})),
    "money-limit": Case(prompt=WRITE.replace("write", "loop", 1), limit=1000, only=frozenset({"claude"})),
    "turn-limit": Case(
        prompt=WRITE.replace("stub:write", "stub:loop"),
        words={"claude": ("--max-turns", "2"), "qwen": ("--max-session-turns", "2")},
        settings={"gemini": {".gemini/settings.json": {"model": {"maxSessionTurns": 2}}}},
    ),
}
"""The cases that every program has, unless it says which ones."""

PATIENCE = {("opencode", "dropped"): 12.0, ("kilo", "late-deadline"): 60.0}
"""Seconds after which a run is ended, where one would never end by itself, or one takes long to begin."""
MODELS = {"claude": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash"}
"""Models that a program knows; for others any name will do."""


def install(known: Adapter, folder: Path) -> Path:
    """Install a program in the version that it was tried with, unless it is there; returns the folder to find it in."""
    how, _, package = known.package.partition(" ")
    version = known.tried[-1]
    place = folder / known.name
    if how == "pip":
        programs = place / "bin"
        stamp = place / f"installed-{version}"
        if not stamp.exists():
            venv.create(place, with_pip=True)
            subprocess.run([programs / "pip", "install", "--quiet", f"{package}=={version}"], check=True)
            stamp.touch()
        return programs
    found = place / "node_modules" / package / "package.json"
    if not found.exists() or json.loads(found.read_text(encoding="utf-8"))["version"] != version:
        place.mkdir(parents=True, exist_ok=True)
        (place / "package.json").write_text("{}\n", encoding="utf-8")
        command = ["npm", "install", "--no-audit", "--no-fund", "--save-exact", f"{package}@{version}"]
        subprocess.run(command, cwd=place, check=True)
    return place / "node_modules" / ".bin"


def record(known: Adapter, name: str, programs: Path) -> Recording:
    """Run one case, and make its recording."""
    case = CASES[name]
    case = dataclasses.replace(case, timeout=PATIENCE.get((known.name, name), case.timeout))
    tokens = Tokens(cached=case.cached, reasoning=case.reasoning)
    with (
        tempfile.TemporaryDirectory(prefix="recording-") as made,
        ModelServer(
            case.mode, after=case.after, tokens=tokens, error_headers=case.headers, error_body=case.error
        ) as server,
    ):
        folder, home = Path(made, "work"), Path(made, "home")
        for place in (folder, home, Path(made, "tmp")):
            place.mkdir()
        job = given(known, case, folder, home, server.url)
        launch = known.launch(job)
        command = (*launch.command, *case.words.get(known.name, ()))
        for path, content in launch.files.items():
            write(path, content)
        for path, document in case.settings.get(known.name, {}).items():
            before = (home / path).read_bytes() if (home / path).exists() else b"{}"
            write(home / path, json.dumps({**json.loads(before), **document}).encode())
        environment = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "TMPDIR": str(Path(made, "tmp")),
            **launch.environment,
            **job.definition.environment,
        }
        launch = dataclasses.replace(launch, command=command, environment=environment)
        ended = anyio.run(run, launch, folder, case, server)
        read = {part: text for part, file in launch.reads.items() if (text := found(file, home)) is not None}
        places = {
            job.prompt: "PROMPT",
            str(folder): str(WORKPLACE),
            str(home): str(HOME),
            made: "/run-of-its-own",
            made.strip("/"): "run-of-its-own",
            server.url.removeprefix("http://"): "127.0.0.1:1",
            str(programs): "/programs",
            str(programs.parent): "/programs",
            str(ROOT): "/here",
        }
        scrub = Scrubber(places)
        return Recording(
            cli=known.name,
            version=known.tried[-1],
            case=name,
            model=job.definition.model or "",
            permission=job.definition.permission,
            limit=case.limit,
            argv=[scrub(word) for word in command],
            code=ended.code,
            cut=ended.cut,
            replies=sum(request.told for request in server.requests),
            cached=case.cached,
            reasoning=case.reasoning,
            made=(folder / MADE).exists(),
            stdout=scrub(ended.stdout.decode(errors="replace")),
            stderr=scrub(ended.stderr.decode(errors="replace"))[-4000:],
            read={part: scrub(text) for part, text in read.items()},
        )


def given(known: Adapter, case: Case, folder: Path, home: Path, url: str) -> Job:
    """Make the job of a case."""
    definition: dict[str, Any] = {
        "name": "@recorded",
        "adapter": known.name,
        "provider": "stub",
        "model": MODELS.get(known.name, "stub-model"),
        "base_url": url,
        "key": "STUB_KEY",
        "home": "private",
    }
    return Job(
        prompt=case.prompt.format(folder=folder),
        folder=folder,
        home=home,
        definition=Definition(**{**definition, **case.definition}),
        key="made-up",
        limit=case.limit,
    )


async def run(launch: Launch, folder: Path, case: Case, server: ModelServer) -> Ended:
    """Run a program to its end, which is in its own hands, the clock's or a signal's."""
    environment = {name: value for name, value in launch.environment.items() if value is not None}
    async with Runner(timeout=case.timeout, output=OUTPUT) as runner, anyio.create_task_group() as group:
        if case.is_killed:
            group.start_soon(kill_when_hung, runner, server)
        ended = await runner.run(launch.command, stdin=launch.stdin, cwd=folder, env=environment)
        group.cancel_scope.cancel()
    return ended


async def kill_when_hung(runner: Runner, server: ModelServer) -> None:
    """Send TERM to all of a program's processes as soon as it waits for a reply that does not come."""
    await anyio.to_thread.run_sync(server.hung.wait, abandon_on_cancel=True)
    await anyio.sleep(1)  # until it has read that the reply has begun, or not: there is no event for that
    for child in runner._children:
        os.killpg(child._group, signal.SIGTERM)


def write(path: Path, content: bytes) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def found(pattern: str, home: Path) -> str | None:
    """Read the newest file of a pattern below the home."""
    relative = os.path.relpath(pattern, home) if Path(pattern).is_absolute() else pattern
    files = sorted(home.glob(relative), key=lambda path: path.stat().st_mtime)
    return files[-1].read_text(encoding="utf-8", errors="replace") if files else None


def main() -> int:
    """Record what is asked for; returns 1 where a program could not be run."""
    parser = argparse.ArgumentParser(description="Makes recordings of real agents' programs again.")
    parser.add_argument("cli", nargs="*", help="which ones; all without")
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="which cases; all without")
    parser.add_argument("--folder", type=Path, default=ROOT / ".real-clis", help="where programs are installed")
    asked = parser.parse_args()
    unknown = set(asked.cli) - set(ADAPTERS)
    if unknown:
        parser.error(f"no adapter is called {', '.join(sorted(unknown))}")
    has_failed = False
    for name in asked.cli or sorted(set(ADAPTERS) - UNRECORDED):
        known = adapter(name)
        programs = install(known, asked.folder.absolute())
        for case in asked.case or CASES:
            if not CASES[case].has(name):
                continue
            try:
                recording = record(known, case, programs)
            except OSError as error:
                print(f"{name} {case}: {error}", file=sys.stderr)
                has_failed = True
                continue
            path = recording.write()
            told = known.report(recording.ended(), recording.job(), recording.files())
            ended = f"exit code {recording.code}, cut {recording.cut}, {recording.replies} replies"
            print(f"{path.relative_to(ROOT)}  {ended}, made: {recording.made}\n    {told}", flush=True)
    return 1 if has_failed else 0


if __name__ == "__main__":
    sys.exit(main())
