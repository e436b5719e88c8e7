"""The shape of the wire forms, derived from the model: which fields there are, what each may hold, and its
place in XML.

It owns no knowledge of its own: whatever it says is read from the structs of `taskbus.envelope` and their
annotations. The XML codec walks it in both directions, validation checks plain documents against it, and the
XSD and the documentation of the schemas are written from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast, get_args, get_origin, get_type_hints

from msgspec import inspect

from taskbus.envelope import MARKERS, MESSAGE_TYPES, PAYLOADS, Delegation, Envelope, MessageType

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = "agent-message"
"""The root element of the XML form."""
MARKER_ATTRIBUTE: Final = "message-type"
"""The attribute by which the XSD ties the marker element of a payload to the type of the message."""

Kind: TypeAlias = Literal["string", "integer", "number", "boolean", "time"]
Place: TypeAlias = Literal["element", "attribute", "text"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Scalar:
    """A single value: its kind and its limits.

    `free` text keeps its white space in XML; around every other value white space does not count.
    `words` gives the XML word of those `values` that are written otherwise in XML. `form` says in words what
    the pattern means, where the model says it.
    """

    kind: Kind
    free: bool = False
    pattern: str | None = None
    form: str | None = None
    min_length: int = 0
    least: float | None = None
    most: float | None = None
    values: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict[str, str])

    def word(self, value: str) -> str:
        """How `value` is written in XML."""
        return self.words.get(value, value)

    @cached_property
    def by_word(self) -> Mapping[str, str]:
        """The value that each XML word stands for."""
        return {self.word(value): value for value in self.values}


@dataclass(frozen=True, eq=False, kw_only=True)
class Variants:
    """The payload: a record for each type of message, chosen by the field `type` beside it."""

    kinds: Mapping[MessageType, Record]


@dataclass(frozen=True, eq=False, kw_only=True)
class Field:
    """One field of a record: its name in JSON, its place in XML, what it holds.

    A list has the name of its elements in `item`; `node` then describes one of them. Where a record may be
    abbreviated to a string (only in the handoff shorthand), `brief` describes that string.
    """

    name: str
    element: str
    place: Place
    item: str | None
    node: Scalar | Record | Variants
    brief: Scalar | None
    required: bool
    nullable: bool
    default: object
    description: str

    @property
    def scalar(self) -> Scalar:
        """What the field holds. Raises TypeError where that is not a single value."""
        if not isinstance(self.node, Scalar):
            raise TypeError(f"{self.name} is not a single value")
        return self.node


@dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """An object in JSON, an element with children or attributes in XML; the fields in the model's order."""

    name: str
    description: str
    fields: tuple[Field, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Field]:
        """The fields by their names in JSON."""
        return {each.name: each for each in self.fields}

    @cached_property
    def elements(self) -> Mapping[str, tuple[int, Field]]:
        """The child elements by their names, each with its rank in the order."""
        children = [each for each in self.fields if each.place == "element"]
        return {each.element: (rank, each) for rank, each in enumerate(children)}

    @cached_property
    def attributes(self) -> Mapping[str, Field]:
        """The attributes by their names."""
        return {each.element: each for each in self.fields if each.place == "attribute"}

    @cached_property
    def text(self) -> Field | None:
        """The field that is the text of the element; None where the element has children."""
        return next((each for each in self.fields if each.place == "text"), None)


@cache
def envelope() -> Record:
    """The shape of the whole envelope."""
    head = record(Envelope[Delegation])
    payload = Variants(kinds=payloads())
    fields = tuple(_replaced(each, payload) if each.name == "payload" else each for each in head.fields)
    return Record(name=head.name, description=head.description.partition(" `")[0], fields=fields)


@cache
def payloads() -> Mapping[MessageType, Record]:
    """The shape of the payload of each type of message."""
    return {kind: record(PAYLOADS[kind]) for kind in MESSAGE_TYPES}


@cache
def record(struct: object) -> Record:
    """The shape of one struct. Raises TypeError for what has no place in the wire forms."""
    info = inspect.type_info(struct)
    if not isinstance(info, inspect.StructType):
        raise TypeError(f"not a struct: {struct!r}")
    model: type = get_origin(info.cls) or info.cls
    hints = get_type_hints(model, include_extras=True)
    fields = tuple(_field(each, hints[each.name]) for each in info.fields)
    return Record(name=model.__name__, description=(model.__doc__ or "").strip(), fields=fields)


@cache
def markers() -> Mapping[str, MessageType]:
    """The type that each marker stands for, by the name of its element in the payload."""
    return {payloads()[kind].by_name[name].element: kind for kind, name in MARKERS.items()}


@cache
def type_scalar() -> Scalar:
    """The field `type` of the envelope."""
    return envelope().by_name["type"].scalar


@cache
def text() -> Scalar:
    """Any text: the limits that hold for all text in an envelope."""
    return record(Delegation).by_name["action"].scalar


def _replaced(old: Field, node: Variants) -> Field:
    return replace(old, node=node)


def _field(info: inspect.Field, hint: object) -> Field:
    kind, extra, description = _unwrapped(info.type)
    nullable = False
    item: str | None = None
    brief: Scalar | None = None
    if isinstance(kind, inspect.UnionType):
        nullable = any(isinstance(each, inspect.NoneType) for each in kind.types)
        kind, more, _ = _unwrapped(next(t for t in kind.types if not isinstance(t, inspect.NoneType)))
        extra = {**more, **extra}
    if isinstance(kind, inspect.VarTupleType):
        item = cast("str", extra.get("item", "item"))
        extra = {key: value for key, value in extra.items() if key != "item"}
        kind, more, _ = _unwrapped(kind.item_type)
        if isinstance(kind, inspect.UnionType):
            short, kind = _abbreviated(kind)
            brief = _scalar(*_unwrapped(short)[:2], ())
        extra = {**more, **extra}
    if isinstance(kind, inspect.StructType):
        node: Scalar | Record = record(kind.cls)
    else:
        node = _scalar(kind, extra, _literals(hint))
    return Field(
        name=info.name,
        element=cast("str", extra.get("element", info.name.replace("_", "-"))),
        place=cast("Place", extra.get("as", "element")),
        item=item,
        node=node,
        brief=brief,
        required=info.required,
        nullable=nullable,
        default=info.default,
        description=description,
    )


def _unwrapped(info: inspect.Type) -> tuple[inspect.Type, dict[str, Any], str]:
    if not isinstance(info, inspect.Metadata):
        return info, {}, ""
    extra = cast("dict[str, Any] | None", info.extra) or {}  # pyright: ignore[reportUnknownMemberType]
    words = cast("dict[str, Any] | None", info.extra_json_schema) or {}  # pyright: ignore[reportUnknownMemberType]
    return info.type, extra, words.get("description", "")


def _abbreviated(union: inspect.UnionType) -> tuple[inspect.Type, inspect.Type]:
    full = next(each for each in union.types if isinstance(each, inspect.StructType))
    return next(each for each in union.types if each is not full), full


def _scalar(kind: inspect.Type, extra: Mapping[str, Any], order: tuple[str, ...]) -> Scalar:
    match kind:
        case inspect.StrType():
            return Scalar(
                kind="string",
                free=bool(extra.get("text")),
                pattern=kind.pattern or extra.get("pattern"),
                form=extra.get("form"),
                min_length=kind.min_length or 0,
            )
        case inspect.IntType():
            return Scalar(kind="integer", least=kind.ge, most=kind.le)
        case inspect.FloatType():
            return Scalar(kind="number", least=kind.ge, most=kind.le)
        case inspect.BoolType():
            return Scalar(kind="boolean")
        case inspect.DateTimeType():
            return Scalar(kind="time")
        case inspect.LiteralType():
            return Scalar(kind="string", values=order, words=extra.get("words", {}))
        case _:
            raise TypeError(f"no place in the wire forms: {kind!r}")


def _literals(hint: object) -> tuple[str, ...]:
    """The words of the first Literal in a type hint, in their order there (msgspec sorts them)."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return next((found for part in get_args(hint) if (found := _literals(part))), ())
