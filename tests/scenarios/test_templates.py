"""`bus template`: what is printed can be put behind a task, and its example goes through the other commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from taskbus.envelope import SPOKEN

if TYPE_CHECKING:
    from tests.scenarios.conftest import Console


@pytest.mark.parametrize("form", ["xml", "json"])
@pytest.mark.parametrize("kind", SPOKEN)
def test_printed_prompt_holds_a_valid_message(bus: Console, kind: str, form: str) -> None:
    """What the command prints validates as it stands, read as a model's output."""
    prompt = bus.ok("template", kind, "--format", form)
    checked = bus("validate", "--lenient", "--json", "-", input=prompt)
    assert (checked.code, checked.lines()[0]["type"]) == (0, kind)
    assert "repairs" not in checked.lines()[0]


def test_json_output_has_the_example_by_itself(bus: Console) -> None:
    """With --json, the prompt and its example are one object; the example is a document that validates strictly."""
    found = bus("template", "completion", "--json").json()
    assert (found["type"], found["format"]) == ("completion", "xml")
    assert found["example"] in found["prompt"]
    assert bus("validate", "-", input=found["example"]).code == 0


@pytest.mark.parametrize("arguments", [(), ("report",), ("parking",)])
def test_missing_or_unknown_type_lists_the_types(bus: Console, arguments: tuple[str, ...]) -> None:
    """Without a type that there is, the error is one of usage and names all types."""
    done = bus("template", *arguments)
    assert done.code == 2
    assert all(kind in done.stderr for kind in SPOKEN)


def test_help_has_examples(bus: Console) -> None:
    """The help shows how the prompt is used."""
    assert "bus template completion" in bus.ok("template", "--help")
