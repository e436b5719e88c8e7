"""What if: every sum is that of plain arithmetic, causes add up exactly, and what is not known is never guessed."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import pairwise, permutations

import pytest

from taskbus import moment
from taskbus.envelope import Acknowledgment, Completion, Cost, Delegation, Result, Status, Usage, compose
from taskbus.errors import UsageError
from taskbus_projections import what_if_view
from taskbus_projections.period import Period
from taskbus_projections.policy import Policy
from taskbus_projections.what_if import suppose
from tests.taskbus_projections.handmade import fold

pytestmark = pytest.mark.anyio

# The table of the first users, per 1,000 tokens: input, output.
PER_THOUSAND = {
    "opus": (Decimal("0.08"), Decimal("0.024")),
    "sonnet": (Decimal("0.003"), Decimal("0.006")),
    "haiku": (Decimal("0.00075"), Decimal("0.0003")),
}
TIERS = {"strategic": ("opus", 13), "implementation": ("sonnet", 21), "routine": ("haiku", 13)}


def policy(folder, text):
    """The policy in a file."""
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return Policy.load(path)


def call(model="anthropic/sonnet", tokens=(1000, 100), microusd=None, **more):
    """A call: input and output tokens, unpriced without a cost."""
    provider, _, name = model.partition("/")
    cost = None if microusd is None else Cost(source="reported", microusd=microusd)
    return Usage(provider=provider, model=name, input_tokens=tokens[0], output_tokens=tokens[1], cost=cost, **more)


def work(task, agent, *calls):
    """A task of an agent, with the calls that it took."""
    goal = Delegation(goal="make it", review_required=False)
    yield compose(goal, sender="@boss", recipient=agent, task=task)
    yield compose(Acknowledgment(accepted=True), sender=agent, recipient="@boss", task=task)
    if len(calls) > 1:
        progress = Status(progress="half")
        yield compose(progress, sender=agent, recipient="@boss", task=task, usage=calls[: len(calls) // 2])
    done = Completion(result=Result(status="success"))
    yield compose(done, sender=agent, recipient="@boss", task=task, usage=calls[len(calls) // 2 :])


@pytest.fixture
def folded(bus, database, projector):
    """A function that publishes envelopes and folds them."""

    async def fold(envelopes):
        answers = await bus.publish_many(list(envelopes))
        assert not [answer for answer in answers if isinstance(answer, Exception)]
        await projector.catch_up()
        return database

    return fold


def fleet():
    """The agents of three tiers: the name of each, and its model."""
    return {f"@{tier}-{number:02}": model for tier, (model, count) in TIERS.items() for number in range(1, count + 1)}


FLEET = "\n".join(
    [
        '[prices]\nversion = "first-users"',
        *(
            f'[prices."anthropic/{model}"]\ninput = "{put_in * 1000}"\noutput = "{put_out * 1000}"'
            for model, (put_in, put_out) in PER_THOUSAND.items()
        ),
        *(
            f'[tiers.{tier}]\nrank = {rank}\nmodels = ["anthropic/{model}"]\nagents = ["@{tier}-*"]'
            for rank, (tier, (model, _)) in enumerate(TIERS.items(), start=1)
        ),
        '[baseline]\nmodel = "anthropic/sonnet"\n',
    ]
)


def dollars(model, put_in, put_out):
    """What a call costs by the table of the first users, in microdollars: with decimals, and by the thousand."""
    a, b = PER_THOUSAND[model]
    exact = (a * put_in / 1000 + b * put_out / 1000) * 1_000_000
    return int(exact.quantize(Decimal(1), ROUND_HALF_UP))


def more(count, factor):
    """So many times as many tokens, as whole ones."""
    return int((Decimal(count) * Decimal(factor)).quantize(Decimal(1), ROUND_HALF_UP))


async def test_a_fleet_of_three_tiers_against_one_model_for_all(folded, tmp_path):
    """Each cause is what plain decimals give, and together they are the reduction, in all and in each tier."""
    rng = random.Random(47)
    calls = []
    envelopes = []
    for number, (agent, model) in enumerate(fleet().items()):
        used = [(rng.randrange(200, 60_000), rng.randrange(20, 4000)) for _ in range(rng.randrange(4, 9))]
        calls += [(agent, model, *each) for each in used]
        envelopes += work(f"task-{number}", agent, *(call(f"anthropic/{model}", each) for each in used))
    assert len(fleet()) == 47
    database = await folded(envelopes)
    supposed = policy(tmp_path, FLEET + '[assumptions]\ncontext = "1.3"\ntokens = 1.25\n')
    outcome = suppose(database, supposed, Period(), "tier")
    for tier, sums in (*outcome.groups.items(), (None, outcome.total)):
        mine = [each for each in calls if tier is None or each[0].startswith(f"@{tier}-")]
        one = sum(dollars("sonnet", more(a, "1.3"), more(b, "1.25")) for _, _, a, b in mine)
        routed = sum(dollars(model, more(a, "1.3"), more(b, "1.25")) for _, model, a, b in mine)
        filtered = sum(dollars(model, a, more(b, "1.25")) for _, model, a, b in mine)
        real = sum(dollars(model, a, b) for _, model, a, b in mine)
        assert sums.calls == sums.would_calls == sums.compared_calls == len(mine)
        assert (sums.baseline, sums.would, sums.remaining) == (one, real, real)
        assert (sums.routing, sums.context, sums.tokens) == (one - routed, routed - filtered, filtered - real)
        assert sums.routing + sums.context + sums.tokens == sums.saved == one - real
    assert list(outcome.groups) == list(TIERS)
    assert outcome.groups["implementation"].routing == 0
    text = " ".join(what_if_view.assumptions(outcome, supposed))
    assert "first-users" in text
    assert text.count("assumed, not measured") == 2
    assert "1.3 times the input tokens" in text


async def test_a_claimed_saving_is_measured(folded, tmp_path):
    """By their own prices the tiers that were to save 72 % cost several times as much as one model for all.

    For input, opus costs 27 times what sonnet does, so that no routing of the rest makes up for it. Nothing is
    measured of context and fewer tokens, so that neither saves anything.
    """
    used = (12_000, 1500)
    envelopes = [
        envelope
        for number, (agent, model) in enumerate(fleet().items())
        for envelope in work(f"task-{number}", agent, call(f"anthropic/{model}", used))
    ]
    supposed = policy(tmp_path, FLEET)
    database = await folded(envelopes)
    outcome = suppose(database, supposed, Period(), "tier")
    total = outcome.total
    assert total.baseline == 47 * dollars("sonnet", *used) == 2_115_000
    assert total.remaining == sum(count * dollars(model, *used) for model, count in TIERS.values()) == 14_015_850
    assert (total.saved, total.routing, total.context, total.tokens) == (-11_900_850, -11_900_850, 0, 0)
    assert what_if_view.reductions(total, supposed, outcome.measures) == [
        ("one model for all", "$2.115", ""),
        ("routing", "+$11.90085", "+562.7 %"),
        ("less context", "$0.00", "not measured"),
        ("fewer tokens", "$0.00", "not measured"),
        ("with the policy", "$14.01585", "+562.7 %"),
    ]
    swapped = suppose(database, policy(tmp_path, FLEET + '[swap]\n"*opus" = "implementation"\n'), Period(), "tier")
    assert swapped.total.saved == 13 * (dollars("sonnet", *used) - dollars("haiku", *used)) > 0


async def test_the_order_of_the_causes_moves_the_parts_and_not_the_whole(folded, tmp_path):
    """Each order is a way of its own from the same beginning to the same end."""
    envelopes = work("t", "@strategic-01", call("anthropic/opus", (1000, 500)), call("anthropic/haiku", (333, 77)))
    database = await folded(envelopes)
    (one, other) = (("opus", 1000, 500), ("haiku", 333, 77))
    for order in permutations(("routing", "context", "tokens")):
        for factors in ({"context": 2, "tokens": 3}, {"context": 2}, {"tokens": 3}, {}):
            assumed = "".join(f"{name} = {factor}\n" for name, factor in factors.items())
            text = FLEET + f"[assumptions]\norder = {json.dumps(order)}\n{assumed}"
            total = suppose(database, policy(tmp_path, text), Period(), "tier").total
            steps = []
            for done in range(4):
                left = order[done:]
                a = factors.get("context", 1) if "context" in left else 1
                b = factors.get("tokens", 1) if "tokens" in left else 1
                ran = [("sonnet", *each[1:]) if "routing" in left else each for each in (one, other)]
                steps.append(sum(dollars(model, put_in * a, put_out * b) for model, put_in, put_out in ran))
            parts = {cause: before - after for cause, (before, after) in zip(order, pairwise(steps), strict=True)}
            assert {cause: getattr(total, cause) for cause in order} == parts
            assert (total.baseline, total.remaining, total.saved) == (steps[0], steps[3], steps[0] - steps[3])


async def test_context_is_measured_against_a_reference(folded, tmp_path):
    """The factor is that of two means; calls of the reference stay as they are, and the numbers are told."""
    filtered = [(1000, 100), (2000, 300), (1500, None)]
    envelopes = [
        *work("a", "@implementation-01", *(call(tokens=each) for each in filtered)),
        *work("b", "@raw-1", call(tokens=(4000, 100)), call(tokens=(5000, 200))),
    ]
    supposed = policy(tmp_path, FLEET + '[assumptions]\ncontext = "measured"\n[reference]\nagent = "@raw-*"\n')
    outcome = suppose(await folded(envelopes), supposed, Period(), "agent")
    measure = outcome.measures["context"]
    assert measure.factor == Fraction(9000, 2) / Fraction(4500, 3) == 3
    assert outcome.groups["@raw-1"].saved == 0
    # 3,000 and 6,000 input tokens for 1,000 and 2,000; the call without a count of output is left out.
    assert outcome.groups["@implementation-01"].context == (2000 + 4000) * 3
    assert outcome.groups["@implementation-01"].compared_calls == 2
    (text,) = [line for line in what_if_view.assumptions(outcome, supposed) if line.startswith("Less context")]
    for words in ("2 calls of the reference (agent @raw-*)", "3 other calls", "4,500.0 and 1,500.0", "3 times"):
        assert words in text


def test_an_earlier_period_is_a_reference(database, tmp_path):
    """What was used before is the measure for what was used since, and is no part of what is compared."""
    before, since = (datetime(2026, month, 5, tzinfo=UTC) for month in (10, 11))
    said = [(before, each) for each in work("old", "@x", call(tokens=(1000, 900)), call(tokens=(1000, 300)))]
    said += [(since, each) for each in work("new", "@x", call(tokens=(1000, 200)), call(tokens=(1000, 100)))]
    fold(database, said)
    reference = 'tokens = "measured"\n[reference]\nfrom = 2026-10-01T00:00:00Z\nto = "2026-10-31T00:00:00Z"\n'
    supposed = policy(tmp_path, f"{FLEET}[assumptions]\n{reference}")
    outcome = suppose(database, supposed, Period.read(None, None, "2026-11"), "tier")
    assert outcome.measures["tokens"].factor == 4
    assert (outcome.total.calls, outcome.total.tokens) == (2, (600 + 300) * 6)
    # Over both periods the calls of the reference are among the calls, and stay as they are.
    whole = suppose(database, supposed, Period(), "tier")
    assert whole.measures["tokens"].factor == 4
    assert (whole.total.calls, whole.total.tokens) == (4, (600 + 300) * 6)


async def test_a_reference_without_calls_measures_nothing(folded, tmp_path):
    """Then the cause is 0, and says why."""
    database = await folded(work("a", "@implementation-01", call()))
    supposed = policy(tmp_path, FLEET + '[assumptions]\ntokens = "measured"\n[reference]\nagent = "@nobody"\n')
    outcome = suppose(database, supposed, Period(), "tier")
    assert (outcome.total.tokens, outcome.measures["tokens"].basis) == (0, "not measured")
    assert any("too few say how many output tokens" in line for line in what_if_view.assumptions(outcome, supposed))


async def test_what_is_not_known_is_counted_with_its_reason(folded, tmp_path):
    """Calls without a price, without counts or without a cost are in no sum that they would falsify."""
    calls = [
        call("anthropic/sonnet", (1000, 0), microusd=9000),
        call("local/free", (1000, 0)),
        call("local/free", (1000, 0)),
        call("other/kept", (1000, 0), microusd=500),
        call("anthropic/opus", (None, 5), microusd=70),
        call("anthropic/opus", (10, 5), microusd=None, cache_read_tokens=11),
        call("anthropic/haiku", (1000, 0)),
    ]
    supposed = policy(tmp_path, FLEET + '[assumptions]\ncontext = "2"\n')
    outcome = suppose(await folded(work("a", "@x", *calls)), supposed, Period(), "model")
    total = outcome.total
    assert dict(outcome.unknown) == {
        ("no price", "local/free"): 2,
        ("no counts", "anthropic/opus"): 2,
    }
    assert dict(outcome.incomparable) == {("cost kept", "other/kept"): 1}
    assert (total.calls, total.recorded_calls, total.recorded) == (7, 3, 9570)
    assert (total.would_calls, total.kept_calls, total.would) == (3, 1, 3000 + 500 + 750)
    assert (total.both_calls, total.before, total.prices, total.models, total.after) == (2, 9500, -6000, 0, 3500)
    assert (total.compared_calls, total.baseline, total.remaining) == (2, 2 * 6000, 3750)
    text = " ".join(what_if_view.unknown(outcome))
    for words in ("local/free (2)", "anthropic/opus (2)", "other/kept (1)", "4 calls unpriced in the log"):
        assert words in text
    free = next(row for row in what_if_view.rows(outcome, "model", supposed) if row["model"] == "local/free")
    assert free["would_calls"] == 0
    shown = {column.heading: column.text(free) for column in what_if_view.columns("model", compared=True)}
    assert (shown["in the log"], shown["with the policy"]) == ("2 unpriced", "2 not known")
    assert shown["one model for all"] == ""


async def test_other_prices_and_other_models_are_told_apart(folded, tmp_path):
    """From the log's cost over other prices to other models, over the same calls."""
    calls = [call("anthropic/opus", (1000, 100), microusd=100_000), call("anthropic/sonnet", (1000, 100), microusd=50)]
    supposed = policy(tmp_path, FLEET + '[swap]\n"*opus" = "routine"\n"@y" = "anthropic/opus"\n')
    database = await folded([*work("a", "@x", *calls), *work("b", "@y", call(microusd=1))])
    outcome = suppose(database, supposed, Period(), "agent")
    mine = outcome.groups["@x"]
    assert (mine.before, mine.after) == (100_050, 780 + 3600)
    assert mine.prices == (82_400 - 100_000) + (3600 - 50)
    assert mine.models == 780 - 82_400
    assert mine.before + mine.prices + mine.models == mine.after
    assert outcome.groups["@y"].would == 82_400
    assert outcome.swapped == 2


async def test_a_period_holds_only_its_calls(folded, tmp_path):
    """Both ends are included; the parts of the log on both sides of a position add up to all of it."""
    database = await folded([each for number in range(6) for each in work(f"t{number}", "@x", call(), call())])
    supposed = policy(tmp_path, FLEET)
    positions = [row[0] for row in database.connection.execute("SELECT position FROM events ORDER BY n")]
    whole = suppose(database, supposed, Period(), "month").total
    assert whole.calls == 12
    for before, after in pairwise(positions):
        left = suppose(database, supposed, Period.read(None, before), "month").total
        right = suppose(database, supposed, Period.read(after, None), "month").total
        assert left.calls + right.calls == whole.calls
        assert left.would + right.would == whole.would
    assert suppose(database, supposed, Period.read(None, None, "2020-01"), "month").total.calls == 0


def test_a_month_ends_before_the_next_one_begins():
    """What stands at its last moment is in it, and nothing of the next one."""
    november, december = (Period.read(None, None, month) for month in ("2026-11", "2026-12"))
    assert november.end < december.start
    assert december.start == moment.at(datetime(2026, 12, 1, tzinfo=UTC))
    assert moment.at(datetime(2026, 11, 30, 23, 59, 59, 999_000, tzinfo=UTC)) < november.end
    with pytest.raises(UsageError):
        Period.read("1h", None, "2026-11")
    with pytest.raises(UsageError):
        Period.read("1h", "2h")


async def test_cached_tokens_without_a_price_of_their_own_are_told(folded, tmp_path):
    """They cost what input costs, and the answer says of how many calls that was assumed."""
    text = FLEET.replace('[prices."anthropic/opus"]', '[prices."anthropic/opus"]\ncache_read = "8"')
    calls = [call(f"anthropic/{model}", cache_read_tokens=500) for model in ("opus", "sonnet")]
    calls.append(call("anthropic/opus"))
    supposed = policy(tmp_path, text)
    outcome = suppose(await folded(work("a", "@x", *calls)), supposed, Period(), "model")
    # The model that ran and one model for all are the same here.
    assert dict(outcome.cached) == {"anthropic/sonnet": 1 + 2}
    assert dict(outcome.unsaid) == {"anthropic/opus": 1}
    assert outcome.groups["anthropic/opus"].would == (500 * 80 + 500 * 8 + 100 * 24) + (1000 * 80 + 100 * 24)
    text = " ".join(what_if_view.assumptions(outcome, supposed))
    assert "no amount of its own for them: anthropic/sonnet (3)" in text
    assert "came from one: anthropic/opus (1)" in text


async def test_tokens_into_a_cache_that_nobody_counted_are_told(folded, tmp_path):
    """Where they have a price of their own, a call that does not say how many they were is counted."""
    text = FLEET.replace('[prices."anthropic/opus"]', '[prices."anthropic/opus"]\ncache_write = "100"')
    calls = [call("anthropic/opus"), call("anthropic/opus", cache_write_tokens=0)]
    outcome = suppose(await folded(work("a", "@x", *calls)), policy(tmp_path, text), Period(), "model")
    assert dict(outcome.unsaid) == {"anthropic/opus": 1}


async def test_another_model_is_no_other_price(folded, tmp_path):
    """Where the policy cannot say what a call cost as it ran, all of the change is that of the model."""
    text = FLEET + '[prices."local/free"]\ninput = 0\noutput = 0\n[swap]\n"anthropic/opus" = "local/free"\n'
    used = call("anthropic/opus", (None, None), 900_000)
    total = suppose(await folded(work("a", "@x", used)), policy(tmp_path, text), Period(), "model").total
    assert (total.before, total.prices, total.models, total.after) == (900_000, 0, -900_000, 0)


async def test_an_amount_of_no_call_is_not_known(folded, tmp_path):
    """What no call has is None and not zero, in every sum; people read nothing there."""
    calls = (call("local/llama"), call("anthropic/opus", (None, None), 7))
    outcome = suppose(await folded(work("a", "@x", *calls)), policy(tmp_path, FLEET), Period(), "model")
    free, opus = (what_if_view.row(outcome.groups[model]) for model in ("local/llama", "anthropic/opus"))
    amounts = [name for name in what_if_view.FIELDS if name.endswith("_microusd")]
    assert {free[name] for name in amounts} == {None}
    assert {name: opus[name] for name in amounts if opus[name] is not None} == {"recorded_microusd": 7}
    shown = [
        [column.text(row | {"model": "m"}) for row in (free, opus)]
        for column in what_if_view.columns("model", compared=True)
    ]
    assert shown[2:] == [["1 unpriced", "$0.000007"], ["1 not known", "1 not known"], ["", ""], ["", ""], ["", ""]]
