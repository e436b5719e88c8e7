"""Where settings come from, what is refused, and that passwords are not shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from taskbus.address import Address
from taskbus.errors import ConfigurationError
from taskbus.settings import Settings, checked_namespace, redacted
from taskbus.supervision import Supervision


def load(folder, *, environ=None, **options):
    """Settings as a process in `folder` would load them."""
    return Settings.load(environ=environ or {}, cwd=folder, **options)


def test_defaults_when_nothing_is_said(tmp_path):
    """Without anything, the embedded server under ./.bus and the namespace taskbus: are used."""
    settings = load(tmp_path)
    assert (settings.url, settings.namespace, settings.home) == (None, "taskbus:", tmp_path / ".bus")
    assert (settings.durability, settings.agent, settings.file) == ("everysec", None, None)
    assert set(settings.sources.values()) == {"default"}


def test_option_goes_before_environment_before_file_before_default(tmp_path):
    """Each setting is looked up by itself, in this order, and says where it was found."""
    (tmp_path / "bus.toml").write_text('namespace = "file"\nagent = "@file"\ndurability = "always"\n')
    settings = load(tmp_path, environ={"BUS_NAMESPACE": "environment", "BUS_AGENT": "@environment"}, namespace="option")
    assert settings.namespace == "option:"
    assert settings.agent == "@environment"
    assert settings.durability == "always"
    assert settings.sources == {
        "url": "default",
        "namespace": "option --namespace",
        "home": "default",
        "durability": f"{tmp_path / 'bus.toml'} line 3",
        "agent": "environment BUS_AGENT",
        "policy": "default",
        "archive": "default",
    }


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"BUS_URL": "redis://a", "REDIS_URL": "redis://b"}, "redis://a"),
        ({"REDIS_URL": "redis://b"}, "redis://b"),
        ({"BUS_URL": "", "REDIS_URL": "redis://b"}, "redis://b"),
        ({"BUS_URL": "  "}, None),
    ],
)
def test_the_bus_variable_goes_before_the_redis_one_and_empty_is_unset(tmp_path, environ, expected):
    """BUS_URL wins over REDIS_URL, and an empty variable counts as none."""
    assert load(tmp_path, environ=environ).url == expected


def test_redis_prefix_names_the_namespace(tmp_path):
    """REDIS_PREFIX, which other tools read, is the namespace where BUS_NAMESPACE is not set."""
    assert load(tmp_path, environ={"REDIS_PREFIX": "marketing_tvoje_info:"}).namespace == "marketing_tvoje_info:"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "policies/a.toml"),
        ({"environ": {"BUS_POLICY": "b.toml"}}, "below/b.toml"),
        ({"environ": {"BUS_POLICY": "b.toml"}, "policy": "c.toml"}, "below/c.toml"),
    ],
)
def test_a_policy_is_a_file_beside_where_it_is_named(tmp_path, given, expected):
    """In bus.toml it begins at that file's folder, elsewhere at the current one."""
    (tmp_path / "bus.toml").write_text('policy = "policies/a.toml"\n')
    (tmp_path / "below").mkdir()
    assert load(tmp_path / "below", **given).policy == tmp_path / expected
    assert load(tmp_path.parent).policy is None


def test_a_file_is_found_upward_and_its_home_is_beside_it(tmp_path):
    """From any folder below, the same bus.toml counts, with its home beside it."""
    (tmp_path / "bus.toml").write_text('namespace = "up"\n')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    settings = load(below)
    assert (settings.namespace, settings.home, settings.file) == (
        "up:",
        tmp_path / ".bus",
        tmp_path / "bus.toml",
    )


def home_in(folder):
    """A home, as an embedded server leaves it."""
    (folder / ".bus" / "server").mkdir(parents=True)
    return folder / ".bus"


def test_the_nearest_home_above_is_the_one_that_is_used(tmp_path):
    """From a folder below, the bus is the one of the project, as git finds its own folder."""
    below = tmp_path / "sub" / "deep"
    below.mkdir(parents=True)
    home = home_in(tmp_path)
    settings = load(below)
    assert (settings.home, settings.sources["home"]) == (home, "found upward")
    assert load(tmp_path).sources["home"] == "default"
    nearer = home_in(tmp_path / "sub")
    assert load(below).home == nearer


def test_a_home_that_was_named_goes_before_one_above(tmp_path):
    """BUS_HOME, --home and bus.toml are asked first."""
    home_in(tmp_path)
    below = tmp_path / "sub"
    below.mkdir()
    assert load(below, environ={"BUS_HOME": "here"}).home == below / "here"
    assert load(below, home="there").home == below / "there"
    (below / "bus.toml").write_text("")
    assert load(below).home == below / ".bus"


def test_what_is_no_home_of_this_user_is_passed_over(tmp_path, monkeypatch):
    """Another tool's .bus, a file of that name and a home of somebody else are not taken for the bus."""
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / ".bus" / "lines").mkdir(parents=True)
    (tmp_path / "a" / ".bus").write_text("")
    assert load(below).home == below / ".bus"
    (tmp_path / ".bus" / "projections").mkdir()
    assert load(below).home == tmp_path / ".bus"
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    assert load(below).home == below / ".bus"


def test_no_home_is_looked_for_above_the_home_directory(tmp_path, monkeypatch):
    """The user's home directory is the last folder that is looked into."""
    user = tmp_path / "user"
    below = user / "project"
    below.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(user))
    home_in(tmp_path)
    assert load(below).home == below / ".bus"
    home = home_in(user)
    assert load(below).home == home


@pytest.mark.parametrize("home", ["x" * 300, "a\0b"])
def test_a_home_that_no_folder_can_be_is_refused(tmp_path, home):
    """A name that is too long is called that, and not somebody else's."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, environ={"BUS_HOME": home})
    assert "environment BUS_HOME" in caught.value.message
    assert "null" in caught.value.message or "too long" in caught.value.message
    assert len(caught.value.message) < 200


def test_a_relative_home_is_resolved_where_it_was_said(tmp_path):
    """A home in a file is relative to the file; one from option or environment to the current folder."""
    (tmp_path / "bus.toml").write_text('home = "data/../state"\n')
    below = tmp_path / "a"
    below.mkdir()
    assert load(below).home == tmp_path / "state"
    assert load(below, environ={"BUS_HOME": "here"}).home == below / "here"
    assert load(below, home="../there").home == tmp_path / "there"
    assert load(below, home="/absolute").home == Path("/absolute")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('url = "redis://x"\nnamspace = "a"\n', ["line 2", "`namspace`", "`namespace`"]),
        ("\n\nnamespace = 3\n", ["line 3", "`namespace`", "int"]),
        ('home = ""\n', ["line 1", "`home`", "empty"]),
        ("[server]\nx = 1\n", ["line 1", "`server`", "Known keys"]),
        ('agent = "a"\nnamespace = a\n', ["line 2", "`namespace`"]),
        ('agent = "a', ["line 1", "`agent`"]),
        ('agent = "a"\nagent = "b"\n', ["line 2", "`agent`"]),
    ],
)
def test_errors_of_the_file_name_file_line_and_key(tmp_path, text, parts):
    """A mistake in bus.toml is found by its file, line and key, with what would be right."""
    (tmp_path / "bus.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path)
    said = f"{caught.value.message} {caught.value.advice}"
    assert str(tmp_path / "bus.toml") in said
    for part in parts:
        assert part in said


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    """A bus.toml that is no text is an error, and not as if it were not there."""
    (tmp_path / "bus.toml").write_bytes(b'agent = "\xff"\n')
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load(tmp_path)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path):
    """A bus.toml that this user may not read is an error, too."""
    (tmp_path / "bus.toml").write_text("")
    (tmp_path / "bus.toml").chmod(0)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path)


def test_supervision_is_read_from_its_table(tmp_path):
    """Times are texts or seconds, in whichever form of TOML; what is not given keeps its default."""
    assert load(tmp_path).supervision == Supervision()
    for text in (
        '[supervision]\nsilent = "1m30s"\nlost = 7\nstale = 0.5\nlead = "boss"\n',
        'supervision = {silent = "90s", lost = 7.0, stale = 0.5, lead = "@boss"}\n',
        'supervision.silent = "1m30s"\nsupervision.lost = "7s"\nsupervision.stale = 0.5\nsupervision.lead = "boss"',
    ):
        (tmp_path / "bus.toml").write_text(text)
        expected = Supervision(silent=90.0, lost=7.0, stale=0.5, lead="@boss")
        assert load(tmp_path).supervision == expected
    given = {"silent": 3.0, "lost": None, "lead": "@chief"}
    assert load(tmp_path).supervision_with(given) == Supervision(silent=3.0, lost=7.0, stale=0.5, lead="@chief")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[supervision]\n\nsilnt = 3\n", ["line 3", "`supervision.silnt`", "`supervision.silent`"]),
        ("lost = 3\n[supervision]\n", ["line 1", "`lost`"]),
        ("[supervision]\nlost = 0\n", ["line 2", "`supervision.lost`", "0 is no time"]),
        ('[supervision]\nlost = "soon"\n', ["line 2", "'soon' is no time", 'lost = "15m"']),
        ("[supervision]\nlost = true\n", ["line 2", "True is no time"]),
        ("[supervision]\nlost = nan\n", ["line 2", "nan is no time"]),
        ("[supervision]\nlost = inf\n", ["line 2", "inf is no time"]),
        ("[supervision]\nlost = 1" + "0" * 400 + "\n", ["line 2", "is no time", "…"]),
        ('[supervision]\nlost = "2y"\n', ["line 2", "is no time"]),
        ("[supervision]\nlost = []\n", ["line 2", "is no time"]),
        ('# lost = 1\n[supervision]\nlead = "a b"\n', ["line 3", "`supervision.lead`", "is no agent's name"]),
        ("[supervision]\nlead = 3\n", ["line 2", "is no agent's name"]),
        ("supervision = {lost = 2, stale = -1}\n", ["line 1", "`supervision.stale`", "-1"]),
        ("\nsupervision.lost = 2\nsupervision.stale = -1\n", ["line 3", "`supervision.stale`"]),
        ("\nsupervision = 3\n", ["line 2", "`supervision`", "found a int, expected a table", "[supervision]"]),
        ("[[supervision]]\nlost = 3\n", ["line 1", "expected a table"]),
    ],
)
def test_errors_of_supervision_name_file_line_and_key(tmp_path, text, parts):
    """A time that is none, or a name that is none, is found by its line."""
    (tmp_path / "bus.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path)
    said = f"{caught.value.message} {caught.value.advice}"
    assert str(tmp_path / "bus.toml") in said
    assert len(said) < 400
    for part in parts:
        assert part in said


def test_settings_do_without_the_client_library(tmp_path):
    """What only reads settings does not pay for what supervision brings."""
    (tmp_path / "bus.toml").write_text("[supervision]\nlost = 3\n")
    code = (
        "import sys; from taskbus.settings import Settings; settings = Settings.load()\n"
        "print('redis' in sys.modules, settings.supervision.lost)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "3.0"]


@pytest.mark.parametrize("value", ["a", "a:", "a.b-c_d:e", "9", "x" * 63, "x" * 63 + ":"])
def test_good_namespaces_end_with_a_colon(value):
    """A namespace gets the colon that it lacks, and no second one."""
    assert checked_namespace(value) == value.rstrip(":") + ":"


@pytest.mark.parametrize(
    "value", ["", ":", "a b", "a{0}", "a*", "a?", "[a]", "ä", "x" * 64, "-a", ".a", "a\n", "a\x00"]
)
def test_bad_namespaces_are_refused(value):
    """What would steer hash slots or patterns, is empty or too long, is no namespace."""
    with pytest.raises(ConfigurationError, match="not valid"):
        checked_namespace(value)


def test_an_unknown_durability_is_refused_with_its_source(tmp_path):
    """The error says which variable holds the word that is not known."""
    with pytest.raises(ConfigurationError, match="BUS_DURABILITY"):
        load(tmp_path, environ={"BUS_DURABILITY": "never"})


def test_a_bad_url_is_refused_with_its_source_and_an_example(tmp_path):
    """The error says where the URL came from, shows how one looks, and keeps the password."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, environ={"REDIS_URL": "http://me:secret@host"})
    assert "REDIS_URL" in caught.value.message
    assert "secret" not in str(caught.value)
    assert "redis://" in str(caught.value.advice)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", Address("redis")),
        ("redis://h", Address("redis", host="h")),
        ("redis://u:p%2F%40@h:1/2", Address("redis", host="h", port=1, username="u", password="p/@", db=2)),
        ("redis://:p@h?db=3", Address("redis", host="h", password="p", db=3)),
        ("redis://[::1]:7", Address("redis", host="::1", port=7)),
        ("rediss://h?ssl_cert_reqs=none", Address("rediss", host="h", tls=(("ssl_cert_reqs", "none"),))),
        ("redis://h?socket_timeout=3&protocol=3", Address("redis", host="h")),
        ("unix:///a%20b.sock?db=4", Address("unix", host="", path="/a b.sock", db=4)),
        ("unix://u:p@/a", Address("unix", host="", path="/a", username="u", password="p")),
        ("unix:///a?password=p", Address("unix", host="", path="/a", password="p")),
    ],
)
def test_urls_are_read_and_written(url, address):
    """Each form of URL is understood, and the URL made of it means the same."""
    assert Address.parse(url) == address
    assert Address.parse(address.url()) == address


@pytest.mark.parametrize(
    "url",
    [
        "", "host:6379", "http://host", "redis://h:port", "redis://h:99999", "redis://h/x", "redis://h?db=-1",
        "redis://h?dbb=1", "redis://h?ssl_cert_reqs=none", "rediss://h?ssl_cert_reqs=perhaps",
        "rediss://h?ssl_check_hostname=perhaps", "unix://relative", "unix://", "redis://:s3cret/x@h",
        "redis://:s3cret#x@h", "redis://:12/s3cret@h", "redis://u:12?s3cret@h",
    ],
)  # fmt: skip
def test_bad_urls_are_refused_without_their_passwords(url):
    """A URL that is not understood is refused with examples, and no part of its password is repeated."""
    with pytest.raises(ConfigurationError) as caught:
        Address.parse(url)
    assert "s3cret" not in f"{caught.value} {caught.value.advice}"
    assert "Examples" in str(caught.value.advice)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:p@h:1/0", "redis://u:***@h:1/0"),
        ("redis://:p@h", "redis://:***@h"),
        ("redis://u@h", "redis://u@h"),
        ("redis://h", "redis://h"),
        ("redis://:p/a#b@h", "redis://:***@h"),
        ("unix://:p@/a/b?db=1", "unix://:***@/a/b?db=1"),
        ("unix:///a?db=1&password=p@q", "unix:///a?db=1&password=***"),
    ],
)
def test_passwords_are_hidden(url, shown):
    """A shown URL has *** in the place of the password, also where the URL is broken."""
    assert redacted(url) == shown


def test_settings_never_print_a_password(tmp_path):
    """The representation of settings, as a failed test or a debugger shows it, has no URL."""
    assert "secret" not in repr(load(tmp_path, url="redis://:secret@h"))


def test_an_address_never_prints_its_password():
    """Neither as text nor in a debugger's representation does an address show its password."""
    address = Address.parse("redis://u:secret@h")
    assert "secret" not in f"{address} {address!r} {address.place}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", True),
        ("redis://127.0.0.9", True),
        ("unix:///a", True),
        ("redis://10.0.0.1", False),
    ],
)
def test_loopback_is_known(url, expected):
    """The doctor may only look at addresses of this machine."""
    assert Address.parse(url).is_loopback is expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "{0}/sealed"),
        ({"environ": {"BUS_ARCHIVE": "b"}}, "{0}/below/b"),
        ({"environ": {"BUS_ARCHIVE": "b"}, "archive": "../c"}, "{0}/c"),
        ({"archive": "s3://bucket/folder"}, "s3://bucket/folder"),
    ],
)
def test_an_archive_is_a_folder_beside_where_it_is_named_or_a_url(tmp_path, given, expected):
    """In bus.toml it begins at that file's folder, elsewhere at the current one; a URL stays as it is."""
    (tmp_path / "bus.toml").write_text('archive = "sealed"\n')
    (tmp_path / "below").mkdir()
    assert load(tmp_path / "below", **given).archive == expected.format(tmp_path)
    assert load(tmp_path.parent).archive is None
