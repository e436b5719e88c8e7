"""Policies: what a file may say, that each mistake is told with its place, and that amounts are exact."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from taskbus.errors import ConfigurationError
from taskbus.position import Position
from taskbus_projections.policy import FOREIGN, Policy
from taskbus_projections.pricing import Price, Tokens

EXAMPLE = Path(__file__).parents[2] / "docs" / "policy.example.toml"


def load(folder, text):
    """The policy in a file."""
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return Policy.load(path)


def test_the_example_is_a_policy():
    """The file that the documentation offers is read without an error, and each of its tables says something."""
    policy = Policy.load(EXAMPLE)
    assert [tier.name for tier in policy.tiers] == ["strategic", "implementation", "routine"]
    assert policy.tier("@security-auditor", "anthropic", "anything") == "strategic"
    assert policy.cap("google") == 20_000_000
    assert policy.supposition.baseline is not None
    assert policy.version


@pytest.mark.parametrize(
    ("written", "microusd"),
    [
        ('"20"', 20_000_000),
        ("20", 20_000_000),
        ("20.10", 20_100_000),
        ('"0.000001"', 1),
        ("1e-6", 1),
        ("0.1", 100_000),
        ("1.5e3", 1_500_000_000),
        ("0", 0),
        ('"999999999.999999"', 999_999_999_999_999),
    ],
)
def test_an_amount_is_exact_however_it_is_written(tmp_path, written, microusd):
    """A number of TOML and a text say the same to the last digit: no float lies between."""
    assert load(tmp_path, f"[caps]\nopenai = {written}\n").cap("openai") == microusd


@pytest.mark.parametrize(
    "written",
    [
        *("-1", '"-1"', "nan", "inf", "-inf", "true", "[]", "{}", '""', '"x"', '"1e3"', '"1,5"', '"$5"', '" "'),
        *("0.0000001", '"0.0000001"', "1e10", "1000000001", "1e999999999", "1e-999999999", f"0x{'f' * 5000}"),
        *("2026-11-20", '"١"'),
    ],
)
def test_what_is_no_amount_is_refused_with_its_place(tmp_path, written):
    """Negative, absurd, too fine, or no number at all: the error names file, line and key."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, f"# caps\n[caps]\n\nopenai = {written}\n")
    assert f"{tmp_path / 'policy.toml'}, line 4, key `caps.openai`" in caught.value.message
    assert len(caught.value.message) < 400


def test_a_number_of_a_few_characters_does_not_fill_the_memory(tmp_path):
    """The digits of what is far beyond any amount are never written out."""
    tracemalloc.start()
    try:
        for written in ("1e99999999", "1e-99999999"):
            with pytest.raises(ConfigurationError):
                load(tmp_path, f"[caps]\nopenai = {written}\n")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


PRICED = '[prices."a/m"]\ninput = 1\noutput = 2\n'


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("pries = 1\n", "line 1: unknown key `pries`"),
        ("prices = 1\n", "line 1, key `prices`: found 1, expected a table"),
        ('[prices."a/m"]\ninput = 1\n', 'line 1, key `prices."a/m"`'),
        ('[prices."a/m"]\ninput = 1\noutput = 2\ninptu = 3\n', 'line 4: unknown key `prices."a/m".inptu`'),
        ('[prices]\nversion = "x"\n[prices.m]\ninput = 1\noutput = 1\n', "line 3, key `prices.m`"),
        ("[prices]\nversion = 3\n", "line 2, key `prices.version`"),
        ('[prices]\n"a/m" = { input = 1, output = -1 }\n', 'line 2, key `prices."a/m".output`'),
        ("[tiers.x]\nrank = 1.5\n", "line 2, key `tiers.x.rank`"),
        ("[tiers.x]\nrank = true\n", "line 2, key `tiers.x.rank`"),
        ("[tiers.x]\nrank = -1\n", "line 2, key `tiers.x.rank`"),
        ('[tiers.x]\nmodels = "a"\n', "line 2, key `tiers.x.models`"),
        ("[tiers.x]\nmodels = [1]\n", "line 2, key `tiers.x.models`"),
        ('[tiers.x]\nmodels = ["a", "a"]\n', "line 2, key `tiers.x.models`"),
        ('[tiers.x]\nagents = ["a b"]\n', "line 2, key `tiers.x.agents`"),
        ('[tiers.x]\nagents = ["@a"]\n[tiers.y]\nagents = ["A"]\n', "line 4, key `tiers.y.agents`"),
        ('[tiers."x/y"]\n', 'key `tiers."x/y"`'),
        ("[tiers]\nx = 1\n", "line 2, key `tiers.x`: found 1, expected a table"),
        ('[caps]\n"@a b" = 1\n', 'line 2, key `caps."@a b"`'),
        ("[caps_per_day]\nopenai = -1\n", "line 2, key `caps_per_day.openai`"),
        ('[caps_per_day]\n"@a b" = 1\n', 'line 2, key `caps_per_day."@a b"`'),
        ('[caps_per_task]\n\n"@kilo" = 1\n', 'line 3, key `caps_per_task."@kilo"`'),
        ("[caps_per_task]\nreview = 0.0000001\n", "line 2, key `caps_per_task.review`"),
        ("[cap_per_task]\n", "line 1: unknown key `cap_per_task`"),
        ('[holds]\n"openai/" = 1\n', 'line 2, key `holds."openai/"`'),
        ('[holds]\n"@a b" = 1\n', 'line 2, key `holds."@a b"`'),
        ("[holds]\nopus = nan\n", "line 2, key `holds.opus`"),
        ("[holds]\nexpected = 5\n", "line 2, key `holds.expected`: found 5, expected a table"),
        ("[holds.expected]\nin = 5\n", "line 2: unknown key `holds.expected.in`"),
        ("[holds.expected]\ninput = 1.5\n", "line 2, key `holds.expected.input`"),
        ("[holds.expected]\noutput = -1\n", "line 2, key `holds.expected.output`"),
        (PRICED + '[prices."a/m".above]\nmany = { input = 1, output = 1 }\n', 'line 5, key `prices."a/m".above.many`'),
        (PRICED + '[prices."a/m".above.0]\ninput = 1\noutput = 1\n', 'line 4, key `prices."a/m".above.0`'),
        (PRICED + '[prices."a/m".above.007]\n[prices."a/m".above.7]\n', 'line 5, key `prices."a/m".above.7`'),
        (PRICED + '[prices."a/m".above.9]\ninput = 1\n', 'line 4, key `prices."a/m".above.9`'),
        (PRICED + '[prices."a/m".above.9]\ninput = 1\noutput = 1\nabove = {}\n', "line 7: unknown key"),
        (PRICED + "above = 200000\n", 'line 4, key `prices."a/m".above`: found 200000, expected a table'),
        ("[baseline]\n", "line 1, key `baseline`"),
        ('[baseline]\nmodel = "a/m"\n', "line 2, key `baseline.model`: found 'a/m', expected a model with a price"),
        (PRICED + '[baseline]\nmodel = "a/*"\n', "line 5, key `baseline.model`"),
        (PRICED + '[baseline]\nmodel = "m"\n', "line 5, key `baseline.model`"),
        (PRICED + '[swap]\n"a/n" = "a/n"\n', 'line 5, key `swap."a/n"`'),
        (PRICED + '[swap]\n"@x" = "cheap"\n[tiers.dear]\n', "one of the tiers (dear)"),
        (PRICED + '[swap]\n"@x" = "cheap"\n[tiers.cheap]\nmodels = ["a/*"]\n', 'line 5, key `swap."@x"`'),
        ("[assumptions]\ncontext = 0\n", "line 2, key `assumptions.context`"),
        ("[assumptions]\ncontext = 1001\n", "line 2, key `assumptions.context`"),
        ('[assumptions]\ntokens = "measured"\n', "line 2, key `assumptions.tokens`"),
        ('[assumptions]\norder = ["routing"]\n', "line 2, key `assumptions.order`"),
        ("[assumptions]\nspeed = 2\n", "line 2: unknown key `assumptions.speed`"),
        ('[reference]\nfrom = "yesterday"\n', "line 2, key `reference.from`"),
        ("[reference]\nfrom = 2026-11-01T00:00:00\n", "line 2, key `reference.from`"),
        ("[prices\n", "line 1"),
        ("[caps]\nx = " + "9" * 5000 + "\n", "line"),
        ("a = " + "[" * 5000 + "\n", "line"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path, text, place):
    """Unknown keys, wrong types, and what cannot be computed name file, line and key."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    assert place in caught.value.message
    assert str(tmp_path / "policy.toml") in caught.value.message
    assert caught.value.advice


def test_a_missing_file_and_no_policy_say_what_to_do(tmp_path):
    """Neither is a stack trace."""
    with pytest.raises(ConfigurationError, match="There is no file"):
        Policy.load(tmp_path / "nothing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        Policy.load(tmp_path / "binary.toml")


def test_the_most_specific_pattern_counts(tmp_path):
    """A name goes before a pattern, a longer pattern before a shorter one; case does not count, brackets are plain."""
    policy = load(
        tmp_path,
        """
        [caps]
        "*" = 1
        "open*" = 2
        "openai*" = 9
        openai = 3
        "@*" = 4
        "@kilo" = 5
        [prices."*/*"]
        input = 1
        output = 1
        [prices."anthropic/*sonnet*"]
        input = 2
        output = 2
        [prices."anthropic/sonnet[1m]"]
        input = 3
        output = 3
        """,
    )
    assert [policy.cap(name) for name in ("google", "OpenRouter", "openai", "@kilo")] == [
        *(1_000_000, 2_000_000, 3_000_000),
        1_000_000,
    ]
    assert [policy.agent_cap(name) for name in ("@cline", "@kilo")] == [4_000_000, 5_000_000]
    prices = [policy.price("anthropic", name) for name in ("opus", "Claude-Sonnet-4", "sonnet[1m]", "sonnet1")]
    assert [price.input for price in prices] == [1_000_000, 2_000_000, 3_000_000, 2_000_000]


def test_without_a_word_nothing_is_capped_priced_or_ranked(tmp_path):
    """What the policy does not say is None, and never zero."""
    policy = load(tmp_path, "")
    assert (policy.cap("openai"), policy.agent_cap("@kilo"), policy.price("openai", "o3")) == (None, None, None)
    assert (policy.tier("@kilo", "openai", "o3"), policy.version, policy.tiers) == (None, None, ())
    assert policy.supposition.instead("@kilo", "openai", "o3") == ("openai", "o3")


def test_caps_for_a_run_are_those_of_its_accounts(tmp_path):
    """By month and by day of provider and agent, and of the tree by the type of its root; without a word, none."""
    policy = load(
        tmp_path,
        """
        [caps]
        "*" = 20
        anthropic = "60.00"
        "@docs-*" = 5
        [caps_per_day]
        "@*" = "0.5"
        [caps_per_task]
        "*" = 2
        review = 1
        """,
    )
    assert policy.caps_for("anthropic", "@docs-writer", "root", "review") == {
        ("provider:anthropic", "month"): 60_000_000,
        ("agent:@docs-writer", "month"): 5_000_000,
        ("agent:@docs-writer", "day"): 500_000,
        ("task:root", "task"): 1_000_000,
    }
    assert policy.caps_for("groq", "@kilo", "root") == {
        ("provider:groq", "month"): 20_000_000,
        ("agent:@kilo", "day"): 500_000,
        ("task:root", "task"): 2_000_000,
    }
    assert load(tmp_path, "").caps_for("groq", "@kilo", "root", "review") == {}


def test_a_cap_of_nothing_is_a_cap(tmp_path):
    """0 allows no money at all, which is not the same as no cap."""
    assert load(tmp_path, "[caps]\nopenai = 0\n").caps_for("openai", "@kilo", "r") == {("provider:openai", "month"): 0}


def test_a_hold_is_told_by_the_agent_before_the_model(tmp_path):
    """A fixed amount goes before any estimate; who has none is estimated."""
    policy = load(
        tmp_path,
        """
        [holds]
        "*opus*" = 2
        "anthropic/*" = "0.25"
        "@lead" = 3
        "@free-*" = 0
        expected = { input = 1000, output = 10 }
        """,
    )
    holds = [
        policy.hold(*each)
        for each in (
            ("@lead", "anthropic", "opus"),
            ("@kilo", "anthropic", "sonnet"),
            ("@kilo", "aws", "claude-opus-4"),
            ("@free-1", "anthropic", "sonnet"),
            ("@kilo", "aws", "nova"),
        )
    ]
    assert holds == [3_000_000, 250_000, 2_000_000, 0, None]
    assert policy.allowance.expected == (1000, 10)
    assert load(tmp_path, "[holds.expected]\noutput = 5\n").allowance.expected == (50_000, 5)


def test_what_is_about_routing_is_let_be(tmp_path):
    """One file says all: what others read of it is no mistake here, in whatever form; anything else is."""
    text = "".join(f"[{table}]\nany = 1\n" for table in FOREIGN if table not in ("ladder", "routes"))
    policy = load(tmp_path, f"[[ladder]]\nrung = 1\n[[ladder]]\nrung = 2\n[[routes]]\n{text}[caps]\nopenai = 1\n")
    assert policy.cap("openai") == 1_000_000
    with pytest.raises(ConfigurationError, match=r"unknown key `ladders`"):
        load(tmp_path, "[[ladders]]\nrung = 1\n")


def test_a_policy_is_known_by_what_it_says(tmp_path):
    """Its digest stands in the log beside what was decided by it."""
    one, other = (load(tmp_path, text) for text in ("", "# something else\n"))
    assert one.digest == hashlib.sha256(b"").hexdigest()[:12] != other.digest


def test_a_tier_is_told_by_the_agent_before_the_model(tmp_path):
    """An agent that climbed to another model stays in its tier; who is in none is told by what ran."""
    policy = load(
        tmp_path,
        """
        [tiers.low]
        rank = 2
        models = ["*haiku*"]
        agents = ["docs-*"]
        [tiers.high]
        rank = 1
        models = ["anthropic/opus", "*opus-4*"]
        [tiers.rest]
        """,
    )
    assert [tier.name for tier in policy.tiers] == ["high", "low", "rest"]
    assert policy.tier("@docs-writer", "anthropic", "opus") == "low"
    assert policy.tier("@docs-writer", "other", "opus-4") == "low"
    assert policy.tier("@lead", "anthropic", "opus") == "high"
    assert policy.tier("@lead", "other", "opus") is None
    assert policy.tier("@lead", "other", "Haiku-4") == "low"


def test_a_swap_is_told_by_the_agent_before_the_model(tmp_path):
    """A tier stands for its first model that is written in full."""
    supposed = load(
        tmp_path,
        PRICED
        + """
        [tiers.cheap]
        models = ["*mini*", "a/m"]
        [swap]
        "@docs" = "cheap"
        "opus*" = "a/m"
        [reference]
        agent = "old"
        from = 2026-11-01T00:00:00Z
        to = "2026-11-02T00:00:00Z"
        """,
    ).supposition
    assert supposed.instead("@docs", "b", "x") == ("a", "m")
    assert supposed.instead("@lead", "b", "opus-4") == ("a", "m")
    assert supposed.instead("@lead", "b", "sonnet") == ("b", "sonnet")
    assert supposed.reference.agent == "@old"
    assert supposed.reference.start == Position(0, 1_793_491_200_000, 0)
    assert supposed.reference.end.ms == 1_793_577_600_000


def test_a_cost_is_that_of_exact_arithmetic():
    """Whatever the prices and counts, integers give what decimals give, half a microdollar rounded up."""
    rng = random.Random(7)
    for _ in range(2000):
        prices = [rng.choice([0, rng.randrange(10**9)]) for _ in range(5)]
        read, write, thought = (rng.randrange(10**5) for _ in range(3))
        plain_in, plain_out = rng.randrange(10**6), rng.randrange(10**6)
        tokens = Tokens(plain_in + read + write, plain_out + thought, read, write, thought)
        counts = (plain_in, plain_out, read, write, thought)
        exact = sum(Decimal(count) * Decimal(price).scaleb(-6) for count, price in zip(counts, prices, strict=True))
        assert Price(*prices).cost(tokens) == int(exact.quantize(Decimal(1), ROUND_HALF_UP))


@pytest.mark.parametrize(
    ("price", "tokens", "cost"),
    [
        (Price(3_000_000, 6_000_000), Tokens(1000, 100), 3600),
        (Price(3_000_000, 6_000_000), Tokens(1000, 100, 400, 100, 50), 3600),
        (Price(3_000_000, 6_000_000, cache_read=300_000), Tokens(1000, 100, 400, 100), 2520),
        (Price(3_000_000, 6_000_000, reasoning=0), Tokens(1000, 100, None, None, 50), 3300),
        (Price(3_000_000, 6_000_000), Tokens(None, 100), None),
        (Price(3_000_000, 6_000_000), Tokens(1000, None), None),
        (Price(3_000_000, 0), Tokens(1000, None), 3000),
        (Price(0, 0), Tokens(None, None), 0),
        (Price(0, 0, cache_write=1), Tokens(None, 5), None),
        (Price(3_000_000, 6_000_000), Tokens(1000, 100, 900, 200), None),
        (Price(3_000_000, 6_000_000), Tokens(1000, 100, None, None, 200), None),
        (Price(500_000, 0), Tokens(1, 0), 1),
        (Price(499_999, 0), Tokens(1, 0), 0),
    ],
)
def test_what_a_call_costs(price, tokens, cost):
    """A class without a price costs what its kind does; unknown counts make the cost unknown unless they are free."""
    assert price.cost(tokens) == cost


def test_more_tokens_stay_consistent():
    """However the counts are scaled, the parts are never more than the whole, so that they keep their cost."""
    rng = random.Random(11)
    price = Price(3_000_000, 6_000_000, 300_000, 3_750_000, 7_000_000)
    for _ in range(2000):
        read, write, thought = (rng.randrange(30) for _ in range(3))
        tokens = Tokens(read + write + rng.randrange(3), thought + rng.randrange(3), read, write, thought)
        factor = Fraction(rng.randrange(1, 3000), rng.randrange(1, 1000))
        scaled = tokens.with_context(factor).with_answers(factor)
        assert price.cost(scaled) is not None
        assert abs(scaled.input - tokens.input * factor) <= Fraction(1, 2)
        assert abs(scaled.output - tokens.output * factor) <= Fraction(1, 2)
    assert Tokens(10, 20, 5, 5, 20).with_context(Fraction(1)).with_answers(Fraction(1)) == Tokens(10, 20, 5, 5, 20)
    assert Tokens(None, None).with_context(Fraction(2)).with_answers(Fraction(2)) == Tokens(None, None)
