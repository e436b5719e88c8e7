"""Prompt templates: complete, short, and with an example that the strict reader takes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from taskbus import codec, shape
from taskbus.envelope import SPOKEN, MessageType
from taskbus.errors import UsageError
from taskbus.lenient import find
from taskbus.shape import Record, Scalar, Variants
from taskbus.template import OMITTED, RESERVED, example, example_document, template

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskbus.shape import Field
    from taskbus.template import Form

FORMS: tuple[Form, ...] = ("xml", "json")
KINDS = [(kind, form) for kind in SPOKEN for form in FORMS]


def fields(record: Record, kind: MessageType) -> Iterator[Field]:
    """Every field of a type of message that a model is told of, with those of its parts."""
    for field in record.fields:
        if field.name in OMITTED or RESERVED.get(field.name, kind) != kind:
            continue
        yield field
        node = field.node.kinds[kind] if isinstance(field.node, Variants) else field.node
        if isinstance(node, Record):
            yield from fields(node, kind)


@pytest.mark.parametrize(("kind", "form"), KINDS)
def test_example_in_the_prompt_is_valid(kind: MessageType, form: Form) -> None:
    """The one fenced block is a strictly valid document of the type, and says what `example` says."""
    blocks = re.findall(r"^```(\w+)\n(.*?)\n```$", template(kind, form=form), re.DOTALL | re.MULTILINE)
    assert [name for name, _ in blocks] == [form]
    envelope = codec.read(blocks[0][1].encode()).envelope
    assert msgspec.structs.replace(envelope, id=example(kind).id) == example(kind)
    assert envelope.type == kind


@pytest.mark.parametrize(("kind", "form"), KINDS)
def test_lenient_reader_finds_the_example(kind: MessageType, form: Form) -> None:
    """A model that repeats its whole prompt has given just the example, with nothing to mend."""
    found = find(template(kind, form=form))
    assert (found.source, found.repairs) == (example_document(kind, form=form), ())


@pytest.mark.parametrize(("kind", "form"), KINDS)
def test_prompt_names_every_field_and_word(kind: MessageType, form: Form) -> None:
    """Each field has its line with its description, what is required is marked, and allowed words are listed."""
    prompt = template(kind, form=form)
    listing = prompt.partition("must be there):\n")[2].partition("\nExample:")[0]
    for field in fields(shape.envelope(), kind):
        name = field.element if form == "xml" else field.name
        if form == "json" or field.place != "text":
            assert f"{name}{'*' if field.required else ''}" in listing
        node = field.node
        if isinstance(node, Scalar) and field.name not in {"type", "spec"}:
            words = [node.word(each) if form == "xml" else each for each in node.values]
            assert " | ".join(words) in listing
            assert field.description.rstrip(".") in listing or field.place != "element"
    assert f"type*: {shape.type_scalar().word(kind) if form == 'xml' else kind}\n" in listing


def test_omitted_fields_exist() -> None:
    """What a model is not told of are fields of the model, none of them required."""
    found: dict[str, Field] = {}

    def visit(record: Record) -> None:
        for field in record.fields:
            found.setdefault(field.name, field)
            kinds = field.node.kinds.values() if isinstance(field.node, Variants) else [field.node]
            for node in kinds:
                if isinstance(node, Record):
                    visit(node)

    visit(shape.envelope())
    assert found.keys() >= OMITTED | RESERVED.keys()
    assert not any(found[name].required for name in OMITTED | RESERVED.keys() if name != "id")


def test_prompts_stay_short() -> None:
    """A prompt costs at most 3,200 characters, and a status less than half of that: models pay for each."""
    lengths = {(kind, form): len(template(kind, form=form)) for kind, form in KINDS}
    assert max(lengths.values()) < 3200
    assert lengths["status", "xml"] < 1600


def test_examples_hold_no_id() -> None:
    """A model would copy an ID, and every message of it would be the same one."""
    for kind, form in KINDS:
        assert example(kind).id not in template(kind, form=form)
        assert "<id>" not in template(kind, form=form)


def test_unknown_type_and_form() -> None:
    """A name that there is none of is a usage error that lists the names there are."""
    with pytest.raises(UsageError) as caught:
        template(cast("MessageType", "report"))
    assert "delegation" in str(caught.value.advice)
    with pytest.raises(UsageError, match="No model writes a parking") as caught:
        template("parking")
    assert str(caught.value.advice).endswith("escalation, cancellation.")
    with pytest.raises(UsageError):
        template("status", form=cast("Form", "yaml"))
