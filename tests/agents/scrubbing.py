"""Scrubbing: taking out of a program's output what is of this machine and this moment alone, and what is only long.

What stands for it is the same each time, so that two recordings of one version differ where the program does.
"""

from __future__ import annotations

import json
import re
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST = 400
"""How many characters of a text inside of a JSON document are kept; prompts and lists of tools are longer."""
MOST = 12
"""How many items of a list are kept."""

_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_SIGN = re.compile(r"[^a-zA-Z0-9]")
_STAMP = re.compile(r"20\d\d-\d\d-\d\d([T ])\d\d:\d\d:\d\d(?:[.,]\d+)?(Z|[+-]\d\d:?\d\d)?")
_EPOCH = re.compile(r"(?<![\d.])1[789]\d{8}(\d{3})?(?![\d.])")
_DAY = re.compile(r"\b[A-Z][a-z]+day, [A-Z][a-z]+ \d{1,2}, 20\d\d\b")
_HASH = re.compile(r"\b[0-9a-f]{32,64}\b")
_SOCKET = re.compile(r"/\d+\.sock\b")
_PID = re.compile(r"\b(pid|PID|process)([ :=]+)\d+")
_SERIAL = re.compile(r"\b(chatcmpl-|resp_|item_|call_|msg_|toolu_|fc_|)stub\d+\b")
_TIMES = re.compile(r"(?i)^(?!.*tokens)(.*(ms|duration|latency|elapsed|uptime|seconds)|time|.*ttft.*|.*free.*)$")
_AT = re.compile(r"(?i)(timestamp|time|at|created|start|end)$")


class Scrubber:
    """Scrubs all that one run left; the same ID becomes the same placeholder everywhere in it.

    `places` are texts of this machine, such as paths, with what stands for them; the longest are replaced first.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        # Some programs name a folder for a project after its path, with a dash for every sign that is no letter.
        dashed = {_SIGN.sub("-", place): _SIGN.sub("-", stands) for place, stands in places.items() if place[:1] == "/"}
        self._places = dict(sorted({**dashed, **places}.items(), key=lambda place: -len(place[0])))
        host = socket.gethostname()
        if len(host) > 3:
            self._places[host] = "host"
        self._ids: dict[str, str] = {}

    def __call__(self, printed: str) -> str:
        """Scrub a text: line by line, or as one document where it is one."""
        try:
            return self._json(json.loads(printed))
        except ValueError:
            return "\n".join(self._line(line) for line in printed.split("\n"))

    def _line(self, line: str) -> str:
        try:
            return self._json(json.loads(line)) if line.startswith(("{", "[")) else self._text(line)
        except ValueError:
            return self._text(line)

    def _json(self, value: Any) -> str:
        return json.dumps(self._value(value), ensure_ascii=False, separators=(",", ":"))

    def _value(self, value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {self._text(key): self._value(each, key) for key, each in value.items()}
        if isinstance(value, list):
            return [self._value(each, name) for each in value[:MOST]]
        if isinstance(value, str):
            text = self._text(value)
            return text if len(text) <= LONGEST else text[:LONGEST] + "…"
        if isinstance(value, int | float) and not isinstance(value, bool):
            is_moment = _AT.search(name) and value > 1_600_000_000
            return type(value)(0) if is_moment or _TIMES.match(name) else value
        return value

    def _text(self, text: str) -> str:
        for place, stands in self._places.items():
            text = text.replace(place, stands)
        text = _UUID.sub(lambda found: self._id(found[0]), text)
        text = _STAMP.sub(lambda found: f"2026-01-01{found[1]}00:00:00{found[2] or ''}", text)
        text = _EPOCH.sub(lambda found: "1767225600" + ("000" if found[1] else ""), text)
        text = _DAY.sub("Thursday, January 1, 2026", text)
        text = _HASH.sub(lambda found: "0" * len(found[0]), text)
        text = _SOCKET.sub("/1.sock", text)
        text = _PID.sub(r"\g<1>\g<2>1", text)
        return _SERIAL.sub(r"\g<1>stub1", text)

    def _id(self, found: str) -> str:
        return self._ids.setdefault(found, f"00000000-0000-4000-8000-{len(self._ids) + 1:012}")
