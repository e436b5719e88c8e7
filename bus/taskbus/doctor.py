"""The doctor: looks at a bus and its server, changes nothing, and says what to do about what is wrong.

Owns the checks of `bus doctor`, each a question of its own, with what was found and advice. It writes one
key, `<namespace>test_key`, and removes it; it looks at other programs' ports on the loopback only. Called by
the command line.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from taskbus import replies
from taskbus.address import Address
from taskbus.connection import Connection, Script
from taskbus.errors import NoPermission, NoServer, TaskbusError, WrongPassword
from taskbus.probe import ErrorReply, ask
from taskbus.server import is_embedded, resolve
from taskbus.server_folder import ServerFolder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from taskbus.settings import Durability, Settings

Status = Literal["ok", "warning", "failed"]

DEFAULT_PORT: Final = 6379
SAMPLES: Final = 5
BUSES: Final = 10

# Seconds between the clocks: envelopes carry the client's time, leases and deadlines the server's.
CLOCK_WARNING: Final = 1.0
CLOCK_FAILED: Final = 30.0

# What the bus can use where it is there. Nothing here is needed: the floor has all that is.
FEATURES: Final = ("FCALL", "WAITAOF", "HEXPIRE", "HSETEX", "XACKDEL", "XDELEX", "XNACK")
TOKENS: Final = (("XREADGROUP", "CLAIM"), ("XADD", "IDMP"), ("SET", "IFEQ"))

# A key of a bus, as taskbus.keys makes it. Told by its form alone: the bus touches no key of another namespace.
_BUS_KEY: Final = re.compile(
    r"(?P<namespace>[A-Za-z0-9_][A-Za-z0-9_.:-]{0,62}:)\{\d+\}:(?:log|index|meta|(?:inbox|held|leases):@.+)"
)

_READ_BACK = Script("return redis.call('GET', KEYS[1])")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, what was found, and what to do where it is not `ok`."""

    name: str
    status: Status
    found: str
    advice: str | None = None

    def details(self) -> dict[str, str]:
        """As `--json` prints it."""
        given = {"name": self.name, "status": self.status, "found": self.found, "advice": self.advice}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class _Subject:
    connection: Connection
    address: Address
    settings: Settings
    facts: Mapping[str, str]
    patience: float


async def examine(settings: Settings, *, default_port: int = DEFAULT_PORT, patience: float = 2.0) -> list[Check]:
    """Look at everything, in order; a check that cannot be made says so and stops no other.

    Without a connection, the checks that need one are left out. `patience` in seconds bounds the walk over
    the keys of a server that has many. Starts the embedded server where the settings name no URL.
    """
    checks = [_configuration(settings)]
    subject: _Subject | None = None
    try:
        url = await resolve(settings)
        begin = time.perf_counter()
        async with Connection.open(url) as connection:
            address = Address.parse(url)
            took = (time.perf_counter() - begin) * 1000
            found = f"{connection.info} at {address.place}, {connection.info.mode}, connected in {took:.0f} ms"
            checks.append(Check("connection", "ok", found))
            subject = _Subject(connection, address, settings, await _facts(connection), patience)
            for name, look in CHECKS.items():
                checks.append(await _careful(name, look, subject))
    except TaskbusError as error:
        checks.append(Check("connection", "failed", error.message, error.advice))
    checks.append(await _port(settings, subject, default_port))
    return checks


def _configuration(settings: Settings) -> Check:
    server = str(Address.parse(settings.url)) if settings.url else "the embedded server"
    said = settings.sources
    found = (
        f"{server} ({said['url']}), namespace {settings.namespace} ({said['namespace']}), "
        f"home {settings.home} ({said['home']}), durability {settings.durability} ({said['durability']})"
    )
    file = settings.file
    has_password = settings.url is not None and Address.parse(settings.url).password is not None
    if file and has_password and said["url"].startswith(str(file)) and file.stat().st_mode & 0o077:
        found = f"{found}; others may read the password in {file}"
        return Check("configuration", "warning", found, f"chmod 600 {file}, and do not commit it.")
    return Check("configuration", "ok", found)


async def _facts(connection: Connection) -> dict[str, str]:
    try:
        return replies.fields(replies.text(await connection.execute("INFO")))
    except NoPermission:
        # The checks that need a field of it say themselves that they could not look.
        return {}


async def _careful(name: str, look: Callable[[_Subject], Awaitable[Check]], subject: _Subject) -> Check:
    try:
        return await look(subject)
    except NoPermission as error:
        return Check(name, "warning", f"Could not look: {error.message}", error.advice)
    except TaskbusError as error:
        return Check(name, "failed", error.message, error.advice)


async def _authentication(subject: _Subject) -> Check:
    name, address = "authentication", subject.address
    if address.password is not None:
        stranger = replace(address, username=None, password=None)
        try:
            async with Connection.open(stranger.url()):
                pass
        except (WrongPassword, NoPermission):
            return Check(name, "ok", "The server refuses clients without a password.")
    found = f"The server at {address.place} lets anybody in who can reach it, without a password."
    advice = "Set one on the server (CONFIG SET requirepass ..., or an ACL user) and put it into BUS_URL."
    return Check(name, "warning", found, advice)


async def _write_and_read(subject: _Subject) -> Check:
    name, key = "write and read", f"{subject.settings.namespace}test_key"
    connection, value = subject.connection, secrets.token_hex(8)
    if await connection.execute("SET", key, value, "NX", "EX", 10) is None:
        advice = "If no other doctor is at work just now, find out who writes it; it is left as it is."
        return Check(name, "warning", f"{key} is there already, so it was not written.", advice)
    read = await connection.run(_READ_BACK, [key], [])
    await connection.execute("DEL", key)
    if read != value.encode():
        return Check(name, "failed", f"{key} was written as {value} and read as {read!r}.", "Look for a proxy.")
    return Check(name, "ok", f"{key} was written, read by a script, and removed.")


async def _other_keys(subject: _Subject) -> Check:
    name, namespace = "other keys", subject.settings.namespace
    end = time.monotonic() + subject.patience
    own, samples, prefixes, buses, is_cut = 0, list[str](), Counter[str](), Counter[str](), False
    async for key in subject.connection.scan(count=1000):
        if key.startswith(namespace):
            own += 1
        elif bus := _BUS_KEY.fullmatch(key):
            buses[bus["namespace"]] += 1
        else:
            prefixes[key.partition(":")[0] + ":" if ":" in key else ""] += 1
            if len(samples) < SAMPLES:
                samples.append(key)
        if time.monotonic() > end:
            is_cut = True
            break
    others = prefixes.total()
    scope = f" in the first {subject.patience:g} s of looking, there are more" if is_cut else ""
    scope += ", on this node of the cluster" if subject.connection.info.mode == "cluster" else ""
    found = f"{own} keys of {namespace}"
    if buses:
        named = ", ".join(f"{bus} ({count})" for bus, count in buses.most_common(BUSES))
        more = f", and {len(buses) - BUSES} more" if len(buses) > BUSES else ""
        found += f", {buses.total()} of other buses: {named}{more}"
    found += f"{';' if buses else ','} {others} others{scope}"
    if not others:
        return Check(name, "ok", found)
    shown = ", ".join(f"{prefix or 'no prefix'} ({count})" for prefix, count in prefixes.most_common(SAMPLES))
    found += f": {shown}; for example {', '.join(samples)}"
    if is_embedded(subject.address, subject.settings.home):
        advice = "The embedded server is for buses: if these are of no other namespace, see who writes them."
        return Check(name, "warning", found, advice)
    if prefixes[""]:
        advice = (
            "Keys without a prefix belong to nobody in particular, and a FLUSHDB by their owner erases this"
            " bus. Give the bus a server or a database number of its own, or the others a prefix."
        )
        return Check(name, "warning", found, advice)
    return Check(name, "ok", f"{found}. They have prefixes of their own, and the bus touches none of them.")


async def _persistence(subject: _Subject) -> Check:
    name, declared = "persistence", _declared(subject)
    config = await _config(subject.connection, "appendonly", "appendfsync", "save")
    is_on = config.get("appendonly", "no") == "yes" if config else subject.facts.get("aof_enabled") == "1"
    if not config and not subject.facts:
        return Check(name, "warning", "The user may not see it.", "Ask the administrator whether appendonly is on.")
    if not is_on:
        snapshots = ", snapshots only" if config.get("save") else ""
        found = f"The append-only file is off{snapshots}: the death of the server loses envelopes."
        return Check(name, "failed", found, "CONFIG SET appendonly yes, and the same in the server's configuration.")
    if subject.facts.get("aof_last_write_status", "ok") != "ok":
        found = "The server could not write its append-only file the last time it tried."
        return Check(name, "failed", found, "Look at the server's log and at the free space of its disk.")
    fsync = config.get("appendfsync")
    if fsync is None:
        found = "The append-only file is on; how often it is synced, the user may not see."
        return Check(name, "warning", found, f"Ask the administrator for appendfsync {declared}.")
    found = f"The append-only file is on, fsync {fsync}; declared is {declared}."
    if fsync in {declared, "always"}:
        return Check(name, "ok", found)
    advice = f"CONFIG SET appendfsync {declared}, or declare what the server keeps (BUS_DURABILITY)."
    return Check(name, "failed", found, advice)


def _declared(subject: _Subject) -> Durability:
    """What was asked for: of the embedded server also by the start that it had, where that is stronger."""
    settings = subject.settings
    own = is_embedded(subject.address, settings.home)
    started = ServerFolder(settings.home).durability() if own else None
    return "always" if "always" in (settings.durability, started) else settings.durability


async def _eviction(subject: _Subject) -> Check:
    name, facts = "eviction", subject.facts
    policy = facts.get("maxmemory_policy")
    if policy is None:
        return Check(name, "warning", "The user may not see it.", "Ask the administrator for noeviction.")
    limit, used = int(facts.get("maxmemory", "0")), int(facts.get("used_memory", "0"))
    found = f"{policy}, {used / 1e6:.1f} MB used of " + (f"{limit / 1e6:.1f} MB" if limit else "no limit")
    if policy != "noeviction":
        advice = "CONFIG SET maxmemory-policy noeviction: any other policy deletes envelopes when memory is short."
        return Check(name, "failed" if limit and policy.startswith("allkeys") else "warning", found, advice)
    if limit and used > 0.8 * limit:
        return Check(name, "warning", found, "Raise maxmemory, or archive and trim the log, before it is full.")
    return Check(name, "ok", found)


async def _features(subject: _Subject) -> Check:
    connection = subject.connection
    known = cast("list[object]", await connection.execute("COMMAND", "INFO", *FEATURES))
    has = {feature: info not in (None, []) for feature, info in zip(FEATURES, known, strict=True)}
    for command, token in TOKENS:
        docs = await connection.execute("COMMAND", "DOCS", command)
        has[f"{command} {token}"] = token in _leaves(docs)
    present = ", ".join(feature for feature, is_there in has.items() if is_there) or "none"
    absent = ", ".join(feature for feature, is_there in has.items() if not is_there) or "none"
    found = f"{connection.info}; of the optional commands it has {present}, and lacks {absent} (not needed)"
    return Check("features", "ok", found)


async def _clock(subject: _Subject) -> Check:
    before = time.time()
    server = await subject.connection.time()
    after = time.time()
    apart = server - (before + after) / 2
    way = "ahead" if apart > 0 else "behind"
    found = f"The server's clock is {abs(apart):.3f} s {way} (± {(after - before) / 2:.3f})"
    if abs(apart) <= CLOCK_WARNING:
        return Check("clock", "ok", found)
    status: Status = "failed" if abs(apart) > CLOCK_FAILED else "warning"
    return Check("clock", status, found, "Let both machines set their clocks by NTP: deadlines go by them.")


CHECKS: Final[Mapping[str, Callable[[_Subject], Awaitable[Check]]]] = {
    "authentication": _authentication,
    "write and read": _write_and_read,
    "other keys": _other_keys,
    "persistence": _persistence,
    "eviction": _eviction,
    "features": _features,
    "clock": _clock,
}


async def _port(settings: Settings, subject: _Subject | None, port: int) -> Check:
    """Who listens where tools that know no BUS_URL would look."""
    place = f"127.0.0.1:{port}"
    if subject and subject.address.is_loopback and subject.facts.get("tcp_port") == str(port):
        return Check("port", "ok", f"The server of this bus has the default port, {place}.")
    try:
        pong, info = await ask(("127.0.0.1", port), ("PING",), ("INFO", "server"))
    except NoServer:
        return Check("port", "ok", f"Nothing listens on the default port, {place}.")
    except TaskbusError as error:
        return Check("port", "warning", error.message, "It is no server for a bus: leave it alone, set BUS_URL.")
    if isinstance(info, ErrorReply):
        who = "a Redis or Valkey with a password" if info.code == "NOAUTH" else f"a Redis or Valkey ({pong})"
    else:
        who = str(replies.ServerInfo.of(replies.fields(str(info))))
    wanted = Address.parse(settings.url) if settings.url else None
    if wanted and wanted.scheme != "unix" and wanted.is_loopback and wanted.port == port:
        found = f"What answers at {place}, which BUS_URL names, is {who}."
        advice = None if subject else "It refused this bus: see the connection."
        return Check("port", "ok" if subject else "warning", found, advice)
    found = (
        f"{who[0].upper()}{who[1:]} answers at {place}, where tools look that were told of no URL, and is not the"
        " server of this bus."
    )
    advice = 'So that they do not talk to that one: `eval "$(bus env)"`, and redis-cli -u "$BUS_URL".'
    return Check("port", "warning", found, advice)


async def _config(connection: Connection, *names: str) -> dict[str, str]:
    try:
        reply = await connection.execute("CONFIG", "GET", *names)
    except TaskbusError:
        # Hosted servers and restricted users have no CONFIG. What it would say is then reported as not seen.
        return {}
    return replies.texts(reply)


def _leaves(reply: Any) -> set[str]:
    if isinstance(reply, dict):
        reply = [part for pair in cast("dict[Any, Any]", reply).items() for part in pair]
    if isinstance(reply, list):
        return {leaf for part in cast("list[Any]", reply) for leaf in _leaves(part)}
    return {replies.text(reply)}
