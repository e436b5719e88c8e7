"""Guard and keeper: nothing that a command started outlives it, or its worker, however it tries."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from taskbus.errors import Retryable
from taskbus_agents.child import Child
from taskbus_agents.guard import Guard, Launched
from taskbus_agents.runner import Runner
from tests.servers import is_alive
from tests.taskbus_agents.waiting import all_gone, written

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


def start_python(script: str) -> subprocess.Popen[bytes]:
    """Start a script that imports what this test imports."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", script], env=environment)


ESCAPES = {
    "a grandchild": "sleep 600 & echo $! $$ > {file}; wait",
    "one that ignores TERM": "trap '' TERM; echo $$ > {file}; while :; do sleep 0.05; done",
    "a group of its own": "set -m; sleep 600 & echo $! $$ > {file}; wait",
    "a session of its own": "setsid sh -c 'echo $$ {pid} > {file}; exec sleep 600' & wait",
    "a session, without a parent": "(setsid sh -c 'echo $$ {pid} > {file}; exec sleep 600' &); exec sleep 600",
    "nothing of its environment": "(env -i setsid sh -c 'echo $$ {pid} > {file}; exec sleep 600' &); exec sleep 600",
    "all of it": "(env -i setsid sh -c 'trap \"\" TERM; echo $$ > {file}; while :; do sleep 0.05; done' &); sleep 600",
}


def escape(kind: str, file: Path) -> str:
    """A script that starts processes which try to get away, and writes their IDs into `file`."""
    return ESCAPES[kind].format(file=file, pid="'$$'")


escaping = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if "setsid" not in script else pytest.mark.skipif(
            sys.platform != "linux", reason="only Linux lets a process adopt those who lose their parent"
        ))
        for kind, script in ESCAPES.items()
    ],
)  # fmt: skip


@escaping
async def test_nothing_outlives_a_killed_worker(tmp_path, kind):
    """A worker that is killed leaves its subprocess to nobody; its keeper ends it, the stubborn one after the grace."""
    command = f"read line; {escape(kind, tmp_path / 'pids')}"
    worker = f"""
import anyio
from taskbus_agents.runner import Runner
async def main():
    async with Runner(grace=0.3) as runner:
        await runner.run(["sh", "-c", {command!r}], stdin=b"begin" + bytes([10]))
anyio.run(main)
"""
    process = start_python(worker)
    pids = [int(word) for word in (await written(tmp_path / "pids")).split()]
    process.kill()
    process.wait()
    await all_gone(*pids)


@escaping
async def test_nothing_outlives_its_command(tmp_path, kind):
    """Also what the command sent away in order to live on is gone before whoever cancelled it goes on."""
    async with Runner(grace=0.3) as runner, anyio.create_task_group() as group:
        group.start_soon(runner.run, ["sh", "-c", escape(kind, tmp_path / "pids")])
        pids = [int(word) for word in (await written(tmp_path / "pids")).split()]
        group.cancel_scope.cancel()
    assert not [pid for pid in pids if is_alive(pid)]


async def test_what_ends_by_itself_leaves_nothing_either(tmp_path):
    """A server that an agent left running in a session of its own is ended after the agent, however well it went."""
    script = f"(setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 600' > /dev/null 2>&1 &) "
    async with Runner(grace=5) as runner:
        ended = await runner.run(["sh", "-c", f"{script}; while [ ! -s {tmp_path}/pid ]; do sleep 0.01; done"])
    assert (ended.code, ended.cut) == (0, None)
    if sys.platform == "linux":
        assert not is_alive(int((tmp_path / "pid").read_text()))


async def test_a_worker_that_dies_before_the_command_begins():
    """Half a job is none: nothing runs, and no keeper waits for the other half."""
    guard = Guard()
    launched = guard.launch()
    launched.line.send(b'{"command": ["touch", "')
    launched.line.shutdown(socket.SHUT_WR)
    await anyio.wait_readable(launched.line)
    assert launched.line.recv(100) == b""
    launched.line.close()
    for pipe in (launched.stdin, launched.stdout, launched.stderr):
        os.close(pipe)
    guard.close()


async def test_a_worker_goes_on_without_its_guard(tmp_path):
    """Whoever kills the guard costs the worker a new one; what ran goes on, and ends as well as before."""
    script = f"echo $$ > {tmp_path}/pid; read line; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo through"
    found = []
    async with Runner(grace=5) as runner, anyio.create_task_group() as group:

        async def first():
            found.append(await runner.run(["sh", "-c", script]))

        group.start_soon(first)
        await written(tmp_path / "pid")
        guard = runner._guard._process
        assert guard is not None
        guard.kill()
        guard.wait()
        assert (await runner.run(["echo", "still here"])).stdout == b"still here\n"
        (tmp_path / "go").touch()
    assert [(ended.code, ended.stdout) for ended in found] == [(0, b"through\n")]


async def test_a_command_whose_keeper_is_killed_is_ended(tmp_path):
    """Nobody would end it any more if the worker were killed as well."""
    script = f"sleep 600 & echo $! $PPID $$ > {tmp_path}/pids; wait"
    found = []
    async with Runner(grace=5) as runner, anyio.create_task_group() as group:

        async def work():
            try:
                found.append((await runner.run(["sh", "-c", script])).code)
            except Retryable:
                found.append(-signal.SIGKILL)  # the keeper was killed before it had said that the command runs

        group.start_soon(work)
        child, keeper, pid = map(int, (await written(tmp_path / "pids")).split())
        os.kill(keeper, signal.SIGKILL)
    assert found == [-signal.SIGKILL]
    await all_gone(child, pid)


async def test_a_command_inherits_no_deaf_ear(tmp_path):
    """The guard does not listen to signals; what it starts is to be ended by them as if a shell had started it."""
    script = "import signal as s; print(*(s.getsignal(n).name for n in (s.SIGHUP, s.SIGTERM, s.SIGCHLD)))"
    async with Runner() as runner:
        ended = await runner.run([sys.executable, "-c", script], env={})
    assert ended.stdout.decode().split() == ["SIG_DFL"] * 3


OPEN = """
import os
def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
print([number for number in range(64) if is_open(number)])
"""


async def test_a_command_has_no_file_of_the_worker_open():
    """A pipe of another command that it held would never end."""
    async with Runner() as runner:
        ended = await runner.run([sys.executable, "-c", OPEN])
    assert ended.stdout == b"[0, 1, 2]\n"


async def test_many_at_a_time_each_get_their_own(tmp_path):
    """One guard starts them all, and mixes nothing up."""
    found = {}
    async with Runner() as runner, anyio.create_task_group() as group:

        async def echo(number):
            word = str(number).encode()
            ended = await runner.run(["sh", "-c", f"cat; exit {number}"], stdin=word)
            found[number] = (ended.code, ended.stdout)

        for number in range(24):
            group.start_soon(echo, number)
    assert found == {number: (number, str(number).encode()) for number in range(24)}


@asynccontextmanager
async def kept(script: str, but: str):
    """A child whose keeper runs on a system that is otherwise in some way."""
    line, far = socket.socketpair()
    pairs = [os.pipe() for _ in range(3)]
    theirs = [pairs[0][0], pairs[1][1], pairs[2][1]]
    ours = [pairs[0][1], pairs[1][0], pairs[2][0]]
    code = f"import socket\nfrom taskbus_agents import keeper\n{but}\nkeeper.keep(socket.socket(fileno=0), {theirs})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(  # noqa: ASYNC220 - it is what the test is about
        [sys.executable, "-c", code], stdin=far.fileno(), pass_fds=theirs, env=environment, start_new_session=True
    )
    far.close()
    for end in theirs:
        os.close(end)
    for end in (line.fileno(), *ours):
        os.set_blocking(end, False)
    child = Child(Launched(line, *ours), limit=1000)
    try:
        await child.start({"command": ["sh", "-c", script], "cwd": "/", "env": dict(os.environ), "grace": 0.3})
        yield child
        await child.end()
    finally:
        child.close()
        await anyio.to_thread.run_sync(process.wait)


FULL = """
def full(*_, **__):
    raise OSError(11, "Resource temporarily unavailable")
keeper.subprocess.Popen = full
"""


@pytest.mark.parametrize(("but", "said"), [(FULL, "temporarily unavailable"), ("raise SystemExit", "guard has ended")])
async def test_what_cannot_be_started_now_may_be_later(but, said):
    """A system without room for one more process says nothing about the task."""
    with pytest.raises(Retryable, match=said):
        async with kept("true", but):
            pass


async def test_a_worker_without_room_for_pipes_tries_later(monkeypatch):
    """As many files are open as may be; those that were opened for the command are closed again."""
    opened = []

    def full():
        if opened:
            raise OSError(24, "Too many open files")
        opened.extend(pipe())
        return opened

    pipe = os.pipe
    monkeypatch.setattr(os, "pipe", full)
    async with Runner() as runner:
        with pytest.raises(Retryable, match="Too many open files"):
            await runner.run(["true"])
        assert runner.running == 0
    for end in opened:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(end)


async def test_a_word_that_no_system_takes_is_an_error_of_the_system():
    """A NUL ends a word for the kernel; nothing was started."""
    async with Runner() as runner:
        with pytest.raises(OSError, match="null byte"):
            await runner.run(["echo", "a\0b"])


NO_ADOPTION = "keeper._adopt_orphans = lambda: False"


WITH_A_PARENT = ["a grandchild", "one that ignores TERM", "a group of its own", "a session of its own"]


@pytest.mark.parametrize("kind", WITH_A_PARENT)
async def test_what_is_ended_where_nobody_adopts(tmp_path, kind):
    """Systems other than Linux: the group, and every descendant that still has its parents."""
    async with kept(escape(kind, tmp_path / "pids"), NO_ADOPTION):
        pids = [int(word) for word in (await written(tmp_path / "pids")).split()]
    await all_gone(*pids)


async def test_a_group_without_its_leader_where_nobody_adopts(tmp_path):
    """A child that the command left behind is still of its group."""
    async with kept(f"trap '' TERM; sleep 600 & echo $! > {tmp_path}/pid", NO_ADOPTION) as child:
        await child.talk(b"")
    assert child.code == 0
    await all_gone(int((tmp_path / "pid").read_text()))


async def test_what_cannot_be_ended_is_named(tmp_path):
    """An agent's `sudo` belongs to root, who is not ended by us: the worker says so, and does not wait for ever."""
    nothing = "lambda *_: None"
    denied = f"keeper.LOST_AFTER = 0.1; keeper._signaled = {nothing}; keeper.psutil.Process.send_signal = {nothing}"
    async with kept(f"echo $$ > {tmp_path}/pid; exec sleep 600", denied) as child:
        pid = int(await written(tmp_path / "pid"))
    os.kill(pid, signal.SIGKILL)
    assert child.left == (pid,)


def test_closing_a_guard_that_never_began_does_nothing():
    """A worker without a delivery needs no guard."""
    Guard().close()
