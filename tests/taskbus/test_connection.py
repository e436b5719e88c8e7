"""The connection: scripts and reads, what is lost or cancelled, and each way to be refused."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager

import pytest

from taskbus import errors
from taskbus.cli.options import exit_code
from taskbus.connection import LINKS, Connection, Script
from tests.proxy import losing_replies
from tests.servers import ENCODED, bundled_binary, end, free_port, running, start

pytestmark = pytest.mark.anyio

ADD = Script("return redis.call('XADD', KEYS[1], '*', 'text', ARGV[1])")
ONCE = Script("redis.call('SADD', KEYS[1], ARGV[1]); return redis.call('INCR', KEYS[2])")


@pytest.fixture(params=["connection", "fake_connection"])
def either(request):
    """A connection to a real server, then one around an injected fake."""
    return request.getfixturevalue(request.param)


@asynccontextmanager
async def pretending(answer, *, context=None):
    """A TCP server that answers each thing it hears with `answer(heard)`: None says nothing, b"" hangs up."""
    talks = set()

    async def talk(reader, writer):
        talks.add(asyncio.current_task())
        try:
            while heard := await reader.read(4096):
                said = answer(heard)
                if said is None:
                    continue
                if not said:
                    break
                writer.write(said)
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def refusal(url, *, timeout=2.0):
    """The error with which a connection to `url` is refused."""
    with pytest.raises(errors.TaskbusError) as caught:
        async with Connection.open(url, timeout=timeout):
            pass
    assert caught.value.advice, "every refusal says what to do"
    return caught.value


# --- what it does -------------------------------------------------------------------------------------------


async def test_it_says_who_answers(server_url):
    """Product and version are known after opening."""
    async with Connection.open(server_url) as connection:
        assert connection.info.product in ("Valkey", "Redis")
        assert connection.info.numbers >= (7, 0)
        assert (connection.info.mode, connection.info.role, connection.info.tls) == (
            "standalone",
            "master",
            False,
        )


async def test_a_script_is_sent_once_and_then_called_by_its_hash(connection, namespace):
    """The first call of a script the server does not know sends its source, later ones only its hash."""
    script = Script(f"return '{namespace}'")
    assert await connection.execute("SCRIPT", "EXISTS", script.sha) == [0]
    assert await connection.run(script, [], []) == namespace.encode()
    assert await connection.execute("SCRIPT", "EXISTS", script.sha) == [1]
    assert await connection.run(script, [], []) == namespace.encode()


async def test_a_script_survives_that_the_server_forgets_it(connection, namespace):
    """After SCRIPT FLUSH, as after a restart, the same call works again."""
    await connection.run(ADD, [f"{namespace}s"], [b"1"])
    await connection.execute("SCRIPT", "FLUSH")
    await connection.run(ADD, [f"{namespace}s"], [b"2"])
    assert len(await connection.range(f"{namespace}s")) == 2


async def test_streams_are_read_in_both_directions(either, namespace):
    """Entries come as ID and fields, bytes unchanged, bounded and limited as asked."""
    key = f"{namespace}s"
    ids = [(await either.run(ADD, [key], [b"\x00\xff%d" % number])).decode() for number in range(5)]
    entries = await either.range(key)
    assert entries == [(id, {b"text": b"\x00\xff%d" % number}) for number, id in enumerate(ids)]
    assert await either.range(key, f"({ids[1]}", ids[3]) == entries[2:4]
    assert await either.range(key, count=2) == entries[:2]
    assert await either.revrange(key, count=2) == entries[:-3:-1]
    assert await either.range(f"{namespace}none") == []


async def test_the_last_id_outlives_its_entry(either, namespace):
    """The last ID of a stream is known though the entry is deleted, and is 0-0 where there is no stream."""
    key = f"{namespace}s"
    assert await either.last_id(key) == "0-0"
    id = await either.run(ADD, [key], [b"x"])
    await either.execute("XDEL", key, id)
    assert await either.last_id(key) == id.decode()
    assert (await either.info_stream(key))["length"] == 0


async def test_hashes_and_keys_are_read_as_text(either, namespace):
    """A hash comes as a dict of text, empty where there is none; a scan finds each key of its pattern."""
    await either.execute("HSET", f"{namespace}h", "one", 1, "zwei", "ä")
    assert await either.hash(f"{namespace}h") == {"one": "1", "zwei": "ä"}
    assert await either.hash(f"{namespace}none") == {}
    for number in range(30):
        await either.execute("SET", f"{namespace}k{number}", "x")
    found = {key async for key in either.scan(f"{namespace}k*", count=10)}
    assert found == {f"{namespace}k{number}" for number in range(30)}


async def test_the_clock_of_the_server_goes_forward(either):
    """The server's time is in seconds since 1970, with fractions."""
    first = await either.time()
    assert first > 1_700_000_000
    assert await either.time() >= first


async def test_more_calls_at_once_than_connections(connection, namespace):
    """150 calls at once all succeed, on no more connections than allowed."""
    key = f"{namespace}s"
    ids = await asyncio.gather(*(connection.run(ADD, [key], [f"{number}"]) for number in range(150)))
    assert len(set(ids)) == 150
    clients = await connection.execute("CLIENT", "LIST")
    assert clients.count(b"\n") <= LINKS + 5


# --- waiting ------------------------------------------------------------------------------------------------


async def test_a_wait_ends_with_the_first_entry(either, namespace):
    """A reader that waits is woken by an entry that is added meanwhile, long before its timeout."""
    key = f"{namespace}s"
    waiter = asyncio.create_task(either.wait({key: "0"}, timeout=60))
    await asyncio.sleep(0)
    id = (await either.run(ADD, [key], [b"x"])).decode()
    assert await waiter == {key: [(id, {b"text": b"x"})]}


async def test_a_wait_without_entries_is_empty(either, namespace):
    """At the end of the timeout the answer is empty, also with several streams."""
    assert await either.wait({f"{namespace}a": "0", f"{namespace}b": "$"}, timeout=0.02) == {}


async def test_a_wait_of_no_time_only_looks(either, namespace):
    """A timeout of zero reads what is there and never blocks, count limits it per stream."""
    key = f"{namespace}s"
    assert await either.wait({key: "0"}, timeout=0) == {}
    for _ in range(3):
        await either.run(ADD, [key], [b"x"])
    found = await either.wait({key: "0"}, timeout=0, count=2)
    assert len(found[key]) == 2


async def test_a_cancelled_wait_leaves_no_reply_behind(connection, namespace):
    """After a wait was cancelled, the next ones get their own answers, and no late ones."""
    key = f"{namespace}s"
    for number in range(20):
        waiter = asyncio.create_task(connection.wait({key: "$"}, timeout=60))
        await asyncio.sleep(0.001 * (number % 4))
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        id = (await connection.run(ADD, [key], [f"{number}"])).decode()
        (entry,) = await connection.revrange(key, count=1)
        assert entry == (id, {b"text": f"{number}".encode()})
        assert await connection.wait({f"{namespace}other": "0"}, timeout=0) == {}


async def test_cancelled_calls_give_no_reply_to_another_caller(connection):
    """Whatever is cancelled in the middle, every other call gets the answer to its own question."""

    async def echo(number):
        assert await connection.execute("ECHO", f"{number}") == f"{number}".encode()

    for round in range(30):
        tasks = [asyncio.create_task(echo(number)) for number in range(round * 10, round * 10 + 10)]
        for _ in range(round % 5):
            await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in done)


# --- losing the server --------------------------------------------------------------------------------------


async def test_a_handshake_that_was_cancelled_gives_no_reply_to_another_caller():
    """A call that is cancelled while its connection logs in leaves no login's reply for the next call."""
    echo = Script("return ARGV[1]")
    with running(bundled_binary()) as server:
        async with Connection.open(server.url, timeout=20) as connection:
            assert await connection.run(echo, [], ["first"]) == b"first"
            server.process.send_signal(signal.SIGSTOP)
            hanging = [asyncio.create_task(connection.run(echo, [], ["lost"])) for _ in range(4)]
            await asyncio.sleep(0.2)
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)
            server.process.send_signal(signal.SIGCONT)
            words = [b"%d" % number for number in range(8)]
            assert await asyncio.gather(*(connection.run(echo, [], [word]) for word in words)) == words


async def test_lost_replies_are_asked_for_again(valkey_server, namespace, tmp_path):
    """With every third reply lost, each script call still gets an answer, and its effect is there."""
    keys = [f"{namespace}set", f"{namespace}runs"]
    async with losing_replies(tmp_path / "p", valkey_server.socket, every=3) as proxy:
        async with Connection.open(proxy.url(valkey_server.url)) as connection:
            for number in range(60):
                await connection.run(ONCE, keys, [number])
            proxy.every = 0
            assert await connection.execute("SCARD", keys[0]) == 60
            # Each loss but those of EVALSHA calls that found no script has run the script once more.
            assert int(await connection.execute("GET", keys[1])) in range(60 + proxy.dropped - 1, 61 + proxy.dropped)
        assert proxy.dropped >= 25


async def test_execute_is_never_sent_twice(valkey_server, namespace, tmp_path):
    """A plain command whose reply was lost raises, and has run once."""
    async with (
        losing_replies(tmp_path / "p", valkey_server.socket, every=1) as proxy,
        Connection.open(proxy.url(valkey_server.url)) as connection,
    ):
        with pytest.raises(errors.NoServer):
            await connection.execute("INCR", f"{namespace}n")
        proxy.every = 0
        assert await connection.execute("GET", f"{namespace}n") == b"1"


async def test_a_restart_between_two_calls_is_not_noticed(tmp_path_factory, namespace):
    """Idle connections that a restart has closed are replaced, for scripts and plain commands."""
    with running(bundled_binary()) as server:
        async with Connection.open(server.url) as connection:
            await connection.run(ADD, [f"{namespace}s"], [b"1"])
            end(server)
            again = start(bundled_binary(), server.folder)
            try:
                await asyncio.sleep(0.01)
                assert await connection.execute("EXISTS", f"{namespace}s") == 1
                await connection.run(ADD, [f"{namespace}s"], [b"2"])
                assert len((await connection.wait({f"{namespace}s": "0"}, timeout=1))[f"{namespace}s"]) == 2
            finally:
                end(again)


async def test_a_dead_server_ends_calls_in_bounded_time(namespace):
    """With the server gone, a call fails with NoServer within its timeout, and a wait at once."""
    with running(bundled_binary()) as server:
        async with Connection.open(server.url, timeout=0.3) as connection:
            await connection.run(ADD, [f"{namespace}s"], [b"1"])
            waiter = asyncio.create_task(connection.wait({f"{namespace}s": "$"}, timeout=60))
            await asyncio.sleep(0.05)
            end(server)
            with pytest.raises(errors.NoServer):
                await waiter
            with pytest.raises(errors.NoServer, match="There is no socket"):
                await connection.run(ADD, [f"{namespace}s"], [b"2"])
            with pytest.raises(errors.NoServer):
                await connection.execute("PING")


async def test_a_server_that_hangs_ends_calls_with_timed_out(namespace):
    """A server that accepts and does not answer any more raises TimedOut, also for a wait (exit code 6)."""
    answers = iter([b"+PONG\r\n", b"$20\r\nredis_version:7.0.0\n\r\n"])
    async with (
        pretending(lambda heard: next(answers, None)) as port,
        Connection.open(f"redis://127.0.0.1:{port}", timeout=0.2) as connection,
    ):
        with pytest.raises(errors.TimedOut) as caught:
            await connection.run(ADD, ["s"], [b"1"])
        assert exit_code(caught.value) == 6
        with pytest.raises(errors.TimedOut):
            await connection.wait({"s": "0"}, timeout=0.1)


# --- being refused ------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_refused(valkey_server):
    """A wrong password says so, and what to correct (exit code 5)."""
    error = await refusal(f"unix://:wrong@{valkey_server.socket}")
    assert isinstance(error, errors.WrongPassword)
    assert "refused the user or the password" in error.message
    assert exit_code(error) == 5


async def test_a_missing_password_is_refused(valkey_server):
    """No password where one is needed says so, and where to put it."""
    error = await refusal(f"unix://{valkey_server.socket}")
    assert isinstance(error, errors.WrongPassword)
    assert "none was given" in error.message


async def test_a_password_that_is_not_wanted_is_refused():
    """A password for a server without one says that it is to be left out."""
    with running(bundled_binary(), "--requirepass", "") as server:
        error = await refusal(server.url)
    assert isinstance(error, errors.WrongPassword)
    assert "has no password" in error.message


async def test_a_wrong_user_over_tcp_is_refused_at_once():
    """A user that does not exist is refused without retries."""
    with running(bundled_binary(), tcp=True) as server:
        error = await refusal(f"redis://nobody:x@127.0.0.1:{server.port}")
        assert isinstance(error, errors.WrongPassword)
        async with Connection.open(server.tcp_url) as connection:
            assert connection.info.product == "Valkey"


async def test_a_password_that_changes_meanwhile_is_noticed_at_once(namespace):
    """A connection that must authenticate anew with an old password raises, instead of trying on."""
    with running(bundled_binary()) as server:
        async with (
            Connection.open(server.url, timeout=30) as connection,
            Connection.open(server.url) as admin,
        ):
            await admin.execute("CONFIG", "SET", "requirepass", "another")
            await admin.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            with pytest.raises(errors.WrongPassword):
                await connection.run(ADD, [f"{namespace}s"], [b"1"])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_nothing_on_the_port_is_refused(host):
    """A port where nothing listens says so, for one address and for a name with several."""
    error = await refusal(f"redis://{host}:{free_port()}")
    assert isinstance(error, errors.NoServer)
    assert "Nothing listens" in error.message
    assert exit_code(error) == 5


async def test_no_socket_file_is_refused(tmp_path):
    """A path without a socket says that there is none."""
    error = await refusal(f"unix://{tmp_path}/none.sock")
    assert isinstance(error, errors.NoServer)
    assert "no socket" in error.message


async def test_a_dead_socket_file_is_refused(tmp_path):
    """A socket file that a dead server has left says that nothing listens."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    error = await refusal(f"unix://{tmp_path}/s")
    assert isinstance(error, errors.NoServer)
    assert "Nothing listens" in error.message


async def test_a_socket_path_that_is_too_long_is_refused():
    """A path beyond the system's limit is a mistake of the configuration (exit code 2)."""
    error = await refusal(f"unix:///tmp/{'x' * 200}.sock")
    assert isinstance(error, errors.ConfigurationError)
    assert "too long" in error.message
    assert exit_code(error) == 2


async def test_an_unknown_host_is_refused():
    """A name that no name service knows says so; `.invalid` is reserved for that."""
    error = await refusal("redis://no-such-host.invalid:6379")
    assert isinstance(error, errors.NoServer)
    assert "no-such-host.invalid" in error.message


@pytest.mark.parametrize(
    "answer",
    [
        lambda heard: b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        lambda heard: b"SSH-2.0-OpenSSH_9.2\r\n",
        lambda heard: b"\x00\xff\x01garbage\r\n",
        lambda heard: b"+PONG\r\n" if b"PING" in heard else b"$5\r\nhello\r\n",
    ],
    ids=["http", "ssh", "bytes", "no version"],
)
async def test_what_is_not_redis_is_refused(answer):
    """Another program on the port is recognized as such (exit code 5)."""
    async with pretending(answer) as port:
        error = await refusal(f"redis://127.0.0.1:{port}")
    assert isinstance(error, errors.NotAServer)
    assert "is not Redis or Valkey" in error.message
    assert exit_code(error) == 5


@pytest.mark.parametrize("login", ["", ":password@"], ids=["no password", "password"])
async def test_a_silent_port_is_refused_in_time(login):
    """A port that accepts and says nothing is given up after the timeout."""
    async with pretending(lambda heard: None) as port:
        error = await refusal(f"redis://{login}127.0.0.1:{port}", timeout=0.2)
    assert isinstance(error, errors.NotAServer)
    assert "said nothing in 0.2 s" in error.message


async def test_a_port_that_hangs_up_is_refused():
    """A port that closes the connection at the first word says so, and thinks of TLS."""
    async with pretending(lambda heard: b"") as port:
        error = await refusal(f"redis://127.0.0.1:{port}")
    assert isinstance(error, errors.NoServer)
    assert "rediss://" in str(error.advice)


def old_redis(version):
    """Answers like a Redis of that version, as far as it is asked."""
    info = f"# Server\r\nredis_version:{version}\r\nredis_mode:standalone\r\nrole:master\r\n"
    return lambda heard: (
        b"+PONG\r\n" if b"PING" in heard else f"${len(info)}\r\n{info}\r\n".encode() if b"INFO" in heard else b"+OK\r\n"
    )


async def test_a_redis_that_is_too_old_is_refused():
    """Redis 6.2 is refused with its version and the floor (exit code 5)."""
    async with pretending(old_redis("6.2.14")) as port:
        error = await refusal(f"redis://127.0.0.1:{port}")
    assert isinstance(error, errors.TooOld)
    assert "Redis 6.2.14" in error.message
    assert "Redis 7.0 or newer" in error.message
    assert exit_code(error) == 5


async def test_the_floor_itself_is_accepted():
    """Redis 7.0.0 is new enough."""
    async with (
        pretending(old_redis("7.0.0")) as port,
        Connection.open(f"redis://127.0.0.1:{port}") as connection,
    ):
        assert str(connection.info) == "Redis 7.0.0"


async def test_a_sentinel_is_refused():
    """A Sentinel stores nothing, and its error says how to find the primary."""
    info = b"# Server\r\nredis_version:7.2.0\r\nredis_mode:sentinel\r\n"
    async with pretending(lambda h: b"+PONG\r\n" if b"PING" in h else b"$%d\r\n%b\r\n" % (len(info), info)) as port:
        error = await refusal(f"redis://127.0.0.1:{port}")
    assert isinstance(error, errors.NotAServer)
    assert "Sentinel" in error.message


@pytest.mark.parametrize(
    ("reply", "kind", "part"),
    [
        (b"-DENIED Redis is running in protected mode\r\n", errors.NoPermission, "protected mode"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", errors.ServerFault, "still loading"),
        (b"-MASTERDOWN Link with MASTER is down\r\n", errors.ServerFault, "lost its primary"),
        (b"-ERR max number of clients reached\r\n", errors.ServerFault, "limit of clients"),
        (b"-ERR something new\r\n", errors.ServerFault, "something new"),
        (b"-NEWCODE and its text\r\n", errors.ServerFault, "NEWCODE and its text"),
    ],
)
async def test_error_replies_at_the_door_are_understood(reply, kind, part):
    """What a server answers instead of PONG becomes the error that fits it (exit code 5)."""
    async with pretending(lambda heard: reply) as port:
        error = await refusal(f"redis://127.0.0.1:{port}")
    assert type(error) is kind
    assert part in error.message
    assert exit_code(error) == 5


async def test_a_database_that_does_not_exist_is_refused(valkey_server):
    """A database number beyond the server's is a mistake in the URL (exit code 2)."""
    error = await refusal(f"{valkey_server.url}?db=9999")
    assert isinstance(error, errors.ConfigurationError)
    assert exit_code(error) == 2


async def test_a_replica_is_refused(valkey_server):
    """A replica is refused at the door, and a server that becomes one meanwhile at the first write."""
    with running(bundled_binary(), tcp=True) as primary, running(bundled_binary()) as replica:
        async with Connection.open(replica.url) as connection:
            await connection.execute("CONFIG", "SET", "masterauth", "a test's secret / with # signs")
            await connection.execute("REPLICAOF", "127.0.0.1", primary.port)
            with pytest.raises(errors.ReadOnlyServer, match="read-only replica") as caught:
                await connection.run(ADD, ["s"], [b"x"])
            assert exit_code(caught.value) == 5
        error = await refusal(replica.url)
    assert isinstance(error, errors.ReadOnlyServer)
    assert "primary" in str(error.advice)


async def test_a_full_server_refuses_writes_and_still_answers_reads(namespace):
    """At the memory limit a script's write is OutOfMemory (exit code 5), and nothing was written."""
    with running(bundled_binary()) as server:
        async with Connection.open(server.url) as connection:
            await connection.run(ADD, [f"{namespace}s"], [b"x"])
            await connection.execute("CONFIG", "SET", "maxmemory", "1mb")
            with pytest.raises(errors.OutOfMemory) as caught:
                await connection.run(ADD, [f"{namespace}s"], [b"x" * 2_000_000])
            assert exit_code(caught.value) == 5
            assert "nothing was written" in caught.value.message
            assert len(await connection.range(f"{namespace}s")) == 1


async def test_a_script_without_permission_is_told_what_is_missing(server_url, namespace):
    """A command inside a script that the user may not run is NoPermission too, on each server in its own words."""
    user = namespace.rstrip(":")
    async with Connection.open(server_url) as connection:
        await connection.execute("ACL", "SETUSER", user, "on", ">pw", f"~{namespace}*", "+@all", "-xadd")
        try:
            async with Connection.open(f"unix://{user}:pw@{connection.address.path}") as limited:
                with pytest.raises(errors.NoPermission, match=r"(?i)permi|xadd"):
                    await limited.run(ADD, [f"{namespace}s"], [b"x"])
        finally:
            await connection.execute("ACL", "DELUSER", user)


async def test_a_user_without_permission_is_told_what_is_missing(connection, valkey_server, namespace):
    """A command or a key that the user may not touch is NoPermission, by name (exit code 5)."""
    user = namespace.rstrip(":")
    rules = ("on", ">pw", f"~{namespace}*", "+@all", "-xrange", "-info")
    await connection.execute("ACL", "SETUSER", user, *rules)
    try:
        async with Connection.open(f"unix://{user}:pw@{valkey_server.socket}") as limited:
            assert limited.info.product == "Valkey", "known by HELLO, though INFO is not permitted"
            await limited.run(ADD, [f"{namespace}s"], [b"x"])
            with pytest.raises(errors.NoPermission, match="xrange") as caught:
                await limited.range(f"{namespace}s")
            assert exit_code(caught.value) == 5
            with pytest.raises(errors.NoPermission, match="key"):
                await limited.execute("GET", "somebody_elses:key")
            with pytest.raises(errors.NoPermission):
                await limited.run(ADD, ["somebody_elses:stream"], [b"x"])
    finally:
        await connection.execute("ACL", "DELUSER", user)


async def failed_to_save(connection):
    """Whether the server's last snapshot has failed, and it knows."""
    return b"rdb_last_bgsave_status:err" in await connection.execute("INFO", "persistence")


async def test_a_server_that_cannot_save_refuses_writes(namespace):
    """MISCONF, when the last snapshot has failed, is a server that refuses writes."""
    with running(bundled_binary(), "--appendonly", "no", "--save", "3600 1") as server:
        async with Connection.open(server.url) as connection:
            await connection.execute("SET", f"{namespace}x", "1")
            # A folder in the place of the snapshot's file: no rename over it can succeed, not even root's.
            (server.folder / "dump.rdb").mkdir()
            await connection.execute("BGSAVE")
            async with asyncio.timeout(20):
                while not await failed_to_save(connection):  # noqa: ASYNC110 - the server tells nobody
                    await asyncio.sleep(0.01)
            with pytest.raises(errors.ReadOnlyServer, match="could not save"):
                await connection.run(ADD, [f"{namespace}s"], [b"x"])
            # It would refuse to end without saving.
            (server.folder / "dump.rdb").rmdir()


async def test_a_cluster_node_without_its_slots_is_refused():
    """A cluster that is not complete says that it is down, and another node's slot which node has it."""
    ports = ("--port", str(free_port()), "--cluster-port", str(free_port()))
    with running(bundled_binary(), "--cluster-enabled", "yes", *ports) as server:
        async with Connection.open(server.url) as connection:
            assert connection.info.mode == "cluster"
            with pytest.raises(errors.ServerFault, match="is down"):
                await connection.run(ADD, ["s"], [b"x"])


async def test_moved_names_the_other_node():
    """The error of a cluster node that has not the key names the node that has it."""
    answers = iter([b"+PONG\r\n", b"$20\r\nredis_version:7.0.0\n\r\n"])
    async with (
        pretending(lambda heard: next(answers, b"-MOVED 1234 10.0.0.7:6380\r\n")) as port,
        Connection.open(f"redis://127.0.0.1:{port}") as connection,
    ):
        with pytest.raises(errors.ServerFault, match=r"1234 10\.0\.0\.7:6380"):
            await connection.run(ADD, ["s"], [b"x"])


async def test_a_key_of_another_type_is_explained(connection, namespace):
    """A key that holds another type than the bus writes says that somebody else writes here."""
    await connection.execute("SET", f"{namespace}s", "mine")
    with pytest.raises(errors.ServerFault, match="another type") as caught:
        await connection.run(ADD, [f"{namespace}s"], [b"x"])
    assert "another namespace" in str(caught.value.advice)


# --- TLS ----------------------------------------------------------------------------------------------------


async def test_a_server_without_tls_is_recognized(valkey_server):
    """rediss:// on a port without TLS says so, whatever the port answers."""
    with running(bundled_binary(), tcp=True) as server:
        error = await refusal(f"rediss://:{ENCODED}@127.0.0.1:{server.port}", timeout=0.5)
    assert isinstance(error, errors.Unavailable)
    assert "TLS" in f"{error.message} {error.advice}"
    assert exit_code(error) == 5


async def test_a_certificate_file_that_is_missing_is_refused(tmp_path):
    """A file that the URL names and that is not there is a mistake of the configuration (exit code 2)."""
    async with pretending(lambda heard: None) as port:
        error = await refusal(f"rediss://127.0.0.1:{port}?ssl_ca_certs={tmp_path}/none.pem")
    assert isinstance(error, errors.ConfigurationError)
    assert "ssl_ca_certs" in str(error.advice)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_a_certificate_that_nobody_signed_is_refused_and_can_be_trusted_by_name(tmp_path):
    """A self-signed certificate is refused with the way to trust it, and that way works."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
    alias = ["-addext", "subjectAltName=DNS:localhost"]
    await asyncio.to_thread(subprocess.run, [*command, *files, *alias], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    async with pretending(old_redis("7.2.0"), context=context) as port:
        error = await refusal(f"rediss://localhost:{port}")
        assert type(error) is errors.Unavailable
        assert "self-signed certificate" in error.message
        assert "ssl_ca_certs" in str(error.advice)
        assert exit_code(error) == 5
        async with Connection.open(f"rediss://localhost:{port}?ssl_ca_certs={tmp_path}/cert.pem") as connection:
            assert connection.info.tls
        async with Connection.open(f"rediss://localhost:{port}?ssl_cert_reqs=none&ssl_check_hostname=false"):
            pass
