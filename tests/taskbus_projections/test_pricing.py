"""Prices: where they come from, that no token is billed twice, and that what is not known is never free."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import UTC, datetime

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot

from taskbus.envelope import Cost, Usage
from taskbus_agents.definition import Definition
from taskbus_agents.pricing import estimate
from taskbus_projections.policy import Policy
from taskbus_projections.pricing import Tokens
from taskbus_projections.published import TABLE, published
from taskbus_projections.quotes import priced, quote

NOW = datetime(2026, 11, 20, tzinfo=UTC)
TABLES = """
[prices]
version = "own-3"
[prices."anthropic/claude-sonnet-4-5"]
input = 30
output = 150
[prices."free/*"]
input = 0
output = 0
[prices."long/*"]
input = 1
output = 10
cache_read = "0.1"
[prices."long/*".above.200000]
input = 2
output = 20
cache_read = "0.2"
[prices."long/*".above.500000]
input = 4
output = 40
"""


@pytest.fixture
def policy(tmp_path):
    """A policy with a table of its own."""
    (tmp_path / "policy.toml").write_text(TABLES, encoding="utf-8")
    return Policy.load(tmp_path / "policy.toml")


def used(provider, model, **counts):
    """What a call used."""
    return Usage(provider=provider, model=model, **counts)


def test_the_policy_goes_before_what_is_published(policy):
    """A user's own price counts; what the user does not say is published, and each names its table."""
    own, known = (
        quote(policy, "anthropic", model, NOW) for model in ("claude-sonnet-4-5", "claude-haiku-4-5-20251001")
    )
    assert (own.price.input, own.table) == (30_000_000, "policy own-3")
    assert (known.price.input, known.price.output, known.table) == (1_000_000, 5_000_000, TABLE)
    assert f"genai-prices {genai_prices.__version__}" == TABLE
    assert quote(None, "anthropic", "claude-sonnet-4-5", NOW).price.input == 3_000_000


def test_a_table_without_a_version_is_named_after_what_it_says(tmp_path):
    """Two tables never share a name by accident, so that a cost in the log always leads back to its price."""
    names = []
    for price in (1, 2):
        (tmp_path / "policy.toml").write_text(f'[prices."a/b"]\ninput = {price}\noutput = 1\n', encoding="utf-8")
        names.append(quote(Policy.load(tmp_path / "policy.toml"), "a", "b", NOW).table)
    assert names[0] != names[1]
    assert all(name.startswith("policy ") and len(name) == 19 for name in names)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        *(("anthropic", "claude-nobody-knows"), ("nobody", "gpt-4o"), ("", ""), ("local", "qwen3")),
        ("perplexity", "sonar"),  # a fee for each request comes on top, of which tokens say nothing
        ("openai", "text-embedding-3-small"),  # no price of output, which would seem to be free
        ("groq", "whisper-large-v3"),  # a price of hours
        ("openai", "\x00" * 200),
    ],
)
def test_what_no_table_prices_is_unpriced_and_not_zero(policy, provider, model):
    """An unpriced zero looks free: there is no cost at all, neither for the call nor for its hold."""
    assert quote(policy, provider, model, NOW) is None
    call = used(provider or "x", model.strip("\x00") or "x", input_tokens=1000, output_tokens=10)
    assert priced(policy, call, NOW) is call
    assert call.cost is None
    agent = Definition(name="@x", adapter="command", provider=provider, model=model)
    assert estimate(agent, "prompt", policy, NOW) is None


def test_a_free_model_is_known_to_be_free(policy):
    """Free is a price: it costs 0, whatever its counts say, and its hold is 0."""
    found = priced(policy, used("free", "any"), NOW)
    assert found.cost == Cost(source="priced", microusd=0, table="policy own-3")
    agent = Definition(name="@x", adapter="command", provider="free", model="any")
    assert estimate(agent, "prompt", policy, NOW).microusd == 0


def test_a_reported_cost_stays(policy):
    """What the agent says it cost is not priced again."""
    call = used("anthropic", "claude-sonnet-4-5", input_tokens=10, cost=Cost(source="reported", microusd=7))
    assert priced(policy, call, NOW) is call


def test_cached_tokens_are_not_billed_twice():
    """Input holds those of the cache: they cost what the cache costs, and not what input costs on top."""
    call = used(
        "anthropic",
        "claude-sonnet-4-5",
        input_tokens=100_000,
        output_tokens=1000,
        cache_read_tokens=80_000,
        cache_write_tokens=10_000,
    )
    # 10,000 at 3 dollars a million, 80,000 at 0.30, 10,000 at 3.75, and 1,000 of output at 15
    assert priced(None, call, NOW).cost.microusd == 30_000 + 24_000 + 37_500 + 15_000


def test_tokens_that_a_cache_keeps_for_an_hour_cost_more():
    """They are a part of those written to the cache, at their own price."""
    call = {"input_tokens": 20_000, "output_tokens": 0, "cache_write_tokens": 20_000}
    short, both = (
        priced(None, used("anthropic", "claude-sonnet-4-5", **call, cache_write_hour_tokens=hour), NOW)
        for hour in (None, 15_000)
    )
    assert short.cost.microusd == 75_000
    assert both.cost.microusd == 5_000 * 375 // 100 + 15_000 * 6


def test_reasoning_is_a_part_of_the_output():
    """Output holds it: at the same price it changes nothing."""
    calls = [used("openai", "o3", input_tokens=1000, output_tokens=900, reasoning_tokens=n) for n in (None, 0, 900)]
    assert len({priced(None, call, NOW).cost.microusd for call in calls}) == 1


@pytest.mark.parametrize(
    "counts",
    [
        {"input_tokens": 100, "output_tokens": 10, "cache_read_tokens": 90, "cache_write_tokens": 20},
        {"input_tokens": 100, "output_tokens": 10, "cache_read_tokens": 101},
        {"input_tokens": 100, "output_tokens": 10, "reasoning_tokens": 11},
        {"input_tokens": 100, "output_tokens": 10, "cache_write_tokens": 5, "cache_write_hour_tokens": 6},
        {"input_tokens": 100, "output_tokens": 10, "cache_write_hour_tokens": 6},
        {"input_tokens": 100},
        {"output_tokens": 10},
        {"input_tokens": 0, "output_tokens": 10, "cache_read_tokens": 1},
        {},
    ],
)
def test_counts_that_contradict_each_other_have_no_cost(policy, counts):
    """Parts that are more than the whole, or a count that is missing: unpriced, by either table."""
    for provider, model in (("anthropic", "claude-sonnet-4-5"), ("anthropic", "claude-haiku-4-5"), ("long", "x")):
        assert priced(policy, used(provider, model, **counts), NOW).cost is None


@pytest.mark.parametrize(
    ("tokens", "context", "cost"),
    [
        (Tokens(200_000, 1000), None, 210_000),
        (Tokens(200_001, 1000), None, 420_002),
        (Tokens(500_001, 0, 500_001), None, 2_000_004),  # no price of the cache up there: as input
        (Tokens(300_000, 0, 300_000), None, 60_000),
        (Tokens(900_000, 9000), 150_000, 990_000),
        (Tokens(900_000, 9000), 300_000, 1_980_000),
        (Tokens(None, 9000), None, None),
    ],
)
def test_a_long_context_costs_more_from_its_first_token(policy, tokens, context, cost):
    """The tier is that of the whole input of a call; of several calls together, that of the longest."""
    assert policy.price("long", "x").cost(tokens, context=context) == cost


def test_published_tiers_are_honoured():
    """A model whose long contexts are dearer is dearer there, for every class."""
    price = published("google", "gemini-2.5-pro", NOW)
    assert [each.start for each in price.above] == [200_000]
    assert price.cost(Tokens(200_000, 0)) * 2 == price.cost(Tokens(200_001, 0)) - 3  # 2.5 microdollars, rounded up
    assert price.above[0].price.output > price.output


def test_a_published_price_is_that_of_its_day():
    """Where a price changed, a call costs what it cost then."""
    days = [datetime(2026, month, 1, tzinfo=UTC) for month in (2, 4)]
    then, later = (published("anthropic", "claude-opus-4-6", day) for day in days)
    assert then.cost(Tokens(300_000, 0)) == 2 * later.cost(Tokens(300_000, 0))


def test_published_prices_are_those_of_the_package():
    """For every model that is found here by its own name, the package itself makes the same sum, to the microdollar."""
    rng = random.Random(3)
    compared = 0
    for provider in providers:
        for model in provider.models:
            price = published(provider.id, model.id, NOW)
            if price is None or provider.find_model(model.id, all_providers=providers) is not model:
                continue
            read, write, hour, thought = (rng.randrange(40_000) for _ in range(4))
            whole = read + write + hour + rng.randrange(300_000)
            tokens = Tokens(whole, thought + 500, read, write + hour, thought, hour)
            usage = genai_prices.Usage(
                input_tokens=tokens.input,
                output_tokens=tokens.output,
                cache_read_tokens=tokens.cache_read,
                cache_write_tokens=tokens.cache_write,
                cache_write_1h_tokens=tokens.cache_write_hour,
                output_reasoning_tokens=tokens.reasoning,
            )
            theirs = model.calc_price(usage, provider, genai_request_timestamp=NOW).total_price
            assert price.cost(tokens) == pytest.approx(float(theirs * 1_000_000), abs=1), (provider.id, model.id)
            compared += 1
    assert compared > 1000


def test_prices_ask_no_network():
    """Looking up what no table has, and what one has, opens no connection, and never begins to fetch newer prices."""
    code = (
        "import sys, socket, threading\n"
        "def refuse(event, arguments):\n"
        "    if event.startswith('socket.'): raise SystemExit(f'{event} {arguments}')\n"
        "sys.addaudithook(refuse)\n"
        "from datetime import datetime, UTC\n"
        "from taskbus_projections.quotes import quote\n"
        "now = datetime.now(UTC)\n"
        "print(quote(None, 'anthropic', 'claude-sonnet-4-5', now) is None, quote(None, 'x', 'y', now) is None)\n"
        "print(threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["False", "True", "1"], "")


def test_prices_are_not_those_that_somebody_else_loaded():
    """What a process put over the package's data does not count: the table's name would be wrong."""
    set_custom_snapshot(DataSnapshot(providers=[], from_auto_update=True))
    try:
        assert published("anthropic", "claude-opus-4-5", NOW) is not None
    finally:
        set_custom_snapshot(None)


def test_the_commands_do_not_load_the_prices():
    """A megabyte and a half of prices is read where one is asked for, not with each command."""
    code = (
        "import sys, taskbus.cli, taskbus_projections.commands\n"
        "from taskbus_projections.quotes import quote\n"
        "print(quote, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "quote" in done.stdout
    assert "genai_prices" not in done.stdout.split()
