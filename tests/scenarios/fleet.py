"""A fleet for a scenario: 47 agents in three tiers as Markdown files, the program that does the work of all, and what
that program is going to do, reckoned beforehand without any bus.
"""

from __future__ import annotations

import json
import sys
from binascii import crc32
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

LEAD: Final = "tech-lead-orchestrator"
COORDINATORS: Final = {
    "opus": {
        "backend-coordinator": ("backend-architect", "api-architect", "python-pro", "golang-pro", "java-developer"),
        "data-coordinator": ("database-optimizer", "database-admin", "graphql-expert"),
        "devops-coordinator": ("cloud-architect", "devops-engineer"),
        "security-coordinator": ("security-auditor", "rust-pro"),
    },
    "sonnet": {
        "frontend-coordinator": ("react-developer", "vue-developer", "typescript-pro", "ui-designer"),
        "framework-coordinator": ("django-developer", "rails-expert", "laravel-developer"),
        "product-coordinator": ("payment-integrator", "game-developer"),
        "platform-coordinator": ("nextjs-expert", "csharp-developer"),
        "legacy-coordinator": ("legacy-modernizer",),
    },
    "haiku": {
        "quality-coordinator": ("test-automator", "test-runner", "accessibility-checker"),
        "content-coordinator": ("cms-editor", "docs-writer"),
        "mobile-coordinator": ("mobile-builder",),
        "operations-coordinator": ("devops-monitor",),
    },
}
"""The coordinators, by their models, and who turns to each; they turn to the lead, as do two of its own."""
OWN: Final = ("code-reviewer", "debugger")
OPUS: Final = (
    *(LEAD, *OWN, "backend-architect", "api-architect", "cloud-architect", "database-optimizer"),
    *("security-auditor", "legacy-modernizer"),
)
HAIKU: Final = (
    *("database-admin", "devops-engineer", "devops-monitor", "test-automator", "test-runner"),
    *("accessibility-checker", "cms-editor", "docs-writer", "mobile-builder"),
)
TIERS: Final = {"opus": "strategic", "sonnet": "implementation", "haiku": "routine"}
PRICES: Final = {"opus": (80_000, 24_000), "sonnet": (3_000, 6_000), "haiku": (750, 300)}
"""Thousandths of a microdollar for a token of input and of output: those that the first users wrote for a thousand."""

PROGRAM: Final = """
import json, os, sys
from binascii import crc32

talk = [json.loads(line) for line in sys.stdin]
me, task, attempt = os.environ["BUS_AGENT"], os.environ["BUS_TASK"], os.environ["BUS_ATTEMPT"]

def lot(*words):
    return crc32("/".join((SEED, task, attempt, *words)).encode()) % 1000

def say(**found):
    used = {"provider": "anthropic", "model": os.environ["BUS_MODEL"]}
    used |= {"input_tokens": 40 + lot(me, "in") // 10, "output_tokens": 50 + lot(me, "out") // 5}
    print(json.dumps({**found, "usage": [used]}))

if talk[-1]["type"] == "escalation":
    before = talk[0]["recipient"]
    others = [name for name in os.environ["BUS_TEAM"].split() if name != before and not name.endswith("-coordinator")]
    if lot(me, "passes") < PASSES:
        say(escalation="That is not mine to decide.")
    else:
        say(target_agent=others[lot(me, "whom") % len(others)] if others else before)
elif lot("fails") < (FIRST if attempt == "1" else LATER):
    say(escalation="What is asked for contradicts what is there.")
else:
    say(status="success", description="Done.")
"""


@dataclass
class Fleet:
    """What the agents are going to do: shares are in thousandths, of first and later attempts that fail, and of
    escalations that are passed on.
    """

    seed: str = "fleet"
    first: int = 80
    later: int = 200
    passes: int = 200
    model: dict[str, str] = field(default_factory=dict)
    coordinator: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Who is who."""
        for model, coordinators in COORDINATORS.items():
            for name, team in coordinators.items():
                self.model[name], self.coordinator[name] = model, LEAD
                for each in team:
                    self.coordinator[each] = name
                    self.model[each] = "opus" if each in OPUS else "haiku" if each in HAIKU else "sonnet"
        self.model |= dict.fromkeys((LEAD, *OWN), "opus")
        self.coordinator |= dict.fromkeys(OWN, LEAD)

    @property
    def specialists(self) -> list[str]:
        """Those who do work that nobody has escalated."""
        return sorted(name for name in self.model if name != LEAD and not name.endswith("-coordinator"))

    def write(self, folder: Path) -> None:
        """The files of a project: an agent in each Markdown file, their program, and bus.toml."""
        (folder / "agents").mkdir()
        for name, model in self.model.items():
            above = f"coordinator: {self.coordinator[name]}\n" if name in self.coordinator else ""
            what = f"description: Does the work of a {name.replace('-', ' ')}.\n"
            text = f"---\nname: {name}\n{what}model: {model}\ntools: Read, Write\n{above}---\n\nDo what is asked.\n"
            (folder / "agents" / f"{name}.md").write_text(text)
        known = {"SEED": self.seed, "FIRST": self.first, "LATER": self.later, "PASSES": self.passes}
        (folder / "agent.py").write_text("".join(f"{name} = {value!r}\n" for name, value in known.items()) + PROGRAM)
        words = json.dumps([sys.executable, "-I", "-S", "{here}/agent.py"])
        defaults = f'[agent_defaults]\nadapter = "command"\ncommand = {words}\nconcurrency = 2\nhold = "0.05"\n'
        (folder / "bus.toml").write_text(f'agent_folders = ["agents"]\n\n{defaults}')

    def reckon(self, tasks: dict[str, str]) -> Reckoning:
        """What becomes of tasks, by their names, with those who get them first."""
        found = Reckoning()
        for task, first in tasks.items():
            self._follow(found, task, first)
        return found

    def _follow(self, found: Reckoning, task: str, agent: str) -> None:
        attempt = 1
        while True:
            lot = self._lot(task, attempt)
            self._use(found, agent, lot)
            if lot("fails") >= (self.first if attempt == 1 else self.later):
                found.done.add(task)
                return
            level, sender, above = 2, agent, self.coordinator[agent]
            while True:
                found.escalations.append((task, f"@{sender}", f"@{above}", level))
                if above == "human":
                    found.human.add(task)
                    return
                self._use(found, above, lot)
                whom = self._whom(above, agent, lot)
                is_over = attempt >= (3 if whom == agent else 9)
                if lot(f"@{above}", "passes") >= self.passes and not is_over:
                    break
                level, sender, above = level + 1, above, self.coordinator.get(above, "human")
            agent, attempt = whom, attempt + 1

    def _whom(self, coordinator: str, agent: str, lot) -> str:
        team = sorted(name for name, above in self.coordinator.items() if above == coordinator)
        others = [name for name in team if name != agent and not name.endswith("-coordinator")]
        return others[lot(f"@{coordinator}", "whom") % len(others)] if others else agent

    def _lot(self, task: str, attempt: int):
        return lambda *words: crc32("/".join((self.seed, task, str(attempt), *words)).encode()) % 1000

    def _use(self, found: Reckoning, agent: str, lot) -> None:
        model = self.model[agent]
        price = PRICES[model]
        used = 40 + lot(f"@{agent}", "in") // 10, 50 + lot(f"@{agent}", "out") // 5
        thousandths = used[0] * price[0] + used[1] * price[1]
        found.cost[TIERS[model]] += (thousandths + 500) // 1000
        found.calls[TIERS[model]] += 1


@dataclass
class Reckoning:
    """What becomes of all tasks: those that are done, those that reach a human, the escalations in the order of each
    task, and microdollars and calls by tier.
    """

    done: set[str] = field(default_factory=set)
    human: set[str] = field(default_factory=set)
    escalations: list[tuple[str, str, str, int]] = field(default_factory=list)
    cost: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
