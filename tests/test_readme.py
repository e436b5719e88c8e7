"""The README is run: its story command by command, its Python as it stands; and its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """The README's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def environment(tmp_path, valkey, namespace):
    """The environment of a user whose `bus` is on the PATH, with a bus of its own."""
    tools = tmp_path / "bin"
    tools.mkdir()
    script = tools / "bus"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m taskbus "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BUS_", "REDIS_"))}
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "BUS_URL": valkey, "BUS_NAMESPACE": namespace, "BUS_HOME": str(tmp_path / "home")}


def test_the_story_by_hand_runs_as_it_stands(environment, tmp_path):
    """Each command of the five minutes by hand succeeds, and the last ones show what was done."""
    (story,) = [block for block in blocks("sh") if "bus delegate @kilo" in block]
    done = subprocess.run(
        ["sh", "-ec", story], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    for word in ("cache-1", "accepted", "marketing_tvoje_info:", "src/lib/redis.ts"):
        assert word in done.stdout
    (questions,) = [block for block in blocks("sh") if "bus verify" in block]
    done = subprocess.run(
        ["sh", "-ec", questions], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "every link agrees" in done.stdout


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_python_runs_as_it_stands(environment, tmp_path, number):
    """Each Python example runs, and prints what it says."""
    example = tmp_path / "example.py"
    example.write_text(blocks("python")[number], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", example],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_command_of_the_table_is_there_and_every_command_is_in_the_table(environment):
    """The README lists the commands that `bus --help` lists."""
    done = subprocess.run(
        [sys.executable, "-m", "taskbus", "--help"], env=environment, capture_output=True, text=True, check=True
    )
    commands = set(re.findall(r"^  ([a-z][a-z-]*)  ", done.stdout, re.MULTILINE))
    table = README.partition("## Commands")[2].partition("## ")[0]
    listed = {
        word for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for word in re.findall(r"[a-z-]+", cell)
    }
    assert commands
    assert commands <= listed
    assert listed - {"bus", "run"} <= commands


def test_links_lead_somewhere():
    """Each relative link of the README names a file or folder that exists."""
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
