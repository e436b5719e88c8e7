"""Estimates: what is reserved for a run, and ways in which others are known to have reserved the wrong amount."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from taskbus.envelope import Usage
from taskbus_agents.definition import Definition
from taskbus_agents.pricing import estimate
from taskbus_projections.policy import Policy
from taskbus_projections.published import TABLE
from taskbus_projections.quotes import priced

NOW = datetime(2026, 11, 20, tzinfo=UTC)
AGENT = Definition(name="@writer", adapter="command", provider="anthropic", model="claude-sonnet-4-5")


@pytest.fixture
def policy(tmp_path):
    """Make a policy of some text."""

    def made(text):
        (tmp_path / "policy.toml").write_text(text, encoding="utf-8")
        return Policy.load(tmp_path / "policy.toml")

    return made


def test_the_definition_goes_before_the_policy_before_the_price(policy):
    """Who says an amount knows best; what nobody says is estimated, with the table and the counts it comes from."""
    said = policy('[holds]\n"@writer" = "0.75"\n')
    assert estimate(replace(AGENT, hold=5), "", said, NOW)[:2] == (5, None)
    assert estimate(AGENT, "", said, NOW)[:2] == (750_000, None)
    other = policy("[holds]\nexpected = { input = 10000, output = 1000 }\n")
    found = estimate(AGENT, "a" * 300, other, NOW)
    assert found[:2] == (10_100 * 3 + 1000 * 15, TABLE)
    assert ("10,100" in found.basis, TABLE in found.basis) == (True, True)


def test_an_unpriced_model_does_not_skip_the_reservation(policy):
    """Without a price there is no estimate, so that the run is refused; 0 is for models that are known to be free."""
    unknown = replace(AGENT, model="claude-nobody-knows")
    assert estimate(unknown, "prompt", None, NOW) is None
    assert estimate(unknown, "prompt", policy('[prices."openai/*"]\ninput = 0\noutput = 0\n'), NOW) is None
    assert estimate(replace(AGENT, provider=None), "prompt", None, NOW) is None
    assert estimate(replace(AGENT, model=None), "prompt", None, NOW) is None
    free = policy('[prices."anthropic/claude-nobody-knows"]\ninput = 0\noutput = 0\n')
    assert estimate(unknown, "prompt", free, NOW).microusd == 0


def test_a_hold_is_not_for_the_worst_case(policy):
    """With 20 dollars and nothing spent, dozens of runs may begin at once: a hold is not a model's whole context."""
    hold = estimate(AGENT, "Fix the test.", policy('[caps]\n"*" = 20\n'), NOW)
    assert 0 < hold.microusd * 50 < 20_000_000


def test_a_free_model_that_falls_back_to_a_paid_one_has_another_hold(policy):
    """The hold is that of the model that will run, in the accounts of its provider: that of the free one is worth 0."""
    said = policy('[prices."kilo/*"]\ninput = 0\noutput = 0\n[caps]\nanthropic = 20\n')
    free = replace(AGENT, provider="kilo", model="glm")
    assert estimate(free, "prompt", said, NOW).microusd == 0
    assert said.caps_for("kilo", AGENT.name, "t") == {}
    assert estimate(AGENT, "prompt", said, NOW).microusd > 0
    assert said.caps_for("anthropic", AGENT.name, "t") == {("provider:anthropic", "month"): 20_000_000}


def test_a_long_context_is_not_reserved_at_the_short_price(policy):
    """A prompt that is beyond the tier is held at the price of long contexts, from its first token."""
    expected = "[holds]\nexpected = { input = 0, output = 1000 }\n"
    short, long = (estimate(AGENT, "a" * length, policy(expected), NOW).microusd for length in (600_000, 600_003))
    assert short == 200_000 * 3 + 1000 * 15
    assert long == 200_001 * 6 + 22_500


def test_a_prompt_in_another_script_is_not_taken_to_be_short(policy):
    """Tokens are guessed from bytes: one character of many scripts is more than one of them."""
    said = policy("[holds]\nexpected = { input = 0, output = 0 }\n")
    latin, other = (estimate(AGENT, text * 3000, said, NOW).microusd for text in ("a", "語"))
    assert (latin, other) == (3000, 9000)


def test_what_is_not_free_never_holds_nothing(policy):
    """Less than a microdollar is held as a whole one, so that it does not run under a cap of nothing."""
    said = policy(
        '[prices."acme/tiny"]\ninput = "0.000001"\noutput = "0.000001"\n'
        '[prices."acme/tiny".above.200000]\ninput = "0.000002"\noutput = "0.000002"\n'
        '[prices."acme/free"]\ninput = 0\noutput = 0\n'
    )
    tiny, free = (replace(AGENT, provider="acme", model=model) for model in ("tiny", "free"))
    holds = [estimate(each, text, said, NOW).microusd for each in (tiny, free) for text in ("", "a" * 600_000)]
    assert holds == [1, 1, 0, 0]
    used = Usage(provider="acme", model="tiny", input_tokens=1000, output_tokens=10)
    assert priced(said, used, NOW).cost.microusd == 0
