"""The process between the clients and the server of a run: noise on the line, and crash points by command.

Each client has a socket of its own here. By the plan, and by chance from the plan's seed, connections are cut or
fall silent, commands and replies come late, and whoever sends or receives the n-th of some command is killed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import signal
from contextlib import AsyncExitStack, suppress
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from taskbus.append import script
from tests.chaos.history import History
from tests.chaos.plan import Noise
from tests.proxy import meddling

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.plan import Plan, Trap
    from tests.proxy import Act, Command

SHARED = frozenset({"clock", "inbox", "record", "units"})
"""Parts of scripts that are none by themselves."""
_MOVE = re.compile(rb"\d+ (settle|park|replay|drop) @")
EMPTY = 120
"""The reply of a take that found nothing is shorter than so many bytes."""


def main(plan: Plan, folder: Path, server: Path) -> None:
    """Stand between the clients and the server until the end; SIGUSR1 ends the noise and all traps."""
    asyncio.run(_serve(plan, folder, server))


async def _serve(plan: Plan, folder: Path, server: Path) -> None:
    history = History(folder, "line")
    lines = [Line(plan, actor.who, folder, history) for actor in plan.cast]

    def calm() -> None:
        for line in lines:
            line.calm()

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, calm)
    async with AsyncExitStack() as stack:
        for line in lines:
            await stack.enter_async_context(meddling(socket_of(folder, line.who), server, line))
        history.note("ready")
        await asyncio.Event().wait()


def socket_of(folder: Path, who: str) -> Path:
    """Where a client finds the server."""
    return folder / f"{who}.sock"


class Line:
    """What becomes of the commands of one client."""

    def __init__(self, plan: Plan, who: str, folder: Path, history: History) -> None:
        self.who = who
        self._rng = random.Random(f"{plan.seed} {who}")
        self._noise = plan.noise.get(who, Noise())
        self._traps = [trap for trap in plan.traps if trap.who == who and trap.command]
        self._counts: dict[tuple[str, str], int] = {}
        self._folder = folder
        self._history = history

    def calm(self) -> None:
        """From now on everything passes."""
        self._noise, self._traps = Noise(), []

    async def before(self, command: Command) -> Act:
        """What becomes of a command that the server has not seen yet."""
        return await self._meddle(command, label(command.words), "before")

    async def after(self, command: Command, reply: bytes) -> Act:
        """What becomes of a reply; a take that found nothing is no crash point."""
        name = label(command.words)
        return await self._meddle(command, "" if name == "take" and len(reply) < EMPTY else name, "after")

    async def _meddle(self, command: Command, name: str, when: str) -> Act:
        if trap := self._trapped(name, when, command.peer):
            return "pass" if trap.freezes else "cut"
        noise, rng = self._noise, self._rng
        drawn = rng.random()
        if drawn < noise.delay:
            self._note("delay", name, when)
            await asyncio.sleep(rng.uniform(0.0, noise.longest))
        elif drawn < noise.delay + noise.cut:
            self._note("cut", name, when)
            return "cut"
        elif drawn < noise.delay + noise.cut + noise.mute:
            self._note("mute", name, when)
            return "mute"
        return "pass"

    def _trapped(self, name: str, when: str, peer: int) -> Trap | None:
        """The trap that this is, sprung."""
        self._counts[name, when] = count = self._counts.get((name, when), 0) + 1
        for trap in self._traps:
            if (trap.command, trap.when, trap.nth) == (name, when, count):
                self._spring(trap, peer)
                return trap
        return None

    def _spring(self, trap: Trap, peer: int) -> None:
        victim = int((self._folder / "server.pid").read_text()) if trap.victim == "server" else peer
        who = "server" if trap.victim == "server" else self.who
        kind = "freeze" if trap.freezes else "trap"
        self._history.note("fault", kind=kind, name=trap.name, victim=who, of=victim)
        with suppress(ProcessLookupError):  # it was killed otherwise a moment ago
            os.kill(victim, signal.SIGSTOP if trap.freezes else signal.SIGKILL)

    def _note(self, kind: str, name: str, when: str) -> None:
        self._history.note("fault", kind=kind, name=f"{kind} {when} {name}", victim=self.who, of=0)


def label(words: list[bytes]) -> str:
    """What a command is: the name of its script, and of an append what becomes of deliveries; else its own name."""
    name = words[0].decode().upper()
    if name not in ("EVAL", "EVALSHA"):
        return name
    sha = words[1].decode() if name == "EVALSHA" else hashlib.sha1(words[1], usedforsecurity=False).hexdigest()
    found = scripts().get(sha, "unknown")
    return _moved(words[3 + int(words[2]) :]) if found == "append" else found


def _moved(arguments: list[bytes]) -> str:
    """What an append does with deliveries: it stands in the first line of a unit, after the number of its envelopes."""
    moves = {found[1].decode() for each in arguments if (found := _MOVE.match(each))}
    return next((move for move in ("settle", "park", "replay", "drop") if move in moves), "append")


@cache
def scripts() -> dict[str, str]:
    """The names of the server-side scripts, by their hashes; read once, before anybody is forked."""
    files = (resources.files("taskbus") / "scripts").iterdir()
    names = {file.name.removesuffix(".lua") for file in files if file.name.endswith(".lua")} - SHARED
    return {script(name).sha: name for name in names}
