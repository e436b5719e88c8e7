"""How programs are started that serve any provider: what they may do, where their models are, and who sees the key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from taskbus.errors import ConfigurationError
from taskbus_agents.adapter import Job
from taskbus_agents.adapters import ADAPTERS, adapter, endpoints
from taskbus_agents.definition import Definition
from tests.agents.scrubbing import Scrubber

NAMES = ("aider", "cline", "kilo", "opencode", "pi")
HERE = {"base_url": "http://127.0.0.1:1/v1", "home": "private"}
FORKS = (("opencode", "OPENCODE", "build"), ("kilo", "KILO", "code"))


def started(name, prompt="Do it.", key=None, **changed):
    """Have an adapter say how it starts a run."""
    definition = Definition(**{"name": "@a", "adapter": name, "provider": "stub", "model": "m", **changed})
    job = Job(prompt=prompt, folder=Path("/folder"), home=Path("/home-of-the-run"), definition=definition, key=key)
    return adapter(name).launch(job)


def option(launch, name):
    """Find what stands behind an option."""
    return launch.command[launch.command.index(name) + 1]


@pytest.mark.parametrize("name", sorted(set(ADAPTERS) - {"acp"}))
@pytest.mark.parametrize("there", [HERE, {}], ids=["url", "usual place"])
def test_key_stands_in_the_environment_alone(name, there):
    """A key is in no word of a command line, which everybody can read, and in no file, which may be left behind."""
    launch = started(name, key="made-up-key", **there)
    assert "made-up-key" not in " ".join(launch.command)
    assert all(b"made-up-key" not in content for content in launch.files.values())
    assert "made-up-key" in launch.environment.values()


@pytest.mark.parametrize("name", sorted(set(ADAPTERS) - {"acp"}))
def test_task_is_no_word_of_the_command_line(name):
    """A task may be longer than a command line, and may begin like an option."""
    prompt = "--help " + "x" * 200_000
    launch = started(name, prompt)
    assert prompt not in " ".join(launch.command)
    assert prompt.encode() in launch.stdin or any(prompt.encode() in content for content in launch.files.values())


@pytest.mark.parametrize("name", NAMES)
def test_url_needs_a_model(name):
    """Whoever serves models at a URL is asked for one by name; without one the error says where it is missing."""
    with pytest.raises(ConfigurationError, match=r"bus\.toml:7.*no model"):
        started(name, **{**HERE, "model": None, "place": "bus.toml:7"})


@pytest.mark.parametrize("fork", FORKS, ids=lambda fork: fork[0])
@pytest.mark.parametrize(
    ("permission", "tools", "allowed", "denied"),
    [
        ("read", ("Bash", "Edit"), {"read", "grep"}, {"edit", "bash", "external_directory", "*"}),
        ("edit", (), {"read", "edit"}, {"bash", "task", "webfetch", "external_directory", "*"}),
        ("edit", ("Bash", "WebFetch"), {"edit", "bash", "webfetch"}, {"task", "external_directory", "*"}),
        ("bypass", (), {"edit", "bash", "task", "external_directory", "*"}, {"question"}),
    ],
)
def test_permissions_are_named_one_by_one(fork, permission, tools, allowed, denied):
    """What a project's own settings say of a tool or of an agent is overruled for every tool there is."""
    name, prefix, agent = fork
    launch = started(name, permission=permission, tools=tools)
    settings = json.loads(launch.environment[f"{prefix}_CONFIG_CONTENT"])
    rules = json.loads(launch.environment[f"{prefix}_PERMISSION"])
    assert settings["permission"] == settings["agent"][agent]["permission"] == rules
    assert option(launch, "--agent") == agent
    assert {tool for tool in allowed | denied if rules[tool] == "allow"} == allowed
    assert {tool for tool in allowed | denied if rules[tool] == "deny"} == denied


def test_some_commands_are_allowed_by_their_pattern():
    """A tool with a pattern allows what fits it, and denies the rest."""
    launch = started("opencode", tools=("Bash(git diff:*)", "Bash(make)"))
    rules = json.loads(launch.environment["OPENCODE_PERMISSION"])
    assert rules["bash"] == {"*": "deny", "git diff*": "allow", "make": "allow"}


@pytest.mark.parametrize(("name", "prefix", "agent"), FORKS)
def test_private_home_says_that_the_library_is_there(name, prefix, agent):
    """In a home of its own nothing is fetched; in its user's nothing is written."""
    files = started(name, **HERE).files
    lock = json.loads(files[Path(f"/home-of-the-run/.config/{name}/package-lock.json")])
    assert any(library.endswith("/plugin") for library in lock["packages"][""]["dependencies"])
    assert Path(f"/home-of-the-run/.config/{name}/node_modules/.keep") in files
    assert started(name).files == {}


@pytest.mark.parametrize("prompt", ["/run rm -rf .", "!rm -rf .", ""])
def test_task_is_no_command_of_aider(prompt):
    """A message that begins with a sign of its commands would be one."""
    files = started("aider", prompt).files
    task = files[Path("/home-of-the-run/aider/task.md")].decode()
    assert task[0] not in "/!"
    assert task.endswith(prompt)


def test_aider_makes_no_repository():
    """Answering yes to everything, it would make one wherever it looks at git and there is none."""
    assert "--no-git" in started("aider", workspace="as-is").command
    assert "--git" in started("aider", workspace="worktree").command


@pytest.mark.parametrize("permission", ["read", "edit", "bypass"])
def test_settings_of_a_project_have_aider_run_nothing(permission):
    """What a project says of tests, linters and commands to begin with is overruled, unless everything is allowed."""
    launch = started("aider", permission=permission)
    assert ("--no-auto-test" in launch.command) == (permission != "bypass")
    if permission != "bypass":
        assert launch.files[Path(option(launch, "--load"))] == b""


@pytest.mark.parametrize(
    ("permission", "tools", "has", "lacks"),
    [
        ("read", ("bash",), {"read", "ls"}, {"edit", "write", "bash"}),
        ("edit", (), {"read", "edit", "write"}, {"bash"}),
        ("edit", ("Bash",), {"edit", "bash"}, set()),
        ("bypass", (), {"edit", "bash"}, set()),
    ],
)
def test_pi_has_the_tools_of_its_permission(permission, tools, has, lacks):
    """Its tools are all that bounds it; extensions could bring others."""
    launch = started("pi", permission=permission, tools=tools)
    given = set(option(launch, "--tools").split(","))
    assert has <= given
    assert not lacks & given
    assert ("--no-extensions" in launch.command) == (permission != "bypass")


@pytest.mark.parametrize(
    ("permission", "tools", "has", "lacks"),
    [
        ("read", ("Bash",), set(), {"editor", "run_commands", "spawn_agent", "team_run_task"}),
        ("edit", (), {"editor"}, {"run_commands", "fetch_web_content", "spawn_agent"}),
        ("edit", ("Bash",), {"editor", "run_commands"}, {"fetch_web_content"}),
        ("bypass", (), {"editor", "run_commands", "spawn_agent"}, {"ask_question"}),
    ],
)
def test_cline_lacks_the_tools_beyond_its_permission(permission, tools, has, lacks):
    """It knows no other bounds than tools that it does not have."""
    launch = started("cline", permission=permission, tools=tools)
    settings = json.loads(launch.files[Path(launch.environment["CLINE_GLOBAL_SETTINGS_PATH"])])
    assert lacks <= set(settings["disabledTools"])
    assert not has & set(settings["disabledTools"])
    assert ("--plan" in launch.command) == (permission == "read")
    assert launch.environment["CLINE_SESSION_BACKEND_MODE"] == "local"


@pytest.mark.parametrize(
    ("provider", "model", "name", "full"),
    [
        ("anthropic", "claude-x", "claude-x", "anthropic/claude-x"),
        ("anthropic", "anthropic/claude-x", "claude-x", "anthropic/claude-x"),
        ("openrouter", "anthropic/claude-x", "anthropic/claude-x", "openrouter/anthropic/claude-x"),
        (None, "anthropic/claude-x", "anthropic/claude-x", "anthropic/claude-x"),
        ("anthropic", None, None, None),
    ],
)
def test_model_is_named_with_its_provider_once(provider, model, name, full):
    """A model may be written with its provider or without, also one whose own name has a slash."""
    definition = Definition(name="@a", adapter="opencode", provider=provider, model=model)
    assert endpoints.model(definition) == name
    assert endpoints.full_model(definition) == full


@pytest.mark.parametrize("name", sorted(set(ADAPTERS) - {"acp"}))
def test_permissions_are_told_apart(name):
    """Reading, editing and everything are three ways to start a program; aider knows nothing beyond editing."""
    told = [started(name, permission=each, home="private") for each in ("read", "edit", "bypass")]
    read, edit, bypass = ([[scrubbed(word) for word in each.command], each.environment, each.files] for each in told)
    assert read not in (edit, bypass)
    assert name == "aider" or edit != bypass


def scrubbed(word):
    """Take out of a word what is another one in each run, such as an ID."""
    return Scrubber({})(word)


@pytest.mark.parametrize("name", sorted(set(ADAPTERS) - {"acp"}))
@pytest.mark.parametrize("home", ["user", "private"])
def test_files_stay_in_the_home_of_the_run(name, home):
    """An adapter writes nothing into the working folder, and nothing into its user's home."""
    launch = started(name, home=home, key="made-up-key", base_url="http://127.0.0.1:1")
    assert all(path.is_relative_to("/home-of-the-run") for path in launch.files)


@pytest.mark.parametrize("name", sorted(set(ADAPTERS) - {"acp"}))
def test_url_reaches_the_program(name):
    """A definition's URL is where the program looks for its models."""
    url = "http://127.0.0.1:4321/models"
    launch = started(name, base_url=url, home="private", key="made-up-key")
    told = [*launch.command, *(value or "" for value in launch.environment.values())]
    assert any(url in each for each in told) or any(url.encode() in each for each in launch.files.values())


def test_qwen_edits_in_its_folder_alone():
    """It would edit everywhere without being asked: all that is beside a part of the folder's path is refused."""
    (settings,) = started("qwen", permission="edit").files.values()
    assert b'"Edit(//!(folder)/**)", "Edit(//folder?*/**)", "Edit(//folder?*)"' in settings
    assert not any(b"deny" in content for content in started("qwen", permission="bypass").files.values())
