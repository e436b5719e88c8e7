"""The TOML form of a plan: tables of steps and gates, each key known, each value of its kind.

Collects every mistake of a document with its line, so that it is mended in one go. Called by `document`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from typing import TYPE_CHECKING, Final, Literal, cast, get_args

from taskbus import moment
from taskbus.envelope import NAME_PATTERN, PRIORITIES, Priority
from taskbus_agents.plans.lines import Lines
from taskbus_agents.plans.model import (
    CHECK_TIME,
    MOST_PARALLEL,
    NAME,
    PARALLEL,
    PLAN_NAME,
    Check,
    Mistakes,
    Node,
    OnFailure,
    Plan,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_TOML_PLACE: Final = re.compile(r"\s*\(at (?:line (?P<line>\d+), column \d+|end of document)\)$")
_TOP: Final = (
    *("name", "goal", "complexity", "folder", "parallel", "deadline", "on_failure", "retries"),
    *("steps", "gates", "check"),
)
_STEP: Final = (
    *("goal", "title", "agent", "model", "task_type", "after", "constraints", "artifacts", "criteria"),
    *("justification", "priority", "check", "review", "timeout", "retries", "on_failure"),
)
_GATE: Final = ("title", "after", "check", "approval", "timeout", "retries", "on_failure")
_CHECK: Final = ("command", "schema", "files", "timeout")
_AGENT: Final = re.compile(NAME_PATTERN)
_FAILURES: Final[tuple[OnFailure, ...]] = get_args(OnFailure)
_YEAR: Final = 366 * 86400
_MOST_RETRIES: Final = 100
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


class TableReader:
    """Reads one document; what is wrong goes into `mistakes`."""

    def __init__(self, source: bytes, text: str, mistakes: Mistakes) -> None:
        self._source = source
        self._text = text
        self._mistakes = mistakes
        self._lines = Lines(text)
        self._notes: list[str] = []

    def read(self, stem: str) -> Plan | None:
        """The plan, not yet checked as a graph; None where the document is no TOML. `stem` names it by default."""
        try:
            document = cast("dict[str, object]", tomllib.loads(self._text))
        except (ValueError, RecursionError) as error:
            found = _TOML_PLACE.search(str(error))
            line = int(found["line"]) if found and found["line"] else self._text.count("\n") + 1
            self._mistakes.add(line, f"{_TOML_PLACE.sub('', str(error))}.")
            return None
        self._known(document, _TOP)
        name = self._text_of(document, ("name",)) or stem
        if not PLAN_NAME.fullmatch(name):
            self._wrong(("name",), name, "a name of at most 40 letters, digits, - and _")
        defaults: tuple[OnFailure, int] = (
            self._failure(document, ("on_failure",), "stop"),
            self._number(document, ("retries",), 0, 0, _MOST_RETRIES),
        )
        nodes: dict[str, Node] = {}
        for table, known in (("steps", _STEP), ("gates", _GATE)):
            for key, value in self._table(document, (table,)).items():
                if (fields := self._node_table(table, key, value, known)) is None:
                    continue
                if key in nodes:
                    self._add((table, key), f"{key!r} is the name of a step and of a gate.")
                make = self._step if table == "steps" else self._gate
                nodes[key] = make(key, fields, defaults)
        return Plan(
            name=name,
            goal=self._text_of(document, ("goal",)) or name,
            nodes=nodes,
            source=self._source,
            form="toml",
            complexity=self._text_of(document, ("complexity",)),
            folder=self._text_of(document, ("folder",)) or ".",
            parallel=self._number(document, ("parallel",), PARALLEL, 1, MOST_PARALLEL),
            deadline=self._time(document, ("deadline",)),
            check=self._check(document),
            notes=tuple(self._notes),
        )

    def _node_table(self, table: str, key: str, value: object, known: Collection[str]) -> Mapping[str, object] | None:
        keys = (table, key)
        if not NAME.fullmatch(key):
            self._wrong(keys, key, "a name of at most 60 letters, digits, - and _")
            return None
        if not isinstance(value, dict):
            self._wrong(keys, value, f"a table: [{table}.{key}]")
            return None
        fields = cast("Mapping[str, object]", value)
        self._known(fields, known, keys)
        return fields

    def _step(self, name: str, fields: Mapping[str, object], defaults: tuple[OnFailure, int]) -> Node:
        keys = ("steps", name)
        goal = self._text_of(fields, (*keys, "goal"), lines=True)
        if goal is None and "goal" not in fields:
            self._add(keys, f"The step {name} has no goal.")
        agent = self._text_of(fields, (*keys, "agent"))
        if agent is not None:
            agent = agent if agent.startswith("@") else f"@{agent}"
            if not _AGENT.match(agent) or agent == "@bus":
                self._wrong((*keys, "agent"), agent, "an agent's name, such as @kilo")
        model = self._text_of(fields, (*keys, "model"))
        return Node(
            name=name,
            title=self._text_of(fields, (*keys, "title")) or name,
            kind="step",
            line=self._lines.of(*keys),
            after=self._after(fields, keys),
            on_failure=self._failure(fields, (*keys, "on_failure"), defaults[0]),
            retries=self._number(fields, (*keys, "retries"), defaults[1], 0, _MOST_RETRIES),
            timeout=self._time(fields, (*keys, "timeout")),
            goal=goal or name,
            agent=agent,
            use=f"Use the model {model}" if model else None,
            model=model,
            task_type=self._text_of(fields, (*keys, "task_type")),
            justification=self._text_of(fields, (*keys, "justification"), lines=True),
            priority=self._priority(fields, (*keys, "priority")),
            constraints=self._texts(fields, (*keys, "constraints")),
            artifacts=self._texts(fields, (*keys, "artifacts")),
            criteria=self._texts(fields, (*keys, "criteria")),
            check=self._text_of(fields, (*keys, "check"), lines=True),
            review=self._flag(fields, (*keys, "review")),
        )

    def _gate(self, name: str, fields: Mapping[str, object], defaults: tuple[OnFailure, int]) -> Node:
        keys = ("gates", name)
        command = self._text_of(fields, (*keys, "check"), lines=True)
        question = self._text_of(fields, (*keys, "approval"), lines=True)
        if command is not None and question is not None:
            self._add(keys, f"The gate {name} has a check and an approval: make two gates of it.")
        kind: Literal["check", "approval", "join"] = "check" if command else "approval" if question else "join"
        after = self._after(fields, keys)
        if not after and "after" not in fields:
            if kind == "join":
                self._add(keys, f"The gate {name} stands after nothing and asks nothing: say which steps in `after`.")
            else:
                line = self._lines.of(*keys)
                self._notes.append(f"line {line}: the gate {name} has no `after`, so that it is asked at the beginning")
        return Node(
            name=name,
            title=self._text_of(fields, (*keys, "title")) or name,
            kind=kind,
            line=self._lines.of(*keys),
            after=after,
            on_failure=self._failure(fields, (*keys, "on_failure"), defaults[0]),
            retries=self._number(fields, (*keys, "retries"), 0, 0, _MOST_RETRIES),
            timeout=self._time(fields, (*keys, "timeout")),
            command=command or "",
            question=question or "",
        )

    def _check(self, document: Mapping[str, object]) -> Check | None:
        if "check" not in document:
            return None
        fields = self._table(document, ("check",))
        self._known(fields, _CHECK, ("check",))
        return Check(
            command=self._text_of(fields, ("check", "command"), lines=True),
            schema=self._text_of(fields, ("check", "schema")),
            files=self._texts(fields, ("check", "files")),
            timeout=self._time(fields, ("check", "timeout")) or CHECK_TIME,
        )

    def _after(self, fields: Mapping[str, object], keys: tuple[str, ...]) -> tuple[str, ...]:
        return self._texts(fields, (*keys, "after"))

    # What a value must be. Each takes the path to its key, whose last part it looks up.

    def _table(self, fields: Mapping[str, object], keys: tuple[str, ...]) -> Mapping[str, object]:
        value = fields.get(keys[-1], {})
        if not isinstance(value, dict):
            self._wrong(keys, value, f"a table: [{'.'.join(keys)}]")
            return {}
        return cast("Mapping[str, object]", value)

    def _text_of(self, fields: Mapping[str, object], keys: tuple[str, ...], *, lines: bool = False) -> str | None:
        value = fields.get(keys[-1])
        if value is None:
            return None
        is_text = isinstance(value, str) and value.strip() and not _UNPRINTABLE.search(value)
        if not isinstance(value, str) or not is_text or (not lines and "\n" in value.strip()):
            self._wrong(keys, value, "a text" if lines else "a text in one line")
            return None
        return value.strip()

    def _texts(self, fields: Mapping[str, object], keys: tuple[str, ...]) -> tuple[str, ...]:
        value = fields.get(keys[-1])
        items = cast("list[object]", value) if isinstance(value, list) else [] if value is None else [None]
        texts = [each for each in items if isinstance(each, str) and each.strip() and not _UNPRINTABLE.search(each)]
        if len(texts) != len(items):
            self._wrong(keys, fields.get(keys[-1]), "a list of texts")
        elif twice := next((each for at, each in enumerate(texts) if each in texts[:at]), None):
            self._wrong(keys, twice, "each text once")
        return tuple(texts)

    def _number(self, fields: Mapping[str, object], keys: tuple[str, ...], default: int, least: int, most: int) -> int:
        value = fields.get(keys[-1], default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self._wrong(keys, value, f"a whole number from {least} to {most}")
            return default
        return value

    def _flag(self, fields: Mapping[str, object], keys: tuple[str, ...]) -> bool:
        value = fields.get(keys[-1], False)
        if not isinstance(value, bool):
            self._wrong(keys, value, "true or false")
            return False
        return value

    def _time(self, fields: Mapping[str, object], keys: tuple[str, ...]) -> float | None:
        value = fields.get(keys[-1])
        if value is None:
            return None
        found = moment.duration(value.strip()) if isinstance(value, str) else value
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0.001 <= found <= _YEAR:
            self._wrong(keys, value, 'a time, such as "10m"')
            return None
        return float(found)

    def _failure(self, fields: Mapping[str, object], keys: tuple[str, ...], default: OnFailure) -> OnFailure:
        value = fields.get(keys[-1], default)
        if value not in _FAILURES:
            self._wrong(keys, value, " or ".join(f'"{each}"' for each in _FAILURES))
            return default
        return value

    def _priority(self, fields: Mapping[str, object], keys: tuple[str, ...]) -> Priority:
        value = fields.get(keys[-1], "normal")
        if value not in PRIORITIES:
            self._wrong(keys, value, " or ".join(f'"{each}"' for each in PRIORITIES))
            return "normal"
        return value

    def _known(self, fields: Mapping[str, object], known: Collection[str], keys: tuple[str, ...] = ()) -> None:
        for key in fields:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"Did you mean `{near[0]}`? " if near else ""
                here = ".".join((*keys, key if key.isprintable() else repr(key)))
                self._add((*keys, key), f"unknown key `{here[:100]}`. {hint}Known keys here: {', '.join(known)}.")

    def _wrong(self, keys: tuple[str, ...], value: object, expected: str) -> None:
        found = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
        found = found if len(found) <= 60 else f"{found[:60]}…"
        key = ".".join(each if each.isprintable() else repr(each) for each in keys)
        self._add(keys, f"key `{key[:100]}`: found {found}, expected {expected}.")

    def _add(self, keys: tuple[str, ...], message: str) -> None:
        self._mistakes.add(self._lines.of(*keys), message)
