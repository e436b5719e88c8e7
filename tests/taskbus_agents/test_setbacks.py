"""Setbacks: what becomes of a delivery whose command asks for another try, hangs, or takes too long."""

from __future__ import annotations

import pytest

from taskbus.errors import NoServer, TimedOut
from taskbus_agents import taken
from tests.taskbus_agents.place import OK, TASK
from tests.taskbus_agents.waiting import all_gone

pytestmark = pytest.mark.anyio


async def test_exit_code_75_is_tried_again(place):
    """In a folder of its own again, from which the one before can be seen; what it printed the first time is kept."""
    again = """if [ -z "$BUS_PREVIOUS" ]; then echo no network >&2; exit 75; fi
        printf '{"status": "success", "description": "%s"}' "$BUS_PREVIOUS" """
    await place.delegate()
    await place.serve(again, backoff=0.05)
    (completion,) = await place.said("completion")
    first = place.folder / TASK / "1"
    assert completion.result.description == str(first)
    assert (first / "stderr.log").read_text() == "no network\n"
    assert len(place.settled) == 1
    assert [incident for incident in place.incidents if "exit code 75" in incident]


async def test_after_the_last_attempt_it_is_parked_and_escalated(place):
    """The coordinator learns what the agent printed last; the task waits for a decision."""
    await place.delegate()
    await place.serve(f"echo x >> {place.settings.home}/tries; echo no network >&2; exit 75", attempts=2, backoff=0.05)
    (escalation,) = await place.said("escalation")
    assert "no network" in escalation.error_details.message
    assert (place.settings.home / "tries").read_text() == "x\nx\n"
    (told,) = place.settled
    assert (told.result, told.outcome, told.reason, told.attempts) == ("parked", "parking", "retryable", 2)
    assert (await place.bus.task(TASK)).state == "escalated"
    log = {str(entry.position): entry async for entry in place.bus.log.read()}
    assert (log[told.appended].id, log[told.appended].type) == (told.id, "parking")


async def test_what_waits_for_its_quota_is_taken_up_then(place):
    """It counts as no attempt: one would be too many here."""
    limited = f"""if mkdir {place.settings.home}/first; then echo '{{"retry_after": 1}}'; exit 75; fi; {OK}"""
    await place.delegate()
    await place.serve(limited, attempts=1)
    assert (await place.bus.task(TASK)).state == "completed"
    assert [told.result for told in place.settled] == ["succeeded"]


async def test_a_silent_agent_is_ended_and_tried_again(place, tmp_path):
    """It hangs once; nothing of its first run is left beside the second."""
    hangs = f"if mkdir {tmp_path}/first; then sleep 600 & echo $! > {tmp_path}/pid; wait; fi; {OK}"
    await place.delegate()
    await place.serve(hangs, silence=1.0, backoff=0.05)
    assert (await place.bus.task(TASK)).state == "completed"
    assert any("without a sign of life" in incident for incident in place.incidents)
    await all_gone(int((tmp_path / "pid").read_text()))


async def test_the_hard_limit_parks(place, tmp_path):
    """Unlike --timeout, which is the task's failure; what it printed is there to find out why."""
    await place.delegate()
    await place.serve(f"echo half way; echo why >&2; sleep 600 & echo $! > {tmp_path}/pid; wait", hard_limit=0.5)
    (told,) = place.settled
    assert (told.result, told.reason) == ("parked", "timed-out")
    assert await place.said("completion") == []
    assert (place.folder / TASK / "1" / "stdout.log").read_text() == "half way\n"
    assert (place.folder / TASK / "1" / "stderr.log").read_text() == "why\n"
    await all_gone(int((tmp_path / "pid").read_text()))


async def test_an_agent_that_removes_its_folder_has_done_its_work(place):
    """What is not there cannot be tidied up."""
    await place.delegate()
    await place.serve(f'{OK}; rmdir "$PWD"')
    assert (await place.bus.task(TASK)).state == "completed"


async def test_an_outage_at_the_end_of_a_command_is_waited_out():
    """What a command has done is not lost because the server does not answer just then."""
    answers = iter([NoServer(), TimedOut(), "submitted"])

    async def ask():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await taken.answered(ask) == "submitted"
