"""The programs of agents on this machine: which are there, in which version, and what they lack.

Looks at the PATH, asks a program for its version, and looks for keys and logins where programs keep them; it starts no
model and uses no network. Called by `bus agents doctor` and `bus agents test`.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskbus.errors import TaskbusError
from taskbus_agents.adapters import ADAPTERS, adapter
from taskbus_agents.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Mapping

_VERSION: Final = re.compile(r"\d+\.\d+(?:\.\d+)?(?:[-+.][0-9A-Za-z.-]+)?", re.ASCII)
_PATIENCE: Final = 20.0
_ACCESS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "aider": (("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "OPENROUTER_API_KEY"), (".aider.conf.yml",)),
    "claude": (
        ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"),
        (".claude/.credentials.json",),
    ),
    "cline": (("CLINE_API_KEY",), (".cline/data/secrets.json", ".cline/data/settings/providers.json")),
    "codex": (("OPENAI_API_KEY", "CODEX_API_KEY"), (".codex/auth.json",)),
    "copilot": (("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN"), (".copilot/config.json",)),
    "gemini": (("GEMINI_API_KEY", "GOOGLE_API_KEY"), (".gemini/oauth_creds.json",)),
    "kilo": (("KILO_API_KEY",), (".local/share/kilo/auth.json", ".config/kilo/kilo.json")),
    "opencode": (("OPENCODE_API_KEY",), (".local/share/opencode/auth.json", ".config/opencode/opencode.json")),
    "pi": (("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY"), (".pi/agent/auth.json",)),
    "qwen": (("OPENAI_API_KEY", "DASHSCOPE_API_KEY"), (".qwen/oauth_creds.json",)),
}
"""Where programs look for a key, and where they keep a login, below the user's home. Some know more ways."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program. `path` is None where it is not installed; `tried` the versions that it was tried with.

    `missing` is what is known to be missing, `access` what was found of a key or a login, None where nothing was: a
    program may have other ways in. `install` is how it is installed.
    """

    adapter: str
    program: str
    path: str | None
    version: str | None
    tried: tuple[str, ...]
    install: str
    missing: tuple[str, ...] = ()
    access: str | None = None

    @property
    def is_tried(self) -> bool:
        """Whether this very version was tried."""
        return self.version in self.tried


async def programs(environment: Mapping[str, str] = os.environ) -> list[Program]:
    """The program of each adapter, by name."""
    return [await program(name, environment) for name in ADAPTERS]


async def program(name: str, environment: Mapping[str, str] = os.environ) -> Program:
    """The program of one adapter. Raises ConfigurationError where there is no such adapter."""
    known = adapter(name)
    path = shutil.which(known.program, path=environment.get("PATH")) if known.program else None
    manager, _, package = known.package.partition(" ")
    missing: list[str] = []
    if path is None and known.program:
        missing.append(f"{known.program} is not installed")
        if manager == "npm" and shutil.which("node", path=environment.get("PATH")) is None:
            missing.append("node is not installed, which it needs")
    return Program(
        adapter=name,
        program=known.program,
        path=path,
        version=await version(path, environment) if path else None,
        tried=known.tried,
        install=install(manager, package, known.tried),
        missing=tuple(missing),
        access=_access(name, environment),
    )


async def version(path: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """What a program says its version is; None where it says nothing of the kind in time."""
    try:
        async with Runner(timeout=_PATIENCE) as runner:
            ended = await runner.run((path, "--version"), env=dict(environment))
    except (OSError, TaskbusError):
        # It is there and cannot be started: the run that follows says why.
        return None
    found = _VERSION.search((ended.stdout + b"\n" + ended.stderr).decode(errors="replace"))
    return found[0] if found else None


def install(manager: str, package: str, tried: tuple[str, ...]) -> str:
    """The command that installs the newest version that was tried."""
    # Without a version, npm takes an older one that fits its Node, and says nothing.
    newest = tried[-1] if tried else ""
    match manager:
        case "npm":
            return f"npm install --global {package}{f'@{newest}' if newest else ''}"
        case "pip":
            return f"pip install {package}{f'=={newest}' if newest else ''}"
        case _:
            return f"{manager} {package}".strip()


def _access(name: str, environment: Mapping[str, str]) -> str | None:
    variables, logins = _ACCESS.get(name, ((), ()))
    if (key := next((each for each in variables if environment.get(each)), None)) is not None:
        return f"{key} is set"
    home = Path(environment.get("HOME") or Path.home())
    if (login := next((each for each in logins if (home / each).is_file()), None)) is not None:
        return f"~/{login} is there"
    return None
