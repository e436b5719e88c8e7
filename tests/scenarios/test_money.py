"""A story about money through the command line: what was spent, what it would have cost, and the report about it."""

from __future__ import annotations

import csv
import io
import json

import pytest

from taskbus.envelope import Acknowledgment, Completion, Cost, Delegation, Hold, Result, Usage, compose

POLICY = """
[prices]
version = "table-7"
[prices."anthropic/opus"]
input = 80
output = 24
[prices."anthropic/sonnet"]
input = 3
output = 6
[tiers.first]
models = ["anthropic/opus"]
[caps]
"*" = 1
[baseline]
model = "anthropic/sonnet"
"""


@pytest.fixture
def spending(bus):
    """Two agents have worked: one with a dear model, one with a model that has no price."""

    async def publish(client):
        envelopes = []
        for task, agent, provider, model, microusd in (
            ("cache-1", "@lead", "anthropic", "opus", 90_000),
            ("docs-1", "@docs", "local", "odd|\u202emodel", None),
        ):
            cost = None if microusd is None else Cost(source="reported", microusd=microusd)
            used = Usage(provider=provider, model=model, input_tokens=1000, output_tokens=100, cost=cost)
            hand = {"task": task}
            goal = Delegation(goal=f"Do | <b>{task}</b>", review_required=False)
            envelopes += [
                compose(goal, sender="@boss", recipient=agent, **hand),
                compose(Acknowledgment(accepted=True), sender=agent, recipient="@boss", **hand),
                compose(
                    Completion(result=Result(status="success")),
                    sender=agent,
                    recipient="@boss",
                    usage=(used,),
                    **hand,
                ),
            ]
        await client.publish_many(envelopes)

    bus.on_bus(publish)
    (bus.command.folder / "policy.toml").write_text(POLICY, encoding="utf-8")
    return bus


def test_what_if_and_report_tell_one_story(spending):
    """The policy is found in bus.toml; people, programs and spreadsheets get the same sums."""
    (spending.command.folder / "bus.toml").write_text('policy = "policy.toml"\n', encoding="utf-8")
    text = spending.ok("what-if")
    for words in (
        *("2 calls", "$0.09", "$0.0824", "1 unpriced", "1 not known", "no tier"),
        *("Against anthropic/sonnet for all, 1 of 2 calls", "$0.0036", "+$0.0788", "+2188.9 %", "not measured"),
        *("Assumed", "table-7", "Not known", "local/odd|\\u202emodel (1)"),
    ):
        assert words in text
    found = json.loads(spending.ok("what-if", "--json"))
    assert found["total"]["would_microusd"] == 82_400
    assert found["total"]["saved_microusd"] == 3600 - 82_400
    assert found["policy"]["version"] == "table-7"
    assert found["unknown"] == [{"reason": "no price", "model": "local/odd|\u202emodel", "calls": 1}]
    rows = list(csv.DictReader(io.StringIO(spending.ok("what-if", "--csv", "--by", "agent"))))
    assert [(row["agent"], row["would_microusd"]) for row in rows] == [("@lead", "82400"), ("@docs", "")]
    assert [row["would_calls"] for row in rows] == ["1", "0"]
    tiers = spending("costs", "--by", "tier", "-n", "1", "--json")
    assert ([row["tier"] for row in tiers.json()["costs"]], "The first 1" in tiers.stderr) == (["first"], True)
    report = spending.ok("report")
    assert "| anthropic | 1 | $0.09 |  | $1.00 | $0.91 |" in report
    assert "| first | 1 | 1,000 | 100 | $0.09 | 100.0 % |" in report
    assert "\\<b\\>" in report
    facts = json.loads(spending.ok("report", "--json"))
    assert facts["spending"]["total"]["unpriced_calls"] == 1
    assert facts["integrity"]["envelopes"] == 6
    assert len(facts["integrity"]["head"]) == 64
    (day,) = csv.DictReader(io.StringIO(spending.ok("report", "--csv")))
    assert (day["accepted"], day["calls"], day["unpriced_calls"], day["cost_microusd"]) == ("2", "2", "1", "90000")
    assert day["cache_read_tokens"] == ""


def test_the_past_has_its_own_report(spending):
    """As of a position the same commands tell what was known then."""
    (position,) = {entry.position for entry in spending.log()[2:3]}
    for command in ("report", ("what-if", "--policy", "policy.toml", "--by", "model")):
        words = (command,) if isinstance(command, str) else command
        found = json.loads(spending.ok(*words, "--json", "--at", str(position)))
        assert found["position"] == str(position)
        assert (found.get("total") or found["spending"]["total"])["calls"] == 1


def test_a_page_is_one_file(spending):
    """Written where it was asked for, and said so on stderr only."""
    done = spending("report", "--html", "page.html", "--policy", "policy.toml")
    assert (done.code, done.stdout) == (0, "")
    assert "page.html" in done.stderr
    page = (spending.command.folder / "page.html").read_text(encoding="utf-8")
    assert "Do | &lt;b&gt;cache-1&lt;/b&gt;" in page
    assert spending.ok("report", "--html", "-", "--month", "2020-01").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("what-if",), 2, "No policy is named"),
        (("what-if", "--policy", "none.toml"), 2, "There is no file"),
        (("what-if", "--policy", "policy.toml", "--from", "tomorrow"), 2, "neither a time nor a position"),
        (("what-if", "--policy", "policy.toml", "--json", "--csv"), 2, "exclude each other"),
        (("what-if", "--policy", "policy.toml", "--month", "2020-01"), 0, "No envelope of this period"),
        (("report", "--html", "missing/page.html"), 2, "cannot be written"),
        (("report", "--html", "-", "--json"), 2, "--html excludes"),
        (("report", "--html", "-", "--csv"), 2, "--html excludes"),
        (("report", "--month", "2026"), 2, "is no month"),
        (("report", "--policy", "bus.toml"), 2, "bus.toml, line 1: unknown key `namespace`"),
    ],
)
def test_a_mistake_says_what_to_do(spending, arguments, code, words):
    """Each ends with its exit code, and says what was wrong on stderr, or in JSON."""
    (spending.command.folder / "bus.toml").write_text('namespace = "x"\n', encoding="utf-8")
    done = spending(*arguments)
    assert done.code == code
    assert words in (done.stdout if "--json" in arguments else done.stderr)


def test_caps_are_shown_before_anything_is_spent(bus):
    """In a month without a call, what is held and left of the caps is told all the same."""
    held = Acknowledgment(accepted=True, provider="anthropic", hold=Hold(id="h", microusd=250_000))
    given = compose(Delegation(goal="g"), sender="@boss", recipient="@kilo", task="t")
    bus.on_bus(lambda client: client.publish_many([given, compose(held, sender="@kilo", recipient="@boss", task="t")]))
    (bus.command.folder / "policy.toml").write_text(POLICY, encoding="utf-8")
    done = bus("costs", "--policy", "policy.toml")
    assert done.code == 0
    assert "No envelope that matches" in done.stderr
    assert done.stdout.splitlines()[-1].split() == ["anthropic", "-", "$0.25", "$1.00", "$0.75"]
    (row,) = bus("costs", "--policy", "policy.toml", "--json").json()["budgets"]["rows"]
    assert (row["held_microusd"], row["left_microusd"], row["cost_microusd"]) == (250_000, 750_000, None)
