"""The embedded server: one per home whoever starts it, data that survives kill -9, private files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from taskbus import server
from taskbus.address import Address
from taskbus.connection import Connection
from taskbus.errors import ConfigurationError, NoServer, ServerFault, TimedOut, TooOld, Unavailable
from taskbus.probe import ErrorReply, ask
from taskbus.server_binary import server_binary
from taskbus.server_folder import ServerFolder
from taskbus.settings import Settings
from tests.servers import PASSWORD, bundled_binary, is_alive

pytestmark = pytest.mark.anyio

UP = """
import asyncio, json, sys
from pathlib import Path
from taskbus.server import up
running = asyncio.run(up(Path(sys.argv[1])))
print(json.dumps([running.pid, running.started]))
"""


@pytest.fixture
async def home(tmp_path):
    """A home whose server is ended after the test, frozen or not."""
    home = tmp_path / "home"
    yield home
    pid = ServerFolder(home).noted_pid()
    if pid and is_alive(pid):
        os.kill(pid, signal.SIGCONT)
    await server.down(home)
    assert not ServerFolder(home).is_alive()


def mode(path):
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def settings(home, **options):
    """Settings that name this home."""
    return Settings.load(home=home, environ={}, cwd=home.parent, **options)


async def test_up_starts_a_server_that_keeps_what_the_bus_promises(home):
    """The server has a password, an append-only file, no eviction and no TCP port."""
    running = await server.up(home)
    assert running.started
    assert (running.home, running.durability) == (home, "everysec")
    async with Connection.open(running.url) as connection:
        reply = await connection.execute("CONFIG", "GET", "appendonly", "appendfsync", "maxmemory-policy", "port")
        config = dict(zip(reply[::2], reply[1::2], strict=True))
    assert config == {
        b"appendonly": b"yes", b"appendfsync": b"everysec", b"maxmemory-policy": b"noeviction", b"port": b"0",
    }  # fmt: skip
    (answer,) = await ask(running.socket, ["PING"])
    assert isinstance(answer, ErrorReply)
    assert answer.code == "NOAUTH"


async def test_only_the_owner_can_use_the_files(home):
    """Folder, socket, password and configuration are of their owner only, and no commit picks them up."""
    running = await server.up(home)
    folder = home / "server"
    assert mode(folder) == 0o700
    assert mode(running.socket) == 0o700
    assert mode(folder / "password") == 0o600
    assert mode(folder / "server.conf") == 0o600
    assert (home / ".gitignore").read_text() == "*\n"


async def test_the_password_is_not_shown(home):
    """What a person sees of a running server has no password: its representation and its command line."""
    running = await server.up(home)
    password = (home / "server" / "password").read_text().strip()
    assert len(password) > 30
    ps = await asyncio.to_thread(
        subprocess.run,
        ["ps", "-ww", "-o", "command=", "-p", str(running.pid)],
        capture_output=True,
        text=True,
    )
    assert str(home) in ps.stdout
    assert password not in f"{running!r} {ps.stdout} {running.log.read_text()}"


async def test_up_again_finds_the_same_server(home):
    """A second up starts nothing."""
    first = await server.up(home)
    second = await server.up(home)
    assert (second.pid, second.url, second.started) == (first.pid, first.url, False)
    assert await server.find(home) == second


async def test_find_starts_nothing(home):
    """Where no server runs, find says so and leaves no file."""
    assert await server.find(home) is None
    assert not home.exists()


async def test_five_racing_processes_end_with_one_server(home):
    """Of five processes that start at once, one starts the server, and all five get it."""
    command = [sys.executable, "-c", UP, str(home)]
    racers = [await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE) for _ in range(5)]
    answers = [json.loads((await racer.communicate())[0]) for racer in racers]
    assert len({pid for pid, _ in answers}) == 1
    assert sum(started for _, started in answers) == 1


async def test_racing_tasks_and_downs_never_leave_two(home):
    """Ups and downs in any order at once, in one process, leave one server or none, and each up an answer."""
    await asyncio.gather(*(server.up(home) if turn % 3 else server.down(home) for turn in range(12)))
    running = await server.up(home)
    ps = await asyncio.to_thread(subprocess.run, ["ps", "-ww", "-eo", "command="], capture_output=True, text=True)
    assert ps.stdout.count(f"{home}/server/server.conf") == 1
    assert is_alive(running.pid)


async def test_the_server_outlives_whoever_started_it(home):
    """A server that a short process started answers after the end of that process and of its session."""
    starter = await asyncio.create_subprocess_exec(
        sys.executable, "-c", UP, str(home), stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    (pid, _) = json.loads((await starter.communicate())[0])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(starter.pid, signal.SIGKILL)
    running = await server.up(home)
    assert (running.pid, running.started) == (pid, False)


async def test_data_survives_kill_9_and_up_again(home):
    """After kill -9, up cleans up after the dead server, and everything written is there."""
    running = await server.up(home)
    async with Connection.open(running.url) as connection:
        for number in range(500):
            await connection.execute("XADD", "ns:log", "*", "n", number)
    os.kill(running.pid, signal.SIGKILL)
    again = await server.up(home)
    assert again.started
    assert again.pid != running.pid
    async with Connection.open(again.url) as connection:
        entries = await connection.range("ns:log")
    assert [int(fields[b"n"]) for _, fields in entries] == list(range(500))


async def test_data_survives_down_and_up(home):
    """An orderly end keeps everything as well, and the URL stays the same."""
    running = await server.up(home)
    async with Connection.open(running.url) as connection:
        await connection.execute("SET", "ns:key", "value")
    assert await server.down(home) == running.pid
    assert not is_alive(running.pid)
    assert not running.socket.exists()
    again = await server.up(home)
    assert again.url == running.url
    async with Connection.open(again.url) as connection:
        assert await connection.execute("GET", "ns:key") == b"value"


async def test_down_where_nothing_runs_does_nothing(home):
    """Down says that there was none, before the first start and after the end, and cleans up after a kill."""
    assert await server.down(home) is None
    running = await server.up(home)
    os.kill(running.pid, signal.SIGKILL)
    while ServerFolder(home).is_alive():  # noqa: ASYNC110 - the end of another's process wakes nobody
        await asyncio.sleep(0.001)
    assert await server.down(home) is None
    assert not running.socket.exists()
    assert await server.down(home) is None


async def test_a_stale_pid_file_harms_nobody(home):
    """A noted process id that belongs to another program by now is neither believed nor ended."""
    running = await server.up(home)
    os.kill(running.pid, signal.SIGKILL)
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        (home / "server" / "server.pid").write_text(f"{bystander.pid}\n")
        again = await server.up(home)
        assert again.started
        await server.down(home)
        assert bystander.returncode is None
        assert is_alive(bystander.pid)
    finally:
        bystander.kill()
        await bystander.wait()


async def test_durability_is_applied_to_a_running_server_and_kept(home):
    """A changed durability is in force at once and kept for the next start; not naming it changes nothing."""
    await server.up(home)
    changed = await server.up(home, durability="always")
    assert (changed.durability, changed.started) == ("always", False)
    assert (await server.up(home)).durability == "always"
    async with Connection.open(changed.url) as connection:
        assert await connection.execute("CONFIG", "GET", "appendfsync") == [b"appendfsync", b"always"]
    await server.down(home)
    assert (await server.up(home)).durability == "always"
    assert (await server.up(home, durability="everysec")).durability == "everysec"


async def test_a_caller_who_can_do_with_less_takes_nothing_from_the_others(home):
    """With at_least, a stronger durability is applied, and a weaker one is not."""
    await server.up(home, durability="always")
    assert (await server.up(home, durability="everysec", at_least=True)).durability == "always"
    await server.up(home, durability="everysec")
    assert (await server.up(home, durability="always", at_least=True)).durability == "always"


async def test_an_append_only_file_that_was_switched_off_is_noticed_and_switched_on(home):
    """A server whose persistence somebody switched off keeps no durability, until one is asked for."""
    running = await server.up(home)
    async with Connection.open(running.url) as connection:
        await connection.execute("CONFIG", "SET", "appendonly", "no")
    assert (await server.up(home)).durability is None
    assert (await server.up(home, durability="everysec")).durability == "everysec"


async def test_a_path_that_is_too_long_gets_a_short_socket(tmp_path):
    """A home far down gets its socket in a short private folder, and any process finds it there."""
    home = tmp_path / ("x" * 90)
    try:
        running = await server.up(home)
        assert len(os.fsencode(running.socket)) <= 100
        assert mode(running.socket.parent) == 0o700
        async with Connection.open(running.url) as connection:
            assert await connection.execute("PING") == b"PONG"
        assert await server.find(home) is not None
    finally:
        assert await server.down(home) is not None
    assert not running.socket.exists()


@pytest.mark.parametrize("trap", ["link", "open"])
async def test_a_short_folder_that_somebody_else_could_write_is_not_used(tmp_path, monkeypatch, trap):
    """A prepared link or an open folder in the place of the private one is passed over."""
    runtime = tmp_path / "r"
    runtime.mkdir()
    if trap == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        (runtime / "taskbus").symlink_to(tmp_path / "elsewhere")
    else:
        (runtime / "taskbus").mkdir()
        (runtime / "taskbus").chmod(0o777)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    home = tmp_path / ("x" * 90)
    try:
        running = await server.up(home)
        assert runtime not in running.socket.parents
    finally:
        await server.down(home)


async def test_paths_with_odd_characters_work(tmp_path):
    """Spaces, quotes, a backslash and letters beyond ASCII in the home's path are no trouble."""
    home = tmp_path / 'a "b" \\c\' ä#%'
    try:
        running = await server.up(home)
        async with Connection.open(running.url) as connection:
            await connection.execute("SET", "ns:key", "value")
        os.kill(running.pid, signal.SIGKILL)
        async with Connection.open((await server.up(home)).url) as connection:
            assert await connection.execute("GET", "ns:key") == b"value"
    finally:
        await server.down(home)


async def test_a_server_whose_socket_was_removed_is_replaced_without_loss(home, monkeypatch):
    """Where a cleaner removed the socket, the unreachable server is ended in order before another starts."""
    monkeypatch.setattr(server, "SIGNAL", 0.2)
    running = await server.up(home)
    async with Connection.open(running.url) as connection:
        await connection.execute("SET", "ns:key", "value")
    running.socket.unlink()
    again = await server.up(home)
    assert again.started
    assert not is_alive(running.pid)
    async with Connection.open(again.url) as connection:
        assert await connection.execute("GET", "ns:key") == b"value"


async def test_a_server_that_hangs_is_not_doubled_and_can_be_ended(home, monkeypatch):
    """While a server is frozen, up refuses to start a second one on its data; down ends it by its own id."""
    monkeypatch.setattr(server, "SIGNAL", 0.2)
    monkeypatch.setattr(server, "ANSWER", 0.2)
    running = await server.up(home)
    os.kill(running.pid, signal.SIGSTOP)
    with pytest.raises(TimedOut, match=f"process {running.pid}"):
        await server.up(home)
    assert await server.down(home) == running.pid
    assert not is_alive(running.pid)


async def test_a_server_that_cannot_be_recognized_is_left_alone(home, monkeypatch):
    """Without a pid file that names the server itself, down refuses to guess which process to end."""
    monkeypatch.setattr(server, "SIGNAL", 0.2)
    monkeypatch.setattr(server, "ANSWER", 0.2)
    running = await server.up(home)
    os.kill(running.pid, signal.SIGSTOP)
    note = home / "server" / "server.pid"
    note.write_text(f"{os.getpid()}\n")
    with pytest.raises(TimedOut):
        await server.down(home)
    assert is_alive(running.pid)
    note.write_text(f"{running.pid}\n")


async def test_data_that_cannot_be_read_is_explained(home):
    """A damaged append-only file stops the start, with the end of the log and the way to repair it."""
    running = await server.up(home)
    async with Connection.open(running.url) as connection:
        await connection.execute("SET", "ns:key", "value" * 100)
    await server.down(home)
    (file,) = (home / "server" / "appendonlydir").glob("*.incr.aof")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + b"\x00garbage\x00" + data[len(data) // 2 :])
    with pytest.raises(ServerFault) as caught:
        await server.up(home)
    assert "did not start" in caught.value.message
    assert "file format" in caught.value.message
    assert "valkey-check-aof" in str(caught.value.advice)


async def test_a_half_written_end_of_the_file_is_no_obstacle(home):
    """What a power loss leaves, a file cut in its last command, loads up to that command."""
    running = await server.up(home)
    async with Connection.open(running.url) as connection:
        await connection.execute("SET", "ns:a", "1")
        await connection.execute("SET", "ns:b", "2")
    await server.down(home)
    (file,) = (home / "server" / "appendonlydir").glob("*.incr.aof")
    file.write_bytes(file.read_bytes()[:-5])
    again = await server.up(home)
    async with Connection.open(again.url) as connection:
        assert await connection.execute("MGET", "ns:a", "ns:b") == [b"1", None]


async def test_a_home_that_cannot_be_written_is_a_mistake_of_the_configuration(tmp_path):
    """A file in the place of the home's folder is refused with what to do."""
    (tmp_path / "home").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used") as caught:
        await server.up(tmp_path / "home")
    assert "BUS_HOME" in str(caught.value.advice)


async def test_a_changed_password_file_is_explained(home):
    """A server that refuses the password of its own folder is not taken for a dead one, and can be ended."""
    running = await server.up(home)
    file = home / "server" / "password"
    password = file.read_text()
    file.write_text("another\n")
    with pytest.raises(ServerFault, match="refuses its own password"):
        await server.up(home)
    file.write_text(password)
    assert (await server.up(home)).pid == running.pid
    file.write_text("another\n")
    assert await server.down(home) == running.pid
    assert not is_alive(running.pid)


async def test_a_big_log_is_set_aside(home):
    """A log beyond its limit is moved to one older file at the next start."""
    await server.up(home)
    await server.down(home)
    log = home / "server" / "server.log"
    log.write_bytes(b"x" * 1_100_000)
    await server.up(home)
    assert log.stat().st_size < 100_000
    assert (home / "server" / "server.log.1").stat().st_size == 1_100_000


# --- which URL ----------------------------------------------------------------------------------------------


async def test_a_url_that_was_given_is_used_as_it_is(home):
    """With a URL of another server, nothing is started."""
    assert await server.resolve(settings(home, url="redis://elsewhere:1/2")) == "redis://elsewhere:1/2"
    assert not home.exists()


async def test_without_a_url_the_embedded_server_is_started(home):
    """Without a URL, the embedded server's is given, with the declared durability."""
    url = await server.resolve(settings(home, durability="always"))
    async with Connection.open(url) as connection:
        assert await connection.execute("CONFIG", "GET", "appendfsync") == [b"appendfsync", b"always"]


async def test_an_exported_url_of_the_embedded_server_starts_it_again(home):
    """A shell that has exported the embedded server's URL can go on after `bus down`, in its own database."""
    url = await server.resolve(settings(home))
    await server.down(home)
    assert await server.resolve(settings(home, url=f"{url}?db=3")) == f"{url}?db=3"
    assert await server.find(home) is not None
    assert server.is_embedded(Address.parse(url), home)


# --- which program ------------------------------------------------------------------------------------------


def program(path, words):
    """A program that answers --version with these words."""
    path.write_text(f"#!/bin/sh\necho '{words}'\n")
    path.chmod(0o755)
    return path


def test_the_bundled_program_is_found():
    """Without anything said, it is the one of the extra `server`."""
    assert server_binary({"PATH": ""}) == bundled_binary()


def test_a_named_program_goes_before_the_bundled_one(tmp_path):
    """BUS_SERVER_BIN counts first."""
    path = program(tmp_path / "x", "Redis server v=7.0.15 sha=0")
    assert server_binary({"BUS_SERVER_BIN": str(path)}) == path


@pytest.mark.parametrize(
    ("words", "kind", "part"),
    [
        ("Redis server v=6.2.14 sha=0", TooOld, "Redis 6.2.14"),
        ("something else", ConfigurationError, "not a valkey-server"),
    ],
)
def test_a_named_program_that_does_not_fit_is_refused(tmp_path, words, kind, part):
    """A named program that is too old or no server is an error, and nothing else is taken instead."""
    path = program(tmp_path / "x", words)
    with pytest.raises(kind, match=part):
        server_binary({"BUS_SERVER_BIN": str(path)})


@pytest.mark.parametrize("name", ["none", "folder", "text"])
def test_a_named_program_that_is_none_is_refused(tmp_path, name):
    """A path without a program is a mistake of the configuration."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("text")
    with pytest.raises(ConfigurationError, match="not a program"):
        server_binary({"BUS_SERVER_BIN": str(tmp_path / name)})


def test_without_the_bundled_one_the_path_is_searched(tmp_path, monkeypatch):
    """Without the extra, the first server of version 7 or newer on the PATH is taken, older ones are not."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    old = program(tmp_path / "redis-server", "Redis server v=6.0.16 sha=0")
    with pytest.raises(NoServer) as caught:
        server_binary({"PATH": str(tmp_path)})
    assert "taskbus[server]" in str(caught.value.advice)
    program(old, "Redis server v=7.0.15 sha=0")
    assert server_binary({"PATH": str(tmp_path)}) == old
    newer = program(tmp_path / "valkey-server", "Valkey server v=8.0.1 sha=0")
    assert server_binary({"PATH": str(tmp_path)}) == newer


async def test_a_program_that_fails_is_explained(home, tmp_path, monkeypatch):
    """A program that ends at once shows what it said."""
    path = tmp_path / "x"
    path.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "Redis server v=7.0.15 sha=0" && exit\necho oh no; exit 1\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv("BUS_SERVER_BIN", str(path))
    with pytest.raises(ServerFault, match="oh no"):
        await server.up(home)


async def test_a_program_that_hangs_at_its_start_is_given_up(home, tmp_path, monkeypatch):
    """A program that never ends its start is ended, and that is said."""
    monkeypatch.setattr(server, "START", 0.2)
    path = tmp_path / "x"
    path.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Redis server v=7.0.15 sha=0" && exit\nexec sleep 60\n')
    path.chmod(0o755)
    monkeypatch.setenv("BUS_SERVER_BIN", str(path))
    with pytest.raises(ServerFault, match="cannot be started"):
        await server.up(home)


async def test_a_server_that_never_answers_is_given_up(home, tmp_path, monkeypatch):
    """A started process that opens no socket is reported with its log, and not started over."""
    monkeypatch.setattr(server, "START", 0.2)
    monkeypatch.setattr(server, "SIGNAL", 0.2)
    path, note = tmp_path / "x", tmp_path / "pid"
    path.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "Redis server v=7.0.15 sha=0" && exit\n'
        f"sleep 60 &\necho $! > {note}\necho waiting for nothing\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("BUS_SERVER_BIN", str(path))
    try:
        with pytest.raises(TimedOut, match="waiting for nothing"):
            await server.up(home)
        with pytest.raises(TimedOut, match="lives"):
            await server.up(home)
        with pytest.raises(TimedOut, match="lives"):
            await server.down(home)
    finally:
        os.kill(int(note.read_text()), signal.SIGKILL)
        while ServerFolder(home).is_alive():  # noqa: ASYNC110 - the end of another's process wakes nobody
            await asyncio.sleep(0.001)


async def test_only_one_at_a_time_may_start_or_end(home, monkeypatch):
    """Whoever waits for its turn longer than allowed is told who to look for."""
    folder = ServerFolder(home)
    folder.prepare()
    async with folder.turn(1.0):
        with pytest.raises(TimedOut, match="Another process"):
            async with folder.turn(0.05):
                pass
    async with folder.turn(0.05):
        pass


# --- asking without a client --------------------------------------------------------------------------------


async def test_a_probe_reads_every_kind_of_reply(valkey_server):
    """Text, numbers, nothing, lists and errors come back as such."""
    questions = (
        ["PING"],
        ["EXISTS", "none"],
        ["GET", "none"],
        ["COMMAND", "INFO", "get", "none"],
        ["NOSUCH"],
    )
    answers = await ask(valkey_server.socket, *questions, password=PASSWORD)
    assert answers[:3] == ["PONG", 0, None]
    assert answers[3][0][0] == "get"
    assert answers[3][1] is None
    assert isinstance(answers[4], ErrorReply)


async def test_a_probe_with_a_wrong_password_gets_that_as_every_answer(valkey_server):
    """A refused password is not taken for an answer to the question."""
    answers = await ask(valkey_server.socket, ["PING"], ["PING"], password="wrong")
    assert [answer.code for answer in answers] == ["WRONGPASS", "WRONGPASS"]


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400\r\n", b"$x\r\n", b"nothing whole", b"x" * 70_000, b"", b"$9\r\nab", None]
)
async def test_a_probe_understands_what_is_no_server(tmp_path, said):
    """Other programs, halves of replies, hanging up and silence are all refusals, and none is an answer."""

    async def talk(reader, writer):
        await reader.read(100)
        if said is None:
            await reader.read(100)
        else:
            writer.write(said)
        writer.close()

    listener = await asyncio.start_unix_server(talk, tmp_path / "s")
    async with listener:
        with pytest.raises(Unavailable):
            await ask(tmp_path / "s", ["PING"], timeout=0.2)
    await asyncio.sleep(0)
    with pytest.raises(NoServer):
        await ask(Path(tmp_path / "none"), ["PING"])


async def test_a_probe_asks_over_tcp_as_well():
    """A port of the loopback is asked in the same way, and nobody there is NoServer."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(NoServer, match="Nothing listens"):
            await ask(("127.0.0.1", closed.getsockname()[1]), ["PING"])
