"""Rungs: who could do a piece of work, and with which model, in the order in which a policy has them tried.

Reads the tables [[ladder]] and [[routes]] of a policy, strictly. Knows nothing of who is busy or what is spent.
Called by `taskbus_agents.routing.policy`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from taskbus_projections.patterns import is_pattern, split

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from taskbus_agents.registry.models import Models
    from taskbus_projections.policy_file import Keys, PolicyFile

_LADDER: Final = ("rung", "agent", "model", "models", "for", "paid", "context", "disabled", "justification", "note")
_ROUTE: Final = ("task_type", "agent", "agents", "model", "models", "paid", "context", "disabled", "justification")
_LONGEST: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One agent with one model. `name` is what the log calls it.

    `types` are patterns of the task types that it is for, none for all; `context` the most tokens that it takes.
    `paid` says whether its model costs money, None where its price tells; `justified` whether somebody must say why,
    None where that goes by whether it is paid. `disabled` is why it is switched off.
    """

    name: str
    agent: str
    provider: str | None = None
    model: str | None = None
    types: tuple[str, ...] = ()
    context: int | None = None
    paid: bool | None = None
    justified: bool | None = None
    disabled: str | None = None

    @property
    def same(self) -> tuple[str, str | None]:
        """What two rungs have in common that are the same."""
        return self.agent, self.model


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the routing matrix: for task types of a pattern, these rungs first."""

    task_type: str
    rungs: tuple[Rung, ...]


def ladder(file: PolicyFile, models: Models) -> tuple[Rung, ...]:
    """The rungs of the ladder, the first to be tried first. Raises ConfigurationError."""
    found: dict[str, Rung] = {}
    for keys, table in file.tables("ladder", _LADDER):
        for rung in _rungs(file, keys, table, _name(file, keys, table), models):
            if found.setdefault(rung.name, rung) is not rung:
                raise file.wrong((*keys, "rung"), rung.name, "each name of a rung once")
    return tuple(found.values())


def matrix(file: PolicyFile, models: Models, ladder: tuple[Rung, ...]) -> tuple[Row, ...]:
    """The rows of the routing matrix. A rung of the ladder keeps its name there. Raises ConfigurationError."""
    known = {rung.same: rung for rung in ladder}
    rows: list[Row] = []
    for keys, table in file.tables("routes", _ROUTE):
        where = (*keys, "task_type")
        kind = file.text(where, table.get("task_type"), "a task type, or a pattern of such")
        rungs = tuple(_rungs(file, keys, table, kind, models))
        rows.append(Row(kind, tuple(_merged(rung, known.get(rung.same)) for rung in rungs)))
    return tuple(rows)


def _merged(rung: Rung, known: Rung | None) -> Rung:
    """A rung of the matrix; what it does not say itself is as that of the ladder says it."""
    if known is None:
        return rung
    return replace(
        rung,
        name=known.name,
        paid=known.paid if rung.paid is None else rung.paid,
        context=known.context if rung.context is None else rung.context,
        justified=known.justified if rung.justified is None else rung.justified,
        disabled=known.disabled if rung.disabled is None else rung.disabled,
    )


def _name(file: PolicyFile, keys: Keys, table: Mapping[str, object]) -> str:
    """The name that it is given, else the place where it stands, from 1 on."""
    name = table.get("rung", int(keys[-1].strip("[]")))
    if isinstance(name, int) and not isinstance(name, bool):
        return str(file.number((*keys, "rung"), name, least=0, most=10_000))
    return file.text((*keys, "rung"), name, "a name or a number")


def _agents(file: PolicyFile, keys: Keys, table: Mapping[str, object]) -> tuple[str, ...]:
    if "agents" in table and "agent" in table:
        raise file.wrong((*keys, "agents"), table["agents"], "one of `agent` and `agents`")
    if "agents" in table:
        names = file.texts((*keys, "agents"), table["agents"])
    else:
        names = (file.text((*keys, "agent"), table.get("agent"), "the name of an agent, such as @kilo"),)
    found = tuple(file.agent((*keys, "agent"), name) for name in names)
    for name in found:
        if is_pattern(name):
            raise file.wrong((*keys, "agent"), name, "one agent, no pattern")
    return found


def _rungs(file: PolicyFile, keys: Keys, table: Mapping[str, object], name: str, models: Models) -> Iterator[Rung]:
    """One for each agent and model that the table names."""
    if "models" in table and "model" in table:
        raise file.wrong((*keys, "models"), table["models"], "one of `model` and `models`")
    if "models" in table:
        listed: tuple[str | None, ...] = file.texts((*keys, "models"), table["models"])
    else:
        listed = (file.text((*keys, "model"), table["model"]),) if "model" in table else (None,)
    types = file.texts((*keys, "for"), table.get("for", []))
    context = table.get("context")
    if context is not None:
        context = file.number((*keys, "context"), context, least=1, most=_LONGEST)
    paid, justified = (_flag(file, keys, table, key) for key in ("paid", "justification"))
    disabled = _disabled(file, keys, table)
    # Last: where it is missing, nothing else of the table is looked at.
    agents = _agents(file, keys, table)
    several = len(agents) * len(listed) > 1
    for agent in agents:
        for word in listed:
            provider, model = _model(file, (*keys, "model"), word, models)
            marks = [mark for mark, many in ((agent, len(agents) > 1), (model, len(listed) > 1)) if many and mark]
            yield Rung(
                name=" ".join((name, *marks)) if several else name,
                agent=agent,
                provider=provider,
                model=model,
                types=types,
                context=context,
                paid=paid,
                justified=justified,
                disabled=disabled,
            )


def _model(file: PolicyFile, keys: Keys, word: str | None, models: Models) -> tuple[str | None, str | None]:
    """Provider and model: a short name, or written out."""
    if word is None:
        return None, None
    provider, model = models.meant(word)
    if provider is not None or model is None:
        return provider, model
    provider, model = split(word)
    if not provider or not model or is_pattern(word):
        raise file.wrong(keys, word, 'provider and model, such as "openai/o3", or a short name from [models]')
    return provider, model


def _flag(file: PolicyFile, keys: Keys, table: Mapping[str, object], key: str) -> bool | None:
    return file.flag((*keys, key), table[key]) if key in table else None


def _disabled(file: PolicyFile, keys: Keys, table: Mapping[str, object]) -> str | None:
    value = table.get("disabled", False)
    if isinstance(value, bool):
        return "it is switched off in the policy" if value else None
    return file.text((*keys, "disabled"), value, "true, false, or why")
