"""What a verdict says of criteria, compared with what the delegation asked for; and other small refusals."""

from __future__ import annotations

import importlib.metadata
from types import SimpleNamespace

import pytest

from taskbus.cli import criteria
from taskbus.client import Bus
from taskbus.envelope import CriterionResult, Delegation, Verdict, compose
from taskbus.errors import Conflict, UsageError
from taskbus.payload import Passed
from taskbus.routed import Routed, Wanted, routed
from taskbus.terms import Terms

pytestmark = pytest.mark.anyio


@pytest.fixture
def bus(fake_connection, namespace):
    """A bus in memory."""
    return Bus(fake_connection, namespace)


def verdict(*names, task="t"):
    """A verdict on these criteria."""
    results = tuple(CriterionResult(criterion=name, met=True) for name in names)
    return compose(Verdict(decision="accepted", criteria=results), sender="@boss", recipient="@kilo", task=task)


async def delegated(bus, *asked):
    """Delegate the task with these criteria."""
    payload = Delegation(goal="g", acceptance_criteria=asked)
    await bus.publish(compose(payload, sender="@boss", recipient="@kilo", task="t"))


async def test_a_criterion_that_nobody_asked_for_is_told(bus, capsys):
    """It may be a slip of the pen: those that were asked for are listed beside it."""
    await delegated(bus, "passes", "is fast")
    await criteria.compared(bus, verdict("passes", "is slow"))
    told = capsys.readouterr().err
    assert "no such criterion: 'is slow'" in told
    assert "It has: 'passes'; 'is fast'." in told


async def test_a_delegation_without_criteria_is_told_of_as_such(bus, capsys):
    """There is nothing to list then."""
    await delegated(bus)
    await criteria.compared(bus, verdict("is slow"))
    assert "It has none." in capsys.readouterr().err


async def test_what_agrees_or_cannot_be_compared_says_nothing(bus, capsys):
    """Neither a verdict without criteria, nor one on criteria that were asked for, nor one whose task is unknown."""
    await criteria.compared(bus, verdict("passes"))
    await delegated(bus, "passes")
    await criteria.compared(bus, verdict("passes"))
    await criteria.compared(bus, verdict())
    await criteria.compared(bus, verdict("passes", task="other"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("given", [{"concurrency": 0}, {"prefetch": -1}, {"attempts": 0}, {"hard_limit": 0.0}])
def test_terms_that_cannot_be_meant_are_refused(given):
    """With what would be possible."""
    with pytest.raises(UsageError) as raised:
        Terms(**given)
    assert raised.value.advice


async def test_without_a_router_nobody_is_chosen(bus, monkeypatch):
    """The core knows no policy: where nothing is installed that does, the agent has to be named."""
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ())
    with pytest.raises(UsageError, match="Nothing is installed"):
        await routed(bus, None, Wanted(goal="g"))


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        ((), "names nobody"),
        ((Passed(rung="1", reason="busy"), Passed(rung="2", reason="disabled", note="off")), "2: disabled, off."),
    ],
)
async def test_nobody_who_can_take_it_is_a_conflict(bus, monkeypatch, passed, words):
    """With the reason of each rung."""

    async def router(*_):
        return Routed(None, None, passed)

    point = SimpleNamespace(load=lambda: router)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: (point,))
    with pytest.raises(Conflict, match="Nobody can take it") as raised:
        await routed(bus, None, Wanted(goal="g"))
    assert words in raised.value.message
