"""Signs of life: who is at work is left alone, and who hangs is ended."""

from __future__ import annotations

import os
import sys

import anyio
import pytest

from taskbus_agents import life
from taskbus_agents.runner import Runner
from tests.servers import is_alive

pytestmark = pytest.mark.anyio


async def test_a_silent_command_is_ended(tmp_path):
    """One that waits for an answer which never comes, says nothing, computes nothing and writes nothing."""
    script = f"echo begun; sleep 600 & echo $! > {tmp_path}/pid; wait"
    (tmp_path / "folder").mkdir()
    async with Runner(silence=0.4, grace=5) as runner:
        ended = await runner.run(["sh", "-c", script], cwd=tmp_path / "folder")
    assert (ended.cut, ended.stdout) == ("silence", b"begun\n")
    assert ended.seconds >= 0.4
    assert not is_alive(int((tmp_path / "pid").read_text()))


BURN = "while (spent := time.process_time()) < 1.2: pass"
LIVELY = {
    # Between two of these next to no CPU time passes.
    "stdout": "for _ in range(7): time.sleep(0.3); os.write(1, b'x')",
    "stderr": "for _ in range(7): time.sleep(0.3); os.write(2, b'x')",
    "computing": BURN,
    "a child that computes": f"subprocess.run([sys.executable, '-c', 'import time' + chr(10) + '{BURN}'])",
    "a file, far below": "time.sleep(2)",
}


@pytest.mark.parametrize("sign", LIVELY)
async def test_any_sign_of_life_counts(tmp_path, sign):
    """Whoever writes, computes or has a file change is at work, however long it takes."""
    (tmp_path / "far" / "below").mkdir(parents=True)

    async def tick():
        while True:
            with (tmp_path / "far" / "below" / "file").open("a") as file:
                file.write("x")
            await anyio.sleep(0.1)

    script = f"import os, subprocess, sys, time\n{LIVELY[sign]}"
    async with Runner(silence=0.8, grace=5) as runner, anyio.create_task_group() as group:
        if "file" in sign:
            group.start_soon(tick)
        ended = await runner.run([sys.executable, "-c", script], cwd=tmp_path)
        group.cancel_scope.cancel()
    assert (ended.cut, ended.code) == (None, 0)
    assert ended.seconds > 0.8


def test_a_look_is_bounded(tmp_path, monkeypatch):
    """A folder with a million files costs no more than its nearest ones; what changes among these is seen."""
    monkeypatch.setattr(life, "MOST_FILES", 10)
    for number in range(12):
        (tmp_path / "far" / str(number)).mkdir(parents=True)
    near = tmp_path / "near"
    near.write_text("1")
    before = life.look(os.getpid(), tmp_path)
    assert before.files[0] == 10
    near.write_text("22")
    after = life.look(os.getpid(), tmp_path)
    assert after.is_life(before, seconds=1e9)
    assert not after.is_life(after, seconds=1.0)


def test_a_look_at_what_is_gone_sees_nothing(tmp_path):
    """The command may end, and take its folder with it, at any moment."""
    assert life.look(2**22 + 1, tmp_path / "gone") == life.Look(0.0, (0, 0))
