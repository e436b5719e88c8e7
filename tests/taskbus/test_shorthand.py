"""The handoff shorthand: the samples, what else it can carry, and what is wrong with a bad one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskbus.envelope import PRIORITIES, Artifact
from taskbus.errors import InvalidEnvelope
from taskbus.shorthand import (
    ShortCompletion,
    ShortDelegation,
    is_shorthand,
    kind,
    read_completion,
    read_delegation,
    write_completion,
    write_delegation,
)
from tests.taskbus.strategies import PAYLOAD_STRATEGIES, names, task_ids, times, usages

if TYPE_CHECKING:
    from collections.abc import Callable

PROTOCOL = Path(__file__).parents[1] / "data" / "protocol"
DELEGATION = (PROTOCOL / "delegation.json").read_bytes()
COMPLETION = (PROTOCOL / "completion.json").read_bytes()


def problems(read: Callable[[bytes], object], document: object) -> list[str]:
    """What a reader finds wrong with a document."""
    with pytest.raises(InvalidEnvelope) as caught:
        read(json.dumps(document).encode())
    return [str(problem) for problem in caught.value.problems]


def test_the_sample_delegation_is_read_as_it_stands() -> None:
    """All that the sample says arrives in the payload, and the agent gets its @."""
    short = read_delegation(DELEGATION)
    assert short.recipient == "@kilo"
    assert short.payload.goal == "Implement Redis caching"
    assert short.payload.task_type == "implementation"
    assert short.payload.constraints == ("Use marketing_tvoje_info: prefix", "Handle connection errors")
    assert short.payload.artifacts[1] == Artifact(path="scripts/verify_redis.py")
    assert short.payload.acceptance_criteria == ("Passes verify_redis.py", "Handles timeout gracefully")
    assert (short.priority, short.deadline, short.parent_task) == ("normal", None, None)


def test_the_sample_completion_is_read_as_it_stands() -> None:
    """All that the sample says arrives in the payload."""
    payload = read_completion(COMPLETION).payload
    assert payload.result.status == "success"
    assert [each.path for each in payload.result.artifacts] == ["src/lib/redis.ts", "tests/redis.test.ts"]
    assert payload.verification_result == "All tests passed"
    assert payload.next_steps == "Review PR #123"


def test_the_samples_are_written_as_they_were() -> None:
    """Reading and writing gives the same document again."""
    assert json.loads(write_delegation(read_delegation(DELEGATION))) == json.loads(DELEGATION)
    assert json.loads(write_completion(read_completion(COMPLETION))) == json.loads(COMPLETION)


@given(
    st.builds(
        ShortDelegation,
        recipient=names,
        payload=PAYLOAD_STRATEGIES["delegation"],
        priority=st.sampled_from(PRIORITIES),
        deadline=st.none() | times,
        parent_task=st.none() | task_ids,
    )
)
def test_any_delegation_survives_the_shorthand(short: ShortDelegation) -> None:
    """The shorthand has a place for everything that a delegation can say."""
    assert read_delegation(write_delegation(short)) == short


@given(
    st.builds(
        ShortCompletion,
        payload=PAYLOAD_STRATEGIES["completion"],
        usage=st.lists(usages, max_size=2).map(tuple),
    )
)
def test_any_completion_survives_the_shorthand(short: ShortCompletion) -> None:
    """The shorthand has a place for everything that a completion can say."""
    assert read_completion(write_completion(short)) == short


def test_an_agent_may_be_named_with_its_at() -> None:
    """Both spellings of a name are the same agent."""
    document = json.loads(DELEGATION) | {"target_agent": "@kilo"}
    assert read_delegation(json.dumps(document).encode()).recipient == "@kilo"


def test_an_artifact_may_say_more_than_its_path() -> None:
    """Paths and objects may stand beside each other; outputs come before artifacts."""
    document = {"status": "partial", "outputs": ["a"], "artifacts": ["b", {"path": "c", "summary": "s"}]}
    artifacts = read_completion(json.dumps(document).encode()).payload.result.artifacts
    assert artifacts == (Artifact(path="a"), Artifact(path="b"), Artifact(path="c", summary="s"))


def test_all_problems_of_a_delegation_are_listed() -> None:
    """One reading names everything that is wrong."""
    document = {
        "target_agent": "two words",
        "context": {"goal": "", "why": "x"},
        "artifacts": [1, "", {"summary": "x"}],
        "deadline": "tomorrow",
        "colour": "red",
    }
    found = problems(read_delegation, document)
    assert [each.partition(":")[0] for each in found] == [
        "colour",
        "target_agent",
        "context.why",
        "context.goal",
        "artifacts[0]",
        "artifacts[1]",
        "artifacts[2].path",
        "deadline",
    ]
    assert found[1] == 'target_agent: found "two words", expected an agent such as kilo or @kilo'
    assert found[4] == "artifacts[0]: found 1, expected text, not empty, or an object with path"


def test_what_is_missing_is_named() -> None:
    """Without an agent, a goal or a status, nothing can be delegated or completed."""
    assert problems(read_delegation, {}) == [
        "target_agent: found nothing, expected an agent such as kilo or @kilo",
        "context: found nothing, expected an object with goal",
    ]
    assert problems(read_completion, {}) == ['status: found nothing, expected one of "success", "partial", "failure"']


def test_a_time_in_another_form_is_refused() -> None:
    """A deadline is written as times in envelopes are, and not in all the ways that a parser would take."""
    document = json.loads(DELEGATION) | {"deadline": "2026-11-20 09:30:00Z"}
    [problem] = problems(read_delegation, document)
    assert problem.startswith('deadline: found "2026-11-20 09:30:00Z", expected a time such as')


@pytest.mark.parametrize(
    ("document", "meant"),
    [
        (DELEGATION, "delegation"),
        (COMPLETION, "completion"),
        (b'{"target_agent": "a", "target_agent": "b"}', "delegation"),
        (b'{"status": "success", "x": {"y": 1, "y": 2}}', "completion"),
        (b"{}", None),
        (b'{"goal": "x"}', None),
        (b'{"type": "status", "status": "success"}', None),
        (b'{"payload": {}, "target_agent": "a"}', None),
        ((PROTOCOL / "agent-message.xml").read_bytes(), None),
        (b"[1]", None),
        (b"", None),
        (b"{", None),
    ],
)
def test_the_shorthand_is_told_from_envelopes(document: bytes, meant: str | None) -> None:
    """It is JSON, has nothing that only an envelope has, and says which of the two it is."""
    assert kind(document) == meant
    assert is_shorthand(document) or meant is None


def test_an_object_of_any_other_kind_counts_as_shorthand() -> None:
    """So that the commands which take the shorthand say what is missing in theirs."""
    assert is_shorthand(b'{"goal": "x"}')
    assert not is_shorthand(b'{"sender": "@a"}')
