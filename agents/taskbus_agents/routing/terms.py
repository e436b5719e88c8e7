"""Terms: how many agents work on what, when work climbs, and how much may run at a time.

Reads the tables [complexity], [fallback], [limits], [justification] and [permissions] of a policy, strictly. Called by
`taskbus_agents.routing.policy`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast, get_args

from taskbus_projections.patterns import Patterns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskbus_projections.policy_file import Keys, PolicyFile

Trigger: TypeAlias = Literal["quota", "refusal", "failure", "budget"]
"""What may make work climb: a quota that is used up; a task that was declined; one that failed or was parked; a cap."""
TRIGGERS: Final[tuple[Trigger, ...]] = get_args(Trigger)
Action: TypeAlias = Literal["wait", "climb", "stop"]
"""Wait until it can go on; go to the next rung; leave it to people."""
Paid: TypeAlias = Literal["never", "allowed", "only"]
"""Whether work of a complexity may go to a paid model, or must."""

_ACTIONS: Final[Mapping[Trigger, tuple[Action, ...]]] = {
    "quota": ("wait", "climb", "stop"),
    "refusal": ("climb", "stop"),
    "failure": ("climb", "stop"),
    "budget": ("climb", "stop"),
}
_COMPLEXITY: Final = ("agents", "parallel", "paid", "review")
_FALLBACK: Final = ("on", "order", "most", "pause")
_LIMIT: Final = ("concurrency", "rate", "tokens")
_SHARE: Final = re.compile(r"(\d{1,12})\s*(?:/|per)\s*(\w+)", re.ASCII)
_UNITS: Final = {"second": "1s", "minute": "1m", "hour": "1h", "day": "1d", "week": "1w"}
_MOST: Final = 31 * 86_400.0


@dataclass(frozen=True, slots=True)
class Complexity:
    """What work of one complexity gets: so many agents, all at once or one; free or paid ones; a review or none."""

    agents: int = 1
    parallel: bool = False
    paid: Paid = "allowed"
    review: bool = False


@dataclass(frozen=True, slots=True)
class Fallback:
    """When work climbs. `order` are models, the next one of which the same agent gets; `most` is how often at most.

    `pause` is for how many seconds an agent is taken to be out of its quota that has said so, and not until when.
    """

    on: Mapping[Trigger, Action]
    order: tuple[str, ...] = ()
    most: int = 10
    pause: float = 900.0


@dataclass(frozen=True, slots=True)
class Limit:
    """How much one agent or provider gets: deliveries that are open at a time; delegations, and tokens, in a time.

    The latter two are how many, and in how many seconds.
    """

    concurrency: int | None = None
    rate: tuple[int, float] | None = None
    tokens: tuple[int, float] | None = None


@dataclass(frozen=True, slots=True)
class Justification:
    """What is asked of whoever wants a paid model: so many characters; whether free rungs that failed are enough."""

    least: int = 10
    by_failures: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """All of them, of one policy."""

    complexity: Mapping[str, Complexity]
    usual: str | None
    fallback: Fallback
    justification: Justification
    limits: Patterns[Limit]
    limited: tuple[str, ...]
    bypass: Patterns[bool]
    swarm: Mapping[str, object] = field(default_factory=dict[str, object])


def read(file: PolicyFile) -> Terms:
    """The terms of a policy. Raises ConfigurationError."""
    usual, complexity = _complexity(file)
    limits = {_limited(file, name): _limit(file, ("limits", name)) for name in file.table("limits")}
    permissions = file.table("permissions", known=("bypass",))
    bypass = file.texts(("permissions", "bypass"), permissions.get("bypass", []))
    return Terms(
        complexity=complexity,
        usual=usual,
        fallback=_fallback(file),
        justification=_justification(file),
        limits=Patterns(limits.items()),
        limited=tuple(limits),
        bypass=Patterns((file.agent(("permissions", "bypass"), name), True) for name in bypass),
        swarm=file.table("swarm"),
    )


def _complexity(file: PolicyFile) -> tuple[str | None, dict[str, Complexity]]:
    found: dict[str, Complexity] = {}
    tables = dict(file.table("complexity"))
    usual = tables.pop("default", None)
    for name in tables:
        keys: Keys = ("complexity", name)
        table = file.table(*keys, known=_COMPLEXITY)
        found[name] = Complexity(
            agents=file.number((*keys, "agents"), table.get("agents", 1), least=1, most=64),
            parallel=file.flag((*keys, "parallel"), table.get("parallel", False)),
            paid=_paid(file, (*keys, "paid"), table.get("paid", True)),
            review=file.flag((*keys, "review"), table.get("review", False)),
        )
    if usual is not None and not (isinstance(usual, str) and usual in found):
        raise file.wrong(("complexity", "default"), usual, f"one of {', '.join(found) or 'those that have a table'}")
    return usual, found


def _paid(file: PolicyFile, keys: Keys, value: object) -> Paid:
    if isinstance(value, bool):
        return "allowed" if value else "never"
    if value != "only":
        raise file.wrong(keys, value, 'true, false or "only"')
    return "only"


def _fallback(file: PolicyFile) -> Fallback:
    table = file.table("fallback", known=_FALLBACK)
    on: dict[Trigger, Action] = {"quota": "wait", "refusal": "stop", "failure": "stop", "budget": "stop"}
    for name, value in file.table("fallback", "on", known=TRIGGERS).items():
        trigger = cast("Trigger", name)
        if value not in _ACTIONS[trigger]:
            raise file.wrong(("fallback", "on", name), value, f"one of {', '.join(_ACTIONS[trigger])}")
        on[trigger] = cast("Action", value)
    usual = Fallback(on)
    return Fallback(
        on=on,
        order=file.texts(("fallback", "order"), table.get("order", [])),
        most=file.number(("fallback", "most"), table.get("most", usual.most), least=1, most=100),
        pause=file.seconds(("fallback", "pause"), table["pause"]) if "pause" in table else usual.pause,
    )


def _justification(file: PolicyFile) -> Justification:
    table = file.table("justification", known=("least", "by_failures"))
    usual, keys = Justification(), ("justification",)
    return Justification(
        least=file.number((*keys, "least"), table.get("least", usual.least), least=1, most=4_000),
        by_failures=file.flag((*keys, "by_failures"), table.get("by_failures", usual.by_failures)),
    )


def _limited(file: PolicyFile, name: str) -> str:
    return file.agent(("limits", name), name) if name.startswith("@") else name


def _limit(file: PolicyFile, keys: Keys) -> Limit:
    table = file.table(*keys, known=_LIMIT)
    concurrency = table.get("concurrency")
    return Limit(
        concurrency=None
        if concurrency is None
        else file.number((*keys, "concurrency"), concurrency, least=1, most=1_000_000),
        rate=_share(file, (*keys, "rate"), table.get("rate")),
        tokens=_share(file, (*keys, "tokens"), table.get("tokens")),
    )


def _share(file: PolicyFile, keys: Keys, value: object) -> tuple[int, float] | None:
    """So many in a time, such as "60/hour" or "1000000 per 1d"."""
    if value is None:
        return None
    expected = 'how many in which time, up to a month, such as "60/hour" or "1000000 per day"'
    found = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or not int(found[1]):
        raise file.wrong(keys, value, expected)
    unit = found[2] if found[2][0].isdigit() else _UNITS.get(found[2], "")
    if not unit:
        raise file.wrong(keys, value, expected)
    return int(found[1]), file.seconds(keys, unit, most=_MOST)
