"""Plans that are carried out by scripted agents: gates, failures, people, and the report at the end."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Artifact,
    Cancellation,
    Delegation,
    ErrorDetails,
    Escalation,
    Question,
    compose,
)
from taskbus.errors import Conflict, Fenced
from taskbus.lifecycle import BUS, HUMAN
from taskbus.work import Work
from taskbus_agents.commands.plan_view import Live
from taskbus_agents.plans import gatekeeper, moves, report
from taskbus_agents.plans.following import order_of
from taskbus_agents.plans.messages import Messages
from taskbus_agents.plans.runner import PlanRunner
from taskbus_agents.plans.starting import again
from tests.taskbus_agents.crew import Crew, breaches, done, failed

pytestmark = pytest.mark.anyio
EXAMPLE = """\
    ASSESS: Multi-file component + i18n + tests → Complex
    SPLIT:
      [PARALLEL] research existing patterns + write tests
      [GATE] → implement component
      [PARALLEL] lint + build + a11y check
      [GATE] → visual verify
    ASSIGN:
      research: OpenCode @researcher (groq/llama-3.3-70b, free)
      tests: OpenCode @coder (groq/llama-3.3-70b, free)
      implement: Kilo bmad-dev (z-ai/glm4.7, free)
      review: OpenCode @reviewer (groq/llama-3.1-8b, free)
"""


@pytest.fixture
async def crew(place, tmp_path):
    """A crew on the shared server, in a namespace of this test."""
    return Crew(place.bus, place.settings, tmp_path)


def step(name: str, after: str = "", **fields: str) -> str:
    """A step for @kilo, as TOML; fields are given as they stand in it."""
    lines = [f"[steps.{name}]", f'goal = "do {name}"', 'agent = "@kilo"']
    lines += [f"after = {json.dumps(after.split())}"] if after else []
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in fields.items()), ""])


def states(run) -> dict[str, str]:
    """Where each node of a run stands."""
    return {name: report.state_of(run, node) for name, node in run.plan.nodes.items()}


async def test_the_example_as_people_write_it_runs_to_its_report(crew):
    """Each step goes to the agent that its line of ASSIGN means, no gate is broken, and the report tells of all."""
    plan = crew.plan(EXAMPLE, "component.txt")
    crew.script["write-tests"] = [done("3 tests", artifacts=(Artifact(path="/t/component.test.ts"),))]
    async with crew.at_work("@researcher", "@coder", "@kilo", "@reviewer"):
        ended = await crew.carry_out(await crew.begin(plan, "component.txt"))
    assert ended.run.state == "accepted"
    agents = {name: works[0].delivery.agent for name, works in crew.seen.items()}
    assert agents == {
        "research-existing-patterns": "@researcher",
        "write-tests": "@coder",
        "implement-component": "@kilo",
        **dict.fromkeys(("lint", "build", "a11y-check", "visual-verify"), "@reviewer"),
    }
    assert breaches(plan, "component.1", await crew.entries()) == []
    told = crew.seen["implement-component"][0].envelope.payload
    assert "Use Kilo bmad-dev (z-ai/glm4.7, free)" in told.constraints
    assert "3 tests" in told.goal
    assert [each.path for each in told.artifacts] == ["/t/component.test.ts"]
    completion = ended.run.root.completion
    assert completion.result.status == "success"
    for title in ("research existing patterns", "a11y check", "did visual-verify"):
        assert title in completion.result.description
    assert await crew.bus.inbox("@plan.component").waiting() == []


async def test_a_gate_waits_for_the_slowest(crew):
    """While one of two is still at work, what needs only the other begins, and what stands behind the gate does not."""
    gate = '[gates.both]\nafter = ["a", "b"]\n'
    plan = crew.plan(step("a") + step("b") + gate + step("c", "both") + step("d", "a b") + step("e", "a"))
    reacted = anyio.Event()

    async def slow(_work):
        await reacted.wait()
        return done()

    crew.script["b"] = [slow]
    async with crew.at_work("@kilo"), anyio.create_task_group() as group:
        run = await crew.begin(plan)

        async def react():
            await crew.until(lambda entries: any(e.task == f"{run}.e" and e.type == "completion" for e in entries))
            reacted.set()

        group.start_soon(react)
        ended = (await crew.carry_out(run)).run
    assert ended.state == "accepted"
    assert breaches(plan, run, await crew.entries()) == []


async def test_a_runner_without_the_lease_begins_nothing(crew):
    """What a runner begins goes with a status under its token: when that is old, nothing of it is appended."""
    run = await crew.begin(crew.plan(step("a")))
    order = await order_of(crew.bus, run)
    inbox = crew.bus.inbox("@plan.p", consumer="first", lease=0.001)
    (old,) = (await inbox.take()).deliveries
    second = crew.bus.inbox("@plan.p", consumer="second")
    with anyio.fail_after(10):
        while not (taken := await second.take(wait=0.05)).deliveries:
            assert taken.newest == old.token
    found = await crew.fold(run)
    one, other = (Messages(each, order.envelope, order.root, crew.folder) for each in (found, await crew.fold(run)))
    due = moves.due(found).moves
    envelopes = [one.of(move, "@kilo") for move in due]
    assert [each.id for each in envelopes] == [other.of(move, "@kilo").id for move in due]
    runner = PlanRunner(
        crew.bus, found.plan, order, folder=crew.folder, chooser=None, on_incident=crew.incidents.append
    )
    _, refused = await runner._append(Work(crew.bus, old, order.envelope, HUMAN), found, due, envelopes)
    assert isinstance(refused, Fenced)
    assert [e.task for e in await crew.entries() if e.type == "delegation"] == [run]


async def test_a_failed_step_is_tried_again_as_often_as_it_may(crew):
    """Two retries are two further attempts of the same task, told what failed; then the plan stops."""
    plan = crew.plan(step("a", retries="2") + step("b", "a"))
    crew.script["a"] = [failed("one"), failed("two"), failed("three")]
    run = await crew.complete(plan, "@kilo")
    assert (run.state, states(run)) == ("failed", {"a": "failed", "b": "waiting"})
    assert run.piece_of("a").task.attempt == 3
    said = [work.envelope.payload.constraints for work in crew.seen["a"]]
    assert said == [(), ("It was tried before, and that failed: one",), ("It was tried before, and that failed: two",)]
    assert "three" in run.root.completion.error_details.message


async def test_a_retry_that_succeeds_lets_the_plan_go_on(crew):
    """A step that fails once and then succeeds is done."""
    crew.script["a"] = [Acknowledgment(accepted=False, decline_reason="busy"), done()]
    run = await crew.complete(crew.plan(step("a", retries="1") + step("b", "a")), "@kilo")
    assert (run.state, states(run)) == ("accepted", {"a": "done", "b": "done"})


async def test_stop_finishes_what_is_under_way_and_begins_nothing(crew):
    """When a step has failed, the one beside it still ends, and what waits for that does not begin."""
    has_failed = anyio.Event()

    async def slow(_work):
        await has_failed.wait()
        return done()

    plan = crew.plan(step("a") + step("b") + step("c", "b") + step("d", "a"))
    crew.script["a"], crew.script["b"] = [failed()], [slow]
    async with crew.at_work("@kilo"), anyio.create_task_group() as group:
        run = await crew.begin(plan)

        async def release():
            await crew.until(lambda entries: any(e.task == f"{run}.a" and e.type == "completion" for e in entries))
            has_failed.set()

        group.start_soon(release)
        ended = (await crew.carry_out(run)).run
    assert states(ended) == {"a": "failed", "b": "done", "c": "waiting", "d": "waiting"}
    assert ended.state == "failed"


async def test_skip_goes_on_without_the_step_and_says_so(crew):
    """What comes after a skipped step begins, is told of it, and the plan ends as partial."""
    crew.script["a"] = [failed("no network")]
    run = await crew.complete(crew.plan(step("a", on_failure='"skip"') + step("b", "a")), "@kilo")
    assert (run.state, run.root.completion.result.status) == ("accepted", "partial")
    assert states(run) == {"a": "skipped", "b": "done"}
    assert "a: skipped, because it failed" in crew.seen["b"][0].envelope.payload.goal


@pytest.mark.parametrize(
    ("answer", "state", "found"),
    [
        ("retry", "accepted", {"a": "done", "b": "done", "c": "done"}),
        ("Use version 7.", "accepted", {"a": "done", "b": "done", "c": "done"}),
        ("skip", "accepted", {"a": "skipped", "b": "done", "c": "done"}),
        ("skip a", "accepted", {"a": "skipped", "b": "done", "c": "done"}),
        ("stop", "failed", {"a": "failed", "b": "done", "c": "waiting"}),
        ("Abort!", "failed", {"a": "failed", "b": "done", "c": "waiting"}),
    ],
)
async def test_an_escalation_is_decided_by_its_answer(crew, answer, state, found):
    """With `escalate`, all else is done first; then whoever began the run decides what becomes of the failure."""
    plan = crew.plan(step("a", on_failure='"escalate"') + step("b") + step("c", "a b"))
    crew.script["a"] = [failed("which version?")]
    async with crew.at_work("@kilo"), anyio.create_task_group() as group:
        run = await crew.begin(plan)

        async def decide():
            def escalated(entries):
                return any(e.task == run and e.type == "escalation" for e in entries)

            await crew.until(escalated)
            assert (await crew.fold(run)).settled == {"b": "done"}
            await crew.answer(run, answer)

        group.start_soon(decide)
        ended = (await crew.carry_out(run)).run
    assert (ended.state, states(ended)) == (state, found)
    if answer.startswith("Use"):
        assert "A person says: Use version 7." in crew.seen["a"][1].envelope.payload.constraints


async def test_an_answer_that_is_not_clear_begins_nothing_and_is_asked_back(crew):
    """Whoever gave it is told the possible answers; the step that failed is not paid for once more."""
    crew.script["a"] = [failed("which version?")]
    async with crew.at_work("@kilo"), anyio.create_task_group() as group:
        run = await crew.begin(crew.plan(step("a", on_failure='"escalate"')))

        async def decide():
            for number, answer in enumerate(("No, not with version 6", "retry: not with version 6"), start=1):
                await crew.until(lambda entries, n=number: sum(e.type == "escalation" for e in entries) == n)
                assert len(crew.seen["a"]) == 1
                await crew.answer(run, answer)

        group.start_soon(decide)
        ended = (await crew.carry_out(run)).run
    assert ended.state == "accepted"
    assert "A person says: not with version 6" in crew.seen["a"][1].envelope.payload.constraints
    first, second = [e for e in await crew.entries() if e.type == "escalation"]
    choices = f'Decide with: bus answer {run} "retry" (or "retry: what the agent is to know", "skip", "stop")'
    assert first.envelope.payload.error_details.message.endswith(choices)
    assert second.recipient == HUMAN
    assert second.envelope.payload.error_details.message == (
        f'The answer "No, not with version 6" does not say clearly what is to be done, so nothing was begun. '
        f"a has failed: which version?. {choices}"
    )


async def test_a_check_gate_opens_with_exit_code_0_and_stops_with_any_other(crew):
    """The command runs in the plan's folder; its output is the evidence."""
    gate = '[gates.g]\nafter = ["a"]\ncheck = "test -f flag || { echo no flag; exit 3; }"\n'
    plan = crew.plan(step("a") + gate + step("b", "g"))
    run = await crew.complete(plan, "@kilo")
    assert (run.state, states(run)) == ("failed", {"a": "done", "g": "failed", "b": "waiting"})
    assert "exit code 3" in run.root.completion.error_details.message
    assert "no flag" in run.root.completion.error_details.message
    (crew.folder / "flag").touch()
    order = await order_of(crew.bus, run.id)
    assert await again(crew.bus, order, sender=None)
    async with crew.at_work("@kilo"):
        ended = await crew.carry_out(run.id)
    assert (ended.run.state, states(ended.run)) == ("accepted", {"a": "done", "g": "done", "b": "done"})
    assert len(crew.seen["a"]) == 1


async def test_a_check_gate_shows_nobody_a_secret(crew, monkeypatch):
    """What its command prints of the environment is masked, before it stands in the log."""
    monkeypatch.setenv("DB_PASSWORD", "hunter2secret")
    plan = crew.plan(step("a") + '[gates.g]\nafter = ["a"]\ncheck = "echo is $DB_PASSWORD; exit 3"\n' + step("b", "g"))
    run = await crew.complete(plan, "@kilo")
    assert "is ***" in run.root.completion.error_details.message
    assert [each.id async for each in crew.bus.log.read() if b"hunter2secret" in each.body] == []


async def test_a_check_that_takes_too_long_has_failed(crew):
    """A gate's command is ended after its timeout, with all that it started."""
    gate = '[gates.g]\nafter = ["a"]\ncheck = "sleep 600 & wait"\ntimeout = "0.2s"\n'
    run = await crew.complete(crew.plan(step("a") + gate), "@kilo")
    assert (run.state, "ended after 0.2 s" in run.root.completion.error_details.message) == ("failed", True)


async def test_a_check_without_a_timeout_has_the_time_that_all_have(crew, monkeypatch):
    """Neither a gate nor the check of a step hangs for ever; what is said names what would give it longer."""
    monkeypatch.setattr(gatekeeper, "CHECK_TIME", 0.2)
    plan = crew.plan(
        step("a", check='"sleep 600"', on_failure='"skip"') + '[gates.g]\nafter = ["a"]\ncheck = "sleep 600"\n'
    )
    run = await crew.complete(plan, "@kilo")
    assert (run.state, states(run)) == ("failed", {"a": "skipped", "g": "failed"})
    assert "$ sleep 600: ended after 0.2 s, which is all" in run.root.completion.error_details.message
    assert "`timeout`" in run.root.completion.error_details.message


async def test_a_command_in_an_envelope_is_not_run(crew):
    """Whoever delegates a check to a plan's agent gets nothing run: commands stand in the document alone."""
    gate = f'[gates.g]\nafter = ["a"]\ncheck = "touch {crew.folder}/own"\n'
    plan = crew.plan(step("a") + gate)
    run = await crew.begin(plan)
    foul = Delegation(action="check", goal="x", acceptance_criteria=(f"$ touch {crew.folder}/foul",))
    await crew.bus.publish(compose(foul, sender="@kilo", recipient="@plan.p", task=f"{run}:check-9"))
    await crew.bus.publish(compose(foul, sender="@plan.p", recipient="@plan.p", task=f"{run}.nothing"))
    async with crew.at_work("@kilo"):
        ended = await crew.carry_out(run)
    assert ended.run.state == "accepted"
    assert ((crew.folder / "own").exists(), (crew.folder / "foul").exists()) == (True, False)


async def test_a_plan_may_begin_with_a_gate(crew):
    """A person is asked before anything that waits for the gate; what does not wait begins at once."""
    plan = crew.plan('[gates.go]\napproval = "Begin?"\n' + step("a", "go") + step("b"))
    async with crew.at_work("@kilo"), anyio.create_task_group() as group:
        run = await crew.begin(plan)

        async def say():
            await crew.asked(f"{run}.go")
            await crew.until(lambda entries: any(e.task == f"{run}.b" and e.type == "completion" for e in entries))
            assert "a" not in crew.seen
            await crew.answer(f"{run}.go", "yes")

        group.start_soon(say)
        ended = (await crew.carry_out(run)).run
    assert (ended.state, states(ended)) == ("accepted", {"go": "done", "a": "done", "b": "done"})
    assert breaches(plan, run, await crew.entries()) == []


@pytest.mark.parametrize(
    ("answers", "state", "gate"),
    [(["yes"], "accepted", "done"), (["No, not today"], "failed", "failed"), (["perhaps", "ok"], "accepted", "done")],
)
async def test_an_approval_waits_for_a_person(crew, answers, state, gate):
    """A person is asked; yes goes on, no stops, and anything else is asked again."""
    plan = crew.plan(step("a") + '[gates.g]\nafter = ["a"]\napproval = "Ship it?"\n' + step("b", "g"))
    async with crew.at_work("@kilo"), anyio.create_task_group() as group:
        run = await crew.begin(plan)

        async def say():
            for number, answer in enumerate(answers, start=1):
                await crew.asked(f"{run}.g", number)
                assert not crew.seen["b"]
                await crew.answer(f"{run}.g", answer)

        group.start_soon(say)
        ended = (await crew.carry_out(run)).run
    assert (ended.state, states(ended)["g"]) == (state, gate)
    assert breaches(plan, run, await crew.entries()) == []
    questions = [e for e in await crew.entries() if e.type == "question"]
    assert [e.recipient for e in questions] == ["@human"] * len(answers)
    assert "Ship it?" in questions[0].envelope.payload.question


@pytest.mark.parametrize("task", ["g", "a:review-1", "b:question-1"])
async def test_what_is_asked_of_a_person_is_answered_by_a_person(crew, task):
    """In the run's own name the lifecycle lets anybody answer: that opens nothing, and the person is asked again."""
    gate = '[gates.g]\napproval = "Ship it?"\nafter = ["a", "b"]\n'
    crew.script["b"] = [Question(question="Which prefix?"), done()]
    async with crew.at_work("@kilo"), anyio.create_task_group() as group:
        run = await crew.begin(crew.plan(step("a", review="true") + step("b") + gate))
        told = f"{run}.{task}"

        async def say(about, *, foul):
            await crew.asked(about)
            if foul:
                answer = Answer(answer="yes")
                await crew.bus.publish(compose(answer, sender="@plan.p", recipient="@plan.p", task=about))
                await crew.asked(about, 2)
            await crew.answer(about, "yes, I did")

        for name in ("a:review-1", "b:question-1", "g"):
            group.start_soon(lambda about, foul: say(about, foul=foul), f"{run}.{name}", name == task)
        ended = (await crew.carry_out(run)).run
    assert ended.state == "accepted"
    questions = [e.envelope.payload.question for e in await crew.entries() if e.type == "question" and e.task == told]
    assert len(questions) == 2
    assert questions[1] == f"The answer of @plan.p does not count, since only a person's does. {questions[0]}"
    if task == "g":
        assert ended.piece_of("g").completion.verification_result == "@human said: yes, I did"


async def test_a_check_of_a_step_sends_it_back_until_it_passes(crew):
    """A result whose check fails is rejected with the evidence; the next one that passes is accepted."""
    plan = crew.plan(step("a", check='"test -f result"', retries="1") + step("b", "a"))

    async def better(_work):
        (crew.folder / "result").touch()
        return done("now")

    crew.script["a"] = [done("claimed"), better]
    run = await crew.complete(plan, "@kilo")
    assert run.state == "accepted"
    verdicts = [e.envelope.payload for e in await crew.entries() if e.type == "verdict"]
    assert [each.decision for each in verdicts] == ["rejected", "accepted"]
    assert verdicts[0].criteria[0].criterion == "$ test -f result"
    assert breaches(plan, run.id, await crew.entries()) == []


async def test_a_check_of_a_step_that_never_passes_fails_it(crew):
    """Without a retry left, a result whose check fails is no result; it is not accepted."""
    run = await crew.complete(crew.plan(step("a", check='"false"')), "@kilo")
    assert (run.state, states(run), run.piece_of("a").task.state) == ("failed", {"a": "failed"}, "completed")


@pytest.mark.parametrize(("answer", "state"), [("yes", "accepted"), ("no: the button is gone", "failed")])
async def test_a_review_is_a_persons(crew, answer, state):
    """A step with review = true counts once a person has said so."""
    async with crew.at_work("@kilo"), anyio.create_task_group() as group:
        run = await crew.begin(crew.plan(step("a", review="true")))

        async def say():
            await crew.asked(f"{run}.a:review-1")
            await crew.answer(f"{run}.a:review-1", answer)

        group.start_soon(say)
        ended = (await crew.carry_out(run)).run
    assert ended.state == state


async def test_a_question_of_a_step_reaches_a_person_and_its_answer_the_step(crew):
    """An agent that asks its delegator, the plan, is answered by a person."""
    crew.script["a"] = [Question(question="Which prefix?"), done()]
    async with crew.at_work("@kilo"), anyio.create_task_group() as group:
        run = await crew.begin(crew.plan(step("a")))

        async def say():
            await crew.asked(f"{run}.a:question-1")
            await crew.answer(f"{run}.a:question-1", "marketing:")

        group.start_soon(say)
        ended = (await crew.carry_out(run)).run
    assert ended.state == "accepted"
    assert crew.seen["a"][1].envelope.payload.answer == "marketing:"


async def test_a_question_that_was_answered_elsewhere_is_taken_back(crew):
    """A person may answer the step itself; nobody is then asked any more."""
    crew.script["a"] = [Question(question="Which prefix?"), done()]
    async with crew.at_work("@kilo"), anyio.create_task_group() as group:
        run = await crew.begin(crew.plan(step("a")))

        async def say():
            await crew.asked(f"{run}.a:question-1")
            await crew.answer(f"{run}.a", "marketing:")

        group.start_soon(say)
        ended = (await crew.carry_out(run)).run
    assert ended.state == "accepted"
    assert (await crew.bus.task(f"{run}.a:question-1")).state == "canceled"


async def test_an_escalation_of_a_step_is_a_failed_attempt(crew):
    """A step whose agent escalates is tried again, and then fails."""
    from taskbus.envelope import ErrorDetails

    trouble = Escalation(error_details=ErrorDetails(level=2, category="execution", message="stuck"))
    crew.script["a"] = [trouble, done()]
    run = await crew.complete(crew.plan(step("a", retries="1")), "@kilo")
    assert (run.state, run.piece_of("a").task.attempt) == ("accepted", 2)


async def test_cancelling_a_run_cancels_its_open_steps(crew):
    """The handler of a step under way is ended, what waits never begins, and a later session changes nothing."""
    plan = crew.plan(step("a") + step("b", "a"))
    begun, ended = anyio.Event(), anyio.Event()

    async def forever(_work):
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    crew.script["a"] = [forever]
    async with crew.at_work("@kilo"), anyio.create_task_group() as group:
        run = await crew.begin(plan)

        async def cancel():
            await begun.wait()
            gone = Cancellation(reason="done by hand")
            await crew.bus.publish(compose(gone, sender=HUMAN, recipient="@plan.p", task=run))

        group.start_soon(cancel)
        found = (await crew.carry_out(run)).run
        with anyio.fail_after(10):
            await ended.wait()
    assert (found.state, (await crew.bus.task(f"{run}.a")).state) == ("canceled", "canceled")
    assert "b" not in crew.seen
    before = len(await crew.entries())
    assert (await crew.carry_out(run)).run.state == "canceled"
    assert len(await crew.entries()) == before


async def test_cancelling_a_run_without_a_session_is_carried_out_by_the_next_one(crew):
    """Steps of a run that nobody works on are cancelled as soon as somebody looks after it."""
    plan = crew.plan(step("a"))
    run = await crew.begin(plan)
    with anyio.move_on_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(crew.carry_out, run)
            await crew.until(lambda entries: any(e.task == f"{run}.a" for e in entries))
            group.cancel_scope.cancel()
    await crew.bus.publish(compose(Cancellation(reason="no"), sender=HUMAN, recipient="@plan.p", task=run))
    assert (await crew.bus.task(f"{run}.a")).state == "submitted"
    assert (await crew.carry_out(run)).run.state == "canceled"
    assert (await crew.bus.task(f"{run}.a")).state == "canceled"


async def test_the_plans_own_check_judges_the_report(crew):
    """A schema, files and a command look at the aggregated report; what does not fit fails the run."""
    schema = {"properties": {"done": {"const": 1}, "steps": {"minItems": 1}}, "required": ["usage"]}
    (crew.folder / "report.schema.json").write_text(json.dumps(schema))
    command = "python3 -c \\\"import json,sys; assert json.load(sys.stdin)['steps'][0]['description'] == 'did a'\\\""
    check = f'[check]\nschema = "report.schema.json"\nfiles = ["p.toml"]\ncommand = "{command}"\n'
    run = await crew.complete(crew.plan(step("a") + check), "@kilo")
    assert run.state == "accepted"
    assert "the report fits" in run.root.completion.verification_result
    schema["properties"]["done"]["const"] = 2
    (crew.folder / "report.schema.json").write_text(json.dumps(schema))
    run = await crew.complete(crew.plan(step("a") + check), "@kilo")
    assert (run.id, run.state) == ("p.2", "failed")
    assert "the plan's own check has failed" in run.root.completion.error_details.message


async def test_an_agent_without_a_worker_is_told_of(crew):
    """Nobody waits in silence: the missing agent is named at once."""
    run = await crew.begin(crew.plan(step("a")))
    async with anyio.create_task_group() as group:
        group.start_soon(crew.carry_out, run)
        await crew.until(lambda entries: any(e.task == f"{run}.a" for e in entries))
        with anyio.fail_after(10):
            await crew.told.wait()
        group.cancel_scope.cancel()
    assert any("No worker of @kilo is there" in each for each in crew.incidents)
    said = [e.envelope.payload.progress for e in await crew.entries() if e.type == "status"]
    assert said == ["begins a; no worker of @kilo is there"]


async def test_a_task_of_somebody_else_in_the_way_is_told_of(crew):
    """A step's task that exists already is not taken over; the run is set aside, and says why."""
    await crew.bus.publish(compose(Delegation(goal="mine"), sender="@other", recipient="@kilo", task="p.1.a"))
    run = await crew.begin(crew.plan(step("a")))
    async with anyio.create_task_group() as group:
        group.start_soon(crew.carry_out, run)
        await crew.until(lambda entries: any(e.type == "parking" for e in entries))
        group.cancel_scope.cancel()
    escalation = next(e for e in await crew.entries() if e.type == "escalation")
    assert "p.1.a is in the way: @other" in escalation.envelope.payload.error_details.message


async def test_two_who_begin_a_plan_at_once_begin_one_run(crew):
    """Of two sessions of one plan one begins the run, both see it to its end, and nothing is done twice."""
    plan = crew.plan("".join(step(f"s{n}", f"s{n - 1}" if n else "") for n in range(6)))
    ended = []

    async def one():
        ended.append((await crew.carry_out(await crew.begin(plan))).run)

    async with crew.at_work("@kilo"), anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(one)
    assert [(run.id, run.state) for run in ended] == [("p.1", "accepted")] * 3
    assert {name: len(works) for name, works in crew.seen.items()} == {f"s{n}": 1 for n in range(6)}
    delegations = [e.task for e in await crew.entries() if e.type == "delegation"]
    assert len(delegations) == len(set(delegations)) == 7


async def test_an_edited_plan_does_not_join_the_open_run(crew):
    """A run goes on with the document that it began with; another one is refused beside it, and begins after it."""
    await crew.begin(crew.plan(step("a")))
    edited = crew.plan(step("a") + step("b"))
    with pytest.raises(Conflict, match="earlier version"):
        await crew.begin(edited)
    await crew.bus.publish(compose(Cancellation(reason="no"), sender=HUMAN, recipient="@plan.p", task="p.1"))
    assert await crew.begin(edited) == "p.2"


async def test_a_step_without_an_agent_goes_where_the_policy_says(crew, tmp_path):
    """The router chooses, and its reasons are recorded; where it has nobody, the step fails and says so."""
    policy = tmp_path / "policy.toml"
    policy.write_text('[[ladder]]\nrung = "free"\nagent = "@kilo"\n\n[[ladder]]\nrung = "next"\nagent = "@cline"\n')
    from taskbus.settings import Settings

    crew.settings = Settings.load(
        url=crew.settings.url, namespace=crew.bus.namespace, home=tmp_path, policy=policy, environ={}, cwd=tmp_path
    )
    crew.script["a"] = [failed(), failed()]
    plan = crew.plan('[steps.a]\ngoal = "x"\nretries = 2\n')
    run = await crew.complete(plan, "@kilo", "@cline")
    assert [work.delivery.agent for work in crew.seen["a"]] == ["@kilo", "@cline"]
    assert crew.seen["a"][1].envelope.payload.route.rung == "next"
    assert run.state == "failed"
    assert "nobody for it" in run.root.completion.error_details.message


def test_the_example_file_is_a_plan_that_holds_every_key():
    """docs/plan.example.toml can be carried out, and shows every key that there is."""
    from taskbus_agents.plans import document, table

    file = Path(__file__).parents[2] / "docs" / "plan.example.toml"
    document.load(file)
    text = file.read_text(encoding="utf-8")
    for key in (*table._TOP, *table._STEP, *table._GATE, *table._CHECK):
        assert key in text, key


@pytest.mark.parametrize(
    ("answer", "state", "b"),
    [
        ("go on", "accepted", "done"),
        ("It may take two more hours", "accepted", "done"),
        ("stop", "failed", "waiting"),
        ("No!", "failed", "waiting"),
    ],
)
async def test_a_run_over_its_deadline_goes_on_or_stops_as_a_person_says(crew, answer, state, b):
    """What is under way is finished in any case, and nothing new begins after `stop`."""
    plan = crew.plan(step("a") + step("b", "a"))
    answered = anyio.Event()

    async def slow(_work):
        await answered.wait()
        return done()

    crew.script["a"] = [slow]
    run = await crew.begin(plan)
    async with crew.at_work("@kilo"), anyio.create_task_group() as group:

        async def decide():
            await crew.until(lambda entries: any(e.task == f"{run}.a" and e.type == "acknowledgment" for e in entries))
            details = ErrorDetails(level=2, category="execution", message="The deadline is over.")
            await crew.bus.publish(compose(Escalation(error_details=details), sender=BUS, recipient=HUMAN, task=run))
            await crew.answer(run, answer)
            answered.set()

        group.start_soon(decide)
        ended = (await crew.carry_out(run)).run
    assert (ended.state, states(ended)) == (state, {"a": "done", "b": b})
    assert (answer in ended.root.completion.result.description) == (state == "failed")


async def test_a_run_over_its_deadline_asks_back_what_is_not_clear(crew):
    """It begins nothing, and whoever answers is told how; what is under way goes on meanwhile."""
    plan = crew.plan(step("a") + step("b", "a"))
    run = await crew.begin(plan)
    answered = anyio.Event()

    async def slow(_work):
        await answered.wait()
        return done()

    crew.script["a"] = [slow]
    async with crew.at_work("@kilo"), anyio.create_task_group() as group:

        async def decide():
            await crew.until(lambda entries: any(e.task == f"{run}.a" and e.type == "acknowledgment" for e in entries))
            details = ErrorDetails(level=2, category="execution", message="The deadline is over.")
            await crew.bus.publish(compose(Escalation(error_details=details), sender=BUS, recipient=HUMAN, task=run))
            await crew.answer(run, "not yet")
            await crew.until(lambda entries: sum(e.type == "escalation" for e in entries) == 2)
            answered.set()
            await crew.until(lambda entries: any(e.task == f"{run}.a" and e.type == "completion" for e in entries))
            assert "b" not in crew.seen
            await crew.answer(run, "go on")

        group.start_soon(decide)
        ended = (await crew.carry_out(run)).run
    assert ended.state == "accepted"
    told = [e.envelope.payload.error_details.message for e in await crew.entries() if e.type == "escalation"][1]
    assert told.endswith(f'Decide with: bus answer {run} "go on" (or "stop")')


async def test_what_had_failed_is_told_as_failed_though_the_end_cancelled_it(crew):
    """An escalated step is cancelled when its run ends: the report says what went wrong with it."""
    details = ErrorDetails(level=1, category="execution", message="no idea")
    crew.script["a"] = [Escalation(error_details=details)]
    run = await crew.complete(crew.plan(step("a")), "@kilo")
    assert run.piece_of("a").task.state == "canceled"
    assert states(run) == {"a": "failed"}
    assert "1 failed" in run.root.completion.result.description


async def test_a_step_that_was_cancelled_is_begun_anew_by_resume(crew):
    """Nothing leads out of a cancelled task: the step gets another one, once, whoever folds the run from its start."""
    plan = crew.plan(step("a") + step("b", "a"))
    run = await crew.begin(plan)

    async def cancel(work):
        reason = Cancellation(reason="wrong file")
        await crew.bus.publish(compose(reason, sender="@plan.p", recipient="@kilo", task=work.delivery.task))
        await anyio.sleep_forever()

    crew.script["a"] = [cancel]
    async with crew.at_work("@kilo"):
        ended = (await crew.carry_out(run)).run
        assert (ended.state, states(ended)) == ("failed", {"a": "canceled", "b": "waiting"})
        assert "wrong file" in ended.root.completion.result.description
        assert await again(crew.bus, await order_of(crew.bus, run), sender=None)
        ended = (await crew.carry_out(run)).run
    assert (ended.state, states(ended)) == ("accepted", {"a": "done", "b": "done"})
    begun = [e.task for e in await crew.entries() if e.type == "delegation" and e.task != run]
    assert begun == [f"{run}.a", f"{run}.a:2", f"{run}.b"]


async def test_the_live_view_shows_how_it_stands_though_nothing_more_happens(crew, capsys):
    """What comes right after a drawing is drawn soon, and not only with the next envelope."""
    plan = crew.plan(step("a") + '[gates.ship]\nafter = ["a"]\napproval = "Ship it?"\n')
    run = await crew.begin(plan)
    live = Live(draws=True)
    session = crew.session(await order_of(crew.bus, run), on_entry=live.entry)
    async with crew.at_work("@kilo"), anyio.create_task_group() as group:
        group.start_soon(session.carry_out)
        group.start_soon(live.keep_up)
        await crew.asked(f"{run}.ship")
        shown = ""
        with anyio.fail_after(10):
            while "?   ship" not in shown.rpartition("\x1b[J")[2]:
                await anyio.sleep(0.05)
                shown += capsys.readouterr().err
        group.cancel_scope.cancel()


def test_the_live_view_is_silent_once_nobody_reads_it(monkeypatch):
    """As with `2>&1 | head -1`: the run goes on."""

    class Closed:
        def write(self, _text):
            raise BrokenPipeError

        def flush(self):
            """As a stream has it."""

        def isatty(self):
            return False

    monkeypatch.setattr("sys.stderr", Closed())
    Live(draws=False).incident("odd")
    Live(draws=True).incident("odd")
