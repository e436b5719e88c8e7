"""The runner: one command as a subprocess, from its start to its end."""

from __future__ import annotations

import os
import signal

import anyio
import pytest

from taskbus_agents.child import STDERR_KEPT
from taskbus_agents.runner import Runner
from tests.servers import is_alive
from tests.taskbus_agents.waiting import all_gone, written

pytestmark = pytest.mark.anyio


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


async def test_who_cancels_is_told_what_was_printed(tmp_path):
    """What it wrote until then explains why somebody had to end it."""
    found = []
    script = f"echo half way; echo why >&2; echo x > {tmp_path}/file; sleep 600"
    async with Runner(grace=5) as runner, anyio.create_task_group() as group:

        async def work():
            await runner.run(["sh", "-c", script], on_cancelled=found.append)

        group.start_soon(work)
        await written(tmp_path / "file")
        group.cancel_scope.cancel()
    assert [(ended.stdout, ended.stderr) for ended in found] == [(b"half way\n", b"why\n")]
