"""Coordinators: what is escalated to an agent is for its program to decide, and goes up where it does not."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from taskbus.envelope import Answer, Cancellation, Delegation, ErrorDetails, Escalation, compose
from taskbus_agents.coordination import Bounds, Office
from taskbus_agents.definition import Definition
from taskbus_agents.handlers import bounds_of, handler, office_of
from taskbus_agents.runner import Runner
from taskbus_agents.service import Service, serve
from taskbus_agents.tally import Timed
from tests.taskbus_agents.place import AGENT, DELEGATOR, TASK

if TYPE_CHECKING:
    from taskbus.envelope import AnyEnvelope
    from tests.taskbus_agents.place import Place

pytestmark = pytest.mark.anyio
CHIEF, LEAD, OTHER = "@chief", "@boss", "@other"
STUCK = """printf '{"status": "failure"}'"""


class Staff:
    """Agents at one place, each a shell script; those in `defined` know of each other."""

    def __init__(self, place: Place, tmp_path) -> None:
        self.place = place
        self.bus = place.bus
        self.folder = tmp_path
        self.defined: dict[str, Definition] = {}
        self.incidents: list[str] = []
        self.settled: list = []

    def define(self, name: str, script: str = "true", *, coordinator: str | None = None, **more) -> None:
        """Define an agent."""
        command = ("sh", "-c", script)
        self.defined[name] = Definition(name=name, adapter="command", command=command, coordinator=coordinator, **more)

    async def work(self, *names: str, attempts: int = 2, until_idle: bool = True, **more) -> None:
        """Have these agents work until their inboxes are empty, one after the other, or all until cancelled."""
        with anyio.fail_after(60):
            async with Runner(grace=0.2) as runner, anyio.create_task_group() as group:
                for name in names:
                    worker = self.worker(name, runner, attempts=attempts, **more)
                    if until_idle:
                        await worker.run(until_idle=True)
                    else:
                        group.start_soon(worker.run)

    def worker(self, name: str, runner: Runner, *, attempts: int = 2, **more):
        """A worker for one of them."""
        agent = handler(
            self.defined[name], bus=self.bus, runner=runner, settings=self.place.settings, known=self.defined
        )
        timed = Timed(replace(agent, on_incident=self.incidents.append), self.settled.append)
        return self.bus.worker(
            name,
            timed,
            on_incident=self.incidents.append,
            on_settled=timed.settled,
            attempts=attempts,
            backoff=0.01,
            supervision=None,
            **more,
        )

    async def stuck(self, level: int = 1, *, to: str = CHIEF, by: str = AGENT, **more) -> None:
        """A task of the delegator that @kilo has taken on and escalated."""
        await self.place.delegate(**{"review_required": False, **more})
        await self.escalate(level, to=to, by=by)

    async def escalate(self, level: int = 1, *, to: str = CHIEF, by: str = AGENT) -> AnyEnvelope:
        """Escalate it as its assignee does by hand."""
        details = ErrorDetails(level=level, category="integration", message="the schema contradicts the API")
        envelope = compose(Escalation(error_details=details), sender=by, recipient=to, task=TASK)
        await self.bus.publish(envelope)
        return envelope

    async def last(self, kind: str) -> AnyEnvelope:
        """The newest envelope of a type."""
        return [entry.envelope async for entry in self.bus.log.read() if entry.type == kind][-1]

    async def escalations(self) -> list[tuple[str, str, int]]:
        """Who escalated to whom, at which level."""
        return [
            (entry.sender, entry.recipient, entry.envelope.payload.error_details.level)
            async for entry in self.bus.log.read()
            if entry.type == "escalation"
        ]

    async def types(self) -> list[str]:
        """The types of all that stands in the log."""
        return [entry.type async for entry in self.bus.log.read()]


@pytest.fixture
def staff(place, tmp_path):
    """A specialist with its coordinator and that one's lead."""
    staff = Staff(place, tmp_path)
    staff.define(LEAD)
    staff.define(CHIEF, coordinator=LEAD)
    staff.define(AGENT, coordinator=CHIEF, description="Does what it can.")
    staff.define(OTHER, coordinator=CHIEF, description="Does the rest.")
    return staff


def says(decision: object) -> str:
    """A script that reads all, and writes this."""
    text = decision if isinstance(decision, str) else json.dumps(decision)
    return f"cat > /dev/null; cat <<'END'\n{text}\nEND"


async def test_a_coordinator_hands_the_task_to_another_agent(staff, tmp_path):
    """Its program reads delegation and escalation, and names an agent: the task goes on with that one as it was."""
    script = f"cat > {tmp_path}/talk; env > {tmp_path}/env; printf '%s' '{json.dumps({'target_agent': 'other'})}'"
    staff.define(CHIEF, script, coordinator=LEAD)
    await staff.stuck(constraints=("no ORM",), acceptance_criteria=("it works",))
    await staff.work(CHIEF)
    lines = [json.loads(line) for line in (tmp_path / "talk").read_text().splitlines()]
    assert [line["type"] for line in lines] == ["delegation", "escalation"]
    task = await staff.bus.task(TASK)
    assert (task.state, task.assignee, task.attempt, task.delegator) == ("submitted", OTHER, 2, DELEGATOR)
    again = await staff.last("delegation")
    assert (again.sender, again.recipient, again.payload.goal) == (CHIEF, OTHER, "do it")
    assert (again.payload.constraints, again.payload.acceptance_criteria) == (("no ORM",), ("it works",))
    assert again.payload.review_required is False
    environment = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert (environment["BUS_COORDINATOR"], environment["BUS_TEAM"]) == (LEAD, f"{AGENT} {OTHER}")
    assert "BUS_TOKEN" not in environment
    assert [each.result for each in staff.settled] == ["succeeded"]
    assert staff.incidents == []


async def test_what_a_coordinator_says_of_the_task_goes_before_what_was_said(staff):
    """A new goal and usage stand in the delegation; the deadline that is still ahead stays."""
    usage = [{"provider": "anthropic", "model": "sonnet", "input_tokens": 5, "output_tokens": 2}]
    decision = {"target_agent": OTHER, "context": {"goal": "do less"}, "usage": usage}
    staff.define(CHIEF, says(decision), coordinator=LEAD)
    await staff.stuck()
    await staff.work(CHIEF)
    again = await staff.last("delegation")
    assert again.payload.goal == "do less"
    assert [(each.model, each.input_tokens) for each in again.usage] == [("sonnet", 5)]


async def test_the_delegator_answers_and_the_work_goes_on(staff):
    """A coordinator that delegated the task itself may say what is to be done; the assignee is run with the answer."""
    staff.define(DELEGATOR, says({"answer": "take the API's word"}))
    staff.define(AGENT, """cat > talk; printf '{"status": "success", "description": "%s"}' "$(grep -c answer talk)" """)
    await staff.stuck(to=DELEGATOR)
    await staff.work(DELEGATOR, AGENT)
    assert (await staff.bus.task(TASK)).state == "accepted"
    assert (await staff.last("answer")).payload.answer == "take the API's word"
    assert (await staff.last("completion")).payload.result.description == "1"


async def test_whoever_did_not_delegate_it_cannot_answer(staff):
    """An answer that only the delegator may give is no decision: it goes up with the reason."""
    staff.define(CHIEF, says({"answer": "take the API's word"}), coordinator=LEAD)
    await staff.stuck()
    await staff.work(CHIEF)
    said = await staff.last("escalation")
    assert (said.sender, said.recipient) == (CHIEF, LEAD)
    assert f"only {DELEGATOR}" in said.payload.error_details.message


@pytest.mark.parametrize(
    ("script", "part"),
    [
        ("exit 3", "exit code 3"),
        ("kill -9 $$", "SIGKILL"),
        ("true", "wrote nothing"),
        (says("I think that all is well."), "no decision"),
        (says({"status": "success"}), "no decision"),
        (says({"target_agent": "@nobody"}), "there is no such agent"),
        (says({"target_agent": "@human"}), "which only an escalation does"),
        (says({"target_agent": OTHER, "colour": "red"}), "colour"),
        (says({"target_agent": OTHER, "usage": [{"model": 3}]}), "no decision"),
        (says({"answer": 5}), "no decision"),
    ],
)
async def test_what_is_no_decision_goes_one_level_up(staff, script, part):
    """However its program ends, the trouble goes on to its own coordinator, with the reason and what was said first."""
    staff.define(CHIEF, script, coordinator=LEAD)
    await staff.stuck()
    await staff.work(CHIEF)
    details = (await staff.last("escalation")).payload.error_details
    assert await staff.escalations() == [(AGENT, CHIEF, 1), (CHIEF, LEAD, 2)]
    assert details.category == "integration"
    assert part in details.message
    assert details.message.endswith("It said: the schema contradicts the API")
    assert (await staff.bus.task(TASK)).coordinator == LEAD


async def test_three_levels_lead_to_a_human(staff):
    """Specialist, coordinator, lead, human: each tells the next, one level up, and the first message stays."""
    staff.define(AGENT, says({"escalation": "It does not build."}), coordinator=CHIEF)
    staff.define(CHIEF, says({"escalation": "Not ours to decide."}), coordinator=LEAD)
    staff.define(LEAD, says("What?"))
    await staff.place.delegate()
    await staff.work(AGENT, CHIEF, LEAD)
    assert await staff.escalations() == [(AGENT, CHIEF, 2), (CHIEF, LEAD, 3), (LEAD, "@human", 4)]
    task = await staff.bus.task(TASK)
    assert (task.state, task.coordinator) == ("escalated", "@human")
    assert (await staff.last("escalation")).payload.error_details.message.endswith("Not ours to decide.")


async def test_an_escalation_by_name_goes_to_whom_it_names(staff):
    """At a higher level than it came with, and at the highest to a person."""
    staff.define(CHIEF, says({"escalation": "help", "recipient": OTHER, "level": 1}), coordinator=LEAD)
    await staff.stuck(2)
    await staff.work(CHIEF)
    assert (await staff.escalations())[-1] == (CHIEF, OTHER, 3)
    staff.define(OTHER, says({"escalation": "help", "recipient": LEAD}), coordinator=CHIEF)
    await staff.work(OTHER)
    assert (await staff.escalations())[-1] == (OTHER, "@human", 4)


async def test_two_that_turn_to_each_other_turn_to_a_human(staff):
    """The coordinator of a coordinator that had the trouble before does not get it again."""
    staff.define(CHIEF, "exit 1", coordinator=LEAD)
    staff.define(LEAD, "exit 1", coordinator=CHIEF)
    await staff.stuck()
    await staff.work(CHIEF, LEAD, CHIEF)
    assert await staff.escalations() == [(AGENT, CHIEF, 1), (CHIEF, LEAD, 2), (LEAD, "@human", 3)]


async def test_nobody_gets_the_same_task_for_ever(staff):
    """After so many attempts the same agent does not get it again, and the trouble goes up."""
    staff.define(CHIEF, says({"target_agent": AGENT}), coordinator=LEAD)
    await staff.place.delegate()
    for _ in range(3):
        await staff.escalate()
        await staff.work(CHIEF)
    assert (await staff.bus.task(TASK)).attempt == 3
    said = await staff.last("escalation")
    assert (said.recipient, "after 3 attempts" in said.payload.error_details.message) == (LEAD, True)


async def test_a_task_does_not_go_round_among_agents_for_ever(staff):
    """What is handed to and fro between two agents goes up after as many attempts as the policy says."""
    (staff.folder / "policy.toml").write_text("[coordination]\nagain = 9\nattempts = 4\n")
    staff.place.settings = replace(staff.place.settings, policy=staff.folder / "policy.toml")
    there, turn = {AGENT: OTHER, OTHER: AGENT}, AGENT
    await staff.place.delegate()
    while True:
        await staff.escalate(by=turn)
        turn = there[turn]
        staff.define(CHIEF, says({"target_agent": turn}), coordinator=LEAD)
        await staff.work(CHIEF)
        if (await staff.bus.task(TASK)).state == "escalated":
            break
    assert (await staff.bus.task(TASK)).attempt == 4
    assert (await staff.escalations())[-1] == (CHIEF, LEAD, 2)


async def test_an_escalation_that_comes_late_is_only_read(staff):
    """What was answered, or cancelled, before its coordinator had a worker runs nothing and disturbs nobody."""
    staff.define(CHIEF, f"touch {staff.folder}/ran; {says({'target_agent': OTHER})}", coordinator=LEAD)
    await staff.stuck()
    await staff.place.say(Answer(answer="do"), sender=DELEGATOR)
    before = await staff.types()
    await staff.work(CHIEF)
    assert not (staff.folder / "ran").exists()
    assert await staff.types() == before
    assert ([each.result for each in staff.settled], staff.incidents) == (["read"], [])


async def test_a_decision_that_comes_too_late_changes_nothing(staff):
    """What is decided while somebody else decides is dropped without noise; what it used is counted."""
    usage = [{"provider": "anthropic", "model": "sonnet", "input_tokens": 5, "output_tokens": 2}]
    decision = says({"target_agent": OTHER, "usage": usage})
    staff.define(CHIEF, f"touch {staff.folder}/ran; read -r x < {staff.folder}/go; {decision}", coordinator=LEAD)
    os.mkfifo(staff.folder / "go")
    await staff.stuck()
    async with anyio.create_task_group() as group:
        group.start_soon(staff.work, CHIEF)
        while not (staff.folder / "ran").exists():  # noqa: ASYNC110 - another process sets no event here
            await anyio.sleep(0.02)
        await staff.place.say(Cancellation(reason="enough"), sender=DELEGATOR)
        await anyio.to_thread.run_sync((staff.folder / "go").write_text, "x\n")
    assert (await staff.bus.task(TASK)).state == "canceled"
    assert "parking" not in await staff.types()
    assert (await staff.types())[-1] in ("cancellation", "budget")
    assert not [each for each in staff.incidents if "parked" in each]


async def test_a_program_may_decide_by_itself(staff):
    """One that has called `bus` from inside is believed: nothing more is said for it."""
    delegate = f'{sys.executable} -m taskbus delegate {OTHER} "do it so" --task "$BUS_TASK" --as {CHIEF}'
    staff.define(CHIEF, f"cat > /dev/null; {delegate} >&2", coordinator=LEAD)
    await staff.stuck()
    await staff.work(CHIEF)
    task = await staff.bus.task(TASK)
    assert (task.state, task.assignee) == ("submitted", OTHER)
    assert [kind for kind in await staff.types() if kind == "escalation"] == ["escalation"]


async def test_a_program_that_escalates_by_command_turns_to_its_own_coordinator(staff):
    """`bus escalate` inside of a worker goes to whom the definition names."""
    escalate = f'{sys.executable} -m taskbus escalate "$BUS_TASK" "It does not build."'
    staff.define(AGENT, f"cat > /dev/null; {escalate} >&2", coordinator=CHIEF)
    await staff.place.delegate()
    await staff.work(AGENT)
    assert await staff.escalations() == [(AGENT, CHIEF, 2)]


async def test_what_is_parked_goes_to_the_agents_own_coordinator(staff):
    """And its coordinator hands it out anew, past what is parked of it."""
    staff.define(AGENT, "exit 75", coordinator=CHIEF)
    staff.define(CHIEF, says({"target_agent": AGENT}), coordinator=LEAD)
    await staff.place.delegate(review_required=False)
    await staff.work(AGENT)
    assert await staff.escalations() == [("@bus", CHIEF, 2)]
    staff.define(AGENT, """printf '{"status": "success"}'""", coordinator=CHIEF)
    await staff.work(CHIEF, AGENT)
    assert (await staff.bus.task(TASK)).state == "accepted"
    assert [each.parking async for each in parkings(staff)] == ["parked", "dropped"]


async def parkings(staff):
    """What was recorded of deliveries."""
    async for entry in staff.bus.log.read():
        if entry.type == "parking":
            yield entry.envelope.payload


async def test_a_coordinator_that_cannot_be_run_is_passed_over(staff):
    """What asks to be tried again is, and then goes up by the bus; nothing is parked where nobody looks."""
    staff.define(CHIEF, f"echo x >> {staff.folder}/runs; exit 75", coordinator=LEAD)
    await staff.stuck()
    await staff.work(CHIEF)
    assert (staff.folder / "runs").read_text() == "x\n" * 2
    assert await staff.escalations() == [(AGENT, CHIEF, 1), ("@bus", LEAD, 2)]
    assert "parking" not in await staff.types()
    staff.define(LEAD, "exit 75")
    await staff.work(LEAD)
    assert (await staff.escalations())[-1] == ("@bus", "@human", 3)


async def test_a_coordinator_that_is_killed_is_run_again_elsewhere(staff):
    """A worker that dies leaves the escalation to the next one, which decides once."""
    staff.define(CHIEF, says({"target_agent": OTHER}), coordinator=LEAD)
    await staff.stuck()
    lost = staff.bus.inbox(CHIEF, consumer="w-lost", lease=0.3)
    (delivery,) = (await lost.take()).deliveries
    assert delivery.is_to_decide
    await staff.work(CHIEF)
    assert [kind for kind in await staff.types() if kind == "delegation"] == ["delegation"] * 2


async def test_of_two_workers_of_a_coordinator_one_decides(staff):
    """Many escalations and two workers: each task is handed out once, and nothing is parked."""
    staff.define(CHIEF, says({"target_agent": OTHER}), coordinator=LEAD)
    names = [f"t{number}" for number in range(8)]
    details = ErrorDetails(level=1, category="execution", message="stuck")
    for name in names:
        await staff.place.delegate(name)
        await staff.place.say(Escalation(error_details=details), sender=AGENT, recipient=CHIEF, task=name)
    with anyio.fail_after(60):
        async with Runner(grace=0.2) as runner, anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(lambda: staff.worker(CHIEF, runner, concurrency=2).run(until_idle=True))
    assert [(await staff.bus.task(name)).assignee for name in names] == [OTHER] * 8
    assert (await staff.types()).count("delegation") == 16
    assert all("Waiting" in each for each in staff.incidents)


async def test_two_decisions_on_one_escalation_are_one(staff):
    """A worker whose lease was lost meanwhile is fenced: what it decided is not published beside the other's."""
    await staff.stuck()
    first = staff.bus.inbox(CHIEF, consumer="w-1", lease=0.05)
    (old,) = (await first.take()).deliveries
    await anyio.sleep(0.1)
    second = staff.bus.inbox(CHIEF, consumer="w-2", lease=30)
    (new,) = (await second.take()).deliveries
    made = compose(Delegation(goal="g"), sender=CHIEF, recipient=OTHER, task=TASK)
    await second.settle(new, [made])
    with pytest.raises(Exception, match=r"taken again|settled by somebody"):
        await first.settle(old, [compose(Delegation(goal="h"), sender=CHIEF, recipient=AGENT, task=TASK)])
    assert (await staff.types()).count("delegation") == 2


async def test_an_agent_outside_of_any_registry_decides_as_well(staff):
    """`bus agent run @chief -- command` has no definition: its trouble goes to a human."""
    await staff.stuck()
    service = Service(CHIEF, command=("sh", "-c", "exit 1"), until_idle=True)
    with anyio.fail_after(60):
        await serve(staff.place.settings, service, on_settled=staff.settled.append, on_incident=print)
    assert await staff.escalations() == [(AGENT, CHIEF, 1), (CHIEF, "@human", 2)]


async def test_who_belongs_to_whom_is_read_from_the_definitions(place, tmp_path):
    """The team are those who name it; nobody is their own coordinator; bounds come from the policy."""
    known = {
        name: Definition(name=name, adapter="command", coordinator=above, description=name)
        for name, above in (("@a", "@a"), ("@b", "@a"), ("@c", "@b"))
    }
    (tmp_path / "p.toml").write_text("[coordination]\nagain = 5\n")
    settings = replace(place.settings, policy=tmp_path / "p.toml")
    office = office_of(known["@a"], settings, known)
    assert office == Office("@a", None, {"@b": "@b"}, frozenset(known), Bounds(5, 9))
    assert bounds_of(replace(settings, policy=None)) == Bounds()
