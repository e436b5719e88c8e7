"""Sections: the facts of a report in words, tables and plots. Called by `bus report`.

Owns which rates are told and of what they are a part. What is unpriced stands beside every sum, never as zero, and
where nothing was measured nothing is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskbus.cli.rendering import age, cut
from taskbus_projections.amounts import plural, rounded, share
from taskbus_projections.report.parts import Document, Grid, Plot, Section, grid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskbus_projections.queries.answer import Row

_ENDS: Final = (("failed", "failed"), ("declined", "declined"), ("parked", "set aside"), ("canceled", "canceled"))
_MOST: Final = 15
"""At most so many agents or models are listed on a page."""
_GOAL: Final = 90
"""At most so many columns of a goal or a message are shown."""


def document(facts: Row, namespace: str, policy: str | None) -> Document:
    """The report on one page."""
    days, integrity = facts["days"], facts["integrity"]
    subtitle = (
        f"Days are those of UTC. As of position {integrity['position']}, envelope {integrity['envelopes']:,}. "
        "Amounts from a dollar on are rounded to the cent."
    )
    if policy:
        subtitle += f" Caps and tiers are those of {policy}."
    parts = (glance, _work, _cycles, _failures, _escalations, _quality, _costs, _trees, _open, _integrity)
    return Document(
        f"{namespace.removesuffix(':')}, {days['first']} to {days['last']}",
        subtitle,
        [section for part in parts if (section := part(facts)) is not None],
    )


def glance(facts: Row) -> Section:
    """What matters most, in a few lines."""
    work, total = facts["work"], facts["escalations"]["total"]
    begun, spent = facts["begun"], facts["spending"]["total"]
    cost = spent["cost_microusd"]
    rows = [
        ("tasks begun", f"{begun:,}"),
        ("results accepted", f"{work['accepted']:,}"),
        ("results sent back", _part(work["rejected"], work["rejected"] + work["accepted"], "of those judged")),
        ("deliveries failed", _part(work["failed"], work["failed"] + work["completed"], "of those ended")),
        ("escalations", _part(total["incidents"], begun, "of tasks begun")),
        ("reached a human", _part(total["human"], begun, "of tasks begun")),
        ("spent", money(spent)),
        *([("spent for an accepted result", rounded(cost // work["accepted"]))] if cost and work["accepted"] else []),
        ("open now", f"{facts['open']['tasks']:,}"),
    ]
    return Section("At a glance", grids=grid("what|#how much", rows))


def money(row: Row) -> str:
    """What calls cost, and how many have no price."""
    priced, unpriced = row["calls"] - row["unpriced_calls"], row["unpriced_calls"]
    parts = [rounded(row["cost_microusd"] or 0)] if priced else []
    return " + ".join([*parts, *([plural(unpriced, "unpriced call")] if unpriced else [])]) or "-"


def span(ms: int | None) -> str:
    """A time in milliseconds as people read it; nothing where it is not known."""
    if ms is None:
        return ""
    return f"{ms}ms" if ms < 1000 else age(ms / 1000)


def _part(part: int, whole: int, of: str) -> str:
    return f"{part:,} ({share(part, whole)} {of})" if whole else f"{part:,}"


def _work(facts: Row) -> Section | None:
    days = facts["throughput"]
    series = (("given", "assigned"), ("accepted", "accepted"), ("failed", "failed"), ("escalated", "escalated"))
    plot = Plot(
        "throughput",
        "Deliveries a day",
        [row["day"] for row in days],
        [(name, [row[column] for row in days]) for name, column in series if any(row[column] for row in days)],
    )
    counts = ("assigned", "taken", "completed", "accepted", "rejected", "failed", "escalated", "parked")
    agents = [
        (row["agent"], *(f"{row[name]:,}" for name in counts), span(row["mean_cycle_ms"])) for row in facts["agents"]
    ]
    states = ", ".join(f"{row['tasks']:,} {row['state']}" for row in facts["standing"])
    lines = [f"As they stand now, of all tasks: {states}."] if states else []
    heads = "agent|#given|#taken on|#completed|#accepted|#sent back|#failed|#escalated|#parked|#mean time"
    return Section("Work", lines, [plot] if plot.series else [], grid(heads, agents, title="By agent", most=_MOST))


def _cycles(facts: Row) -> Section | None:
    work, cycles = facts["work"], facts["cycles"]
    rows = [
        ("waited to be taken on, mean", span(work["mean_wait_ms"])),
        ("taken on to completion, mean", span(work["mean_cycle_ms"])),
        ("half within", span(cycles["p50_ms"])),
        ("95 % within", span(cycles["p95_ms"])),
        ("fastest", span(work["cycle_min_ms"])),
        ("slowest", span(work["cycle_max_ms"])),
    ]
    known = [row for row in rows if row[1]]
    spans = ("elapsed_ms", "submitted_ms", "working_ms", "input_required_ms", "completed_ms", "escalated_ms")
    slow = [
        (row["id"], row["state"], row["assignee"], *(span(row[name] or None) for name in spans), _short(row["goal"]))
        for row in facts["slowest"]
    ]
    heads = "task|state|assignee|#in all|#waiting|#working|#asking|#in review|#escalated|goal"
    if not known and not slow:
        return None
    grids = [*grid("time|#how long", known), *grid(heads, slow, title="Slowest tasks that ended")]
    return Section("Cycle times", grids=grids)


def _failures(facts: Row) -> Section | None:
    work, failed = facts["work"], facts["failed"]
    ended = ", ".join(f"{work[name]:,} {word}" for name, word in _ENDS)
    lines = [f"Of deliveries, {ended}. Set aside now: {failed['parked_now']:,}."]
    rows = [
        (row["id"], row["state"], row["assignee"], row["finished"] or "", _short(row["summary"]))
        for row in failed["newest"]
    ]
    if not rows and not any(work[name] for name in ("failed", "declined", "parked", "canceled")):
        return None if not failed["parked_now"] else Section("Failures", lines)
    title = f"Tasks that nobody has delegated again: {failed['tasks']:,}"
    return Section("Failures", lines, grids=grid("task|state|assignee|since|what was said", rows, title=title))


def _escalations(facts: Row) -> Section | None:
    found, begun = facts["escalations"], facts["begun"]
    total = found["total"]
    if not total["incidents"] and not found["open_now"]:
        return None
    answered = f", after {span(total['answer_ms'] // total['answered'])} in the mean" if total["answered"] else ""
    rate = f", {share(total['incidents'], begun)} of tasks begun" if begun else ""
    human = f", {share(total['human'], begun)} of tasks begun" if begun else ""
    share_of = f" ({share(total['human'], total['incidents'])} of them{human})" if total["incidents"] else ""
    lines = [
        f"{plural(total['incidents'], 'incident')}{rate}; escalated again: {total['repeats']:,}.",
        f"{total['human']:,} reached a human{share_of}.",
        f"{total['answered']:,} were dealt with{answered}. Open now: {found['open_now']:,}.",
    ]

    def told(name: str) -> list[tuple[str, ...]]:
        counts = ("incidents", "repeats", "human", "answered")
        return [(row[name], *(f"{row[count]:,}" for count in counts)) for row in found[_many(name)]]

    heads = "|#incidents|#again|#human|#dealt with"
    return Section(
        "Escalations", lines, grids=[*grid(f"category{heads}", told("category")), *grid(f"agent{heads}", told("agent"))]
    )


def _quality(facts: Row) -> Section | None:
    work, gates = facts["work"], facts["gates"]
    judged = work["accepted"] + work["rejected"]
    lines = [
        f"{work['rejected']:,} of {judged:,} results were sent back ({share(work['rejected'], judged)})."
        if judged
        else "",
        f"{work['repeats']:,} of {work['assigned']:,} deliveries were no first attempt "
        f"({share(work['repeats'], work['assigned'])})."
        if work["assigned"]
        else "",
    ]

    def row(found: Row, *names: str) -> tuple[str, ...]:
        counts = ("passed", "failed", "skipped", "not_triggered")
        ended = found["passed"] + found["failed"]
        return (
            *(found[name] for name in names),
            *(f"{found[count]:,}" for count in counts),
            share(found["failed"], ended),
        )

    heads = "#passed|#failed|#skipped|#not triggered|#failed of both"
    grids = [
        *grid(f"layer|{heads}", [row(each, "layer") for each in gates["layers"]], title="Quality gates"),
        *grid(f"agent|model|{heads}", [row(each, "agent", "model") for each in gates["failing"]], title="Most failed"),
    ]
    lines = [line for line in lines if line]
    return Section("Rework and gates", lines, grids=grids) if lines or grids else None


def _costs(facts: Row) -> Section | None:
    found, budgets = facts["spending"], facts["budgets"]
    total = found["total"]
    if not (total["calls"] or budgets["decisions"] or budgets["providers"]):
        return None
    lines = [f"{plural(total['calls'], 'call')}: {money(total)}."]
    if budgets["expected_microusd"] is not None:
        lines.append(
            f"At the end of {budgets['month']}: {rounded(budgets['expected_microusd'])} to be expected "
            f"({budgets['method']}; unpriced calls in none of it)."
        )
    if any(row["unpriced_calls"] and row["cap_microusd"] is not None for row in budgets["providers"]):
        lines.append("Unpriced calls are in no sum, so that less may be left of a cap than is said.")
    days = [row for row in found["days"] if row["cost_microusd"] is not None]
    series = [("spent", [row["cost_microusd"] / 1_000_000 for row in days])]
    plot = Plot("spending", "Dollars a day", [row["day"] for row in days], series, "dollars")
    month = budgets["month"]
    capped = "#calls|#spent|#held|#cap|#left|#at its end"
    grids = [
        *grid(f"provider|{capped}", _budgets(budgets["providers"], "provider"), title=f"Providers in {month}"),
        *grid(f"agent|{capped}", _budgets(budgets["agents"], "agent"), title=f"Agents with a cap in {month}"),
        *grid("account|per|#cap|by|when|why", _decisions(budgets["decisions"]), title=f"Caps decided on in {month}"),
        *grid("account|in|#cap|#used|when", _warnings(budgets["warnings"]), title=f"Caps nearly used up in {month}"),
        *_spent(found["tiers"], "tier", lambda row: row["tier"] or "no tier"),
        *_spent(found["models"], "model", lambda row: f"{row['provider']}/{row['model']}"),
        *_spent(found["agents"], "agent", lambda row: row["agent"]),
    ]
    return Section("Costs", lines, [plot] if len(days) > 1 else [], grids)


def _budgets(rows: Sequence[Row], of: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for row in rows:
        cap, expected, held = row["cap_microusd"], row["expected_microusd"], row["held_microusd"]
        found.append(
            (
                row[of] or "not said",
                f"{row['calls']:,}",
                money(row),
                rounded(held) if held else "",
                "none" if cap is None else rounded(cap),
                "" if cap is None else rounded(row["left_microusd"]),
                "" if expected is None or row["calls"] == row["unpriced_calls"] else rounded(expected),
            )
        )
    return found


def _decisions(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return [
        (
            row["account"],
            row["period"],
            "none" if row["microusd"] is None else rounded(row["microusd"]),
            row["decided_by"],
            row["decided"],
            row["reason"] or "",
        )
        for row in rows
    ]


def _warnings(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return [
        (
            row["account"],
            row["span"],
            rounded(row["cap_microusd"]),
            rounded((row["committed_microusd"] or 0) + (row["held_microusd"] or 0)),
            row["warned"],
        )
        for row in rows
    ]


def _spent(rows: Sequence[Row], title: str, name: Callable[[Row], str]) -> list[Grid]:
    whole = sum(row["cost_microusd"] or 0 for row in rows)
    found = [
        (
            name(row),
            f"{row['calls']:,}",
            *("" if row[count] is None else f"{row[count]:,}" for count in ("input_tokens", "output_tokens")),
            money(row),
            "" if row["cost_microusd"] is None else share(row["cost_microusd"], whole),
        )
        for row in rows
    ]
    return [*grid(f"{title}|#calls|#input|#output|#cost|#share", found, title=f"By {title}", most=_MOST)]


def _trees(facts: Row) -> Section | None:
    rows = [
        (
            row["root"],
            row["state"] or "",
            row["assignee"] or "",
            f"{row['calls']:,}",
            money(row),
            _short(row["goal"] or ""),
        )
        for row in facts["trees"]
    ]
    lines = ["Of the trees that were worked on in this time, with all that each has cost."]
    heads = "root|state|assignee|#calls|#cost|goal"
    return Section("Dearest trees", lines, grids=grid(heads, rows)) if rows else None


def _open(facts: Row) -> Section | None:
    found = facts["open"]
    if not found["tasks"]:
        return None
    ages = [(row["age"], f"{row['tasks']:,}") for row in found["ages"]]
    rows = [
        (
            row["id"],
            row["state"],
            row["holder"],
            row["created"],
            row["since"],
            row["deadline"] or "",
            _short(row["goal"]),
        )
        for row in found["oldest"]
    ]
    heads = "task|state|whose turn|delegated|in this state since|deadline|goal"
    return Section("Open work, now", grids=[*grid("age|#tasks", ages), *grid(heads, rows, title="The oldest")])


def _integrity(facts: Row) -> Section:
    found = facts["integrity"]
    lines = [
        f"Folded up to position {found['position']}: {plural(found['envelopes'], 'envelope')} of the log.",
        f"Head of the chain there: {found['head'] or 'none'}.",
    ]
    if found["set_aside"]:
        lines.append(f"{plural(found['set_aside'], 'row')} of read models miss: envelopes that they could not fold.")
    return Section("Integrity", lines)


def _short(text: str) -> str:
    return cut(" ".join(text.split()), _GOAL)


def _many(name: str) -> str:
    return "categories" if name == "category" else f"{name}s"
