"""The queries: what each question finds, and that money without a price is never zero."""

from __future__ import annotations

import pytest

from taskbus.envelope import (
    Acknowledgment,
    Completion,
    Cost,
    Delegation,
    ErrorDetails,
    Escalation,
    Question,
    Result,
    Status,
    Usage,
    compose,
)
from taskbus.errors import NotFound, UsageError
from taskbus.position import START, Position
from taskbus_projections import queries
from taskbus_projections.projector import Projector
from taskbus_projections.queries import GROUPINGS, Sought, Spent, Wanted

pytestmark = pytest.mark.anyio


def used(microusd=None, *, provider="openrouter", model="qwen3", tokens=100):
    """A call, unpriced without a cost."""
    cost = None if microusd is None else Cost(source="reported", microusd=microusd)
    return Usage(provider=provider, model=model, input_tokens=tokens, cost=cost)


def said(payload, task, *, sender="@kilo", recipient="@boss", **more):
    """Something that the assignee says of a task."""
    return compose(payload, sender=sender, recipient=recipient, task=task, **more)


def delegated(task, goal="make it", *, sender="@boss", recipient="@kilo", **more):
    """A delegation."""
    return compose(Delegation(goal=goal), sender=sender, recipient=recipient, task=task, **more)


@pytest.fixture
async def answers(bus, projector):
    """Three tasks, two of them a tree; calls with prices and without; where each envelope stands."""
    root = delegated("cache-1", "Cache the 100% of prices_list")
    part = delegated("cache-2", "Measure it", sender="@kilo", recipient="@cline", parent="cache-1", cause=root)
    asked = said(Question(question="Which one, Říp?"), "cache-1", cause=root)
    stuck = ErrorDetails(level=2, category="execution", message="no disk")
    envelopes = [
        root,
        said(Acknowledgment(accepted=True), "cache-1", cause=root, usage=(used(1_500_000), used())),
        part,
        said(Acknowledgment(accepted=True), "cache-2", sender="@cline", recipient="@kilo"),
        said(Status(progress="slow", fraction=0.5), "cache-2", sender="@cline", recipient="@kilo", usage=(used(2),)),
        asked,
        said(Escalation(error_details=stuck), "cache-2", sender="@cline", recipient="@lead", by_hand=True),
        delegated("docs", "Write it down", recipient="@opencode"),
        said(
            Acknowledgment(accepted=True),
            "docs",
            sender="@opencode",
            usage=(used(None, provider="local", model="llama", tokens=None),),
        ),
        said(Completion(result=Result(status="failure")), "docs", sender="@opencode"),
    ]
    appended = await bus.publish_many(envelopes)
    await projector.catch_up()
    return [answer.position for answer in appended]


def ids(page):
    """The numbers of the envelopes of a page."""
    return [row["n"] for row in page.rows]


async def test_the_board_has_every_task_the_last_changed_first(answers, database):
    """States, counts and flags are as the story ended; the total counts what the limit leaves out."""
    page = queries.board(database)
    assert [(row["id"], row["state"], row["envelopes"]) for row in page.rows] == [
        ("docs", "failed", 3),
        ("cache-2", "escalated", 4),
        ("cache-1", "input-required", 3),
    ]
    assert (page.total, page.more) == (3, False)
    assert [(row["questions"], row["escalations"]) for row in page.rows] == [(0, 0), (0, 1), (1, 0)]
    assert page.rows[1]["coordinator"] == "@lead"
    assert (page.rows[1]["progress"], page.rows[1]["fraction"]) == ("slow", 0.5)
    assert page.rows[0]["review"] is True
    assert page.rows[0]["finished"] == page.rows[0]["updated"]
    assert page.rows[1]["finished"] is None
    short = queries.board(database, limit=1)
    assert ([row["id"] for row in short.rows], short.total, short.more) == (["docs"], 3, True)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"states": ("failed",)}, {"docs"}),
        ({"states": ("failed", "escalated")}, {"docs", "cache-2"}),
        ({"states": ("accepted",)}, set()),
        ({"assignee": "@cline"}, {"cache-2"}),
        ({"root": "cache-1"}, {"cache-1", "cache-2"}),
        ({"root": "cache-1", "assignee": "@kilo"}, {"cache-1"}),
        ({"assignee": "@cline", "states": ("escalated", "failed")}, {"cache-2"}),
        ({"delegator": "@boss"}, {"docs", "cache-1"}),
        ({"delegator": "@boss", "states": ("failed",)}, {"docs"}),
        ({"task_type": "review"}, set()),
        ({"created_since": "2026-01-01", "states": ("failed", "escalated")}, {"docs", "cache-2"}),
        ({"created_until": "2026-01-01"}, set()),
    ],
)
async def test_the_board_can_be_narrowed(answers, database, asked, found):
    """Filters are all met at once; several states are alternatives."""
    page = queries.board(database, Wanted(**asked))
    assert {row["id"] for row in page.rows} == found
    assert page.total == len(found)


async def test_a_task_is_found_by_the_beginning_of_its_id(answers, database):
    """The beginning is enough where one task has it; the whole ID is enough where others go on from it."""
    assert queries.task_id(database, "do") == "docs"
    assert queries.task_id(database, "cache-1") == "cache-1"
    assert queries.root_of(database, "cache-2") == "cache-1"
    assert queries.task(database, "docs")["goal"] == "Write it down"
    with pytest.raises(UsageError, match=r"cache-1 \(input-required: .*\n  cache-2 \(escalated: ") as several:
        queries.task_id(database, "cache")
    assert "more of the ID" in several.value.advice
    for missing in ("docs-2", "x", "CACHE-1", "cache-_"):
        with pytest.raises(NotFound):
            queries.task_id(database, missing)
    with pytest.raises(NotFound):
        queries.task(database, "doc")


async def test_an_id_that_others_go_on_from_means_itself(bus, projector, database):
    """`build` is not ambiguous because there is a `build-2`; of many candidates ten are named."""
    await bus.publish_many([delegated("build"), *(delegated(f"build-{number}") for number in range(12))])
    await projector.catch_up()
    assert queries.task_id(database, "build") == "build"
    with pytest.raises(UsageError, match=r"\n  build-7 \(submitted: make it\)\n  and more$"):
        queries.task_id(database, "build-")


async def test_a_task_is_known_without_a_server(answers, database, tmp_path, namespace):
    """From a home and a namespace alone; what nobody folded is unknown, and not an error."""
    assert queries.known_task(tmp_path, namespace, "do") == "docs"
    assert queries.known_task(tmp_path, namespace, "cache-1") == "cache-1"
    assert queries.known_task(tmp_path, namespace, "x") is None
    assert queries.known_task(tmp_path / "elsewhere", namespace, "do") is None
    with pytest.raises(UsageError, match="Several tasks"):
        queries.known_task(tmp_path, namespace, "cache")
    database.connection.execute("UPDATE read_models SET version = 0")
    assert queries.known_task(tmp_path, namespace, "do") is None


async def test_shown_ids_are_cut_to_what_tells_them_apart(bus, projector, database):
    """Whatever is shown can be typed again, and means the same task."""
    names = ["0199aa-1-rest", "0199aa-2-rest", "0199aa-2", "zz", "0199ab-1-rest", "cache-prices"]
    await bus.publish_many([delegated(name) for name in names])
    await projector.catch_up()
    short = queries.short_ids(database, names, least=4)
    assert short == {
        "0199aa-1-rest": "0199aa-1",
        "0199aa-2-rest": "0199aa-2-",
        "0199aa-2": "0199aa-2",
        "zz": "zz",
        "0199ab-1-rest": "0199ab",
        "cache-prices": "cache-prices",
    }
    assert {queries.task_id(database, cut): name for name, cut in short.items()} == dict(zip(names, names, strict=True))


async def test_a_tree_has_each_task_before_its_parts(bus, projector, database):
    """Depth counts from the root; costs are those of the task itself; a task whose parent is elsewhere is a root."""
    await bus.publish_many(
        [
            delegated("a"),
            delegated("a1", parent="a"),
            delegated("a2", parent="a"),
            delegated("a11", parent="a1"),
            said(Acknowledgment(accepted=True), "a11", usage=(used(5), used())),
            delegated("lost", parent="elsewhere"),
        ]
    )
    await projector.catch_up()
    rows = queries.tree(database, "a")
    assert [(row["id"], row["depth"]) for row in rows] == [("a", 0), ("a1", 1), ("a11", 2), ("a2", 1)]
    assert [(row["calls"], row["unpriced_calls"], row["cost_microusd"]) for row in rows] == [
        (0, 0, None),
        (0, 0, None),
        (2, 1, 5),
        (0, 0, None),
    ]
    assert [row["id"] for row in queries.tree(database, "elsewhere")] == ["lost"]


async def test_tasks_that_are_parts_of_each_other_are_shown_once(bus, projector, database):
    """A circle of parents, which senders can name, has no beginning, and still an end."""
    await bus.publish_many([delegated("hen", parent="egg"), delegated("egg", parent="hen")])
    await projector.catch_up()
    (root,) = {row["root"] for row in queries.board(database).rows}
    assert sorted(row["id"] for row in queries.tree(database, root)) == ["egg", "hen"]


async def test_the_audit_trail_says_who_what_when_and_why(answers, database):
    """Each envelope with the type and number of what caused it, the oldest first."""
    rows = queries.audit(database).rows
    assert [row["n"] for row in rows] == list(range(1, 11))
    question = rows[5]
    assert (question["sender"], question["recipient"], question["type"]) == ("@kilo", "@boss", "question")
    assert (question["cause_type"], question["cause_n"], question["by_hand"]) == ("delegation", 1, False)
    assert question["position"] == str(answers[5])
    assert question["summary"] == "Which one, Říp?"
    assert rows[6]["by_hand"] is True
    assert "body" not in question
    assert queries.audit(database, bodies=True).rows[5]["body"].startswith(b'{"id":')


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"task": "docs"}, [8, 9, 10]),
        ({"root": "cache-1"}, [1, 2, 3, 4, 5, 6, 7]),
        ({"agent": "@cline"}, [3, 4, 5, 7]),
        ({"types": ("question", "escalation")}, [6, 7]),
        ({"agent": "@kilo", "types": ("delegation",)}, [1, 3]),
        ({"agent": "@cline", "types": ("status", "escalation"), "by_hand": True}, [7]),
        ({"by_hand": True}, [7]),
        ({"by_hand": True, "agent": "@boss"}, []),
        ({"root": "cache-1", "agent": "@cline", "types": ("delegation",)}, [3]),
        ({"search": "NO DISK"}, [7]),
        ({"search": "disk no"}, [7]),
        ({"search": "rip"}, [6]),
        ({"search": "100% of prices_list"}, [1]),
        ({"search": "price"}, []),
        ({"search": "price*"}, [1]),
        ({"search": "it OR"}, []),
        ({"search": "it", "task": "docs"}, [8]),
        ({"search": "it", "agent": "@kilo"}, [3]),
        ({"search": "it", "types": ("delegation", "status")}, [3, 8]),
        ({"match": '"no disk" OR slow'}, [5, 7]),
        ({"match": "it NOT down"}, [3]),
        ({"match": "it", "root": "cache-1", "agent": "@cline"}, [3]),
        ({"limit": 3}, [8, 9, 10]),
        ({"task": "docs", "limit": 3}, [8, 9, 10]),
    ],
)
async def test_the_audit_trail_can_be_narrowed(answers, database, asked, found):
    """Filters are all met at once, and signs that SQL has a use for are just signs."""
    asked = dict(asked)
    limit = asked.pop("limit", None)
    page = queries.audit(database, Sought(**asked), limit=limit)
    assert ids(page) == found
    assert page.more == (limit == 3 and not asked)


async def test_since_and_until_are_both_included(answers, database):
    """They need not be positions at which an envelope stands."""
    third, sixth = answers[2], answers[5]
    assert ids(queries.audit(database, Sought(since=third, until=sixth))) == [3, 4, 5, 6]
    before = Position(0, answers[0].ms - 1, 7)
    assert ids(queries.audit(database, Sought(since=before, until=third))) == [1, 2, 3]
    assert ids(queries.audit(database, Sought(until=before))) == []
    later = Position(0, answers[-1].ms, answers[-1].sequence + 1)
    assert ids(queries.audit(database, Sought(until=later))) == list(range(1, 11))
    assert ids(queries.audit(database, Sought(since=later))) == []
    assert ids(queries.audit(database, Sought(until=START))) == []
    assert ids(queries.audit(database, Sought(since=START))) == list(range(1, 11))
    assert ids(queries.audit(database, Sought(since=Position(0, sixth.ms + 60_000, 0)))) == []


@pytest.mark.parametrize(
    ("by", "found"),
    [
        ("provider", [("openrouter", 3, 1, 1_500_002), ("local", 1, 1, None)]),
        ("model", [("openrouter", "qwen3", 3, 1, 1_500_002), ("local", "llama", 1, 1, None)]),
        ("agent", [("@kilo", 2, 1, 1_500_000), ("@cline", 1, 0, 2), ("@opencode", 1, 1, None)]),
        ("task", [("cache-1", 2, 1, 1_500_000), ("cache-2", 1, 0, 2), ("docs", 1, 1, None)]),
        ("tree", [("cache-1", 3, 1, 1_500_002), ("docs", 1, 1, None)]),
    ],
)
async def test_costs_add_up_and_count_what_has_no_price(answers, database, by, found):
    """The dearest first; a sum without any price is not zero but unknown."""
    rows = queries.costs(database, by).rows
    assert [tuple(row.values())[: len(found[0])] for row in rows] == found


@pytest.mark.parametrize(("by", "length"), [("month", 7), ("day", 10)])
async def test_costs_of_a_span_of_time(answers, database, by, length):
    """Months and days are those of the server's clock in UTC."""
    (row,) = queries.costs(database, by).rows
    assert row[by] == answers[0].time.isoformat()[:length]
    assert (row["calls"], row["unpriced_calls"], row["cost_microusd"]) == (4, 2, 1_500_002)


async def test_totals_and_tokens(answers, database):
    """Tokens that nobody reported are unknown, also in a sum; a bus without calls has spent nothing."""
    assert queries.total(database) == {
        "calls": 4,
        "unpriced_calls": 2,
        "cost_microusd": 1_500_002,
        "input_tokens": 300,
        "output_tokens": None,
        "cache_read_tokens": None,
        "cache_write_tokens": None,
        "reasoning_tokens": None,
    }
    assert queries.total(database, Spent(task="docs"))["cost_microusd"] is None
    assert queries.total(database, Spent(root="cache-1"))["calls"] == 3
    assert queries.total(database, Spent(task="nothing"))["calls"] == 0
    assert queries.costs(database, "model", Spent(task="cache-2")).rows[0]["cost_microusd"] == 2


async def test_every_way_to_add_up_is_offered(bus):
    """The command offers what the query knows."""
    from taskbus_projections.commands import costs

    (by,) = (parameter for parameter in costs.params if parameter.name == "by")
    assert list(by.type.choices) == list(GROUPINGS)


async def test_the_newest_delegation_counts(bus, projector, database):
    """After a second delegation the goal, the assignee and the attempt are new, and the progress is gone."""
    await bus.publish_many(
        [
            delegated("t", "First", priority="low"),
            said(Acknowledgment(accepted=True), "t"),
            said(Status(progress="half", fraction=0.5), "t"),
            said(Completion(result=Result(status="failure")), "t"),
        ]
    )
    await projector.catch_up()
    assert queries.task(database, "t")["finished"] is not None
    await bus.publish(delegated("t", "Second", recipient="@cline", priority="high"))
    await Projector(bus, database).catch_up()
    row = queries.task(database, "t")
    wanted = {
        "goal": "Second",
        "assignee": "@cline",
        "attempt": 2,
        "priority": "high",
        "state": "submitted",
        "progress": None,
        "fraction": None,
        "finished": None,
    }
    assert {name: row[name] for name in wanted} == wanted
