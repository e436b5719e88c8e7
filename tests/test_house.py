"""The rules of the house: what holds for the project's files, whatever they are about.

Linters and type checkers run beside the tests (see bin/test); here stands what none of them looks at.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = ["requirements.lock", "requirements-dev.lock", "requirements-bench.lock"]
PACKAGES = {
    "taskbus": ROOT / "bus" / "taskbus",
    "taskbus_agents": ROOT / "agents" / "taskbus_agents",
    "taskbus_projections": ROOT / "projections" / "taskbus_projections",
}
MODULES = sorted(path for package in PACKAGES.values() for path in package.rglob("*.py"))
BUS = Path(sys.executable).with_name("bus")


def project_files() -> list[Path]:
    """List the files that are, or would be, committed; in an unpacked archive, all but the usual leavings."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if (ROOT / ".git").exists() and listed.returncode == 0:
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        leavings = {".git", ".venv", ".bus", "__pycache__", ".hypothesis", "dist", "build"}
        found = [
            path
            for path in ROOT.rglob("*")
            if not leavings.intersection(path.relative_to(ROOT).parts) and "_cache" not in str(path)
        ]
    return sorted(path for path in found if path.is_file())


def pins(lock: str) -> dict[str, tuple[str, list[str]]]:
    """Read a lock file as name -> (version, hashes)."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = {}
    for line in lines:
        match = re.match(r"([a-z0-9.-]+)==(\S+)(?: ; [^#]*?)?((?: +--hash=sha256:[0-9a-f]{64})*) *$", line)
        assert match, f"{lock} has a line that is neither a pin nor a comment: {line[:80]}"
        found[match[1]] = (match[2], match[3].split())
    return found


def wanted(*extras: str) -> list[Requirement]:
    """List what pyproject.toml asks for: the distribution, some extras, and what builds it."""
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *PYPROJECT["dependency-groups"]["build"]]
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_its_hashes(lock):
    """An installer can refuse whatever is not exactly what was locked."""
    found = pins(lock)
    assert len(found) > 20
    assert [name for name, (_, hashes) in found.items() if not hashes] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_place(lock):
    """A lock file says what to install, never from where, and nothing of the machine that made it."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*-", text.replace("    --hash=", ""), re.MULTILINE)
    assert not re.search(r"(?<![\w.])/\w|\w/\w", text)


@pytest.mark.parametrize(
    ("lock", "extras"),
    list(zip(LOCKS, (["server"], ["server", "test", "dev"], ["server", "bench"]), strict=True)),
)
def test_lock_holds_what_pyproject_asks_for(lock, extras):
    """Whoever adds or raises a dependency has to resolve the lock files again (`just lock`)."""
    found = pins(lock)
    missing = [
        str(need)
        for need in wanted(*extras)
        if canonicalize_name(need.name) not in found
        or not need.specifier.contains(found[canonicalize_name(need.name)][0])
    ]
    assert missing == []


def test_locks_agree():
    """What tests and the benchmark need comes on top of what running needs; all of it may stand in one .venv."""
    running, *more = (pins(lock) for lock in LOCKS)
    assert all(running.items() <= each.items() for each in more)
    tests, bench = more
    assert {name for name in tests.keys() & bench.keys() if tests[name] != bench[name]} == set()


def test_no_file_names_a_package_host_or_a_path_of_a_machine():
    """A clone says nothing of where it was made, and installs from wherever its user's installer looks."""
    places = [
        "pypi" + ".org",
        "python" + "hosted",
        "npm" + "js.org",
        r"(?<![\w.$}>-])/(?:work|root|home|Users)" + r"/\w",
    ]
    pattern = re.compile("|".join(places), re.IGNORECASE)
    named = []
    for path in project_files():
        text = path.read_bytes().decode("utf-8", errors="replace")
        named += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert named == []


def test_every_linter_exception_has_its_reason():
    """A rule is switched off for a reason that can be argued with, written beside it."""
    lint = PYPROJECT["tool"]["ruff"]["lint"]
    exceptions = [*lint["ignore"], *(code for codes in lint["per-file-ignores"].values() for code in codes)]
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    reasoned = re.findall(r'^ +"([A-Z]+[0-9]*)", +# \w.{10,}$', text, re.MULTILINE)
    assert sorted(reasoned) == sorted(exceptions)


def test_source_roots_are_not_packages():
    """`import bus` or `import agents` must stay free for the packages of other people."""
    assert [root for root in ("bus", "agents", "projections") if (ROOT / root / "__init__.py").exists()] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_keeps_its_size_and_says_what_it_is(path):
    """A module holds one idea, says which, and its functions fit on a screen."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert ast.get_docstring(tree)
    assert len(source.splitlines()) <= 400
    assert path.stem not in {"utils", "util", "helpers", "common", "manager", "misc"}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    too_long = [node.name for node in functions if node.end_lineno - node.lineno >= 60]
    assert too_long == []


def test_scripts_can_be_executed():
    """What the README tells a stranger to call is executable, and is shell that the shell can read."""
    for name in ("bin/bus", "bin/test", "bin/bench", "bin/chaos", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK), name
        shell = (ROOT / name).read_text(encoding="utf-8").splitlines()[0].removeprefix("#!")
        assert subprocess.run([shell, "-n", ROOT / name]).returncode == 0, name
    assert not os.access(ROOT / "bin" / "setup.sh", os.X_OK)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """Build the wheel as a release would, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_wheel_holds_every_file_of_the_packages(wheel):
    """Lua scripts, documents and type markers reach whoever installs the wheel, and nothing else does."""
    expected = {
        f"{name}/{path.relative_to(folder)}"
        for name, folder in PACKAGES.items()
        for path in project_files()
        if path.is_relative_to(folder)
    }
    assert {f"{name}/py.typed" for name in PACKAGES} | {"taskbus/scripts/append.lua"} <= expected
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected


def test_wheel_declares_the_command_and_its_extensions(wheel):
    """The installed distribution offers `bus`, with the commands of all its packages."""
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    text = wheel.read(name).decode()
    assert "bus = taskbus.cli:main" in text
    assert "[taskbus.commands]" in text


def test_every_declared_command_exists():
    """A command that the distribution declares can be loaded, and carries the name it is declared under."""
    declared = PYPROJECT["project"]["entry-points"]["taskbus.commands"]
    installed = {point.name: point for point in entry_points(group="taskbus.commands")}
    assert {name: point.value for name, point in installed.items()} == declared
    for name, point in installed.items():
        command = point.load()
        assert isinstance(command, click.Command), name
        assert command.name == name


def test_help_imports_nothing_slow():
    """Asking for help, or completing a word in a shell, pays for no library that it does not use."""
    done = subprocess.run([sys.executable, "-X", "importtime", BUS, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported
    assert imported.isdisjoint({"redis", "sqlite_utils", "lxml"})


def test_help_is_quick():
    """Help takes less than three times what starting Python and importing click takes anyway."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    commands = {"floor": [sys.executable, "-c", "import click"], "help": [BUS, "--help"]}
    best = dict.fromkeys(commands, float("inf"))
    for _ in range(7):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=env)
            best[name] = min(best[name], time.perf_counter() - start)
    assert best["help"] < 3 * best["floor"], json.dumps(best)
