"""The handlers: from an agent's definition to what handles its deliveries.

Owns which kind of handler that is, and what the policy says of its runs. Called by `bus agent run`, plans and the
swarm.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from taskbus.errors import ConfigurationError
from taskbus_agents.adapters import COMMAND, PROVIDERS, adapter
from taskbus_agents.checks import Checks
from taskbus_agents.command import CommandAgent, environment
from taskbus_agents.coordination import Bounds, Office
from taskbus_agents.folders import Folders
from taskbus_agents.headless import HeadlessAgent
from taskbus_agents.spending import Spending, is_held
from taskbus_agents.trouble import Conduct, missing
from taskbus_agents.workspace import Workspaces

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from taskbus.budget import Run
    from taskbus.client import Bus
    from taskbus.envelope import Usage
    from taskbus.settings import Settings
    from taskbus.work import Work
    from taskbus_agents.definition import Definition
    from taskbus_agents.runner import Runner
    from taskbus_agents.taken import Begun

Agent: TypeAlias = HeadlessAgent | CommandAgent
RUNS: Final = "runs"
"""The folder in the home under which deliveries get theirs."""


def handler(
    definition: Definition,
    *,
    bus: Bus,
    runner: Runner,
    settings: Settings,
    root: Path | None = None,
    known: Mapping[str, Definition] | None = None,
) -> Agent:
    """What handles an agent's deliveries; their folders are made under `root`, by default `runs` in the home.

    `known` are all agents that are defined here, by default those of the settings. Raises ConfigurationError for a
    definition that cannot be served, or that the policy does not allow.
    """
    conduct, office = conduct_of(definition, settings), office_of(definition, settings, known)
    folders = Folders(root or settings.home / RUNS)
    inherited = {**os.environ, **definition.environment}
    checks = Checks(runner, dict(os.environ), commands=conduct.commands)
    if definition.adapter == COMMAND:
        if not definition.command:
            raise ConfigurationError(f"{definition.name} has no command.", advice="Name it with `command`.")
        address = bus.connection.address
        is_plain = definition.workspace in ("own", "as-is")
        if definition.workspace == "as-is" and definition.folder is None:
            raise ConfigurationError(f"{definition.name} has no folder to work in.", advice="Name it with `folder`.")
        fixed = definition.folder if definition.workspace == "as-is" else None
        return CommandAgent(
            definition.command,
            runner,
            Folders(folders.root, fixed),
            environment(
                {**inherited, **_model(definition)},
                agent=definition.name,
                url=address.url() if address is not None else "",
                namespace=bus.namespace,
                home=settings.home,
                office=office,
            ),
            key=definition.key,
            office=office,
            price=_price(definition, settings),
            hold=_hold(definition, settings),
            workspaces=None if is_plain else _workspaces(definition, folders, settings),
            checks=checks,
        )
    return HeadlessAgent(
        definition=with_provider(definition),
        adapter=adapter(definition.adapter),
        runner=runner,
        workspaces=_workspaces(definition, folders, settings),
        checks=checks,
        environment=inherited,
        office=office,
        spending=spending_of(settings),
        conduct=conduct,
    )


def absent(definition: Definition) -> str | None:
    """What is to be said where an agent's program is not on this machine; None where it is."""
    known = None if definition.adapter == COMMAND else adapter(definition.adapter)
    program = known.program if known is not None and known.program else next(iter(definition.command), None)
    path = definition.environment.get("PATH") or os.environ.get("PATH")
    if program is None or shutil.which(program, path=path) is not None:
        return None
    return missing(known).message if known is not None and known.program else f"There is no program {program} here."


def with_provider(definition: Definition) -> Definition:
    """The definition, with who runs the models of a program that has models of its own."""
    usual = PROVIDERS.get(definition.adapter)
    return replace(definition, provider=usual) if definition.provider is None and usual is not None else definition


def conduct_of(definition: Definition, settings: Settings) -> Conduct:
    """What the policy that the settings name says of an agent's runs. Raises ConfigurationError for a bad one."""
    if settings.policy is None:
        return Conduct()
    from taskbus_agents.routing import RoutingPolicy
    from taskbus_projections.policy_file import PolicyFile

    policy = RoutingPolicy.load(settings.policy)
    file = PolicyFile(settings.policy)
    commands = file.table("checks", known=("commands",)).get("commands", True)
    if not isinstance(commands, bool):
        raise file.wrong(("checks", "commands"), commands, "true or false")
    fallback = policy.terms.fallback
    return Conduct(
        bypass=policy.may_bypass(definition.name),
        commands=commands,
        waits=fallback.on["quota"] == "wait",
        pause=fallback.pause,
    )


def office_of(definition: Definition, settings: Settings, known: Mapping[str, Definition] | None = None) -> Office:
    """Where an agent stands among those that coordinate. Raises ConfigurationError for a bad policy."""
    if known is None:
        from taskbus_agents import registry

        known = registry.read(settings)
    name, above = definition.name, definition.coordinator
    return Office(
        agent=name,
        coordinator=above if above != name else None,
        team={each.name: each.description for each in known.values() if each.coordinator == name and each.name != name},
        known=frozenset({*known, name}) if known else frozenset(),
        bounds=bounds_of(settings),
    )


def bounds_of(settings: Settings) -> Bounds:
    """What the table [coordination] of the policy says. Raises ConfigurationError."""
    if settings.policy is None:
        return Bounds()
    from taskbus_projections.policy_file import PolicyFile

    file, usual = PolicyFile(settings.policy), Bounds()
    table = file.table("coordination", known=("again", "attempts"))

    def number(key: str, default: int) -> int:
        return file.number(("coordination", key), table.get(key, default), least=1, most=1000)

    return Bounds(again=number("again", usual.again), attempts=number("attempts", usual.attempts))


def spending_of(settings: Settings) -> Spending:
    """How money is held and priced by the policy that the settings name."""
    if settings.policy is None:
        return Spending()
    from taskbus_agents.routing import RoutingPolicy

    policy = RoutingPolicy.load(settings.policy)
    return Spending(policy.money, policy.is_free, climbs=policy.terms.fallback.on["budget"] == "climb")


def _hold(
    definition: Definition, settings: Settings
) -> Callable[[Work, Begun], AbstractAsyncContextManager[Run]] | None:
    """What reserves money for a command's run, where its definition says which model runs, or what it may cost."""
    if not is_held(definition):
        return None
    spending = spending_of(settings)
    return lambda work, task: spending.held(work, definition, "", task.delegation)


def _price(definition: Definition, settings: Settings) -> Callable[[Sequence[Usage]], tuple[Usage, ...]]:
    """What puts prices on what a command tells of its usage; where that is paid for, telling nothing is a call, too."""
    spending = spending_of(settings)
    if definition.hold or (definition.provider and definition.model):
        return lambda usage: spending.priced(usage, definition)
    return lambda usage: tuple(map(spending.price, usage))


def _model(definition: Definition) -> dict[str, str]:
    """Which model a command is to run, where its definition names one."""
    named = {"BUS_PROVIDER": definition.provider, "BUS_MODEL": definition.model}
    return {name: value for name, value in named.items() if value is not None}


def _workspaces(definition: Definition, folders: Folders, settings: Settings) -> Workspaces:
    return Workspaces(definition.workspace, folders, definition.folder, frozenset({settings.home}))
