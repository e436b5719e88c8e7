"""How a clone sets itself up (bin/setup.sh), told with an installer that only notes what it is asked for.

The real installers are used by whoever calls bin/test on a clean clone, and by continuous integration.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

UV = """#!/bin/sh
# Stands for uv: an install makes the command `bus`, which prints its folder and arguments and ends with 7.
echo "$*" >>"$JOURNAL"
[ ! -e "$JOURNAL.kill" ] || { rm "$JOURNAL.kill"; kill -KILL "$PPID"; exit 1; }
case $1 in
    venv)
        for folder in "$@"; do :; done
        mkdir -p "$folder/bin" && ln -sf "$PYTHON" "$folder/bin/python"
        ;;
    pip)
        printf '#!/bin/sh\\necho "$PWD: $*"\\nexit 7\\n' >"$ROOT/.venv/bin/bus"
        chmod +x "$ROOT/.venv/bin/bus"
        ;;
esac
"""


class Clone:
    """A fresh clone of the scripts and lock files, with the stand-in for uv on the path."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a clone"
        (self.root / "bin").mkdir(parents=True)
        for name in ("bin/bus", "bin/setup.sh", "pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / name, self.root / name)
        tools = folder / "tools"
        tools.mkdir()
        (tools / "uv").write_text(UV, encoding="utf-8")
        (tools / "uv").chmod(0o755)
        (tools / "python3").symlink_to(sys.executable)
        self.journal = folder / "journal"
        self.environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "JOURNAL": str(self.journal),
            "ROOT": str(self.root),
            "PYTHON": os.path.realpath(sys.executable),
        }

    def start(self, *args: str, cwd: Path | None = None, script: Path | None = None) -> subprocess.Popen[str]:
        """Start bin/bus."""
        return subprocess.Popen(
            [script or self.root / "bin" / "bus", *args],
            cwd=cwd or self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str, cwd: Path | None = None, script: Path | None = None) -> tuple[int, str, str]:
        """Run bin/bus; answer with its exit code, output and messages."""
        process = self.start(*args, cwd=cwd, script=script)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def asked(self) -> list[str]:
        """Take what the installer was asked for since the last time, as the first words of each call."""
        lines = self.journal.read_text(encoding="utf-8").splitlines() if self.journal.exists() else []
        self.journal.unlink(missing_ok=True)
        return [" ".join(line.split()[:2]) if line.startswith("pip") else line.split()[0] for line in lines]


@pytest.fixture
def clone(tmp_path):
    """Make a fresh clone."""
    return Clone(tmp_path)


EVERYTHING = ["venv", "pip install", "pip install"]


def test_first_use_sets_up_and_the_second_is_silent(clone):
    """Setting up is announced on stderr, once; arguments, folder and exit code pass through untouched."""
    code, out, err = clone.run("tail", "--since", "an hour")
    assert (code, out) == (7, f"{clone.root}: tail --since an hour\n")
    assert "making .venv" in err
    assert "requirements.lock" in err
    assert clone.asked() == EVERYTHING

    assert clone.run("tail") == (7, f"{clone.root}: tail\n", "")
    assert clone.asked() == []


def test_any_folder_and_any_link_will_do(clone, tmp_path):
    """The user's folder stays the working folder, also through a relative link to a link."""
    away = tmp_path / "away"
    away.mkdir()
    (away / "first").symlink_to("../a clone/bin/bus")
    (away / "second").symlink_to("first")
    code, out, _ = clone.run("x", cwd=away, script=away / "second")
    assert (code, out) == (7, f"{away}: x\n")
    assert (clone.root / ".venv").is_dir()


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.lock"])
def test_a_changed_file_is_noticed(clone, name):
    """After a pull that moved a dependency or a command, the next call installs again into the same .venv."""
    clone.run()
    clone.asked()
    with (clone.root / name).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert clone.run()[0] == 7
    assert clone.asked() == ["pip install", "pip install"]


def test_the_benchmark_adds_to_the_same_environment(clone):
    """What the benchmark needs besides is installed when it is first asked for, and undoes nothing."""
    (clone.root / "tests" / "bench").mkdir(parents=True)
    (clone.root / "tests" / "bench" / "run.py").write_text("print('measured')", encoding="utf-8")
    for name in ("bin/bench", "requirements-bench.lock"):
        shutil.copy(ROOT / name, clone.root / name)
    clone.run()
    assert clone.asked() == EVERYTHING
    code, out, err = clone.run(script=clone.root / "bin" / "bench")
    assert (code, out) == (0, "measured\n")
    assert "requirements-bench.lock" in err
    assert clone.asked() == ["pip install", "pip install"]

    assert clone.run()[2] == clone.run(script=clone.root / "bin" / "bench")[2] == ""
    assert clone.asked() == []


def test_an_interrupted_install_starts_anew(clone):
    """What a killed installer left behind is not taken for an environment, and not built upon."""
    (clone.root.parent / "journal.kill").touch()
    assert clone.run()[0] == -9
    (clone.root.parent / "journal.kill").touch()
    assert clone.run()[0] == -9
    clone.asked()
    code, _, err = clone.run()
    assert code == 7
    assert "interrupted" in err
    assert clone.asked() == EVERYTHING
    assert clone.run()[2] == ""


def test_an_environment_made_by_hand_is_completed(clone):
    """Somebody's own .venv keeps what they put there."""
    (clone.root / ".venv" / "bin").mkdir(parents=True)
    (clone.root / ".venv" / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    (clone.root / ".venv" / "mine").touch()
    assert clone.run()[0] == 7
    assert clone.asked() == ["pip install", "pip install"]
    assert (clone.root / ".venv" / "mine").exists()


def test_a_broken_environment_is_replaced(clone):
    """A .venv whose Python is gone, after an upgrade of the system, is made anew, and that is said."""
    clone.run()
    clone.asked()
    python = clone.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    code, _, err = clone.run()
    assert code == 7
    assert "broken" in err
    assert clone.asked() == EVERYTHING


def test_a_copied_clone_does_not_run_the_code_it_was_copied_from(clone):
    """The editable install of a copy is made again, for the folder in which the copy stands."""
    clone.run()
    clone.asked()
    copy = clone.root.with_name("copy")
    shutil.copytree(clone.root, copy, symlinks=True)
    clone.environment["ROOT"] = str(copy)
    assert clone.run(cwd=copy, script=copy / "bin" / "bus")[:2] == (7, f"{copy}: \n")
    assert clone.asked() == ["pip install", "pip install"]


def test_two_at_once_set_up_once(clone):
    """Two terminals, or two agents, may call a fresh clone at the same time."""
    processes = [clone.start(str(number)) for number in range(3)]
    ends = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [7, 7, 7]
    assert [out for out, _ in ends] == [f"{clone.root}: {number}\n" for number in range(3)]
    assert clone.asked() == EVERYTHING


def test_without_python_it_says_what_to_do(clone, tmp_path):
    """Where no Python is new enough, the message names what is needed, with a code that `bus` never uses."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for tool in ("sh", "cat", "cksum", "dirname", "readlink", "rm"):
        (bare / tool).symlink_to(shutil.which(tool))
    clone.environment["PATH"] = str(bare)
    code, out, err = clone.run()
    assert (code, out) == (69, "")
    assert "3.11" in err
    assert not (clone.root / ".venv").exists()
