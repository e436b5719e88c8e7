"""The table of many runs: faults by kind, what was lost, doubled or stranded, how fast the work was taken over."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.chaos.measures import Takeover
    from tests.chaos.rules import Breach
    from tests.chaos.trial import Result

LOST = frozenset({"acknowledged", "finished", "followed"})
DUPLICATED = frozenset({"once", "effect", "delegated", "fenced"})
MOST = 30
"""The table tells of so many breaches."""
STRANDED = frozenset({"drained"})


def progress(result: Result, done: int, runs: int) -> None:
    """A line for people while it runs: each failing seed at once, and now and then how far it is."""
    if result.breaches:
        rules = ", ".join(sorted({breach.rule for breach in result.breaches}))
        print(f"seed {result.seed} broke a rule: {rules}", file=sys.stderr)
    if done % 50 == 0:
        print(f"{done} of {runs} runs", file=sys.stderr)


@dataclass(frozen=True)
class Report:
    """All results, and how they were come by."""

    results: list[Result]
    seconds: float
    seed: int
    server: str
    clocks: bool

    @property
    def breaches(self) -> list[tuple[int, Breach]]:
        """What went wrong, by seed."""
        return [(result.seed, breach) for result in self.results for breach in result.breaches]

    def json(self) -> str:
        """One object."""
        return json.dumps(self._facts())

    def _facts(self) -> dict[str, Any]:
        faults: Counter[str] = Counter()
        parked: Counter[str] = Counter()
        for result in self.results:
            faults.update(result.measured.faults)
            parked.update(result.measured.parked)
        count = len(self.results)
        takeovers = [(takeover, result.seed) for result in self.results for takeover in result.measured.takeovers]
        return {
            "seed": self.seed,
            "runs": count,
            "runs_with_kills": sum(result.measured.kills > 0 for result in self.results),
            "server": self.server,
            "clocks_stepped": self.clocks,
            "seconds": round(self.seconds, 1),
            "seconds_per_run": round(sum(result.seconds for result in self.results) / count, 2) if count else None,
            "faults": dict(sorted(faults.items())),
            "kills": sum(result.measured.kills for result in self.results),
            "tasks": sum(result.measured.tasks for result in self.results),
            "envelopes": sum(result.measured.envelopes for result in self.results),
            "handler_calls": sum(result.measured.calls for result in self.results),
            "handler_calls_too_late": sum(result.measured.again for result in self.results),
            "parked": dict(sorted(parked.items())),
            "lost": self._broken(LOST),
            "duplicated": self._broken(DUPLICATED),
            "stranded": self._broken(STRANDED),
            "other_breaches": sum(breach.rule not in LOST | DUPLICATED | STRANDED for _, breach in self.breaches),
            "takeovers": _times(takeovers),
            "takeovers_undisturbed": _times([each for each in takeovers if each[0].calm]),
            "failing": [
                {"seed": seed, "rule": breach.rule, "what": breach.what, "again": self._again(seed)}
                for seed, breach in self.breaches
            ],
        }

    def _broken(self, rules: frozenset[str]) -> int:
        return sum(breach.rule in rules for _, breach in self.breaches)

    def _again(self, seed: int) -> str:
        return f"bin/chaos --runs 1 --seed {seed}" + (" --server redis" if self.server == "redis" else "")

    def text(self) -> str:
        """A table."""
        facts = self._facts()
        rows = [
            ("runs", f"{facts['runs']} from seed {self.seed}, {facts['runs_with_kills']} of them with kills"),
            ("time", f"{facts['seconds']} s, {facts['seconds_per_run']} s a run"),
            *((name, facts[name]) for name in ("kills", "tasks", "envelopes")),
            ("handler calls", f"{facts['handler_calls']}, {facts['handler_calls_too_late']} of them too late"),
            ("parked", ", ".join(f"{times} {reason}" for reason, times in facts["parked"].items()) or "none"),
            *((name, facts[name]) for name in ("lost", "duplicated", "stranded")),
            ("other breaches", facts["other_breaches"]),
            ("takeover", _line(facts["takeovers"])),
            ("undisturbed", _line(facts["takeovers_undisturbed"])),
            ("", ""),
            ("fault", "times"),
            *facts["faults"].items(),
        ]
        if not self.clocks:
            rows.append(("clock", "not stepped: there is no C compiler here"))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name.ljust(width)}  {value}".rstrip() for name, value in rows]
        lines += [f"seed {seed}: {breach.rule}: {breach.what}" for seed, breach in self.breaches[:MOST]]
        if (more := len(self.breaches) - MOST) > 0:
            lines.append(f"and {more} more: --json has all of them")
        lines += [f"again: {self._again(seed)}" for seed in dict.fromkeys(seed for seed, _ in self.breaches)]
        return "\n".join(lines)


def _times(takeovers: list[tuple[Takeover, int]]) -> dict[str, float | int]:
    """Seconds from the kill to the takeover, and what of them came after a whole lease: p50, p99, and whose is longest.

    Takeovers come with the seed of their run.
    """
    if not takeovers:
        return {"count": 0}
    seconds = sorted(takeover.seconds for takeover, _ in takeovers)
    beyond = sorted(takeover.seconds - takeover.lease for takeover, _ in takeovers)
    found: dict[str, float | int] = {"count": len(takeovers), "longest_seed": max(takeovers)[1]}
    for name, values in (("", seconds), ("beyond_lease_", beyond)):
        for part in (50, 99, 100):
            found[f"{name}p{part}"] = round(values[min(len(values) - 1, len(values) * part // 100)], 3)
    return found


def _line(times: dict[str, float | int]) -> str:
    if not times["count"]:
        return "none"
    return (
        f"{times['count']}: p50 {times['p50']} s, p99 {times['p99']} s, "
        f"longest {times['p100']} s (seed {times['longest_seed']}); "
        f"beyond the lease p50 {times['beyond_lease_p50']} s, p99 {times['beyond_lease_p99']} s"
    )
