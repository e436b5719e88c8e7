"""The option that names a policy, for every command that reads one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

R = TypeVar("R")


def policy_option(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command --policy, for its settings: whatever stands in them is where the command looks for it.

    It stands above `query_options`, or `settings_options`, for these make the settings.
    """
    return click.option(
        "--policy", metavar="FILE", help="Tiers, prices, caps [default: BUS_POLICY, policy in bus.toml]"
    )(command)
