"""What a run measured: what was injected, what stood in the log, and how fast the work of the dead was taken over."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from taskbus.envelope import Parking

if TYPE_CHECKING:
    from tests.chaos.evidence import Evidence
    from tests.chaos.history import Event


class Takeover(NamedTuple):
    """From the kill of a worker to the next call of a handler with its delivery, in seconds; `lease` as well.

    `calm` says that nothing else befell the server or the agent's other workers meanwhile, that one of them had a hand
    free when the lease ended, and that none of them takes more than it can begin with.
    """

    seconds: float
    lease: float
    calm: bool


@dataclass
class Measured:
    """Counts of a run. `parked` counts deliveries that were parked by their reason.

    `again` are calls of handlers that came too late: their delivery was another's by then.
    """

    faults: Counter[str] = field(default_factory=Counter)
    envelopes: int = 0
    tasks: int = 0
    calls: int = 0
    parked: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    again: int = 0
    takeovers: list[Takeover] = field(default_factory=list)


def measure(evidence: Evidence) -> Measured:
    """Count."""
    events = evidence.events
    faults = [event for event in events if event["what"] == "fault"]
    return Measured(
        faults=Counter(event["name"] for event in faults),
        envelopes=len(evidence.log),
        tasks=len(evidence.records),
        calls=sum(event["what"] == "begin" for event in events),
        parked=Counter(
            payload.reason or "behind"
            for entry in evidence.log
            if isinstance(payload := entry.envelope.payload, Parking) and payload.parking == "parked"
        ),
        kills=sum(event["what"] == "exit" and event["status"] == -9 for event in events),
        again=_again(events),
        takeovers=list(_takeovers(evidence, faults)),
    )


def _again(events: list[Event]) -> int:
    newest: dict[tuple[str, str], int] = {}
    late = 0
    for event in events:
        if event["what"] == "begin":
            delivery = (event["agent"], event["id"])
            late += event["token"] < newest.get(delivery, 0)
            newest[delivery] = max(newest.get(delivery, 0), event["token"])
    return late


def _takeovers(evidence: Evidence, faults: list[Event]) -> list[Takeover]:
    found: list[Takeover] = []
    begins: dict[tuple[str, str], list[Event]] = defaultdict(list)
    held: dict[int, dict[tuple[str, str], Event]] = defaultdict(dict)
    dead: list[tuple[Event, list[tuple[str, str]]]] = []
    for event in evidence.events:
        match event["what"]:
            case "begin":
                delivery = (event["agent"], event["id"])
                begins[delivery].append(event)
                held[event["pid"]][delivery] = event
            case "settled":
                held[event["pid"]].pop((event["agent"], event["id"]), None)
            case "end" if event["how"] in ("Retryable", "ValueError", "Permanent", "QuotaLimited", "CancelledError"):
                held[event["pid"]] = {
                    delivery: call for delivery, call in held[event["pid"]].items() if call["nonce"] != event["nonce"]
                }
            case "fault" if event["kind"] in ("kill", "trap") and event["victim"] != "server":
                dead.append((event, list(held.pop(event["of"], ()))))
            case _:
                pass
    for kill, deliveries in dead:
        for delivery in deliveries:
            later = [call for call in begins[delivery] if call["t"] > kill["t"] and call["pid"] != kill["of"]]
            if later:
                taken = later[0]["t"]
                found.append(Takeover(taken - kill["t"], evidence.lease, _calm(evidence, faults, kill, taken)))
    return found


def _calm(evidence: Evidence, faults: list[Event], kill: Event, until: float) -> bool:
    begin, end = kill["t"] - evidence.lease, kill["t"] + evidence.lease
    agent = kill["victim"].rstrip("0123456789")
    others = [fault for fault in faults if fault is not kill and fault["victim"].startswith(("server", agent))]
    if any(who.startswith(agent) for who in evidence.queues):
        return False
    if any(begin - abs(fault.get("lasts", 0.0)) < fault["t"] < until for fault in others):
        return False
    slots = sum(count for who, count in evidence.slots.items() if who != kill["victim"] and who.startswith(agent))
    busy: set[str] = set()
    for event in evidence.events:
        if event["t"] > end:
            break
        if event["what"] == "begin" and event["who"].startswith(agent) and event["who"] != kill["victim"]:
            busy.add(event["nonce"])
        elif event["what"] == "end":
            busy.discard(event["nonce"])
    return len(busy) < slots
