"""`bus supervise`: watches what is not done in time, beside the workers or without any, until it is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import anyio
import click
import msgspec

from taskbus import codec
from taskbus.cli.options import print_json, run_async, say, settings_options
from taskbus.cli.rendering import clock, visible
from taskbus.cli.stopping import quiet_stop
from taskbus.cli.values import AGENT, SECONDS
from taskbus.errors import TimedOut, Unavailable
from taskbus.gist import gist

if TYPE_CHECKING:
    from taskbus.client import Bus
    from taskbus.envelope import AnyEnvelope, Escalation
    from taskbus.settings import Settings
    from taskbus.supervision import Supervision

_AGAIN = 1.0
"""Seconds between two tries to reach a server that is away."""


@click.command()
@click.option("--acknowledge", type=SECONDS, help="Delegated, and not taken on for so long [default: 15m]")
@click.option("--lost", type=SECONDS, help="A lease lapsed so long ago, and nobody took over [default: 2m]")
@click.option("--silent", type=SECONDS, help="Work waits, and no worker was seen for so long [default: 5m]")
@click.option("--stale", type=SECONDS, help="After so long an escalation goes one level up [default: 30m]")
@click.option("--lead", type=AGENT, help="Who gets level 3 [default: who delegated the root task]")
@click.option("--interval", type=SECONDS, help="Between two looks, of all who watch [default: 5s]")
@click.option("--once", is_flag=True, help="Look once, at once, and end.")
@settings_options
def supervise(
    *,
    acknowledge: float | None,
    lost: float | None,
    silent: float | None,
    stale: float | None,
    lead: str | None,
    interval: float | None,
    once: bool,
    settings: Settings,
    as_json: bool,
) -> None:
    r"""Escalate what is not done in time.

    Work that nobody takes on, that is over its deadline, that lost its worker, or whose agent has none: each is
    told of once, as an escalation from @bus to the coordinator of the task, however many watch. Workers watch as
    well; this is for a bus that has none at times. An escalation that nobody deals with goes up level by level, to
    @human in the end. The times may stand in bus.toml, in the table [supervision], where workers read them, too.

    Goes on until Ctrl-C, also over a restart of the server, and prints a line for each escalation.

    \b
    Examples:
      bus supervise
      bus supervise --silent 1m --lead @boss
      bus supervise --once --json | jq -r .task
    """
    given = {"acknowledge": acknowledge, "lost": lost, "silent": silent, "stale": stale, "interval": interval}
    run_async(_supervise, settings, settings.supervision_with({**given, "lead": lead}), once=once, as_json=as_json)


async def _supervise(settings: Settings, supervision: Supervision, *, once: bool, as_json: bool) -> None:
    from taskbus.client import Bus  # redis is slow to import
    from taskbus.supervision import look

    with quiet_stop() as stop:

        def told(envelope: AnyEnvelope) -> None:
            with stop.writing():
                _print(envelope, as_json=as_json)

        async with Bus.connect(settings=settings) as bus:
            if once:
                found = await look(bus, supervision, at_once=True)
                for envelope in found:
                    told(envelope)
                if not found:
                    say("Nothing is to be escalated.")
                return
            place = bus.connection.address
            say(f"Watching {bus.namespace} on {place.place if place else 'a server'}; Ctrl-C ends it.")
            away = False
            while True:
                found = await _look(bus, supervision, away=away)
                if away and found is not None:
                    say("The server is back.")
                away = found is None
                for envelope in found or ():
                    told(envelope)
                await anyio.sleep(min(_AGAIN, supervision.interval) if away else supervision.interval)


async def _look(bus: Bus, supervision: Supervision, *, away: bool) -> list[AnyEnvelope] | None:
    """What was escalated; None while the server is away, which is said once."""
    from taskbus.supervision import look

    try:
        return await look(bus, supervision)
    except (Unavailable, TimedOut) as error:
        if not away:
            say(f"{error.message} Trying again." + (f" {error.advice}" if error.advice else ""))
        return None


def _print(envelope: AnyEnvelope, *, as_json: bool) -> None:
    level, message = None, gist(envelope)
    if envelope.type == "escalation":
        details = cast("Escalation", envelope.payload).error_details
        level, message = details.level, details.message
    if not as_json:
        marked = click.style(f"level {level}", fg="bright_red", bold=True) if level else "money"
        whom = f"{visible(envelope.task)} → {visible(envelope.recipient)}"
        click.echo(f"{clock(envelope.context.timestamp)}  {whom}  {marked}  {visible(message)}")
        return
    print_json(
        {
            "id": envelope.id,
            "task": envelope.task,
            "to": envelope.recipient,
            "level": level,
            "message": message,
            "envelope": cast("object", msgspec.json.decode(codec.encode(envelope))),
        }
    )
