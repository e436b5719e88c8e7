"""The adapter of the Agent Client Protocol, with an agent that really speaks it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import psutil
import pytest

from taskbus.errors import ConfigurationError, Permanent
from taskbus_agents import trouble
from taskbus_agents.adapter import Job
from taskbus_agents.adapters.acp import Acp
from taskbus_agents.definition import Definition
from taskbus_agents.runner import Ended, Runner
from tests.servers import is_alive
from tests.taskbus_agents.waiting import eventually

pytest.importorskip("acp", reason="the extra acp is not installed")
pytestmark = pytest.mark.anyio

AGENT = Path(__file__).with_name("acp_agent.py")


def job(folder, prompt, **fields):
    """Make a job for the scripted agent."""
    folder.mkdir(exist_ok=True)
    known = {"provider": "house", "model": None, "command": (sys.executable, str(AGENT)), **fields}
    definition = Definition(name="@scripted", adapter="acp", **known)
    return Job(prompt=prompt, folder=folder, home=folder, definition=definition)


async def run(made, timeout=30.0):
    """Run a job to its end; how it ended, and what it is reported as."""
    launch = Acp().launch(made)
    async with Runner(timeout=timeout, grace=0.5) as runner:
        ended = await runner.run(launch.command, stdin=launch.stdin, cwd=made.folder, env=dict(os.environ))
    return ended, Acp().report(ended, made, {})


async def test_a_conversation_to_its_end(tmp_path):
    """What the agent said, did and spent comes back from a conversation that ended well."""
    made = job(tmp_path / "work", "write made.txt\nusage 100 20 40 5 165\ncost 0.0125 USD", model="large")
    _, report = await run(made)
    assert (report.trouble, report.said, report.tools, report.refused) == (None, "All done.", 1, ())
    assert (made.folder / "made.txt").read_text() == "made\n"
    (used,) = report.usage
    assert (used.provider, used.model) == ("house", "large")
    assert (used.input_tokens, used.cache_read_tokens) == (140, 40)
    assert (used.output_tokens, used.reasoning_tokens) == (25, 5)
    assert used.cost.microusd == 12_500


@pytest.mark.parametrize(
    ("prompt", "permission", "refused"),
    [
        ("read\nwrite a.txt", "read", ("edit a.txt",)),
        ("write a.txt", "edit", ()),
        ("run", "edit", ("execute .",)),
        ("run\nwrite a.txt", "bypass", ()),
        ("write ../outside.txt", "edit", ("edit ../outside.txt",)),
        ("write link/outside.txt", "edit", ("edit link/outside.txt",)),
    ],
)
async def test_permission_modes(tmp_path, prompt, permission, refused):
    """Reading is always allowed, editing within the folder only, anything else only where all is."""
    made = job(tmp_path / "work", prompt, permission=permission)
    (made.folder / "link").symlink_to(tmp_path)
    _, report = await run(made)
    assert report.refused == refused
    assert not (tmp_path / "outside.txt").exists()
    assert (made.folder / "a.txt").exists() == ("a.txt" in prompt and not refused)


@pytest.mark.parametrize(
    ("prompt", "trouble"),
    [
        ("stop max_turn_requests", "turn-limit"),
        ("stop max_tokens", "turn-limit"),
        ("stop refusal", "model-error"),
        ("stop cancelled", "killed"),
        ("fail -32000 Authentication required", "authentication"),
        ("fail 401 Unauthorized", "authentication"),
        ("fail -32603 stub error 429", "quota"),
        ("fail -32603 Internal error 500", "model-error"),
        ("crash", "killed"),
    ],
)
async def test_what_is_no_success(tmp_path, prompt, trouble):
    """Only an end of turn is a success: each other stop and error has its kind, and says something."""
    _, report = await run(job(tmp_path / "work", prompt))
    assert report.trouble == trouble
    assert report.message


async def test_noise_on_its_stdout_does_not_end_the_conversation(tmp_path):
    """An agent that prints something else on its line of the protocol goes on."""
    _, report = await run(job(tmp_path / "work", "noise\nwrite a.txt"))
    assert report.trouble is None


async def test_a_model_that_is_not_offered_does_not_run_as_another(tmp_path):
    """Money was reserved for the one that was asked for: nothing runs, and those that there are are named."""
    made = job(tmp_path / "work", "model", model="huge")
    _, report = await run(made)
    assert report.trouble == "model-error"
    assert "huge is not offered: small, large" in report.message
    assert not (made.folder / "model.txt").exists()


async def test_tokens_that_are_told_beside_the_protocol(tmp_path):
    """Gemini CLI tells the tokens of each model in the result's metadata."""
    _, report = await run(job(tmp_path / "work", "aside gemini-9"))
    (used,) = report.usage
    assert (used.model, used.input_tokens, used.output_tokens, used.cost) == ("gemini-9", 7, 3, None)


async def test_what_is_not_told_is_said_and_unpriced(tmp_path):
    """No tokens and no cost is no usage, with a note, and another currency is no cost."""
    _, silent = await run(job(tmp_path / "one", "read"))
    assert silent.usage == ()
    assert any("no tokens" in note for note in silent.notes)
    _, foreign = await run(job(tmp_path / "two", "cost 3 EUR"))
    assert foreign.usage[0].cost is None
    assert any("EUR" in note for note in foreign.notes)


async def test_a_run_that_is_cut_leaves_no_process_and_tells_what_it_knew(tmp_path):
    """Who cancels it ends the talker and its agent; what was spent until then is known."""
    made = job(tmp_path / "work", "cost 0.5 USD\nread\nmodel\nhang")  # it is asked after it was told
    launch, ends = Acp().launch(made), []
    async with Runner(grace=0.5) as runner, anyio.create_task_group() as group:

        async def begin():
            await runner.run(
                launch.command, stdin=launch.stdin, cwd=made.folder, env=dict(os.environ), on_cancelled=ends.append
            )

        group.start_soon(begin)
        await anyio.to_thread.run_sync(eventually, (made.folder / "model.txt").exists)
        below = psutil.Process().children(recursive=True)
        talkers = [each for each in below if "acp" in " ".join(each.cmdline())]
        group.cancel_scope.cancel()
    (ended,) = ends
    report = Acp().report(ended, made, {})
    assert report.trouble == "killed"
    assert report.usage[0].cost.microusd == 500_000
    assert len(talkers) == 2
    assert not any(is_alive(each.pid) for each in talkers)


async def test_an_agent_that_is_not_there(tmp_path):
    """A command that cannot be started is missing, and says which."""
    _, report = await run(job(tmp_path / "work", "read", command=("no-such-agent-anywhere",)))
    assert report.trouble == "missing"
    assert "no-such-agent-anywhere" in report.message


def test_a_definition_without_a_command(tmp_path):
    """There is no agent to talk to: said with the place of the definition."""
    with pytest.raises(ConfigurationError, match=r"bus\.toml, line 3"):
        Acp().launch(job(tmp_path / "work", "read", command=(), place="bus.toml, line 3"))


@pytest.mark.parametrize(
    "printed",
    [
        b"",
        b"\xff\xfe\x00",
        b'{"event":"result","stop":"end_turn"',
        b'[1,2]\n{"event":5}\n"x"',
        b'{"event":"result","stop":"end_turn","said":"Done."}\n{"event":"error","message":"no"}',
        b'{"event":"result","stop":null}',
        b'{"event":"cost","amount":-1,"currency":"USD"}',
        b'{"event":"result","stop":"end_turn","usage":{"input_tokens":"many"}}',
    ],
)
def test_garbage_is_never_success(tmp_path, printed):
    """Whatever stands on stdout, nothing is raised, and no success is read from it."""
    report = Acp().report(Ended(0, printed, b"", 1.0), job(tmp_path / "work", ""), {})
    assert report.trouble is not None
    assert all(used.cost is None for used in report.usage)


async def test_what_stands_in_the_folder_is_not_imported(tmp_path):
    """A project may have modules of its own that are called like libraries: nobody means those."""
    made = job(tmp_path / "work", "write made.txt")
    for name in ("acp", "msgspec", "asyncio"):
        (made.folder / f"{name}.py").write_text("raise SystemExit(3)\n")
    _, report = await run(made)
    assert report.trouble is None


def test_a_quota_says_when_it_is_reset(tmp_path):
    """What the error tells of the time is what the delivery waits for."""
    printed = b'{"event":"error","code":429,"message":"rate limit, try again in 2 hours"}'
    report = Acp().report(Ended(1, printed, b"", 1.0), job(tmp_path / "work", ""), {})
    assert report.trouble == "quota"
    assert report.until is not None


def test_a_port_is_no_status(tmp_path):
    """A number in an address is none of HTTP's."""
    printed = b'{"event":"error","code":-32603,"message":"cannot reach 127.0.0.1:4290 or 10.0.0.1:401"}'
    assert Acp().report(Ended(1, printed, b"", 1.0), job(tmp_path / "work", ""), {}).trouble == "model-error"


async def test_an_agent_that_is_missing_is_named(tmp_path):
    """What is to be installed is the agent, not the library that talks to it."""
    made = job(tmp_path / "work", "read", command=("no-such-agent-anywhere",))
    ended, report = await run(made)
    given_up = trouble.failure(
        report, ended, adapter=Acp(), definition=made.definition, conduct=trouble.Conduct(), kept=None
    )
    assert isinstance(given_up, Permanent)
    assert "no-such-agent-anywhere" in given_up.message
    assert "pip install" not in given_up.message
