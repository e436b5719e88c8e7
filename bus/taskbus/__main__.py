"""`python -m taskbus` is the command `bus`."""

from __future__ import annotations

from taskbus.cli import main

main(prog_name="bus")
