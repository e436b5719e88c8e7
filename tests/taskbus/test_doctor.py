"""The doctor: each check finds what it is there for, says what to do, and changes nothing."""

from __future__ import annotations

import asyncio
import time

import pytest

from taskbus import server
from taskbus.connection import Connection
from taskbus.doctor import examine
from taskbus.settings import Settings
from tests.servers import bundled_binary, free_port, running

pytestmark = pytest.mark.anyio


@pytest.fixture
def own_server():
    """A server of this test, with a TCP port as well."""
    with running(bundled_binary(), tcp=True) as server:
        yield server


@pytest.fixture
async def admin(own_server):
    """A connection that may change the server."""
    async with Connection.open(own_server.url) as connection:
        yield connection


def configured(tmp_path, url, **options):
    """Settings for this server, in a folder of this test."""
    return Settings.load(url=url, namespace="mine:", environ={}, cwd=tmp_path, **options)


async def look(settings, **options):
    """The checks by name; nothing listens on the default port unless the test says so."""
    checks = await examine(settings, **{"default_port": free_port(), **options})
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        assert check.status == "ok" or check.advice, f"{check.name} does not say what to do"
    return {check.name: check for check in checks}


async def test_an_embedded_server_has_nothing_wrong(tmp_path):
    """Every check is ok on a fresh embedded server, which the doctor starts, and no key is left behind."""
    settings = Settings.load(environ={}, cwd=tmp_path)
    try:
        checks = await look(settings)
        assert {check.status for check in checks.values()} == {"ok"}
        assert list(checks) == [
            "configuration", "connection", "authentication", "write and read", "other keys", "persistence",
            "eviction", "features", "clock", "port",
        ]  # fmt: skip
        async with Connection.open(await server.resolve(settings)) as connection:
            assert await connection.execute("DBSIZE") == 0
    finally:
        await server.down(settings.home)


async def test_every_kind_of_server_can_be_examined(server_url, tmp_path):
    """On each supported server nothing fails, and the features are named as there or not."""
    checks = await look(configured(tmp_path, server_url))
    assert "failed" not in {check.status for check in checks.values()}
    assert "FCALL" in checks["features"].found


async def test_the_configuration_shows_its_sources_and_no_password(own_server, tmp_path):
    """It says what holds and where it was said, without the password."""
    check = (await look(configured(tmp_path, "redis://:hidden@127.0.0.1:1")))["configuration"]
    assert "option --url" in check.found
    assert "mine:" in check.found
    assert "hidden" not in check.found


async def test_a_readable_file_with_a_password_is_a_warning(own_server, tmp_path):
    """A bus.toml that holds a password and that others may read is found."""
    file = tmp_path / "bus.toml"
    file.write_text(f'url = "{own_server.url}"\n')
    file.chmod(0o644)
    settings = Settings.load(environ={}, cwd=tmp_path)
    check = (await look(settings))["configuration"]
    assert check.status == "warning"
    assert f"chmod 600 {file}" in str(check.advice)
    file.chmod(0o600)
    assert (await look(settings))["configuration"].status == "ok"


async def test_without_a_connection_the_rest_is_left_out(tmp_path):
    """No server: the connection has failed, with advice, and only what needs none was looked at besides."""
    port = free_port()
    checks = await look(configured(tmp_path, f"redis://127.0.0.1:{port}"), default_port=port)
    assert list(checks) == ["configuration", "connection", "port"]
    assert checks["connection"].status == "failed"
    assert "Nothing listens" in checks["connection"].found


async def test_a_server_without_a_password_is_a_warning(tmp_path):
    """That anybody may come in is found, whether the URL gives no password or one that is not asked for."""
    with running(bundled_binary(), "--requirepass", "") as server:
        check = (await look(configured(tmp_path, f"unix://{server.socket}")))["authentication"]
    assert check.status == "warning"
    assert "without a password" in check.found


async def test_a_user_beside_an_open_door_is_a_warning(own_server, admin, tmp_path):
    """A password in the URL does not hide that the server lets others in without one."""
    await admin.execute("ACL", "SETUSER", "worker", "on", ">pw", "~*", "+@all")
    await admin.execute("ACL", "SETUSER", "default", "nopass")
    check = (await look(configured(tmp_path, f"unix://worker:pw@{own_server.socket}")))["authentication"]
    assert check.status == "warning"


async def test_an_existing_test_key_is_left_alone(own_server, admin, tmp_path):
    """A test key that is there already is neither overwritten nor removed."""
    await admin.execute("SET", "mine:test_key", "precious")
    check = (await look(configured(tmp_path, own_server.url)))["write and read"]
    assert check.status == "warning"
    assert await admin.execute("GET", "mine:test_key") == b"precious"


async def test_a_server_that_is_full_fails_the_write(own_server, admin, tmp_path):
    """The failure of one check is its finding, and the others go on."""
    await admin.execute("CONFIG", "SET", "maxmemory", "1")
    checks = await look(configured(tmp_path, own_server.url))
    assert checks["write and read"].status == "failed"
    assert "memory limit" in checks["write and read"].found
    assert checks["eviction"].status == "warning"
    assert checks["clock"].status == "ok"


async def test_keys_of_others_are_counted_and_shown(own_server, admin, tmp_path):
    """Keys outside the namespace are counted by prefix, with samples; prefixed ones are nobody's fault."""
    for key in ("mine:a", "mine:b", "shop:1", "shop:2", "mine", "mineral:1"):
        await admin.execute("SET", key, "x")
    check = (await look(configured(tmp_path, own_server.url)))["other keys"]
    assert "2 keys of mine:, 4 others" in check.found
    assert "shop: (2)" in check.found
    assert "no prefix (1)" in check.found
    assert check.status == "warning"
    await admin.execute("DEL", "mine")
    check = (await look(configured(tmp_path, own_server.url)))["other keys"]
    assert (check.status, "3 others" in check.found) == ("ok", True)


async def test_other_buses_on_the_server_are_recognized(own_server, admin, tmp_path):
    """Namespaces that share a server, as they are meant to, are named and nothing to worry about."""
    for key in ("shop:{0}:log", "shop:{0}:index", "shop:{0}:inbox:@kilo:normal", "a:b:{0}:log", "mine:{0}:log"):
        await admin.execute("SET", key, "x")
    check = (await look(configured(tmp_path, own_server.url)))["other keys"]
    assert check.status == "ok"
    assert "1 keys of mine:, 4 of other buses: shop: (3), a:b: (1); 0 others" in check.found
    await admin.execute("SET", "shop:{0}:cart", "x")
    check = (await look(configured(tmp_path, own_server.url)))["other keys"]
    assert "4 of other buses: shop: (3), a:b: (1); 1 others: shop: (1)" in check.found


async def test_two_buses_on_the_embedded_server_are_ok(tmp_path):
    """A second namespace on the embedded server is a bus as well, and no intruder."""
    settings = Settings.load(environ={}, cwd=tmp_path)
    try:
        async with Connection.open(await server.resolve(settings)) as connection:
            await connection.execute("SET", "shop:{0}:log", "x")
        check = (await look(settings))["other keys"]
        assert (check.status, "of other buses: shop: (1)" in check.found) == ("ok", True)
    finally:
        await server.down(settings.home)


async def test_many_keys_are_not_walked_for_ever(own_server, admin, tmp_path):
    """The walk over the keys ends when its time is up, and says that there are more."""
    await admin.execute("EVAL", "for n = 1, 20000 do redis.call('SET', 'other:' .. n, 1) end", 0)
    check = (await look(configured(tmp_path, own_server.url), patience=0.0))["other keys"]
    assert "there are more" in check.found
    assert "20000" not in check.found


async def test_keys_of_others_on_the_embedded_server_are_a_warning(tmp_path):
    """The embedded server belongs to buses: anything else there is worth a look."""
    settings = Settings.load(environ={}, cwd=tmp_path)
    try:
        async with Connection.open(await server.resolve(settings)) as connection:
            await connection.execute("SET", "shop:1", "x")
        assert (await look(settings))["other keys"].status == "warning"
    finally:
        await server.down(settings.home)


@pytest.mark.parametrize(
    ("config", "declared", "status"),
    [
        (("appendonly", "no"), "everysec", "failed"),
        (("appendfsync", "no"), "everysec", "failed"),
        (("appendfsync", "everysec"), "everysec", "ok"),
        (("appendfsync", "everysec"), "always", "failed"),
        (("appendfsync", "always"), "always", "ok"),
        (("appendfsync", "always"), "everysec", "ok"),
    ],
)
async def test_persistence_is_held_against_what_was_declared(admin, tmp_path, config, declared, status):
    """A server that keeps less than was declared has failed; one that keeps more is ok."""
    await admin.execute("CONFIG", "SET", *config)
    check = (await look(configured(tmp_path, admin.address.url(), durability=declared)))["persistence"]
    assert check.status == status


@pytest.mark.parametrize(
    ("policy", "limit", "status"),
    [
        ("noeviction", "0", "ok"),
        ("noeviction", "1gb", "ok"),
        ("allkeys-lru", "1gb", "failed"),
        ("allkeys-lru", "0", "warning"),
        ("volatile-ttl", "1gb", "warning"),
    ],
)
async def test_a_policy_that_deletes_envelopes_is_found(admin, tmp_path, policy, limit, status):
    """Any policy but noeviction is at least a warning, and fails where it can strike."""
    await admin.execute("CONFIG", "SET", "maxmemory-policy", policy, "maxmemory", limit)
    check = (await look(configured(tmp_path, admin.address.url())))["eviction"]
    assert check.status == status
    assert policy in check.found


async def test_what_a_user_may_not_see_is_said(own_server, admin, tmp_path):
    """A restricted user gets warnings that name what could not be looked at, and no failure."""
    rules = ("on", ">pw", "~mine:*", "+@all", "-info", "-config", "-scan", "-command", "-time")
    await admin.execute("ACL", "SETUSER", "worker", *rules)
    checks = await look(configured(tmp_path, f"unix://worker:pw@{own_server.socket}"))
    unseen = {name for name, check in checks.items() if check.status == "warning"}
    assert unseen == {"other keys", "persistence", "eviction", "features", "clock"}
    assert checks["write and read"].status == "ok"
    await admin.execute("ACL", "SETUSER", "worker", "+info")
    checks = await look(configured(tmp_path, f"unix://worker:pw@{own_server.socket}"))
    assert "the user may not see" in checks["persistence"].found


@pytest.mark.parametrize(("apart", "status"), [(0.0, "ok"), (5.0, "warning"), (-100.0, "failed")])
async def test_clocks_that_differ_are_found(tmp_path, apart, status):
    """A server whose clock is seconds away is a warning, half a minute away a failure."""

    def answer(heard):
        if b"PING" in heard:
            return b"+PONG\r\n"
        if b"INFO" in heard and b"COMMAND" not in heard:
            return b"$21\r\nredis_version:7.0.0\r\n\r\n"
        if b"TIME" in heard:
            seconds, micros = divmod(int((time.time() + apart) * 1e6), 1_000_000)
            return f"*2\r\n$10\r\n{seconds}\r\n$6\r\n{micros:06d}\r\n".encode()
        return b"-ERR not here\r\n"

    async def talk(reader, writer):
        while heard := await reader.read(4096):
            writer.write(answer(heard))
        writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    checks = await look(configured(tmp_path, f"redis://127.0.0.1:{port}"))
    listener.close()
    await asyncio.sleep(0)
    assert checks["clock"].status == status
    assert f"{abs(apart):.0f}." in checks["clock"].found


async def test_a_free_default_port_is_ok(own_server, tmp_path):
    """Nobody on the default port cannot be mistaken for the bus."""
    assert "Nothing listens" in (await look(configured(tmp_path, own_server.url)))["port"].found


async def test_the_own_server_on_the_default_port_is_ok(own_server, tmp_path):
    """The bus's own server is recognized there, by its socket as well as by its port."""
    for url in (own_server.url, own_server.tcp_url):
        check = (await look(configured(tmp_path, url), default_port=own_server.port))["port"]
        assert (check.status, "server of this bus" in check.found) == ("ok", True)


@pytest.mark.parametrize(("options", "who"), [((), "with a password"), (("--requirepass", ""), "Valkey 9")])
async def test_another_server_on_the_default_port_is_a_warning(own_server, tmp_path, options, who):
    """Another project's server on the default port is named, as far as it says who it is."""
    with running(bundled_binary(), *options, tcp=True) as other:
        check = (await look(configured(tmp_path, own_server.url), default_port=other.port))["port"]
    assert check.status == "warning"
    assert who in check.found
    assert "told of no URL" in check.found, "why that port is looked at"
    assert "bus env" in str(check.advice)


async def test_another_program_on_the_default_port_is_a_warning(own_server, tmp_path):
    """What answers there and is no Redis is said, too."""

    async def talk(reader, writer):
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        check = (await look(configured(tmp_path, own_server.url), default_port=port))["port"]
    assert check.status == "warning"
    assert "HTTP/1.1 400" in check.found


async def test_the_server_that_refused_us_is_not_called_another_project(own_server, tmp_path):
    """When the URL's own port answers and refuses, the port check says who is there."""
    url = f"redis://:wrong@127.0.0.1:{own_server.port}"
    checks = await look(configured(tmp_path, url), default_port=own_server.port)
    assert checks["connection"].status == "failed"
    assert "which BUS_URL names" in checks["port"].found


async def test_the_declared_durability_of_the_embedded_server_is_its_own(tmp_path):
    """A server that was started as `always` and is not so any more has failed its declaration."""
    home = tmp_path / "home"
    chosen = Settings.load(home=home, environ={}, cwd=tmp_path)
    running = await server.up(home, durability="always")
    try:
        async with Connection.open(running.url) as connection:
            await connection.execute("CONFIG", "SET", "appendfsync", "everysec")
        checks = {check.name: check for check in await examine(chosen)}
        assert checks["persistence"].status == "failed"
        assert "always" in checks["persistence"].found
    finally:
        await server.down(home)
