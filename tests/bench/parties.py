"""The processes that take part in a measurement: each runs one script of this folder and answers to its commands.

A command is one line on the process's input, a word and a number; its answer is one line of JSON. Times are those
of the monotonic clock, which all processes of a machine share. A process ends when its input does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
LONGEST = 180.0
"""Seconds that any command may take."""

GAP = 0.01
"""Seconds before each call to a listener: by then it has done with the one before, and waits."""

Commands = Mapping[str, Callable[[int], Awaitable[object]]]


class Party:
    """A process that has said that it is ready."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name
        self.pid = process.pid

    async def do(self, command: str, number: int = 0) -> Any:
        """Have a command done; returns its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command} {number}\n".encode())
        return await self._answer()

    async def _answer(self) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(LONGEST):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} has ended; what it said stands above")
        return json.loads(line)

    @classmethod
    @asynccontextmanager
    async def start(cls, script: str, *arguments: str) -> AsyncIterator[Party]:
        """Start a script of this folder, which is ready when the block begins and has ended after it."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            FOLDER / script,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
        try:
            party = cls(process, f"{script} {arguments[0]}")
            await party._answer()
            yield party
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def attend(commands: Commands) -> None:
    """The other side, in the process itself: say that it is ready, then do what is asked, until the input ends."""
    commanded = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commanded), sys.stdin)
    _say("ready")
    while line := await commanded.readline():
        command, number = line.split()
        _say(await commands[command.decode()](int(number)))


class Notes:
    """When a listener has heard each call, by the call's ID, in nanoseconds."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self._more = asyncio.Event()

    def take(self, id: str, at: int) -> None:
        """Note a call."""
        self._times[id] = at
        self._more.set()

    async def hand_over(self, count: int) -> dict[str, int]:
        """All notes, once there are `count`; the next ones begin anew."""
        while len(self._times) < count:
            await self._more.wait()
            self._more.clear()
        told, self._times = self._times, {}
        return told


def _say(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
