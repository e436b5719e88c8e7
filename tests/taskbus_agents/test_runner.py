"""The runner: one command in a process group of its own, from its start to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest

from taskbus_agents.guard import Guard, signaled
from taskbus_agents.runner import STDERR_KEPT, Runner
from tests.servers import is_alive
from tests.taskbus_agents.waiting import gone, line_of

pytestmark = pytest.mark.anyio

AGENTS = Path(__file__).parent.parent.parent / "agents"


async def written(file: Path) -> str:
    """Wait until a command has written a line into `file`."""
    return await anyio.to_thread.run_sync(line_of, file)


async def all_gone(*pids: int) -> None:
    """Wait until none of these processes runs any more."""
    await anyio.to_thread.run_sync(gone, *pids)


def start_python(script: str) -> subprocess.Popen[bytes]:
    """Start a script that imports what this test imports."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", script], env=environment)


async def test_what_a_command_is_given_and_what_it_leaves(tmp_path):
    """Stdin, folder and environment reach the command; stdout, stderr and the exit code come back."""
    async with Runner() as runner:
        ended = await runner.run(
            ["sh", "-c", 'cat; pwd; echo "$WORD" >&2; exit 3'],
            stdin=b"given\n",
            cwd=tmp_path,
            env={"WORD": "said", "PATH": os.environ["PATH"]},
        )
    assert ended.code == 3
    assert ended.stdout.decode() == f"given\n{tmp_path.resolve()}\n"
    assert ended.stderr == b"said\n"
    assert ended.cut is None


async def test_long_input_and_output_pass_at_the_same_time():
    """A command that answers while it is still being fed does not block on a full pipe."""
    data = bytes(range(256)) * 3000
    async with Runner() as runner:
        ended = await runner.run(["cat"], stdin=data)
    assert ended.stdout == data


async def test_a_command_need_not_read_its_input():
    """More than a pipe holds is given to a command that reads nothing: it ends well all the same."""
    async with Runner() as runner:
        ended = await runner.run(["true"], stdin=b"x" * 1_000_000)
    assert (ended.code, ended.cut) == (0, None)


async def test_a_signal_is_told_from_an_exit_code():
    """A command that was killed has the negative number of the signal, as subprocess has it."""
    async with Runner() as runner:
        ended = await runner.run(["sh", "-c", "kill -KILL $$"])
    assert ended.code == -signal.SIGKILL


async def test_a_program_that_is_not_there_is_an_error_of_the_system():
    """What cannot be started never ran, and no group of it is left to be watched."""
    async with Runner() as runner:
        with pytest.raises(FileNotFoundError):
            await runner.run(["no-such-program-anywhere"])
        assert runner.running == 0


async def test_time_that_is_up_ends_the_grandchildren_too(tmp_path):
    """Whatever the command started ends with it, although only the command itself was named."""
    script = f"sleep 600 & echo $! > {tmp_path}/pid; wait"
    async with Runner(timeout=0.3, grace=5) as runner:
        ended = await runner.run(["sh", "-c", script])
    assert ended.cut == "timeout"
    assert ended.code == -signal.SIGTERM
    await all_gone(int((tmp_path / "pid").read_text()))


async def test_who_ignores_the_first_signal_is_killed_after_the_grace():
    """TERM is a request; KILL is not."""
    async with Runner(timeout=0.2, grace=0.2) as runner:
        ended = await runner.run(["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"])
    assert ended.cut == "timeout"
    assert ended.code == -signal.SIGKILL


async def test_what_a_command_leaves_behind_does_not_outlive_it(tmp_path):
    """A command that ends while its child holds the pipes has ended, and its child is ended after it."""
    script = f"sleep 600 & echo $! > {tmp_path}/pid; echo done"
    async with Runner(timeout=60, grace=5) as runner:
        ended = await runner.run(["sh", "-c", script])
    assert (ended.code, ended.cut, ended.stdout) == (0, None, b"done\n")
    await all_gone(int((tmp_path / "pid").read_text()))


async def test_a_command_that_closes_its_pipes_is_waited_for(tmp_path):
    """Silence is not the end of a command: its exit is."""
    script = f"exec >&- 2>&-; sleep 0.3; echo done > {tmp_path}/file; exit 7"
    async with Runner() as runner:
        ended = await runner.run(["sh", "-c", script])
    assert ended.code == 7
    assert (tmp_path / "file").read_text() == "done\n"


async def test_endless_output_is_cut_off():
    """Memory holds no more than the limit and one read."""
    async with Runner(output=100_000) as runner:
        ended = await runner.run(["yes"])
    assert ended.cut == "output"
    assert 100_000 < len(ended.stdout) < 300_000


async def test_of_long_complaints_the_last_are_kept():
    """What a program says last on stderr is what explains its end."""
    script = "i=0; while [ $i -lt 20000 ]; do echo complaint $i >&2; i=$((i+1)); done"
    async with Runner() as runner:
        ended = await runner.run(["sh", "-c", script])
    assert len(ended.stderr) == STDERR_KEPT
    assert ended.stderr.endswith(b"complaint 19999\n")


async def test_cancelling_ends_the_command_before_the_cancellation_goes_on(tmp_path):
    """Whoever cancels may rely on it that nothing runs any more."""
    script = f"sleep 600 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/pid; wait"
    async with Runner(grace=5) as runner, anyio.create_task_group() as group:
        group.start_soon(runner.run, ["sh", "-c", script])
        pid = int(await written(tmp_path / "pid"))
        group.cancel_scope.cancel()
    assert not is_alive(pid)
    await all_gone(int((tmp_path / "child").read_text()))


async def test_kill_leaves_no_grace(tmp_path):
    """A second signal to a worker ends at once even those who ignore the first."""
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
    async with Runner(grace=600) as runner, anyio.create_task_group() as group:
        group.start_soon(runner.run, ["sh", "-c", script])
        await written(tmp_path / "pid")
        assert runner.running == 1
        runner.kill()
    assert runner.running == 0


@pytest.mark.parametrize("grace", ["5", "0.1"])
async def test_the_guard_ends_the_groups_of_a_killed_worker(tmp_path, grace):
    """A worker that is killed leaves its subprocess to nobody; the guard ends it, the stubborn one after the grace."""
    trap = "" if grace == "5" else "trap '' TERM; "
    # A command that waits for its stdin is known to the guard by then.
    command = f"{trap}read line; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
    worker = f"""
import anyio
from taskbus_agents.runner import Runner
async def main():
    async with Runner(grace={grace}) as runner:
        await runner.run(["sh", "-c", {command!r}], stdin=b"begin" + bytes([10]))
anyio.run(main)
"""
    process = start_python(worker)
    pid = int(await written(tmp_path / "pid"))
    process.kill()
    process.wait()
    await all_gone(pid)


async def test_a_worker_goes_on_without_its_guard(tmp_path):
    """Somebody who kills the guard takes a second line of defence away, and nothing else."""
    async with Runner(grace=5) as runner:
        await runner.run(["true"])
        guard = runner._guard._process
        assert guard is not None
        guard.kill()
        guard.wait()
        ended = await runner.run(["sh", "-c", "echo still here"])
    assert ended.stdout == b"still here\n"


def test_the_guard_ends_what_it_was_not_told_to_forget():
    """Closing the pipe in order has the same effect as losing it."""
    guard = Guard(grace=5)
    left, ended = (subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(2))
    guard.start()
    guard.watch(left.pid)
    guard.watch(ended.pid)
    ended.kill()
    ended.wait()
    guard.forget(ended.pid)
    closing = time.monotonic()
    # The guard waits for the group to be empty, and only we can reap its process.
    guard._pipe.close()
    assert left.wait(20) == -signal.SIGTERM
    assert guard._process is not None
    guard._process.wait(20)
    assert time.monotonic() - closing < 20
    assert not signaled(left.pid, 0)


def test_closing_a_guard_that_never_began_does_nothing():
    """A worker without a delivery needs no guard."""
    Guard(grace=5).close()
