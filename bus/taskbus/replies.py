"""What the server's replies become: text, pairs, stream entries, and who the server is.

Owns the shapes of both protocol versions, since an injected client may speak either. Knows no client library
and sends nothing. Called by the connection and by the probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_VERSIONS = ("valkey_version", "redis_version", "version")

Entry: TypeAlias = tuple[str, dict[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What answers: product and version, `standalone`, `cluster` or `sentinel`, `master` or `replica`."""

    product: str = "unknown"
    version: str = ""
    mode: str = "standalone"
    role: str = "master"
    tls: bool = False

    @classmethod
    def of(cls, facts: Mapping[str, str], *, tls: bool = False) -> ServerInfo:
        """From the fields of INFO, or of HELLO. Valkey has a `redis_version` as well; its own counts."""
        is_valkey = "valkey_version" in facts or facts.get("server") == "valkey"
        return cls(
            product="Valkey" if is_valkey else "Redis",
            version=next((v for k in _VERSIONS if (v := facts.get(k))), ""),
            mode=facts.get("redis_mode") or facts.get("server_mode") or facts.get("mode") or "standalone",
            role="master" if facts.get("role", "master") == "master" else "replica",
            tls=tls,
        )

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers, for comparing: (9, 1, 2)."""
        return tuple(int(part) for part in self.version.split(".") if part.isdecimal())

    def __str__(self) -> str:
        return f"{self.product} {self.version}".strip()


def text(value: object) -> str:
    r"""A reply as text; bytes that are no UTF-8 are shown as \xNN."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def fields(info: str) -> dict[str, str]:
    """The `name:value` lines of INFO."""
    lines = info.splitlines()
    return {name: value for line in lines for name, colon, value in [line.partition(":")] if colon}


def pairs(reply: object) -> Iterable[tuple[object, object]]:
    """Name and value, from either shape: RESP3 answers a map, RESP2 a flat list or a list of pairs."""
    if isinstance(reply, dict):
        return cast("dict[object, object]", reply).items()
    items = cast("list[Any]", reply or [])
    if items and isinstance(items[0], (list, tuple)):
        return [(name, value) for name, value in items]
    return zip(items[::2], items[1::2], strict=True)


def texts(reply: object) -> dict[str, str]:
    """The pairs of a reply, both sides as text."""
    return {text(name): text(value) for name, value in pairs(reply)}


def entries(reply: object) -> list[Entry]:
    """The entries of XRANGE, or of one stream of XREAD: ID and fields."""
    return [
        (id.decode(), dict(zip(values[::2], values[1::2], strict=True)))
        for id, values in cast("list[tuple[bytes, list[bytes]]]", reply or [])
    ]
