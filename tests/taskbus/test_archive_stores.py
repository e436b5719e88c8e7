"""The stores of an archive: a folder that survives being killed anywhere, and whatever fsspec reaches."""

from __future__ import annotations

import os
import sys
import textwrap
from functools import partial

import anyio
import pytest

from taskbus.archive import Archive
from taskbus.archive.folder import Folder
from taskbus.archive.remote import Remote
from taskbus.client import Bus
from taskbus.errors import ArchiveFault, ConfigurationError, Damaged
from taskbus.settings import Settings
from tests.taskbus.archived import fill, live

pytestmark = pytest.mark.anyio

# Runs `Archive.seal` again and again, each time in a fork that kills itself before its next step on the file system,
# and looks after each what stands there. Prints how many steps there were.
KILLED = """
import asyncio, os, shutil, signal, sys
from pathlib import Path
# Imported before it forks, so that no fork has to.
import redis.asyncio, taskbus.archive.folder, taskbus.archive.sealing, taskbus.history
from anyio._backends import _asyncio
from taskbus.archive import Archive
from taskbus.client import Bus
from taskbus.connection import Connection

url, namespace, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.scandir", "fcntl.flock"}

async def seal(check):
    async with Connection.open(url) as connection:
        bus = Bus(connection, namespace)
        archive = Archive.open(folder, bus.keys)
        log = [entry async for entry in bus.log.read()]
        if check:
            sealed = [entry async for entry in archive.read()]
            assert sealed == log[:len(sealed)], "what stands is not the beginning of the log"
            before = await archive.segments()
        await archive.seal(bus.log, size=7, rest=True, settle=0)
        if check:
            assert [entry async for entry in archive.read()] == log, "not all was sealed"
            segments = await archive.segments()
            assert segments[:len(before)] == before, "what stood was touched"
            assert sum(each.count for each in segments) == len(log), "some were sealed twice"
            files = {each.file for each in segments} | {f"{each.name}.json" for each in segments} | {".lock"}
            assert {path.name for path in archive.store.path.iterdir()} == files, "something was left"

def forked(step):
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    code, left = 1, [step]
    def count(event, arguments):
        if event in STEPS and arguments and str(folder) in str(arguments[0]):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    try:
        if step:
            sys.addaudithook(count)
        asyncio.run(seal(check=not step))
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)

step, status = 0, 1
while status:
    step += 1
    shutil.rmtree(folder, ignore_errors=True)
    status = forked(step)
    assert status in (0, 9), status
    assert forked(0) == 0, f"killed before step {step}"
print(step)
"""

# Seals with a limit on the size of files, as a disk that is full.
FULL = """
import asyncio, resource, signal, sys
from taskbus.archive import Archive
from taskbus.client import Bus
from taskbus.connection import Connection
from taskbus.errors import ArchiveFault

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
async def main():
    async with Connection.open(sys.argv[1]) as connection:
        bus = Bus(connection, sys.argv[2])
        archive = Archive.open(sys.argv[3], bus.keys)
        try:
            await archive.seal(bus.log, size=400, rest=True, settle=0)
        except ArchiveFault as error:
            print(error.message, error.advice)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
asyncio.run(main())
"""


@pytest.fixture
def bus(connection, namespace):
    """A bus with an empty log."""
    return Bus(connection, namespace)


def program(source, *arguments):
    """A Python program to run, with the packages of this one."""
    return [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)]


async def entries(archive):
    """All entries of an archive."""
    return [entry async for entry in archive.read()]


async def test_killed_before_any_step_it_loses_nothing_and_repeats_nothing(bus, valkey, tmp_path):
    """After SIGKILL before each single step of sealing, what stands is right, and the next run completes it."""
    await fill(bus, 1, 18)
    done = await anyio.run_process(program(KILLED, valkey, bus.namespace, tmp_path / "archive"), stderr=None)
    assert int(done.stdout) > 25


@pytest.mark.parametrize("limit", [100, 3000])
async def test_a_full_disk_stops_it_and_the_next_run_goes_on(bus, valkey, tmp_path, limit):
    """Whether the segment or its manifest does not fit, it is said, nothing half stands, and room is all it needs."""
    await fill(bus, 1, 1000, size=1)
    folder = tmp_path / "archive"
    # What measures the coverage would write its own file, and not get further than this program.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = await anyio.run_process(program(FULL, valkey, bus.namespace, folder, limit), stderr=None, env=env)
    assert b"cannot be written: File too large. Make room" in done.stdout
    archive = Archive.open(folder, bus.keys)
    assert await entries(archive) == []
    assert {path.suffix for path in archive.store.path.iterdir()} <= {"", ".zst"}
    await archive.seal(bus.log, size=400, rest=True, settle=0)
    assert await entries(archive) == await live(bus)


async def test_a_waiting_archiver_goes_on_when_the_other_is_killed(bus, tmp_path):
    """The right to write is the system's to give: with its process it is gone, and nobody waits for a dead one."""
    await fill(bus, 1, 10)
    archive = Archive.open(tmp_path / "archive", bus.keys)
    holding = (
        "import sys, time\nfrom pathlib import Path\nfrom taskbus.archive.folder import Folder\n"
        "claim = Folder(Path(sys.argv[1])).claim()\nprint('held', flush=True)\ntime.sleep(60)\n"
    )
    async with await anyio.open_process(program(holding, archive.url)) as other:
        await other.stdout.receive()
        with anyio.move_on_after(0.3) as scope:
            await archive.seal(bus.log, rest=True, settle=0)
        other.kill()
    assert scope.cancelled_caught
    with anyio.fail_after(30):
        assert len(await archive.seal(bus.log, rest=True, settle=0)) == 1


@pytest.mark.parametrize("scheme", ["memory", "local"])
async def test_a_store_of_fsspec_holds_the_same(bus, tmp_path, scheme):
    """Sealing, going on, reading from the middle and noticing damage are the same wherever fsspec reaches."""
    archive = Archive.open(f"{scheme}://{tmp_path}/archive", bus.keys)
    assert isinstance(archive.store, Remote)
    assert await entries(archive) == []
    await fill(bus, 1, 25)
    assert [made.count for made in await archive.seal(bus.log, size=10, settle=0)] == [10, 10]
    (made,) = await archive.seal(bus.log, size=10, rest=True, settle=0)
    log = await live(bus)
    assert await entries(archive) == log
    assert [entry async for entry in archive.read(log[7].position, log[17].position)] == log[8:18]
    assert made.sha256[:12] in made.file
    content = archive.store.read(made.file)
    archive.store.write(made.file, content[:-1] + b"x")
    with pytest.raises(Damaged, match="envelope 21 "):
        await entries(archive)


async def test_two_archivers_of_one_store_agree(bus, tmp_path):
    """Nobody is kept out of an object store: what both seal is the same, and overlapping parts are read once."""
    await fill(bus, 1, 200)
    url = f"memory://{tmp_path}"
    async with anyio.create_task_group() as group:
        for size in (10, 10, 17, 64):
            seal = partial(Archive.open(url, bus.keys).seal, bus.log, size=size, rest=True, settle=0)
            group.start_soon(seal)
    archive = Archive.open(url, bus.keys)
    assert await entries(archive) == await live(bus)
    assert (await archive.end()).n == 200


class Failing(Folder):
    """A folder that fails at its `left`th write, as an object store does: with an error of its client's own."""

    def __init__(self, path, left):
        super().__init__(path)
        self.left = left

    def put(self, made, name):
        """Fail, or do it."""
        self.left -= 1
        if self.left == 0:
            raise ArchiveFault("The network is gone.")
        super().put(made, name)


async def test_a_store_that_fails_at_any_write_can_be_gone_on_with(bus, tmp_path):
    """After a failure of each single write, reading gives a beginning of the log, and the next run the rest."""
    await fill(bus, 1, 30)
    log = await live(bus)
    for left in range(1, 7):
        archive = Archive.open(tmp_path / str(left), bus.keys)
        archive.store = Failing(archive.store.path, left)
        with pytest.raises(ArchiveFault, match="gone"):
            await archive.seal(bus.log, size=10, settle=0)
        assert await entries(archive) == log[: (left - 1) // 2 * 10]
        await archive.seal(bus.log, size=10, settle=0)
        assert await entries(archive) == log


async def test_what_is_not_installed_is_said_with_what_to_install(bus, monkeypatch):
    """Without fsspec, or without the driver of a scheme, the error names the package; an unknown scheme is one, too."""
    for scheme, driver in (("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs")):
        with pytest.raises(ConfigurationError) as raised:
            await Archive.open(f"{scheme}://user:secret@bucket/x", bus.keys).segments()
        assert f"pip install 'taskbus[store]' {driver}" in raised.value.advice
        assert "secret" not in f"{raised.value.message} {raised.value.advice}"
    with pytest.raises(ConfigurationError, match="nonsense://"):
        await Archive.open("nonsense://x", bus.keys).segments()
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ConfigurationError, match="needs fsspec") as raised:
        await Archive.open("s3://bucket/x", bus.keys).segments()
    assert "taskbus[store]" in raised.value.advice


async def test_whatever_a_store_says_is_an_error_of_the_archive(bus, tmp_path):
    """An error of the driver's own kind names the store and a way on."""
    (tmp_path / "archive").write_text("in the way")
    archive = Archive.open(f"local://{tmp_path}/archive", bus.keys)
    await fill(bus, 1, 1)
    with pytest.raises(ArchiveFault, match="local:///"):
        await archive.seal(bus.log, rest=True, settle=0)


async def test_each_namespace_has_a_folder_and_no_secret_is_shown(bus, tmp_path):
    """The place is that of the settings, `archive` in the home without any; a password never is in its name."""
    settings = partial(Settings.load, environ={}, cwd=tmp_path, namespace="a:b")
    name = bus.namespace.removesuffix(":")
    assert Archive.open(settings(), bus.keys).url == f"{tmp_path}/.bus/archive/{name}"
    assert Archive.open(settings(archive="x"), bus.keys).url == f"{tmp_path}/x/{name}"
    assert Archive.open(f"file://{tmp_path}/x", bus.keys).store.url == f"{tmp_path}/x/{name}"
    assert Archive.open("ftp://me:secret@host/x", bus.keys).url == f"ftp://me:***@host/x/{name}"


async def test_the_folder_is_for_its_user_alone(bus, tmp_path):
    """Envelopes are nobody else's: neither the folder nor a file of it can be read by others."""
    await fill(bus, 1, 3)
    archive = Archive.open(tmp_path / "home" / "archive", bus.keys)
    await archive.seal(bus.log, rest=True, settle=0)
    folder = archive.store.path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


async def test_the_names_of_new_folders_are_on_disk(bus, tmp_path, monkeypatch):
    """Before anything is trimmed: a folder that a crash takes back would take all its segments with it."""
    await fill(bus, 1, 10)
    synced, sync = set(), os.fsync

    def noted(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    archive = Archive.open(tmp_path / "new" / "newer", bus.keys)
    await archive.seal(bus.log, size=10, settle=0)
    made = archive.store.path
    assert {each.stat().st_ino for each in (made, made.parent, made.parent.parent, tmp_path)} <= synced
