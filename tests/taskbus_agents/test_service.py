"""A worker for one agent: deliveries, subprocesses and their outcomes, on a real server."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from taskbus import codec
from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Artifact,
    Budget,
    Cancellation,
    Completion,
    Cost,
    Delegation,
    Result,
    Usage,
    Verdict,
    compose,
)
from taskbus.errors import Unavailable, UsageError
from taskbus.settings import Settings
from taskbus_agents.definition import Definition
from taskbus_agents.service import Service, serve
from tests.repositories import repository
from tests.taskbus_agents.place import AGENT, DELEGATOR, OK, TASK
from tests.taskbus_agents.waiting import all_gone, written

if TYPE_CHECKING:
    from tests.taskbus_agents.place import Place

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(place: Place, script: str, **more):
    """A worker that goes on working beside the test, until the block ends."""
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: place.serve(script, until_idle=False, **more))
        yield group
        group.cancel_scope.cancel()


async def test_a_task_is_taken_on_done_and_told(place):
    """The whole way of one delivery: acknowledged, worked on, completed, and reported with its position."""
    await place.delegate(review_required=False)
    await place.serve(OK)
    types = [entry.type async for entry in place.bus.log.read()]
    assert types == ["delegation", "acknowledgment", "completion"]
    assert (await place.bus.task(TASK)).state == "accepted"
    entries = [entry async for entry in place.bus.log.read()]
    (told,) = place.settled
    assert (told.received, told.position) == ("delegation", str(entries[0].position))
    assert (told.outcome, told.status) == ("completion", "success")
    assert (told.id, told.appended) == (entries[2].id, str(entries[2].position))
    assert told.message is None
    assert "message" not in told.plain()
    assert entries[2].source == b'{"status": "success", "description": "done"}'


async def test_the_agent_reads_its_delegation_from_stdin(place, tmp_path):
    """One line of canonical JSON, then the end."""
    await place.delegate(constraints=("no\nORM",), artifacts=(Artifact(path="a.py"),))
    await place.serve(f"cat > {tmp_path}/stdin; {OK}")
    text = (tmp_path / "stdin").read_text()
    assert text.count("\n") == 1
    envelope = json.loads(text)
    assert (envelope["type"], envelope["recipient"]) == ("delegation", AGENT)
    assert envelope["payload"]["constraints"] == ["no\nORM"]
    assert envelope["context"]["task_id"] == TASK


async def test_the_agent_finds_in_its_environment_what_calling_bus_needs(place, tmp_path, valkey, namespace):
    """An agent that says how far it is can do so with one command."""
    await place.delegate()
    progress = f'{sys.executable} -m taskbus progress "$BUS_TASK" half --json'
    await place.serve(f"env -0 > {tmp_path}/env; {progress} >&2 && {OK}")
    assert [status.progress for status in await place.said("status")] == ["half"]
    entries = (tmp_path / "env").read_text().split("\0")
    environment = dict(entry.split("=", 1) for entry in entries if entry)
    task = await place.bus.task(TASK)
    assert environment["BUS_TASK"] == TASK
    assert environment["BUS_AGENT"] == AGENT
    assert environment["BUS_ATTEMPT"] == "1"
    assert environment["BUS_TOKEN"] == str(task.token)
    assert environment["BUS_NAMESPACE"] == environment["REDIS_PREFIX"] == namespace
    assert environment["BUS_HOME"] == str(place.settings.home)
    assert environment["BUS_URL"] == valkey
    assert environment["PATH"].startswith(os.environ["PATH"])


async def test_completion_json_goes_before_stdout(place):
    """An agent that logs to stdout leaves its result in a file."""
    await place.delegate()
    await place.serve("""echo '{"status": "failure"}'; echo '{"status": "success"}' > completion.json""")
    (completion,) = await place.said("completion")
    assert completion.result.status == "success"


async def test_a_bad_completion_json_is_not_replaced_by_stdout(place):
    """Whoever wrote the file meant it: falling back would guess."""
    await place.delegate()
    await place.serve(f"echo nonsense > completion.json; {OK}")
    assert "completion.json" in (await place.failure("invalid-completion")).message


@pytest.mark.parametrize(
    ("make", "said"),
    [
        ("mkdir completion.json", "it is no file"),
        ("mkfifo completion.json", "it is no file"),
        ("head -c 1100000 /dev/zero > completion.json", "longer than"),
        ("ln -s completion.json other; mv other completion.json", None),
    ],
)
async def test_what_only_looks_like_completion_json(place, make, said):
    """A folder, a pipe that nobody writes to, a giant and a link to itself neither hang nor crash the worker."""
    await place.delegate()
    await place.serve(f"{make}; true")
    error = await place.failure("invalid-completion" if said else "no-completion")
    assert said is None or said in error.message


async def test_each_delivery_has_a_folder_of_its_own(place):
    """What one attempt leaves never mixes with the next one's; an empty folder is not kept."""
    script = f'pwd >> {place.settings.home}/seen; [ "$BUS_ATTEMPT" = 3 ] || echo x > left; {OK}'
    await place.delegate()
    await place.serve(script)
    for _ in range(2):
        await place.say(Verdict(decision="rejected", comment="again"))
        await place.serve(script)
    seen = (place.settings.home / "seen").read_text().splitlines()
    assert seen == [str(place.folder / TASK / str(number)) for number in (1, 2, 3)]
    assert sorted(path.name for path in (place.folder / TASK).iterdir()) == ["1", "2"]


async def test_one_folder_for_all_does_not_take_an_old_completion_for_a_new_one(place, tmp_path):
    """With --cwd the file of an earlier run lies there when the next one begins."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "completion.json").write_text('{"status": "success"}')
    await place.delegate()
    await place.serve("true", cwd=folder)
    await place.failure("no-completion")
    await place.say(Delegation(goal="again"))
    await place.serve("""echo '{"status": "success"}' > completion.json""", cwd=folder)
    assert (await place.bus.task(TASK)).state == "completed"


async def test_what_an_agent_printed_is_kept_where_the_failure_says(place):
    """Whoever looks for why it failed finds all of it, and its last lines in the message."""
    await place.delegate()
    await place.serve("echo first; echo last; echo oops >&2; echo more > mine; exit 2")
    folder = place.folder / TASK / "1"
    message = (await place.failure("exit-code")).message
    assert message == f"The agent ended with exit code 2. What it printed is in {folder}.\noops"
    assert (folder / "stdout.log").read_text() == "first\nlast\n"
    assert (folder / "stderr.log").read_text() == "oops\n"


async def test_the_last_lines_of_stdout_are_quoted_where_stderr_is_empty(place):
    """Many agents complain on stdout."""
    await place.delegate()
    await place.serve("seq 20")
    assert (await place.failure("invalid-completion")).message.endswith("\n16\n17\n18\n19\n20")


async def test_logs_do_not_litter_the_users_folder(place, tmp_path):
    """With --cwd they stand where the folder of the delivery would be."""
    project = tmp_path / "project"
    project.mkdir()
    await place.delegate()
    await place.serve("echo what; exit 1", cwd=project)
    assert list(project.iterdir()) == []
    assert str(place.folder / TASK / "1") in (await place.failure("exit-code")).message
    assert (place.folder / TASK / "1" / "stdout.log").read_text() == "what\n"


async def test_a_log_of_the_agents_own_is_left_alone(place):
    """Its `stdout.log` is its work, or evidence of it."""
    await place.delegate()
    await place.serve("echo mine > stdout.log; echo other; exit 1")
    assert (place.folder / TASK / "1" / "stdout.log").read_text() == "mine\n"


async def test_the_next_attempt_knows_the_folder_of_the_one_before(place, monkeypatch):
    """A rejected result can be improved instead of made anew; another worker's variable is not inherited."""
    monkeypatch.setenv("BUS_PREVIOUS", "/elsewhere")
    seen = place.settings.home / "seen"
    script = f'echo "$BUS_PREVIOUS" >> {seen}; echo x > left; {OK}'
    await place.delegate()
    await place.serve(script)
    for _ in range(2):
        await place.say(Verdict(decision="rejected", comment="again"))
        await place.serve(script)
    assert seen.read_text().splitlines() == ["", str(place.folder / TASK / "1"), str(place.folder / TASK / "2")]


NAMED = """mkdir -p out; printf abc > out/a.txt
    printf 'log\n{"status": "success", "outputs": ["out/a.txt", "gone.txt", "https://example.org/x", "out"]}'"""
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


async def test_outputs_are_published_with_what_can_be_checked(place):
    """Under the full path, since nobody knows the folder; one that is not there is a warning and no failure."""
    await place.delegate()
    await place.serve(NAMED)
    (completion,) = await place.said("completion")
    folder = place.folder / TASK / "1"
    assert completion.result.artifacts == (
        Artifact(path=str(folder / "out/a.txt"), sha256=ABC, size=3),
        Artifact(path="gone.txt"),
        Artifact(path="https://example.org/x"),
        Artifact(path=str(folder / "out")),
    )
    assert place.incidents == [f"Task {TASK}: gone.txt is named as an output, and is not in {folder}."]


async def test_outputs_in_the_users_folder_keep_their_paths(place, tmp_path):
    """With --cwd a relative path says where the file is to everybody who stands there."""
    await place.delegate()
    await place.serve(NAMED, cwd=tmp_path)
    (completion,) = await place.said("completion")
    assert completion.result.artifacts[0] == Artifact(path="out/a.txt", sha256=ABC, size=3)


async def test_folders_may_be_made_elsewhere(place, tmp_path):
    """--workdir-root, for a disk with more room."""
    await place.delegate()
    await place.serve(f"echo x > left; {OK}", root=tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / TASK / "1" / "left").exists()


@pytest.mark.parametrize("terms", [{"silence": 0.0}, {"silence": 0.5}, {"lease": 0.1}, {"hard_limit": 0.0}])
async def test_times_that_cannot_be_kept_are_refused(place, terms):
    """Before anything is taken."""
    await place.delegate()
    with pytest.RaisesGroup(UsageError, allow_unwrapped=True, flatten_subgroups=True):
        await place.serve(OK, **terms)
    assert (await place.bus.task(TASK)).state == "submitted"


async def test_several_deliveries_in_one_folder_are_refused(place, tmp_path):
    """Their completions would overwrite each other."""
    with pytest.raises(UsageError, match="mix"):
        await place.serve(OK, cwd=tmp_path, concurrency=2)


async def test_an_agent_that_is_continued_sees_the_whole_talk(place, tmp_path):
    """Question, answer, result and verdict stand on stdin, in order, whatever else the log holds in between."""
    script = f"""cat > {tmp_path}/stdin
        case $(wc -l < {tmp_path}/stdin) in
        1) printf '{{"sender":"@kilo","recipient":"@lead","type":"question",
            "context":{{"task_id":"{TASK}","timestamp":"2026-11-20T09:30:00Z"}},"payload":{{"question":"which?"}}}}' ;;
        *) printf '{{"status":"success"}}' ;;
        esac"""
    await place.delegate()
    await place.serve(script)
    assert (await place.bus.task(TASK)).state == "input-required"
    # More than two pages of other people's business.
    await place.bus.publish_many(compose(Delegation(goal="noise"), sender="@x", recipient="@y") for _ in range(1200))
    await place.say(Answer(answer="that one"))
    await place.serve(script)
    await place.say(Verdict(decision="rejected", comment="again"))
    await place.serve(script)
    lines = [json.loads(line) for line in (tmp_path / "stdin").read_text().splitlines()]
    assert [line["type"] for line in lines] == ["delegation", "question", "answer", "completion", "verdict"]
    assert {line["context"]["task_id"] for line in lines} == {TASK}
    assert lines[2]["payload"]["answer"] == "that one"


async def test_a_new_delegation_begins_a_new_talk(place, tmp_path):
    """Whoever gets the task after somebody failed begins with what is wanted now."""
    await place.delegate()
    await place.serve("exit 1")
    await place.say(Delegation(goal="do it otherwise"))
    await place.serve(f"cat > {tmp_path}/stdin; {OK}")
    (line,) = (tmp_path / "stdin").read_text().splitlines()
    assert json.loads(line)["payload"]["goal"] == "do it otherwise"


async def test_a_talk_that_the_log_has_lost_fails_loudly(place):
    """Without the delegation there is no knowing what to do."""
    await place.delegate()
    await place.serve("""printf '{"sender":"@kilo","recipient":"@lead","type":"question","context":
        {"task_id":"task-1","timestamp":"2026-11-20T09:30:00Z"},"payload":{"question":"which?"}}'""")
    first = await place.bus.connection.range(place.bus.keys.log, "-", "+", 1)
    await place.bus.connection.execute("XDEL", place.bus.keys.log, first[0][0])
    await place.say(Answer(answer="that one"))
    await place.serve(OK)
    assert place.settled[-1].result == "parked"
    assert place.settled[-1].reason == "permanent"
    assert "does not hold the delegation" in place.settled[-1].message
    assert (await place.bus.task(TASK)).state == "escalated"


async def test_messages_that_ask_for_no_work_are_noted(place):
    """An agent that delegates itself gets replies; they run no subprocess and leave the inbox."""
    await place.say(Delegation(goal="part"), sender=AGENT, recipient="@codex", task="part")
    declined = Acknowledgment(accepted=False, decline_reason="busy")
    await place.say(declined, sender="@codex", task="part", recipient=AGENT)
    await place.delegate()
    await place.serve(OK)
    assert [(told.received, told.outcome) for told in place.settled] == [
        ("acknowledgment", None),
        ("delegation", "completion"),
    ]
    await place.say(Verdict(decision="accepted"))
    await place.serve("exit 9")
    assert (place.settled[-1].received, place.settled[-1].outcome) == ("verdict", None)


@pytest.mark.parametrize(
    ("script", "reason", "said"),
    [
        ("echo half way >&2; exit 4", "exit-code", "/task-1/1.\nhalf way"),
        (f"{OK}; exit 4", "exit-code", "although it wrote a completion"),
        ("echo I am done", "invalid-completion", "no envelope"),
        ("true", "no-completion", "stdout is empty"),
        ("kill -SEGV $$", "signal", "SIGSEGV"),
        ("yes", "output-limit", "more than 1048576 bytes"),
        ("cat completion-that-is-not-there; true", "no-completion", "No such file"),
    ],
)
async def test_every_way_to_fail_is_a_completion_that_says_so(place, script, reason, said):
    """The delegator learns what happened, and the task does not hang."""
    await place.delegate()
    await place.serve(script)
    assert said in (await place.failure(reason)).message
    (told,) = place.settled
    assert told.status == "failure"
    assert told.message is not None


async def test_a_command_that_is_gone_is_a_failure_of_the_task(place, tmp_path):
    """Somebody uninstalls the agent while its worker runs."""
    await place.delegate()
    service = Service(AGENT, (str(tmp_path / "gone"),), until_idle=True)
    await serve(place.settings, service, on_settled=place.settled.append, on_incident=place.incidents.append)
    assert "could not be started" in (await place.failure("not-started")).message


async def test_time_that_is_up_ends_the_whole_group(place, tmp_path):
    """A grandchild that the agent started does not go on spending money."""
    await place.delegate()
    await place.serve(f"sleep 600 & echo $! > {tmp_path}/pid; wait", timeout=0.3)
    assert "not done after" in (await place.failure("timeout")).message
    await all_gone(int((tmp_path / "pid").read_text()))


async def test_cancelling_a_task_ends_its_agent(place, tmp_path):
    """Work that is no longer wanted stops long before the lease is renewed, and nothing of it is published."""
    script = f"sleep 600 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/pid; wait"
    await place.delegate()
    async with serving(place, script, lease=600):
        pid = int(await written(tmp_path / "pid"))
        await place.say(Cancellation(reason="not any more"))
        await all_gone(pid)
        await all_gone(int((tmp_path / "child").read_text()))
    assert (await place.bus.task(TASK)).state == "canceled"
    assert await place.said("completion") == []
    assert any("no longer ours" in incident for incident in place.incidents)


async def test_an_agent_may_publish_its_outcome_itself(place):
    """`bus complete` from inside the subprocess settles the task; silence afterwards is no failure."""
    await place.delegate()
    complete = f'{sys.executable} -m taskbus complete "$BUS_TASK" --status success --json'
    await place.serve(f"{complete} >&2")
    (completion,) = await place.said("completion")
    assert completion.result.status == "success"
    assert (await place.bus.task(TASK)).state == "completed"
    (told,) = place.settled
    assert told.outcome is None


async def test_an_envelope_that_stands_in_the_log_already_settles_nothing(place):
    """An agent that repeats itself word for word has not worked again; without this the task would hang."""
    fixed = Completion(result=Result(status="success"))
    envelope = compose(fixed, sender=AGENT, recipient=DELEGATOR, task=TASK)
    words = codec.encode(envelope).decode()
    await place.delegate()
    await place.serve(f"cat <<'E'\n{words}\nE")
    await place.say(Verdict(decision="rejected", comment="again"))
    await place.serve(f"cat <<'E'\n{words}\nE")
    first, second = await place.said("completion")
    assert first == fixed
    assert second.termination_reason == "invalid-completion"
    assert "stands in the log already" in second.error_details.message
    assert (await place.bus.task(TASK)).state == "failed"


async def test_work_in_parallel(place, tmp_path):
    """Two deliveries of one worker run at the same time: each waits for what the other leaves."""
    script = f"""touch {tmp_path}/$BUS_TASK
        while [ ! -e {tmp_path}/a ] || [ ! -e {tmp_path}/b ]; do sleep 0.02; done; {OK}"""
    for task in ("a", "b"):
        await place.delegate(task)
    await place.serve(script, concurrency=2, timeout=30)
    assert [(await place.bus.task(task)).state for task in ("a", "b")] == ["completed"] * 2


async def test_no_more_than_the_limit(place):
    """--limit and --once leave the rest to others."""
    for task in ("a", "b", "c"):
        await place.delegate(task)
    await place.serve(OK, limit=2, until_idle=False)
    assert [(await place.bus.task(task)).state for task in ("a", "b", "c")] == [
        "completed",
        "completed",
        "submitted",
    ]


async def test_a_long_run_keeps_its_lease(place):
    """An agent that works for several leases is run once."""
    await place.delegate()
    await place.serve(f"sleep 1.5; {OK}", lease=0.5)
    assert (await place.bus.task(TASK)).state == "completed"
    assert len([1 async for entry in place.bus.log.read() if entry.type == "acknowledgment"]) == 1


async def test_no_server_is_an_error_at_the_start(tmp_path):
    """A worker that can never work does not pretend to wait."""
    settings = Settings.load(url=f"unix://{tmp_path}/none.sock", environ={}, cwd=tmp_path)
    began = time.monotonic()
    with pytest.RaisesGroup(Unavailable):
        await serve(settings, Service(AGENT, ("true",)), on_settled=print, on_incident=print)
    assert time.monotonic() - began < 30


async def test_criteria_that_can_be_run_are_run(place):
    """Of a command, too: what they show stands beside its own word."""
    await place.delegate(acceptance_criteria=("$ grep -q hi a.txt", "file: a.txt", "reads well"))
    await place.serve(f"echo hi > a.txt; {OK}")
    (completion,) = await place.said("completion")
    assert completion.result.status == "success"
    assert "2 of 2 criteria that can be run are met" in completion.verification_result
    (artifact,) = completion.result.artifacts
    assert artifact.summary == "added, +1 \N{MINUS SIGN}0 lines"


@pytest.mark.parametrize("criterion", ["$ false", "file: gone.txt", "changed: .", "says: sorry"])
async def test_a_criterion_that_is_not_met_is_a_failure(place, criterion):
    """Whatever the command says; what it wrote is kept with the failure."""
    await place.delegate(acceptance_criteria=(criterion,))
    await place.serve(OK)
    error = await place.failure("not-met")
    assert criterion in error.message
    (entry,) = [entry async for entry in place.bus.log.read() if entry.type == "completion"]
    assert json.loads(entry.source)["status"] == "success"


async def test_an_output_that_is_not_there_contradicts_a_success(place):
    """A file that nobody finds is no result."""
    await place.delegate()
    await place.serve("""printf '{"status": "success", "outputs": ["gone.txt"]}'""")
    assert "gone.txt is not there" in (await place.failure("contradicted")).message


async def test_a_completion_json_of_before_is_none(place, tmp_path):
    """In a folder for all, what lay there before the run counts for nothing."""
    (tmp_path / "completion.json").write_text('{"status": "success"}')
    await place.delegate()
    await place.serve("true", cwd=tmp_path)
    await place.failure("no-completion")


@pytest.mark.parametrize("kind", ["copy", "worktree"])
async def test_a_command_may_have_a_workspace_of_any_kind(place, tmp_path, kind):
    """A copy of a folder, or a checkout of it; what it prints stays out of it."""
    project = repository(tmp_path / "project", {"a.txt": "a\n"})
    await place.delegate()
    script = f"cat a.txt >&2; echo b >> a.txt; {OK}"
    command = ("sh", "-c", script)
    agent = Definition(name="@kilo", adapter="command", command=command, workspace=kind, folder=project)
    await place.serve(script, definition=agent, command=())
    (completion,) = await place.said("completion")
    (artifact,) = completion.result.artifacts
    assert artifact.path == str(place.folder / TASK / "1" / "a.txt")
    assert (project / "a.txt").read_text() == "a\n"
    assert (place.folder / TASK / "1.logs" / "stderr.log").read_text() == "a\n"


async def test_a_command_whose_definition_says_what_it_may_cost_is_held_to_its_caps(place, tmp_path):
    """Money is reserved before it runs, and over a cap it does not run: parked, with what can be done about it."""
    policy = tmp_path / "policy.toml"
    policy.write_text('[caps]\nanthropic = "0.06"\n', encoding="utf-8")
    place.settings = replace(place.settings, policy=policy)
    words = ("sh", "-c", f"touch {tmp_path}/$BUS_TASK; {OK}")
    definition = Definition(
        name=AGENT, adapter="command", command=words, provider="anthropic", model="m", hold=50_000, concurrency=1
    )
    usage = (Usage(provider="anthropic", model="m", cost=Cost(source="reported", microusd=20_000)),)
    await place.delegate("first", review_required=False)
    await place.serve("", definition=definition)
    assert (tmp_path / "first").exists()
    assert [said.microusd for said in await place.bus.budget.holds()] == []
    await place.delegate("paid")
    spent = compose(Budget(budget="settled"), sender="@other", recipient="@bus", task="paid", usage=usage)
    await place.bus.publish(spent)
    await place.serve("", definition=definition)
    assert not (tmp_path / "paid").exists()
    (parking,) = await place.said("parking")
    assert parking.reason == "refused-by-budget"
    (escalation,) = await place.said("escalation")
    assert "bus budget set" in escalation.error_details.attempted_recovery
