"""A stand-in for an agent's program: does what SCRIPT says, and prints what Claude Code would print of it.

A script is a JSON list of steps, each a list of a word and what it takes. Run by the tests of the shared run; needs
nothing but Python.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

TOKENS = {"input_tokens": 1000, "output_tokens": 100, "cache_read_input_tokens": 200, "cache_creation_input_tokens": 0}


class Program:
    """The steps, one method each."""

    def __init__(self) -> None:
        self.calls = 0

    def say(self, record: dict) -> None:
        """Print one record."""
        self.print(json.dumps(record))

    def used(self, *blocks: dict) -> None:
        """One call of the model."""
        self.calls += 1
        message = {"id": f"msg_{self.calls}", "model": "claude-sonnet-4-5", "content": list(blocks), "usage": TOKENS}
        self.say({"type": "assistant", "message": message})

    def tool(self, name: str) -> None:
        """A call of the model that uses a tool."""
        self.used({"type": "tool_use", "name": name})

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
        self.tool("Write")

    def remove(self, path: str) -> None:
        """Remove a file."""
        Path(path).unlink()
        self.tool("Bash")

    def touch(self, path: str) -> None:
        """Give a file this moment's time."""
        os.utime(path)
        self.tool("Bash")

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link."""
        Path(path).symlink_to(target)
        self.tool("Bash")

    def shell(self, command: str) -> None:
        """Run a command."""
        subprocess.run(["sh", "-c", command], check=False)
        self.tool("Bash")

    def look(self) -> None:
        """Use a tool that changes nothing."""
        self.tool("Read")

    def call(self, text: str) -> None:
        """A call of the model that says something."""
        self.used({"type": "text", "text": text})

    def result(self, said: str, more: dict | None = None) -> None:
        """The terminal record."""
        usage = {"inputTokens": 1000, "outputTokens": 100, "cacheReadInputTokens": 200, "costUSD": 0.0045}
        models = {"claude-sonnet-4-5": {**usage, "costBasis": "list"}}
        record = {"type": "result", "subtype": "success", "is_error": False, "result": said, "modelUsage": models}
        self.say({**record, "permission_denials": [], **(more or {})})

    def print(self, text: str) -> None:
        """Print a line."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def stderr(self, text: str) -> None:
        """Print a line to stderr."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def sleep(self, seconds: float, ready: str | None = None) -> None:
        """Sleep, and make a file first."""
        if ready is not None:
            Path(ready).touch()
        time.sleep(seconds)

    def child(self, path: str) -> None:
        """Start a process that stays, and write its ID."""
        Path(path).write_text(str(subprocess.Popen(["sleep", "600"]).pid))

    def kill(self) -> None:
        """Be killed."""
        os.kill(os.getpid(), signal.SIGKILL)

    def environment(self, path: str) -> None:
        """Write the environment."""
        Path(path).write_text(json.dumps(dict(os.environ)))

    def when(self, model: str, *steps: list) -> None:
        """Do steps where this is the model that was asked for."""
        if model in sys.argv:
            self.do(steps)

    def unless(self, path: str, *steps: list) -> None:
        """Do steps and end, unless there is this file."""
        if not Path(path).exists():
            self.do(steps)
            self.exit(1)

    def do(self, steps: Sequence[list]) -> None:
        """Do each step."""
        for word, *rest in steps:
            getattr(self, word)(*rest)

    def exit(self, code: int) -> None:
        """End."""
        raise SystemExit(code)


def main() -> None:
    """Do each step."""
    prompt = sys.stdin.buffer.read()
    if (prompts := os.environ.get("PROMPTS")) is not None:
        with Path(prompts).open("ab") as file:
            file.write(prompt + b"\0")
    Program().do(json.loads(os.environ["SCRIPT"]))


if __name__ == "__main__":
    main()
