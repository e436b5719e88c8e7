"""The plan of one run, drawn from its seed: who plays, what they are to do, and what befalls them when.

Pure: the same seed always gives the same plan. How far a run follows it is up to the scheduler of the machine.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

AGENTS = ("@anna", "@bert")
BOSS = "@boss"
GIVEN_UP = 4
"""After so many attempts the delegator leaves a task as it is."""
WINDOW = 1.4
"""For so many seconds from the start of its processes a run is disturbed."""

KINDS = {
    "plain": 30,  # completes
    "long": 6,  # works for several leases
    "flaky1": 6,  # fails once, then completes
    "flaky2": 4,  # fails twice
    "broken": 3,  # fails whenever it is tried
    "permanent": 2,  # says that trying again cannot help, until it is delegated anew
    "quota": 3,  # waits for a quota once
    "ask": 6,  # asks its delegator first
    "unlucky": 3,  # completes with a failure, until it is delegated anew
    "redo": 6,  # its first result is rejected
    "escalates": 2,  # turns to its delegator, who answers
    "cancel": 3,  # is cancelled by its delegator while somebody works on it
    "late": 2,  # is not done by its deadline, until it is delegated anew
    "endless": 1,  # runs into the hard limit, until it is delegated anew
    "shelved": 3,  # cannot be done before it was parked and replayed
    "dropped": 2,  # cannot be done, is dropped, and cancelled
    "talks": 4,  # says how far it is, then completes
}

Role: TypeAlias = Literal["producer", "worker", "boss", "projector", "tail"]
Point: TypeAlias = Literal[
    "handler-start",
    "in-handler",
    "handler-end",
    "settled",
    "in-fold",
    "before-commit",
    "after-commit",
]


@dataclass(frozen=True)
class Errand:
    """One task: its ID begins with its kind, by which all who see it know what to do.

    `pause` is how long its producer rests after it, `batch` how many it sends at once, `deadline` how long there is
    for it, all in seconds.
    """

    task: str
    agent: str
    priority: str
    review: bool
    pause: float
    batch: int
    deadline: float | None = None

    @property
    def kind(self) -> str:
        """What is to become of it."""
        return kind_of(self.task)


@dataclass(frozen=True)
class Actor:
    """One process, which is started again whenever it dies. `slots` and `prefetch` are a worker's."""

    who: str
    role: Role
    agent: str = ""
    slots: int = 1
    prefetch: int = 0


@dataclass(frozen=True)
class Blow:
    """What happens to whom, `at` seconds after the start; `lasts` is how long, or by how much a clock is set."""

    at: float
    kind: str
    who: str
    lasts: float = 0.0


@dataclass(frozen=True)
class Trap:
    """A crash point: whoever comes to it for the n-th time is killed there, or frozen past its lease.

    `command` and `when` name a command at the proxy, before or after it was executed; `point` a place in a process.
    `victim` is the process itself, or the server.
    """

    who: str
    nth: int
    command: str = ""
    when: str = ""
    point: Point | None = None
    victim: Literal["self", "server"] = "self"
    freezes: bool = False

    @property
    def name(self) -> str:
        """What the table calls it."""
        place = ("frozen " if self.freezes else "") + (self.point or f"{self.when} {self.command}")
        return f"{'server' if self.victim == 'server' else self.who.partition('-')[0]} {place}"


@dataclass(frozen=True)
class Noise:
    """How likely a command's connection is cut or falls silent, or is delayed, before and after its execution."""

    cut: float = 0.0
    mute: float = 0.0
    delay: float = 0.0
    longest: float = 0.3


@dataclass(frozen=True)
class Plan:
    """Everything that a run is. `patience` is after how many seconds the workers' supervision tells of silence."""

    seed: int
    lease: float
    attempts: int
    backoff: float
    grace: float
    timeout: float
    hard_limit: float
    patience: float
    cast: tuple[Actor, ...]
    errands: dict[str, tuple[Errand, ...]]
    blows: tuple[Blow, ...]
    traps: tuple[Trap, ...]
    noise: dict[str, Noise] = field(default_factory=dict)

    @property
    def steps(self) -> float:
        """How far the server's clock is set back in all: so much longer may be what waits for it, in seconds."""
        return sum(max(0.0, -blow.lasts) for blow in self.blows if blow.kind == "clock" and blow.who == "server")


def kind_of(task: str) -> str:
    """The kind of a task."""
    return task.partition(".")[0]


def draw(seed: int, *, tasks: int = 40, clocks: bool = True) -> Plan:
    """The plan of a seed; `clocks` says whether clocks can be set here."""
    rng = random.Random(seed)
    lease = rng.choice((0.3, 0.4, 0.5))
    cast = (
        Actor("producer-1", "producer"),
        Actor("producer-2", "producer"),
        *(
            Actor(f"worker-{agent[1]}{n}", "worker", agent, rng.choice((1, 1, 2, 4)), rng.choice((0, 0, 4)))
            for agent in AGENTS
            for n in (1, 2)
        ),
        *(Actor(f"boss-{n}", "boss", BOSS, rng.choice((1, 4))) for n in range(1, rng.choice((2, 3)))),
        Actor("projector-1", "projector"),
        Actor("tail-1", "tail"),
    )
    errands = {
        actor.who: tuple(_errand(rng, actor.who, n) for n in range(tasks // 2))
        for actor in cast
        if actor.role == "producer"
    }
    # One run in five has kills of workers and nothing else: by them takeovers are timed.
    quiet = rng.random() < 0.2
    blows = _kills(rng, cast) if quiet else _blows(rng, cast, lease, clocks=clocks)
    noisy = not quiet and rng.random() < 0.6
    return Plan(
        seed=seed,
        lease=lease,
        attempts=4,
        backoff=0.05,
        grace=0.3,
        timeout=rng.choice((0.5, 0.8)),
        hard_limit=5 * lease,
        patience=rng.choice((1.5, 20.0, 20.0)),
        cast=cast,
        errands=errands,
        blows=tuple(sorted(blows, key=lambda blow: blow.at)),
        traps=() if quiet else tuple(_traps(rng, cast)),
        noise={actor.who: _noise(rng) for actor in cast if noisy and rng.random() < 0.7},
    )


def _errand(rng: random.Random, who: str, n: int) -> Errand:
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    return Errand(
        task=f"{kind}.{who}.{n}",
        agent=rng.choice(AGENTS),
        priority=rng.choice(("critical", "high", "normal", "normal", "low")),
        review=rng.random() < 0.6,
        pause=rng.uniform(0.0, 2 * WINDOW / 40),
        batch=rng.choice((1, 1, 1, 1, 4)),
        deadline=rng.uniform(0.2, 0.6) if kind == "late" else None,
    )


def _blows(rng: random.Random, cast: tuple[Actor, ...], lease: float, *, clocks: bool) -> list[Blow]:
    """Three to six of them, of which one at least is a kill."""
    kinds = {"kill": 10, "stop": 6, "term": 3, "disconnect": 3, "forget": 2, "ungroup": 2, "clock": 3 if clocks else 0}
    chosen = ["kill", *rng.choices(list(kinds), list(kinds.values()), k=rng.randint(2, 5))]
    return [_blow(rng, kind, cast, lease) for kind in chosen]


def _kills(rng: random.Random, cast: tuple[Actor, ...]) -> list[Blow]:
    workers = [actor.who for actor in cast if actor.role == "worker"]
    return [Blow(rng.uniform(0.1, WINDOW), "kill", who) for who in rng.sample(workers, 2)]


def _blow(rng: random.Random, kind: str, cast: tuple[Actor, ...], lease: float) -> Blow:
    at = rng.uniform(0.1, WINDOW)
    weights = {"producer": 2, "worker": 3, "boss": 3, "projector": 2, "tail": 1}
    someone = rng.choices(cast, [weights[actor.role] for actor in cast])[0].who
    worker = rng.choice([actor.who for actor in cast if actor.role in ("worker", "boss")])
    server = rng.random() < 0.3
    match kind:
        case "kill":
            return Blow(at, kind, "server" if server else someone, rng.choice((0.0, 0.05, 0.3)))
        case "stop":
            who = "server" if server else rng.choice([worker, worker, someone])
            return Blow(at, kind, who, rng.uniform(0.2, 0.8) if who == "server" else lease * rng.uniform(1.2, 3.0))
        case "term":
            return Blow(at, kind, worker, rng.choice((0.0, 0.1)))
        case "clock":
            # Back by a few leases only: for so long the bus would wait for those that are out.
            far = lease * rng.uniform(0.5, 3.0) * rng.choice((-1, -1, 1, 1, 300))
            return Blow(at, kind, "server", far) if rng.random() < 0.6 else Blow(at, kind, someone, far * 1000)
        case _:
            return Blow(at, kind, "server")


def _traps(rng: random.Random, cast: tuple[Actor, ...]) -> list[Trap]:
    workers = [actor.who for actor in cast if actor.role in ("worker", "boss")]
    producers = [actor.who for actor in cast if actor.role == "producer"]
    found: list[Trap] = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        who = rng.choice(workers)
        command, when = (
            rng.choice(("take", "settle", "settle", "renew", "append", "park", "release")),
            rng.choice(("before", "after")),
        )
        freezes = rng.random() < 0.3
        victim = "server" if rng.random() < 0.15 and not freezes else "self"
        match rng.randrange(7):
            case 0:
                found.append(Trap(rng.choice(producers), rng.randint(1, 15), "append", when, victim=victim))
            case 1 | 2 | 3:
                found.append(Trap(who, rng.randint(1, 8), command, when, victim=victim, freezes=freezes))
            case 4 | 5:
                points: list[Point] = ["handler-start", "in-handler", "handler-end", "settled"]
                found.append(Trap(who, rng.randint(1, 8), point=rng.choice(points), freezes=freezes))
            case _:
                places: list[Point] = ["in-fold", "before-commit", "after-commit"]
                found.append(Trap("projector-1", rng.randint(1, 8), point=rng.choice(places)))
    return found


def _noise(rng: random.Random) -> Noise:
    return Noise(cut=rng.choice((0.0, 0.02, 0.08)), mute=rng.choice((0.0, 0.01)), delay=rng.choice((0.0, 0.05, 0.15)))
