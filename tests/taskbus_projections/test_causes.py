"""Chains of causation: up to the first cause, down to the last effect, whatever senders have named."""

from __future__ import annotations

import pytest

from taskbus.envelope import Acknowledgment, Delegation, Status, compose, new_id
from taskbus.errors import NotFound, UsageError
from taskbus.position import Position
from taskbus_projections import queries
from taskbus_projections.database import Database
from taskbus_projections.drawing import branches
from taskbus_projections.registry import BUILTIN
from tests.bench.synthetic import BEGIN, STEP, fold


def said(payload, task, cause=None, *, sender="@kilo", id=None, because=None):
    """An envelope; `because` is the ID of a cause that need not be anywhere."""
    made = compose(payload, sender=sender, recipient="@boss", task=task, cause=cause, id=id)
    if because is None:
        return made
    from msgspec.structs import replace

    return replace(made, context=replace(made.context, causation_id=because))


def delegated(task, cause=None, **more):
    """A delegation to the agent that says everything else."""
    return compose(Delegation(goal=task), sender="@boss", recipient="@kilo", task=task, cause=cause, **more)


@pytest.fixture
def chain(tmp_path):
    """Two tasks, the second caused by the first: 1 → 2 → (3 → 4 → 6), 5; and 7, whose cause is elsewhere."""
    first = delegated("a")
    taken = said(Acknowledgment(accepted=True), "a", first)
    part = delegated("b", taken)
    begun = said(Acknowledgment(accepted=True), "b", part)
    told = said(Status(progress="half"), "a", taken)
    ended = said(Status(progress="nearly"), "b", begun)
    lost = said(Status(progress="lost"), "b", because=new_id())
    with Database.open(tmp_path / "chain.db", "chain:", BUILTIN) as database:
        fold(database, [first, taken, part, begun, told, ended, lost])
        yield database


def walked(page):
    """Numbers, depths and relations of a chain."""
    return [(row["n"], row["depth"], row["relation"]) for row in page.rows]


def test_an_id_that_was_used_anew_stops_nothing(tmp_path):
    """The server forgets the IDs of archived tasks: a second envelope with one of them is folded, too."""
    first = delegated("a")
    taken = said(Acknowledgment(accepted=True), "a", first)
    again = compose(Delegation(goal="b"), sender="@boss", recipient="@kilo", task="b", id=first.id)
    with Database.open(tmp_path / "again.db", "again:", BUILTIN) as database:
        fold(database, [first, taken, again])
        assert walked(queries.causes(database, 2)) == [(1, 0, "cause"), (2, 1, "self")]
        assert walked(queries.causes(database, 1)) == [(1, 0, "self"), (2, 1, "effect")]
        assert walked(queries.causes(database, 3)) == [(3, 0, "self")]


def test_both_ways(chain):
    """The causes stand before the envelope, from the first on; its effects below it, each under its cause."""
    assert walked(queries.causes(chain, 2)) == [
        (1, 0, "cause"),
        (2, 1, "self"),
        (3, 2, "effect"),
        (4, 3, "effect"),
        (6, 4, "effect"),
        (5, 2, "effect"),
    ]


def test_one_way(chain):
    """Up is the causes and the envelope, down the envelope and its effects."""
    assert walked(queries.causes(chain, 4, "up")) == [(1, 0, "cause"), (2, 1, "cause"), (3, 2, "cause"), (4, 3, "self")]
    assert walked(queries.causes(chain, 3, "down")) == [(3, 0, "self"), (4, 1, "effect"), (6, 2, "effect")]


@pytest.mark.parametrize(
    ("direction", "limit", "found", "more"),
    [
        ("up", 2, [3, 4], True),
        ("up", 4, [1, 2, 3, 4], False),
        ("down", 1, [4], True),
        ("down", 2, [4, 6], False),
        ("both", 2, [3, 4], True),
        ("both", 1, [4], True),
        ("both", 5, [1, 2, 3, 4, 6], False),
    ],
)
def test_a_limit_keeps_the_nearest(chain, direction, limit, found, more):
    """Causes first, then effects with the fewest steps between; and it is said that there are more."""
    page = queries.causes(chain, 4, direction, limit=limit)
    assert ([row["n"] for row in page.rows], page.more) == (found, more)


def test_a_cause_that_is_not_in_the_log(chain):
    """It ends the chain, and is named by its ID."""
    (row,) = queries.causes(chain, 7).rows
    assert (row["cause_n"], row["relation"]) == (None, "self")
    assert row["causation"] is not None


def test_causes_that_run_in_a_circle(tmp_path):
    """Senders can name what they like; each envelope is shown once."""
    ids = [new_id() for _ in range(3)]
    envelopes = [delegated("c", id=new_id()), said(Acknowledgment(accepted=True), "c")]
    envelopes += [
        said(Status(progress=str(at)), "c", id=id, because=ids[at - 1]) for at, id in enumerate(ids)
    ]  # each is caused by the one before it, the first by the last
    itself = new_id()
    envelopes.append(said(Status(progress="itself"), "c", id=itself, because=itself))
    with Database.open(tmp_path / "circle.db", "circle:", BUILTIN) as database:
        fold(database, envelopes)
        for n in (3, 4, 5):
            for direction in ("up", "down", "both"):
                found = [row["n"] for row in queries.causes(database, n, direction).rows]
                assert sorted(found) == [3, 4, 5]
        assert [row["n"] for row in queries.causes(database, 6).rows] == [6]


def test_an_envelope_goes_by_three_names(chain):
    """Its position, its number, the beginning of its ID."""
    rows = queries.audit(chain).rows
    third = rows[2]
    assert third["position"] == f"{BEGIN + 3 * STEP}-0"
    for name in (third["position"], "#3", "3", " 3 ", third["id"], third["id"].upper()):
        assert queries.envelope(chain, name) == 3
    with pytest.raises(UsageError, match="Several envelopes"):
        queries.envelope(chain, rows[0]["id"][:4])
    for missing in ("#99", f"{BEGIN}-7", str(Position(0, BEGIN + STEP, 1)), "zebra", "ffffffff", ""):
        with pytest.raises((NotFound, UsageError)):
            queries.envelope(chain, missing)


@pytest.mark.parametrize(
    ("depths", "deepest", "drawn"),
    [
        ([0], None, [""]),
        ([0, 1, 1], None, ["", "├── ", "└── "]),
        ([0, 1, 2, 1, 0], None, ["", "├── ", "│   └── ", "└── ", ""]),
        ([0, 1, 2, 3], 1, ["", "├── ", "├── ", "└── "]),
    ],
)
def test_a_tree_is_drawn(depths, deepest, drawn):
    """A line goes on where another row of the same parent follows."""
    assert branches(depths, deepest=deepest) == drawn
