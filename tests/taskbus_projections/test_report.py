"""The report: its numbers are those of the log, and nothing that an envelope says gets out of its place."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from taskbus.envelope import (
    Acknowledgment,
    Answer,
    Completion,
    Cost,
    Delegation,
    ErrorDetails,
    Escalation,
    Gate,
    Hold,
    Parking,
    QualityGates,
    Result,
    Usage,
    Verdict,
    compose,
)
from taskbus.errors import UsageError
from taskbus_projections.amounts import rounded
from taskbus_projections.policy import Policy
from taskbus_projections.report import facts, markdown, page, sections
from taskbus_projections.report.days import Days
from tests.taskbus_projections.handmade import fold

HOSTILE = (
    "{{ 7*7 }}\u202e\n|# H </td><script>alert(1)</script>|x|\n# H\n```sh\n`rm`\n"
    "<img src=http://evil.example/x onerror=alert(2)> "
    "[click](javascript:alert(3)) https://evil.example www.evil.example {% raw %} & *b* _i_ ~s~"
)
NOVEMBER = Days("2026-11-01", "2026-11-30")
FIRST = datetime(2026, 11, 3, 9, 0, tzinfo=UTC)
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def spent(provider, model, microusd, tokens=(1000, 100)):
    """A call; unpriced without an amount."""
    cost = None if microusd is None else Cost(source="reported", microusd=microusd)
    return Usage(provider=provider, model=model, input_tokens=tokens[0], output_tokens=tokens[1], cost=cost)


def task(name, agent, begun, *said, goal="make it", parent=None, review=True, held=("anthropic", 2_000_000)):
    """A task: its delegation, its acknowledgment an hour later, and what follows, each after so many hours."""
    hand = {"task": name, "parent": parent}
    yield begun, compose(Delegation(goal=goal, review_required=review), sender="@boss", recipient=agent, **hand)
    hold = Hold(id=f"hold-{name}", microusd=held[1])
    taken = Acknowledgment(accepted=True, provider=held[0], model="sonnet", hold=hold)
    yield begun + HOUR, compose(taken, sender=agent, recipient="@boss", **hand)
    for hours, payload, more in said:
        to_agent = isinstance(payload, Verdict | Answer)
        sender, recipient = ("@boss", agent) if to_agent else (agent, more.pop("to", "@boss"))
        yield begun + hours * HOUR, compose(payload, sender=sender, recipient=recipient, **hand, **more)


DONE = Completion(result=Result(status="success"))
FAILED = Completion(result=Result(status="failure", description=HOSTILE))
STUCK = Escalation(error_details=ErrorDetails(level=4, category="architectural", message=HOSTILE))
GATES = QualityGates(input=Gate(outcome="passed"), output=Gate(outcome="failed", note=HOSTILE))


def story():
    """Five tasks in November: one accepted after a rejection, one failed, one escalated to a human, two open."""
    said = [
        *task(
            "good",
            "@kilo",
            FIRST,
            (3, DONE, {"usage": (spent("anthropic", "sonnet", 1_500_000), spent("local", HOSTILE[:40], None))}),
            (4, Verdict(decision="rejected"), {}),
            (5, Acknowledgment(accepted=True), {}),
            (7, DONE, {"usage": (spent("anthropic", "sonnet", 250_001),), "quality_gates": GATES}),
            (8, Verdict(decision="accepted"), {}),
            goal=HOSTILE,
        ),
        *task("bad", "@cline", FIRST + DAY, (5, FAILED, {"usage": (spent("openai", "o3", 40_000),)}), parent="good"),
        *task("stuck", "@kilo", FIRST + 2 * DAY, (2, STUCK, {"to": "@human"})),
        *task("open", "@kilo", FIRST + 15 * DAY, goal="later"),
        *task("new", "@gemini", FIRST + 16 * DAY, held=("google", 500_000)),
        *task("next", "@cline", datetime(2026, 12, 1, tzinfo=UTC), (2, DONE, {}), review=False),
        *task("before", "@cline", datetime(2026, 10, 31, 20, tzinfo=UTC), (2, DONE, {}), review=False),
    ]
    return sorted(said, key=lambda each: each[0])


@pytest.fixture
def told(database):
    """The database of the story."""
    fold(database, story())
    return database


@pytest.fixture
def policy(tmp_path):
    """A policy with a tier and caps."""
    path = tmp_path / "policy.toml"
    text = '[tiers.main]\nagents = ["@kilo"]\n[caps]\nanthropic = 20\ngoogle = 20\n"@cline" = "0.05"\n'
    path.write_text(text, encoding="utf-8")
    return Policy.load(path)


def test_the_numbers_are_those_of_the_log(told, policy):
    """What happened in November is counted, and nothing of the days around it."""
    found = facts.gather(told, NOVEMBER, policy, NOW)
    work = found["work"]
    assert found["begun"] == 5
    assert {name: work[name] for name in ("assigned", "accepted", "rejected", "failed", "escalated")} == {
        "assigned": 6,
        "accepted": 1,
        "rejected": 1,
        "failed": 1,
        "escalated": 1,
    }
    assert {row["agent"]: row["accepted"] for row in found["agents"]} == {"@kilo": 1, "@cline": 0, "@gemini": 0}
    assert [row["day"] for row in found["throughput"]] == [f"2026-11-{day:02}" for day in range(3, 20)]
    assert sum(row["assigned"] for row in found["throughput"]) == 6
    assert found["failed"]["tasks"] == 1
    assert [row["id"] for row in found["failed"]["newest"]] == ["bad"]
    total = found["escalations"]["total"]
    assert (total["incidents"], total["human"], found["escalations"]["open_now"]) == (1, 1, 1)
    assert {row["layer"]: (row["passed"], row["failed"]) for row in found["gates"]["layers"]} == {
        "input": (1, 0),
        "output": (0, 1),
    }
    (slowest,) = (row for row in found["slowest"] if row["id"] == "good")
    assert slowest["elapsed_ms"] == 8 * 3_600_000
    assert found["slowest"][0]["id"] == "good"
    assert {row["id"] for row in found["slowest"]} == {"good", "bad"}
    assert [row["tasks"] for row in found["open"]["ages"]] == [0, 0, 2, 1]
    soon = facts.gather(told, NOVEMBER, policy, FIRST + 16 * DAY + 2 * HOUR)
    assert [row["tasks"] for row in soon["open"]["ages"]] == [0, 1, 1, 1]
    assert [row["id"] for row in found["open"]["oldest"]] == ["stuck", "open", "new"]


def test_the_costs_are_those_of_the_log(told, policy):
    """Unpriced calls stand beside the sums; a tree has the cost of its parts; what is held is not left."""
    found = facts.gather(told, NOVEMBER, policy, NOW)
    total = found["spending"]["total"]
    assert (total["calls"], total["unpriced_calls"], total["cost_microusd"]) == (4, 1, 1_790_001)
    assert {row["provider"]: row["cost_microusd"] for row in found["spending"]["providers"]} == {
        "anthropic": 1_750_001,
        "openai": 40_000,
        "local": None,
    }
    assert {row["tier"]: row["cost_microusd"] for row in found["spending"]["tiers"]} == {
        "main": 1_750_001,
        None: 40_000,
    }
    assert [(row["root"], row["cost_microusd"]) for row in found["trees"]] == [("good", 1_790_001)]
    held = {row["provider"]: (row["held_microusd"], row["left_microusd"]) for row in found["budgets"]["providers"]}
    assert (held["anthropic"], held["google"]) == ((2_000_000, 16_249_999), (500_000, 19_500_000))
    text = markdown.written(sections.document(found, "test:", "policy.toml"))
    assert "| anthropic | 2 | $1.75 | $2.00 | $20.00 | $16.25 |" in text
    assert "| google | 0 | - | $0.50 | $20.00 | $19.50 |" in text
    assert "| `@cline` | 1 | $0.04 |  | $0.05 | $0.01 |" in text
    assert "| no tier | 1 | 1,000 | 100 | $0.04 | 2.2 % |" in text


def test_a_great_part_of_the_log_gives_what_a_small_one_gives(told, policy, monkeypatch):
    """The two ways to the dearest trees and the slowest tasks lead to the same rows."""
    small = facts.gather(told, NOVEMBER, policy, NOW)
    monkeypatch.setattr(facts, "_NARROW", 0)
    assert facts.gather(told, NOVEMBER, policy, NOW) == small


def test_each_day_is_in_the_report_of_one_period(told):
    """Reports of single days add up to that of the month."""
    whole = facts.gather(told, NOVEMBER, None, NOW)
    single = [facts.gather(told, Days(day, day), None, NOW) for day in NOVEMBER.each()]
    assert len(single) == 30
    assert sum(each["begun"] for each in single) == whole["begun"]
    for name in ("assigned", "taken", "completed", "accepted", "failed"):
        assert sum(each["work"][name] for each in single) == whole["work"][name]
    assert sum(each["spending"]["total"]["cost_microusd"] or 0 for each in single) == 1_790_001
    assert sum(each["failed"]["tasks"] for each in single) == whole["failed"]["tasks"]
    assert sum(len(each["slowest"]) for each in single) == len(whole["slowest"])


def test_markdown_keeps_hostile_text_in_its_place(told, policy):
    """Every line is what it was meant to be: no heading, row, link, code or markup comes from an envelope."""
    text = markdown.written(sections.document(facts.gather(told, NOVEMBER, policy, NOW), "test:", None))
    assert "alert" in text
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert all(re.fullmatch(r"#{1,2} [A-Za-z0-9 ,-]+", line) for line in titles)
    columns = 0
    for line in text.splitlines():
        assert line.isprintable()
        bare = re.sub(r"\\[\\`*_\[\]<>|~&]", "", line)
        bare = re.sub(r"`@[A-Za-z0-9._-]+`", "", bare)
        if line.startswith("|"):
            columns = columns or bare.count("|")
            assert bare.count("|") == columns, line
            bare = bare.replace("|", "")
        else:
            columns = 0
        if line.startswith("**"):
            bare = bare[2:-2]
        assert not re.search(r"[`*\[\]<>|~&]", bare), line
        assert not re.search(r"https?://|www\.", bare), line


class Seen(HTMLParser):
    """What a browser would find in a page."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []

    def handle_starttag(self, tag, attrs):
        """Keep it."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Keep it; it needs no end."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        """It ends what was begun last."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Keep it."""
        self.texts.append(data)


def test_the_page_needs_nothing_and_runs_nothing(told, policy):
    """No script, no handler, no address to load from; what envelopes said is text; two renderings are alike."""
    document = sections.document(facts.gather(told, NOVEMBER, policy, NOW), "test:", "policy.toml")
    text = page.written(document, NOW)
    assert text == page.written(document, NOW)
    seen = Seen()
    seen.feed(text)
    seen.close()
    assert seen.open == []
    assert seen.tags.count("svg") == 2
    assert not {"script", "img", "link", "iframe", "object", "embed", "a", "image", "use", "form"} & set(seen.tags)
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name in ("src", "href", "xlink:href")]
    addresses = [value for name, value in seen.attributes if "//" in (value or "") and not name.startswith("xmlns")]
    assert addresses == []
    assert not [style for style in re.findall(r"(?s)<style.*?</style>", text) if "//" in style]
    assert not re.search(r"(?i)@import|url\(|expression\(", text)
    assert any("<script>alert(1)" in each for each in seen.texts), "it is there, as text"
    assert any("{{ 7*7 }}" in each for each in seen.texts)
    assert not any("\u202e" in each for each in seen.texts)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in seen.attributes
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_without_the_extra_the_page_says_what_to_install(told, monkeypatch):
    """A missing package is no stack trace; Markdown needs none."""
    document = sections.document(facts.gather(told, NOVEMBER, None, NOW), "test:", None)
    for name in ("jinja2", "pygal"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(UsageError, match="jinja2 and pygal") as caught:
                page.written(document, NOW)
            assert "taskbus[report]" in caught.value.advice
            assert markdown.written(document)


def test_an_empty_log_has_a_report(database):
    """Nothing is divided by nothing, and nothing is said of what did not happen."""
    found = facts.gather(database, NOVEMBER, None, NOW)
    document = sections.document(found, "test:", None)
    assert [section.title for section in document.sections] == ["At a glance", "Work", "Integrity"]
    assert "nan" not in page.written(document, NOW)
    assert "| tasks begun | 0 |" in markdown.written(document)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((None, None, None), ("2026-11-01", "2026-11-30")),
        ((None, None, "2024-02"), ("2024-02-01", "2024-02-29")),
        (("2026-11-05", None, None), ("2026-11-05", "2026-11-20")),
        ((None, "2026-10-05", None), ("2026-10-01", "2026-10-05")),
        (("7d", "1d", None), ("2026-11-13", "2026-11-19")),
        (("2026-11-05T23:30:00-02:00", None, None), ("2026-11-06", "2026-11-20")),
    ],
)
def test_days_are_those_of_utc(options, expected):
    """A day, a moment, a month, or this month: the period is whole days, both ends included."""
    days = Days.read(*options, now=NOW)
    assert (days.first, days.last) == expected
    assert days.each()[0] == days.first
    assert days.each()[-1] == days.last


@pytest.mark.parametrize(
    "options",
    [
        ("2026-11-05", None, "2026-11"),
        ("2026-11-05", "2026-11-04", None),
        ("2026-02-30", None, None),
        ("yesterday", None, None),
        (None, None, "2026-13"),
        (None, None, "11"),
    ],
)
def test_what_is_no_period_is_refused(options):
    """Two ways at once, an end before the beginning, and days that there are not."""
    with pytest.raises(UsageError) as caught:
        Days.read(*options, now=NOW)
    assert caught.value.advice


@pytest.mark.parametrize(
    ("microusd", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000001"),
        (999_999, "$0.999999"),
        (1_004_999, "$1.00"),
        (1_005_000, "$1.01"),
        (-1_610_659_251, "-$1,610.66"),
        (-1, "-$0.000001"),
    ],
)
def test_no_amount_but_zero_is_shown_as_zero(microusd, text):
    """From a dollar on a page shows whole cents, below it every digit."""
    assert rounded(microusd) == text


@pytest.mark.parametrize("said", [("0001-01-01", None), (None, "9999-12-31"), ("9999-12-31", "9999-12-31")])
def test_days_of_no_log_are_refused(said):
    """Years that no position can be in, or that have no day behind them, are mistakes that say so."""
    with pytest.raises(UsageError, match="year"):
        Days.read(*said, None, NOW)
    assert Days.read("1970-01-01", "9998-12-31", None, NOW).bounds[1] == "9999-01-01T00:00:00.000Z"


def test_a_failure_belongs_to_the_day_of_its_end(database, policy):
    """What is set aside of the task later moves it to no other month, and is not what was said of the failure."""
    said = task("old", "@kilo", datetime(2026, 10, 31, 20, tzinfo=UTC), (2, FAILED, {}))
    parked = Parking(parking="parked", agent="@kilo", deliveries=("x",), reason="permanent", message="later")
    late = compose(parked, sender="@bus", recipient="@boss", task="old")
    fold(database, [*said, (FIRST + DAY, late)])
    assert facts.gather(database, NOVEMBER, policy, NOW)["failed"]["tasks"] == 0
    failed = facts.gather(database, Days("2026-10-01", "2026-10-31"), policy, NOW)["failed"]
    assert failed["tasks"] == 1
    assert [row["finished"] for row in failed["newest"]] == ["2026-10-31T22:00:00.000Z"]
    assert "later" not in failed["newest"][0]["summary"]
