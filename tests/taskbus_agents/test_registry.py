"""Definitions of agents: from bus.toml and from Markdown files, and every mistake with its place."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from taskbus.errors import ConfigurationError, Conflict, NotFound
from taskbus.settings import Settings
from taskbus_agents import registry
from taskbus_agents.registry import adding
from taskbus_agents.registry.mistakes import raised


@pytest.fixture
def project(tmp_path):
    """Writes files into a project, and reads its registry."""

    class Project:
        folder = tmp_path

        def write(self, name, text, *, data=None):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if data is not None else text.encode())
            return path

        def settings(self):
            return Settings.load(cwd=tmp_path, environ={})

        def read(self):
            return registry.read(self.settings())

        def agent(self, text, *, file="a.md", data=None):
            """The registry of one Markdown file."""
            self.write("bus.toml", 'agent_folders = ["agents"]\n')
            self.write(f"agents/{file}", text, data=data)
            return self.read()

    return Project()


def test_a_table_has_every_field_of_a_definition(project):
    """Each field is read from a table of bus.toml, paths from its folder, money in microdollars, times in seconds."""
    project.write(
        "bus.toml",
        """
        [agents."@kilo"]
        adapter = "kilo"
        description = "bulk coding"
        model = "z-ai/glm4.7"
        provider = "kilo"
        tools = ["Read", "Write"]
        task_types = ["Bulk Coding", "tests"]
        permission = "read"
        workspace = "worktree"
        folder = "work"
        base_url = "http://127.0.0.1:8080/v1"
        key = "KILO_KEY"
        home = "private"
        environment = { LANG = "C" }
        hold = "0.25"
        unpriced = true
        coordinator = "lead"
        concurrency = 3
        attempts = 5
        lease = "20s"
        timeout = 90
        silence = "1m"
        hard_limit = "2h"
        """,
    )
    found = project.read().find("kilo")
    assert (found.name, found.adapter, found.provider, found.model) == ("@kilo", "kilo", "kilo", "z-ai/glm4.7")
    assert (found.tools, found.task_types) == (("Read", "Write"), ("bulk coding", "tests"))
    assert (found.permission, found.workspace, found.folder) == ("read", "worktree", project.folder / "work")
    assert (found.hold, found.unpriced, found.coordinator) == (250_000, True, "@lead")
    assert (found.concurrency, found.attempts, found.lease, found.timeout) == (3, 5, 20.0, 90.0)
    assert (found.silence, found.hard_limit, found.environment) == (60.0, 7200.0, {"LANG": "C"})
    assert found.place.endswith("bus.toml, line 2")


def test_a_folder_of_47_files_becomes_47_agents(project):
    """Each Markdown file is one agent, in whatever folder it lies; a README and other files are none."""
    project.write(
        "bus.toml", 'agent_folders = ["fleet"]\n[agent_defaults]\nadapter = "command"\ncommand = ["./a.sh"]\n'
    )
    for number in range(47):
        model = ("opus", "sonnet", "haiku", "inherit")[number % 4]
        fields = f"name: agent-{number:02}\ndescription: does {number}\nmodel: {model}\ntools: Read, Grep\n"
        text = f"---\n{fields}---\n\nYou do {number}.\n"
        project.write(f"fleet/tier-{number % 3}/agent-{number}.md", text)
    project.write("fleet/README.md", "# The fleet\n")
    project.write("fleet/notes.txt", "nothing")
    found = project.read()
    assert (len(found), found.mistakes) == (47, ())
    one = found["@agent-05"]
    assert (one.description, one.model, one.tools, one.instructions) == (
        "does 5",
        "sonnet",
        ("Read", "Grep"),
        "You do 5.",
    )
    assert one.command == (str(project.folder / "./a.sh"),)
    assert found["@agent-07"].model is None


def test_short_names_of_models_are_those_of_the_policy(project):
    """A policy's [models] says provider and model, and so does a tier of that name; inherit says nothing."""
    project.write(
        "policy.toml",
        '[models]\nopus = "anthropic/claude-opus-4-5"\n[tiers.routine]\nrank = 3\nmodels = ["anthropic/haiku-9"]\n',
    )
    project.write("bus.toml", 'policy = "policy.toml"\n[agents]\na.adapter = "claude"\na.model = "Opus"\n')
    assert (project.read()["@a"].provider, project.read()["@a"].model) == ("anthropic", "claude-opus-4-5")
    project.write("bus.toml", 'policy = "policy.toml"\n[agents.b]\nadapter = "claude"\nmodel = "routine"\n')
    assert (project.read()["@b"].provider, project.read()["@b"].model) == ("anthropic", "haiku-9")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("no front matter", 1, "there is no front matter"),
        ("", 1, "there is no front matter"),
        ("---\nname: a\n", 1, "has no end"),
        ("---\n---\n", 1, "`name` is missing"),
        ("---\n- a\n---\n", 2, "has no fields"),
        ("---\ndescription: x\n---\n", 1, "`name` is missing"),
        ("---\nname:\n---\n", 2, "key `name`"),
        ("---\nname: two words\n---\n", 2, "key `name`"),
        ("---\nname: '@human'\n---\n", 2, "expected another name"),
        ("---\nname: a\nmodell: opus\n---\n", 3, "Did you mean `model`?"),
        ("---\nname: a\nmodel: Use it when: always\n---\n", 3, "in quotes"),
        ("---\nname: a\ndescription: Use it\n  when: always\n---\n", 4, "in quotes"),
        ("---\nname: a\ndescription: [it when: always\n---\n", 3, "in quotes"),
        ('---\nname: a\ndescription: "Use" when: always\n---\n', 3, "in quotes"),
        ("---\nname: a\ndescription: Use it: now\nmodel: x: y\n---\n", 4, "in quotes"),
        ("---\nname: a\nworkspace: copy\n---\n", 2, "`folder` is missing"),
        ("---\nname: a\nadapter: acp\n---\n", 2, "`command` is missing"),
        ("---\nname: a\n\tmodel: opus\n---\n", 3, "no tabs"),
        ("---\nname: a\nmodel: [opus\n---\n", 3, "this is no YAML"),
        ("---\nname: a\nmodel: x\nmodel: y\n---\n", 4, "first in line 3"),
        ("---\nname: a\ntools: {a: 1}\n---\n", 3, "expected a list of texts"),
        ("---\nname: a\nconcurrency: many\n---\n", 3, "a whole number from 1 to 64"),
        ("---\nname: a\nunpriced: perhaps\n---\n", 3, "true or false"),
        ("---\nname: a\ntimeout: soon\n---\n", 3, "expected a time"),
        ("---\nname: a\nhold: 0.0000001\n---\n", 3, "an amount in dollars"),
        ("---\nname: a\nhold: 1e99999999\n---\n", 3, "an amount in dollars"),
        ("---\nname: a\npermission: root\n---\n", 3, "one of read, edit, bypass"),
        ("---\nname: a\nadapter: claud\n---\n", 3, "Did you mean `claude`?"),
        ("---\nname: a\nadapter: command\n---\n", 2, "`command` is missing"),
        ("---\nname: &x a\n---\n", 2, "an anchor or alias"),
        ("---\nname: a\ntools: *x\n---\n", 3, "an anchor or alias"),
        ("---\nname: !!python/object/apply:os.system [id]\n---\n", 2, "a tag stands here"),
        ("---\nname: a\ntools: [[[[[[a]]]]]]\n---\n", 3, "nested too deeply"),
        ("---\nname: a\n<<: b\n---\n", 3, "unknown key `<<`"),
        ("---\nname: a\nenvironment:\n  1x: y\n---\n", 3, "names of variables"),
        ("---\nname: a\nkey: sk-secret-words\n---\n", 3, "name of an environment variable"),
        ('---\nname: a\ndescription: "a\\0b"\n---\n', 3, "without control characters"),
        ("---\nname: a\n---\nname\x1b[2J\n", 4, "without control characters"),
        ("---\nname: a\x00b\n---\n", 2, "this is no YAML"),
    ],
)
def test_every_mistake_of_a_file_has_its_line(project, text, line, said):
    """What is wrong with a file is told with its line, and what to do; nothing is built of it."""
    found = project.agent(text)
    (mistake,) = found.mistakes
    assert (mistake.file.name, mistake.line, len(found)) == ("a.md", line, 0), mistake
    assert said in str(mistake)
    assert "secret" not in str(mistake)


@pytest.mark.parametrize(("written", "name"), [("yes", "@yes"), ("1", "@1"), ("null", "@null"), ("1.0", "@1.0")])
def test_a_name_is_the_text_that_stands_there(project, written, name):
    """What YAML takes for a truth value or a number is a name here."""
    assert list(project.agent(f"---\nname: {written}\nmodel: 4.5\n---\n")) == [name]
    assert project.read()[name].model == "4.5"


def test_files_of_other_systems_are_read(project):
    """Windows line ends, a byte order mark, and fields of the agents' own program are no mistakes."""
    found = project.agent(
        "",
        data=b"\xef\xbb\xbf---\r\nname: a\r\ncolor: blue\r\n"
        b"concurrency: 2\r\nunpriced: yes\r\n---\r\n\r\nDo.\r\nIt.\r\n",
    )
    assert not found.mistakes
    assert (found["@a"].concurrency, found["@a"].unpriced, found["@a"].instructions) == (2, True, "Do.\nIt.")


def test_what_is_no_readable_file_is_told_and_nothing_hangs(project):
    """Other encodings, huge files, links in a circle and pipes are mistakes, each with its name."""
    project.write("bus.toml", 'agent_folders = ["agents", "agents/deep", "missing"]\n')
    project.write("agents/latin.md", "", data="---\nname: a\ndescription: Prüfer\n---\n".encode("latin-1"))
    project.write("agents/huge.md", "---\nname: huge\n---\n" + "x" * (1 << 20))
    project.write("agents/wide.md", "---\nname: wide\ndescription: " + "x" * 70_000 + "\n---\n")
    project.write("agents/deep/good.md", "---\nname: good\n---\n")
    (project.folder / "agents/loop.md").symlink_to("loop.md")
    (project.folder / "agents/deep/up").symlink_to("..")
    os.mkfifo(project.folder / "agents/pipe.md")
    (project.folder / "agents/folder.md").mkdir()
    found = project.read()
    assert list(found) == ["@good"]
    told = {mistake.file.name: str(mistake) for mistake in found.mistakes}
    assert sorted(told) == ["bus.toml", "huge.md", "latin.md", "loop.md", "pipe.md", "wide.md"]
    assert "line 3" in told["latin.md"]
    assert "not UTF-8" in told["latin.md"]
    assert "there is no folder" in told["bus.toml"]


def test_a_bomb_of_aliases_takes_no_time(project):
    """Nested references that would grow to billions are refused at the first one."""
    lines = ["name: a", "tools: &a [x, x]", *(f"b{n}: &b{n} [*a, *a]" for n in range(50))]
    began = time.perf_counter()
    (mistake,) = project.agent("---\n" + "\n".join(lines) + "\n---\n").mistakes
    assert "anchor" in mistake.message
    assert time.perf_counter() - began < 5
    (mistake,) = project.agent("---\nname: a\ntools: " + "[" * 50_000 + "\n---\n").mistakes
    assert "nested too deeply" in mistake.message


def test_a_name_that_is_taken_names_both_places(project):
    """A second definition of a name is told with the first one's place, and neither is used."""
    project.write("bus.toml", 'agent_folders = ["agents"]\n\n[agents.docs]\nadapter = "claude"\n')
    project.write("agents/docs.md", "---\ndescription: x\nname: docs\n---\n")
    found = project.read()
    (mistake,) = found.mistakes
    assert str(project.folder / "bus.toml") in mistake.message
    assert "line 3" in mistake.message
    assert (mistake.file.name, mistake.line, len(found)) == ("docs.md", 3, 0)
    with pytest.raises(ConfigurationError, match="defined twice"):
        found.find("docs")


def test_mistakes_are_told_all_at_once_and_spoil_nobody_else(project):
    """Reading tells every mistake of every place; finding one agent minds only its own."""
    project.write(
        "bus.toml",
        'agent_folders = ["agents"]\n[agents.good]\nadapter = "claude"\n[agents."b d"]\n'
        "[agents.c]\nleese = 3\nmodel = 4\n",
    )
    project.write("agents/x.md", "---\nname: x\n")
    error = raised(project.read().mistakes)
    for said in (
        "5 things",
        "line 4",
        "'b d'",
        "`agents.c.lease`",
        "line 7, ",
        "x.md, line 1",
        "`agents.c.adapter` is missing",
    ):
        assert said in error.message.replace("line 7:", "line 7, "), said
    assert registry.find(project.settings(), "good").adapter == "claude"
    with pytest.raises(ConfigurationError, match="leese"):
        registry.find(project.settings(), "@c")
    with pytest.raises(ConfigurationError, match="has no end"):
        registry.find(project.settings(), "@x")
    with pytest.raises(NotFound, match="no definition of @goood") as unknown:
        registry.find(project.settings(), "goood")
    assert "`@good`" in unknown.value.advice


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Use this agent: when the user asks", "Use this agent: when the user asks"),
        ("Use it when:  ", "Use it when:"),
        ('Who\'s it: "you" # no: none, C:\\n {x} ', 'Who\'s it: "you" # no: none, C:\\n {x}'),
        ("<example>user: 'Hi'</example>", "<example>user: 'Hi'</example>"),
        ("plain # a comment", "plain"),
    ],
)
@pytest.mark.parametrize("more", ["", "model: opus\n", "\ntools: [Read]\n", "# a comment\n"])
def test_a_description_with_a_colon_is_the_text_of_its_line(project, written, read, more):
    """Such lines, which other programs take and YAML does not, mean what they say; what YAML reads, it reads."""
    found = project.agent(f"---\nname: a\ndescription: {written}\n{more}---\nDo it.\n")
    assert (found.mistakes, found["@a"].description, found["@a"].instructions) == ((), read, "Do it.")


def test_a_line_of_signs_takes_no_time(project):
    """A description of nothing but spaces and colons is read at once."""
    began = time.perf_counter()
    project.agent("---\nname: a\ndescription: x" + " " * 30_000 + ": :" + "\n" * 30_000 + "---\n")
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.md", "---\nname: 'x'\nmodel: [\n---\n"),
        ("x.md", "---\nmodel: y\n---\n"),
        ("x.md", "no front matter"),
        ("x.md", "---\nname: x\n"),
    ],
)
def test_a_file_that_cannot_be_read_spoils_the_agent_that_it_is_of(project, file, text):
    """The line with its name says whose it is, or else the file's name; asked for it, its mistake is told."""
    (mistake,) = project.agent(text, file=file).mistakes
    assert mistake.name == "@x"
    with pytest.raises(ConfigurationError, match=file):
        registry.find(project.settings(), "x")


def test_what_is_wrong_for_all_is_used_for_nobody(project):
    """A mistake in the defaults spoils every agent: without it, one might do more than it may."""
    project.write("bus.toml", '[agent_defaults]\npermission = "raed"\n[agents.good]\nadapter = "claude"\n')
    with pytest.raises(ConfigurationError, match=r"line 2: key `agent_defaults\.permission`"):
        registry.find(project.settings(), "good")


@pytest.mark.parametrize(
    ("fields", "said", "advice"),
    [
        ({"adapter": "command"}, "`command` is missing", "-- ./agent.sh"),
        ({"adapter": "acp"}, "`command` is missing", "-- gemini --acp"),
        ({"adapter": "kilo", "workspace": "copy"}, "`folder` is missing", "--folder"),
    ],
)
def test_what_an_agent_lacks_is_said_before_it_is_written(project, fields, said, advice):
    """Nothing is added that would be refused afterwards; what stands in the defaults is not asked for again."""
    path = project.write("bus.toml", "# ours\n")
    with pytest.raises(ConfigurationError, match=f"^@x: {said}") as error:
        adding.add(path, "@x", fields)
    assert advice in error.value.advice
    assert path.read_text() == "# ours\n"
    defaults = 'folder = "."\n' if "workspace" in fields else f'adapter = "{fields["adapter"]}"\ncommand = ["x"]\n'
    path.write_text(f"[agent_defaults]\n{defaults}")
    adding.add(path, "@x", fields)
    assert (list(project.read()), project.read().mistakes) == (["@x"], ())


def test_other_keys_of_bus_toml_are_still_refused(project):
    """Tables of agents are let through, a word that nobody knows is not."""
    project.write("bus.toml", "agent_folder = []\n")
    with pytest.raises(ConfigurationError, match="unknown key `agent_folder`") as error:
        project.settings()
    assert "`agent_folders`" in error.value.advice


@pytest.mark.parametrize(
    "text", ["agents = 3\n", 'agents = "x"\n', "[agents]\nkilo = 3\n", 'agent_folders = "x"\n', "agent_defaults = 1\n"]
)
def test_a_table_of_another_kind_is_a_mistake(project, text):
    """Whatever stands in the place of a table is told with its line, and the rest of bus.toml works on."""
    project.write("bus.toml", text)
    project.settings()
    try:
        mistakes = project.read().mistakes
        assert mistakes
        error = raised(mistakes)
    except ConfigurationError as raised_at_once:
        error = raised_at_once
    assert "line" in error.message


COMMENTED = """# my bus
namespace = "mine"   # ours

[supervision]
silent = "5m"

[agents]  # the crew
[agents."@kilo"] # bulk
adapter = "kilo"
# the end
"""


def test_adding_keeps_every_comment(project):
    """A definition is added to what stands there, which stays as it is; replacing changes that one alone."""
    path = project.write("bus.toml", COMMENTED)
    path.chmod(0o640)
    adding.add(path, "@new", {"adapter": "claude", "tools": ["Read"], "concurrency": 2})
    text = path.read_text()
    for line in COMMENTED.splitlines():
        assert line in text
    assert path.stat().st_mode & 0o777 == 0o640
    assert (project.read()["@new"].tools, project.read()["@kilo"].adapter) == (("Read",), "kilo")
    with pytest.raises(Conflict):
        adding.add(path, "@kilo", {"adapter": "claude"})
    adding.add(path, "@kilo", {"adapter": "claude"}, replace=True)
    assert (project.read()["@kilo"].adapter, len(project.read())) == ("claude", 2)
    with pytest.raises(ConfigurationError, match=r"^@x: unknown key `adaptr`"):
        adding.add(path, "@x", {"adaptr": "claude"})
    assert "@x" not in path.read_text()


def test_a_command_that_nothing_would_run_is_refused(project):
    """An adapter with a program of its own runs no other: it is said where, and what to do instead."""
    project.write(
        "bus.toml",
        '[agents.a]\nadapter = "claude"\n\ncommand = ["x"]\n[agents.b]\nadapter = "acp"\ncommand = ["x"]\n'
        '[agents.c]\nadapter = "command"\ncommand = ["x"]\n[agents.claude]\ncommand = ["x"]\n',
    )
    found = project.read()
    (mistake,) = found.mistakes
    assert (sorted(found), mistake.line, mistake.name) == (["@b", "@c", "@claude"], 4, "@a")
    assert "`agents.a.command` is for another adapter: with `claude` nothing runs it." in str(mistake)
    assert 'adapter = "command"' in mistake.advice
    assert found["@claude"].adapter == "command"
    project.write("bus.toml", '[agent_defaults]\nadapter = "claude"\n[agents.d]\ncommand = ["x"]\n')
    (mistake,) = project.read().mistakes
    assert (mistake.line, mistake.name) == (4, "@d")
    project.write("bus.toml", '[agent_defaults]\ncommand = ["x"]\n[agents.d]\nadapter = "claude"\n[agents.f]\n')
    found = project.read()
    assert (found.mistakes, found["@d"].command, found["@f"].command) == ((), (), ("x",))
    project.write("bus.toml", '[agent_defaults]\nadapter = "claude"\ncommand = ["x"]\n')
    (mistake,) = project.read().mistakes
    assert (mistake.line, "agent_defaults.command" in mistake.message) == (3, True)
    project.write("bus.toml", "")
    with pytest.raises(ConfigurationError, match=r"^@e: `command` is for another adapter"):
        adding.add(project.folder / "bus.toml", "@e", {"adapter": "kilo", "command": ["x"]})
    assert "@e" not in (project.folder / "bus.toml").read_text()


def test_adding_makes_the_file_and_keeps_its_line_ends(project):
    """Where there is no bus.toml one is made; one with the line ends of another system keeps them."""
    path = project.folder / "bus.toml"
    adding.add(path, "@a", {"adapter": "claude"})
    assert list(project.read()) == ["@a"]
    path.write_bytes(b'# ours\r\nnamespace = "mine"\r\n')
    adding.add(path, "@b", {"adapter": "claude"})
    assert path.read_bytes().startswith(b'# ours\r\nnamespace = "mine"\r\n')
    path.write_text("agents = {")
    with pytest.raises(ConfigurationError):
        adding.add(path, "@c", {"adapter": "claude"})
    assert path.read_text() == "agents = {"


def test_eight_that_add_at_once_lose_nothing(project):
    """Of several processes that add at the same time, each finds what the others wrote."""
    path = project.write("bus.toml", COMMENTED)
    script = (
        "import sys\nfrom pathlib import Path\nfrom taskbus_agents.registry import adding\n"
        "for n in range(5):\n    adding.add(Path(sys.argv[1]), f'@a{sys.argv[2]}-{n}', {'adapter': 'claude'})\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(path), str(number)]) for number in range(8)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 8
    assert (len(project.read()), project.read().mistakes) == (41, ())
    assert [each.name for each in project.folder.iterdir()] == ["bus.toml"]
