"""Routing: who gets which work, with which model, why nobody before them, and who is next when they fail.

The policy is a file; a decision is pure, and is recorded with the delegation. Called by `bus route`, `bus delegate
--route`, plans and the swarm.
"""

from __future__ import annotations

from taskbus_agents.routing.candidates import Need, candidates
from taskbus_agents.routing.climber import Climber
from taskbus_agents.routing.climbing import Climbed, climb, trigger_of
from taskbus_agents.routing.decision import Choice, Decision, decide
from taskbus_agents.routing.facts import Facts, Spent, Standing, observe
from taskbus_agents.routing.policy import RoutingPolicy
from taskbus_agents.routing.routing import route

__all__ = [
    "Choice",
    "Climbed",
    "Climber",
    "Decision",
    "Facts",
    "Need",
    "RoutingPolicy",
    "Spent",
    "Standing",
    "candidates",
    "climb",
    "decide",
    "observe",
    "route",
    "trigger_of",
]
