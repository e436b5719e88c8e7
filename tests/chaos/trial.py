"""One run: raise the troupe, let the plan's blows fall, heal, wait until all work is done, and take the evidence."""

from __future__ import annotations

import heapq
import random
import signal
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import redis

from taskbus.keys import Keys
from tests.chaos import clock
from tests.chaos.evidence import gather
from tests.chaos.history import read
from tests.chaos.measures import Measured, measure
from tests.chaos.plan import AGENTS, BOSS, WINDOW, Blow
from tests.chaos.roles import DATABASE, NAMESPACE
from tests.chaos.rules import Breach, check
from tests.chaos.troupe import Troupe
from tests.servers import PASSWORD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.plan import Plan

SERVED = (*AGENTS, BOSS)
PATIENCE = 10.0
"""Seconds in which healthy workers must have done all that is left, beside what clocks that were set back ask for."""
CATCH_UP = 7.0
"""Seconds in which the projector and the tail must have reached the end of the log: a connection that has fallen silent
is given up after five of them, and the time limit of a command."""


@dataclass(frozen=True)
class Result:
    """What came of a run."""

    seed: int
    seconds: float
    breaches: list[Breach]
    measured: Measured


def run(plan: Plan, folder: Path, binary: Path) -> Result:
    """Carry out a plan in a folder of its own. Nothing is left running, however it ends."""
    began = time.monotonic()
    troupe = Troupe(plan, folder, binary)
    try:
        stage = Timeline(troupe)
        stage.disturb()
        stage.heal()
        stage.drain()
        troupe.end_cast()
        evidence = gather(plan, folder, troupe.url)
    finally:
        troupe.end()
    return Result(plan.seed, time.monotonic() - began, check(evidence), measure(evidence))


class Timeline:
    """What happens when."""

    def __init__(self, troupe: Troupe) -> None:
        self._troupe = troupe
        self._plan = troupe.plan
        self._folder = troupe.folder
        self._history = troupe.history
        self._rng = random.Random(f"{self._plan.seed} timeline")
        self._steps: dict[str, float] = {}
        self._keys = Keys(NAMESPACE)

    def disturb(self) -> None:
        """Let the blows fall, for as long as the window is open."""
        began = time.monotonic()
        due = [(blow.at, number, blow) for number, blow in enumerate(self._plan.blows)]
        heapq.heapify(due)
        while due or time.monotonic() - began < WINDOW:
            while due and due[0][0] <= time.monotonic() - began:
                at, _, blow = heapq.heappop(due)
                if self._fall(blow) and (follow := _follow(blow, self._pid(blow.who))):
                    heapq.heappush(due, (at + blow.lasts, len(due) + 100, follow))
            self._troupe.tend(pause=self._rng.choice((0.0, 0.02, 0.1)))
            time.sleep(0.005)

    def _pid(self, who: str) -> int:
        return self._troupe.server.process.pid if who == "server" else self._troupe.places[who].pid

    def _fall(self, blow: Blow) -> bool:
        """Strike; whether it hit anybody."""
        signals = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}
        name, _, of = blow.kind.partition(" ")
        if name in ("continue", "insist"):
            if of == str(self._pid(blow.who)):
                self._troupe.send(blow.who, signal.SIGCONT if name == "continue" else signal.SIGTERM)
            return False
        if blow.kind == "kill" and not self._pid(blow.who):
            # A producer that has done all it was to do: then it hits somebody who is always there.
            blow = replace(blow, who=next(who for who, place in self._troupe.places.items() if place.pid))
        pid = self._pid(blow.who)
        t = time.monotonic()
        if name in signals:
            hit = self._troupe.send(blow.who, signals[name])
        elif name == "clock":
            self._steps[blow.who] = self._steps.get(blow.who, 0.0) + blow.lasts
            clock.step(self._folder / f"{blow.who}.clock", self._steps[blow.who])
            hit = True
        else:
            agent = self._rng.choice(SERVED)
            words = {
                "disconnect": ("CLIENT", "KILL", "TYPE", "normal"),
                "forget": ("SCRIPT", "FLUSH"),
                "ungroup": ("XGROUP", "DESTROY", self._rng.choice(self._keys.inboxes(agent)), agent),
            }
            hit = bool(self._ask(*words[name]))
        if hit:
            whom = "server" if blow.who == "server" else blow.who.partition("-")[0]
            title = f"{name} {whom}" if name in (*signals, "clock") else name
            self._history.note("fault", kind=name, name=title, victim=blow.who, of=pid, at=t, lasts=blow.lasts)
        return hit

    def heal(self) -> None:
        """Everybody runs, and the line is clear."""
        self._troupe.calm()
        for who in ("server", *self._troupe.places):
            self._troupe.send(who, signal.SIGCONT)
        self._troupe.tend()
        self._history.note("healed")

    def drain(self) -> None:
        """Wait until nothing is left to do, and everybody has heard of it; then have the workers stop."""
        deadline = time.monotonic() + PATIENCE + self._plan.steps
        while not self._is_done() and time.monotonic() < deadline:
            self._troupe.tend()
            time.sleep(0.02)
        self._history.note("drained" if self._is_done() else "stuck")
        deadline = time.monotonic() + CATCH_UP
        while (behind := self._behind()) and time.monotonic() < deadline:
            self._troupe.tend()
            time.sleep(0.01)
        for who in behind:
            self._history.note("behind", victim=who)
        self._troupe.stop(self._plan.grace + 2.0)

    def _is_done(self) -> bool:
        producers = (place for place in self._troupe.places.values() if place.actor.role == "producer")
        if not all(place.finished for place in producers):
            return False
        streams = [stream for agent in SERVED for stream in self._keys.inboxes(agent)]
        found = self._ask_all([("XLEN", stream) for stream in streams])
        return found is not None and not any(found)

    def _behind(self) -> list[str]:
        """Who has not come to the end of the log."""
        newest = self._ask("XREVRANGE", self._keys.log, "+", "-", "COUNT", "1")
        end = newest[0][0].decode() if newest else "?"
        seen = [event["position"] for event in read(self._folder / "tail-1.jsonl") if event["what"] == "seen"]
        folded = ["0-0"]
        with suppress(sqlite3.Error):
            database = sqlite3.connect(f"file:{self._folder / DATABASE}?mode=ro", uri=True)
            folded = [row[0] for row in database.execute("SELECT position FROM checkpoint")]
            database.close()
        return [who for who, at in (("tail-1", seen[-1:]), ("projector-1", folded)) if at != [end]]

    def _ask(self, *words: str) -> Any:
        found = self._ask_all([words])
        return found[0] if found else None

    def _ask_all(self, commands: list[tuple[str, ...]]) -> list[Any] | None:
        """Ask the server itself, in one transaction; None where it does not answer."""
        socket = str(self._troupe.server.socket)
        try:
            with redis.Redis(unix_socket_path=socket, password=PASSWORD, socket_timeout=0.5, retry=None) as client:
                pipe = client.pipeline(transaction=len(commands) > 1)
                for words in commands:
                    pipe.execute_command(*words)
                return pipe.execute()
        except redis.RedisError:
            return None


def _follow(blow: Blow, pid: int) -> Blow | None:
    """What ends, or repeats, a blow."""
    if blow.kind == "stop":
        return Blow(0.0, f"continue {pid}", blow.who)
    if blow.kind == "term" and blow.lasts:
        return Blow(0.0, f"insist {pid}", blow.who)
    return None
