"""`bus up`, `down`, `doctor`, `env` and `init`, as a user types them."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import tomllib
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.scenarios.terminal import on_terminal, uncoloured
from tests.servers import bundled_binary, free_port, running


def mode(path):
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def bus(run_bus_embedded):
    """`bus` without any server named."""
    return run_bus_embedded


def test_up_prints_the_url_and_says_what_it_did(bus):
    """The URL is all of stdout, what happened is on stderr, and a second up finds the same server."""
    first = bus("up")
    assert first.code == 0
    assert first.stdout.startswith("unix://:")
    assert first.stdout.count("\n") == 1
    assert "Started Valkey" in first.stderr
    second = bus("up")
    assert second.stdout == first.stdout
    assert "Found running" in second.stderr


def test_up_with_json_tells_everything(bus, tmp_path):
    """--json gives one object with what a program needs."""
    up = bus("up", "--durability", "always", "--json").json()
    assert up["started"] is True
    assert up["durability"] == "always"
    assert up["home"] == str(tmp_path / ".bus")
    assert Path(up["socket"]).is_socket()
    assert bus("up", "--json").json() == {**up, "started": False}


def test_down_ends_the_server_and_is_content_without_one(bus):
    """Down ends what up started; again, and in a fresh folder, it is done at once."""
    assert bus("down").code == 0
    pid = bus("up", "--json").json()["pid"]
    assert bus("down", "--json").json() == {"ended": True, "pid": pid}
    assert bus("down", "--json").json() == {"ended": False, "pid": None}


def test_five_ups_at_once_end_with_one_server(bus):
    """Five `bus up` typed at once print the same URL, and one of them started the server."""
    racers = [bus.start("up") for _ in range(5)]
    answers = [racer.communicate(timeout=60) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 5
    assert len({stdout for stdout, _ in answers}) == 1
    assert sum("Started" in stderr for _, stderr in answers) == 1


def test_doctor_finds_nothing_wrong_with_a_fresh_bus(bus):
    """On an embedded server all is ok but, perhaps, what else listens on this machine's default port."""
    done = bus("doctor", "--json")
    assert done.code == 0
    checks = {check["name"]: check for check in done.json()["checks"]}
    assert {check["status"] for name, check in checks.items() if name != "port"} == {"ok"}
    shown = bus("doctor")
    assert shown.code == 0
    assert "✓ ok" in shown.stdout
    assert "write and read" in shown.stdout
    assert "\x1b" not in shown.stdout, "NO_COLOR is set"


@pytest.mark.parametrize("columns", [60, 120])
def test_doctor_breaks_its_lines_between_words(bus, columns):
    """On a terminal no line is longer than that, and no word is cut in two."""
    lines = uncoloured(on_terminal(bus, "doctor", columns=columns)).splitlines()
    words = {word for line in lines for word in line.split()}
    assert {"configuration", "everysec", "namespace"} <= {word.rstrip(",;.") for word in words}
    longest = max(lines, key=len)
    assert len(longest) <= columns or len(longest.split()) == 1, "only a path may be longer"


def test_doctor_ends_with_1_on_a_failure_and_on_a_warning_only_when_strict(bus, tmp_path):
    """A failed check is exit code 1; a warning is one with --strict."""
    with running(bundled_binary(), "--requirepass", "") as server:
        env = {"BUS_URL": f"unix://{server.socket}"}
        assert bus("doctor", env=env).code == 0
        strict = bus("doctor", "--strict", "--json", env=env)
        assert strict.code == 1
        assert strict.json()["status"] == "warning"
        assert bus("doctor", env={**env, "BUS_DURABILITY": "always"}).code == 1


def test_doctor_shows_no_control_characters_of_foreign_keys(bus):
    """A key that holds an escape sequence cannot steer the terminal."""
    with running(bundled_binary(), "--requirepass", "") as server:
        script = "import redis, sys; redis.Redis(unix_socket_path=sys.argv[1]).set('\\x1b[2Jkey', 1)"
        subprocess.run([sys.executable, "-c", script, str(server.socket)], check=True)
        done = bus("doctor", env={"BUS_URL": f"unix://{server.socket}"})
    assert "\x1b" not in done.stdout
    assert "key" in done.stdout


@pytest.mark.parametrize("command", ["doctor", "up", "env"])
def test_no_server_is_exit_code_5(bus, command):
    """Where the named server is not there, `up` and `doctor` end with 5; `env` only names it."""
    url = f"redis://:secret@127.0.0.1:{free_port()}"
    done = bus(command, env={"BUS_URL": url})
    assert done.code == (0 if command == "env" else 5)
    if command != "env":
        assert "Nothing listens" in done.stdout + done.stderr
        assert "secret" not in done.stdout + done.stderr


@pytest.fixture
def web_server():
    """The URL of a port where an HTTP server answers."""

    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            """Say nothing on stderr."""

    with HTTPServer(("127.0.0.1", 0), Quiet) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"redis://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


def test_an_http_server_on_the_port_is_exit_code_5(bus, web_server):
    """The doctor says that what answers there is no Redis."""
    done = bus("doctor", "--json", env={"BUS_URL": web_server})
    assert done.code == 5
    checks = {check["name"]: check for check in done.json()["checks"]}
    assert "is not Redis or Valkey" in checks["connection"]["found"]


def test_a_wrong_password_is_exit_code_5(bus, valkey_server):
    """A refused password ends with 5 and says where the right one goes."""
    done = bus("up", env={"BUS_URL": f"unix://:wrong@{valkey_server.socket}"})
    assert done.code == 5
    assert "refused the user or the password" in done.stderr
    assert "redis://user:password@host" in done.stderr
    assert "wrong" not in done.stderr


def test_an_error_with_json_is_one_object_on_stdout(bus):
    """A program reads error, message and advice from stdout."""
    done = bus("up", "--json", env={"BUS_URL": f"redis://127.0.0.1:{free_port()}"})
    assert done.code == 5
    error = done.json()
    assert error["error"] == "NoServer"
    assert "Nothing listens" in error["message"]
    assert error["advice"]


@pytest.mark.parametrize(
    ("arguments", "env", "part"),
    [
        (["up", "--url", "http://x"], {}, "must begin with redis://"),
        (["up"], {"BUS_NAMESPACE": "a b"}, "BUS_NAMESPACE"),
        (["up", "--durability", "always", "--url", "redis://h"], {}, "--durability"),
        (["up", "--durability", "sometimes"], {}, "always"),
        (["up"], {"BUS_DURABILITY": "sometimes"}, "BUS_DURABILITY"),
        (["up"], {"BUS_SERVER_BIN": "/dev/null"}, "BUS_SERVER_BIN"),
        (["env", "--shell", "csh"], {}, "fish"),
    ],
)
def test_mistakes_are_exit_code_2(bus, arguments, env, part):
    """What the user got wrong is named, and ends with 2."""
    done = bus(*arguments, env=env)
    assert done.code == 2
    assert part in done.stderr


def test_up_with_another_server_only_looks(bus):
    """Where a URL names a server, up says what answers there, shows no password and starts nothing."""
    with running(bundled_binary()) as server:
        done = bus("up", env={"REDIS_URL": server.url})
        assert done.code == 0
        assert "environment REDIS_URL names a server" in done.stderr
        assert "***" in done.stdout
        assert "secret" not in done.stdout
        assert bus("up", "--json", env={"BUS_URL": server.url}).json()["started"] is False
    assert bus("down", "--json").json()["ended"] is False


@pytest.mark.parametrize("shell", ["sh", "bash", "fish"])
def test_env_exports_what_a_hook_needs(bus, tmp_path, shell):
    """After evaluating it, a shell has URL, namespace under both names, and home, safely quoted."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    home = tmp_path / "a 'home' $HOME"
    done = bus(
        "env",
        "--shell",
        "fish" if shell == "fish" else "sh",
        env={"BUS_NAMESPACE": "shop", "BUS_HOME": str(home)},
    )
    try:
        script = f'{done.stdout}\nprintf "%s\\n" "$BUS_URL" "$BUS_NAMESPACE" "$REDIS_PREFIX" "$BUS_HOME"'
        out = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
        url = bus("env", "--json", env={"BUS_HOME": str(home)}).json()["BUS_URL"]
        assert out == [url, "shop:", "shop:", str(home)]
    finally:
        bus("down", env={"BUS_HOME": str(home)})


def test_env_for_fish_escapes_as_fish_does(bus):
    """In fish's single quotes, a quote and a backslash are escaped by a backslash, and nothing else is."""
    env = {"BUS_URL": "redis://h", "BUS_HOME": "/a 'b' \\c $d"}
    lines = bus("env", "--shell", "fish", env=env).stdout.splitlines()
    assert lines[0] == "set -gx BUS_URL 'redis://h'"
    assert lines[3] == r"set -gx BUS_HOME '/a \'b\' \\c $d'"


def test_an_exported_environment_brings_the_server_back_from_any_folder(bus, tmp_path):
    """With the exports in place, the embedded server is found, and started again, from another folder."""
    exported = bus("env", "--json").json()
    pid = bus("up", "--json").json()["pid"]
    bus("down")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    up = replace(bus, folder=elsewhere)("up", "--json", env=exported).json()
    assert up["started"] is True
    assert up["pid"] != pid
    assert up["url"] == exported["BUS_URL"]


def test_env_with_a_named_server_says_its_url(bus):
    """With a URL, env exports it as it is, and needs no server for it."""
    exported = bus("env", "--json", env={"BUS_URL": "redis://me:secret@elsewhere:1/2"}).json()
    assert exported["BUS_URL"] == "redis://me:secret@elsewhere:1/2"


def test_init_writes_a_file_that_loads_as_it_is(bus, tmp_path):
    """The file is found from below, means what the defaults mean, and explains each setting."""
    assert bus("init").code == 0
    text = (tmp_path / "bus.toml").read_text()
    assert tomllib.loads(text) == {"namespace": "taskbus:", "home": ".bus", "durability": "everysec"}
    for key in ("url", "namespace", "home", "durability", "agent"):
        assert f"\n{key} = " in text or f"\n# {key} = " in text
    assert "bus.toml line" in bus("doctor").stdout


def test_every_line_that_init_comments_out_can_be_switched_on(bus, tmp_path):
    """Without its comment sign, each prepared setting is valid."""
    bus("init")
    file = tmp_path / "bus.toml"
    file.write_text(file.read_text().replace("# url =", "url =").replace("# agent =", "agent ="))
    assert bus("env", "--json").json()["BUS_URL"].startswith("redis://user:password@localhost")


@pytest.mark.parametrize(("url", "ignored", "warned"), [("redis://:pw@h", False, True), ("redis://h", False, False),
                                                        ("redis://:pw@h", True, False)])  # fmt: skip
def test_init_warns_of_a_password_that_git_would_take(bus, tmp_path, url, ignored, warned):
    """In a work tree that does not ignore bus.toml, a password in it is warned of; elsewhere nothing is said."""
    if shutil.which("git") is None:
        pytest.skip("no git here")
    assert "git" not in bus("init", "--url", url).stderr
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    if ignored:
        (tmp_path / ".gitignore").write_text("bus.toml\n")
    assert ("git does not ignore it" in bus("init", "--force", "--url", url).stderr) is warned


def test_a_folder_below_uses_the_bus_of_the_project(bus, tmp_path):
    """Without BUS_HOME and bus.toml, the .bus of a folder above is the bus; its start is told once."""
    environment = {name: value for name, value in bus.environment.items() if name != "BUS_HOME"}
    below = tmp_path / "sub" / "deep"
    below.mkdir(parents=True)
    first = replace(bus, environment=environment)("delegate", "@kilo", "Cache it")
    assert first.stderr.count("Started an embedded server in") == 1
    assert "`bus down` ends it" in first.stderr
    second = replace(bus, environment=environment, folder=below)("tasks", "--json")
    assert "Started" not in second.stderr
    assert [task["id"] for task in second.json()["tasks"]] == [first.stdout.strip()]
    assert not (below / ".bus").exists()


def test_a_home_that_is_too_long_is_called_that(bus):
    """Every command says so with exit code 2, and not that the folder is somebody else's."""
    for command in ("tasks", "up", "down"):
        done = bus(command, env={"BUS_HOME": "x" * 300})
        assert done.code == 2
        assert "too long" in done.stderr
        assert "another user" not in done.stderr


def test_with_a_server_of_ones_own_the_home_is_ignored_by_git_as_well(bus, tmp_path):
    """The database alone makes the home, too, and no commit picks that one up."""
    with running(bundled_binary()) as server:
        assert bus("tasks", env={"BUS_URL": server.url, "BUS_HOME": str(tmp_path / "new")}).code == 0
    assert (tmp_path / "new" / ".gitignore").read_text() == "*\n"


def test_init_does_not_overwrite_unless_forced(bus, tmp_path):
    """An existing file is a conflict (exit code 4) and stays; --force replaces it, even when it is broken."""
    file = tmp_path / "bus.toml"
    file.write_text("broken [")
    refused = bus("init")
    assert refused.code == 4
    assert "--force" in refused.stderr
    assert file.read_text() == "broken ["
    assert bus("init", "--json").json()["error"] == "Conflict"
    assert bus("init", "--force", "--json").json() == {"file": str(file)}
    assert "namespace" in tomllib.loads(file.read_text())


def test_init_keeps_a_password_to_its_owner(bus, tmp_path):
    """With a password in the URL, only the owner can read the file, also where it replaces a public one."""
    file = tmp_path / "bus.toml"
    file.write_text("")
    file.chmod(0o644)
    assert bus("init", "--force", "--url", 'redis://:a"b@h', "--namespace", "shop").code == 0
    assert mode(file) == 0o600
    values = tomllib.loads(file.read_text())
    assert (values["url"], values["namespace"]) == ('redis://:a"b@h', "shop:")
    assert bus("init", "--force").code == 0
    assert mode(file) & 0o044


@pytest.mark.parametrize("arguments", [["--namespace", "a b"], ["--url", "nonsense"], ["--durability", "never"]])
def test_init_writes_nothing_that_would_not_load(bus, tmp_path, arguments):
    """A mistake in an option is exit code 2, and no file is written."""
    assert bus("init", *arguments).code == 2
    assert not (tmp_path / "bus.toml").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_init_in_a_folder_that_cannot_be_written(bus, tmp_path):
    """A folder without permission is a mistake with advice, not a traceback."""
    tmp_path.chmod(0o500)
    done = bus("init")
    tmp_path.chmod(0o700)
    assert done.code == 2
    assert "cannot be written" in done.stderr


def test_a_broken_bus_toml_stops_every_command_with_its_line(bus, tmp_path):
    """A mistake in the file is shown with file, line and key, and exit code 2."""
    (tmp_path / "bus.toml").write_text('namespace = "a"\nnamspace = "b"\n')
    done = bus("doctor")
    assert done.code == 2
    assert "line 2" in done.stderr
    assert "Did you mean `namespace`?" in done.stderr


def test_ctrl_c_ends_quietly(bus):
    """A command that is interrupted ends with 130 and no traceback."""
    bus("up")
    folder = Path(bus.environment["BUS_HOME"]) / "server"
    # Somebody else holds the turn, so that the command waits for it.
    script = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX);"
        " print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(folder / "lock")], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    command = bus.start("down")
    try:
        while str(folder / "lock") not in open_files(command.pid):
            assert command.poll() is None
        command.send_signal(signal.SIGINT)
        _, stderr = command.communicate(timeout=30)
    finally:
        command.kill()
        command.communicate()
        holder.kill()
        holder.communicate()
    assert command.returncode == 130
    assert "Traceback" not in stderr


def open_files(pid):
    """What a process has open."""
    folder = Path(f"/proc/{pid}/fd")
    if not folder.is_dir():
        pytest.skip("no /proc here")
    found = set()
    for entry in folder.iterdir():
        # It may close a file while we look.
        with suppress(FileNotFoundError):
            found.add(str(entry.readlink()))
    return found


def test_a_closed_pipe_ends_quietly(bus):
    """Output into a pipe that nobody reads any more is no traceback."""
    bus("up")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "taskbus", "env"],
        stdout=write,
        stderr=subprocess.PIPE,
        env=bus.environment,
        cwd=bus.folder,
    )
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == b""
