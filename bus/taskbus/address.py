"""Where a server is: the parsed form of `BUS_URL`.

Owns which URLs are understood and how one is shown to people: a password never leaves this module except in
`Address.password` and `Address.url()`. Refuses what it does not understand, instead of guessing. Called by
the settings, the connection, the embedded server and the doctor.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from taskbus.errors import ConfigurationError

Scheme = Literal["redis", "rediss", "unix"]

EXAMPLES = (
    "Examples: redis://user:password@host:6379/0, rediss://host:6380 (TLS), unix:///run/redis.sock?db=0. "
    "Percent-encode special characters of a password (`/` is %2F, `#` is %23, `@` is %40)."
)

TLS_KEYS = ("ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile")

# Tunings that other clients read from the same REDIS_URL. The bus sets these itself, so they are let through.
IGNORED_KEYS = frozenset(
    {
        "client_name", "decode_responses", "encoding", "health_check_interval", "max_connections", "protocol",
        "retry_on_timeout", "socket_connect_timeout", "socket_keepalive", "socket_timeout", "timeout",
    }
)  # fmt: skip

_QUERY_PASSWORD = re.compile(r"([?&](?:ssl_)?password=)[^&#]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Address:
    """One server, as a URL names it. `str()` of it is safe to print; `url()` is not."""

    scheme: Scheme
    host: str = "localhost"
    port: int = 6379
    path: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    tls: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL; raise ConfigurationError, which never repeats a password, when it is not understood."""
        try:
            parts = urlsplit(url.strip())
            port = parts.port
        except ValueError:
            # Not chained: urllib's message quotes the part that it could not read, often half a password.
            raise _refused(url, "its host or port cannot be read") from None
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise _refused(url, "it must begin with redis://, rediss:// or unix://")
        if parts.fragment or (parts.scheme != "unix" and "@" in parts.path + parts.query):
            raise _refused(url, "a special character in its password is not percent-encoded")
        query = _query(url, parts)
        username = query.pop("username", None) or unquote(parts.username or "") or None
        password = query.pop("password", None) or unquote(parts.password or "") or None
        db = query.pop("db", None)
        if parts.scheme == "unix":
            if parts.hostname or not parts.path:
                raise _refused(url, "the path of a unix socket must be absolute: unix:///path, three slashes")
            path, host = unquote(parts.path), ""
        else:
            path, host = "", unquote(parts.hostname or "localhost")
            db = db if db is not None else parts.path.strip("/")
        if db and not re.fullmatch(r"[0-9]{1,5}", db):
            raise _refused(url, "the database after the host must be a number such as 0")
        if parts.scheme != "rediss" and any(name in query for name in TLS_KEYS):
            raise _refused(url, "it has TLS options; those belong to rediss://")
        return cls(
            scheme=parts.scheme,
            host=host,
            port=port or 6379,
            path=path,
            username=username,
            password=password,
            db=int(db or 0),
            tls=tuple(sorted((name, value) for name, value in query.items() if name in TLS_KEYS)),
        )

    def url(self) -> str:
        """The URL with its password: for connecting, never for printing."""
        user = quote(self.username or "", safe="")
        secret = f":{quote(self.password, safe='')}" if self.password is not None else ""
        login = f"{user}{secret}@" if user or secret else ""
        query = dict(self.tls)
        if self.scheme == "unix":
            if self.db:
                query["db"] = str(self.db)
            return f"unix://{login}{quote(self.path)}" + (f"?{urlencode(query)}" if query else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{login}{host}:{self.port}/{self.db}" + (f"?{urlencode(query)}" if query else "")

    @property
    def place(self) -> str:
        """Where it is, for messages: `localhost:6379`, or the path of the socket."""
        return self.path if self.scheme == "unix" else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True when the server can only be on this machine."""
        return self.scheme == "unix" or self.host in ("localhost", "::1") or self.host.startswith("127.")

    def __str__(self) -> str:
        return redacted(self.url())


def redacted(url: str) -> str:
    """The URL with `***` in the place of its password, whether the URL can be read or not."""
    head, slashes, rest = _QUERY_PASSWORD.sub(r"\1***", url).partition("://")
    # Up to the last `@`: an unencoded `/` or `#` in a password ends the host part early for a URL parser.
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{head}{slashes}{user}{':***' if colon else ''}{at}{place}"


def _query(url: str, parts: SplitResult) -> dict[str, str]:
    found: dict[str, str] = {}
    known = ("db", "username", "password", *TLS_KEYS)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in known:
            found[name] = value
        elif name not in IGNORED_KEYS:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else f"; known are {', '.join(known)}"
            raise _refused(url, f"it has an unknown option `{name}`{hint}")
    if found.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        raise _refused(url, "`ssl_cert_reqs` must be none, optional or required")
    if found.get("ssl_check_hostname", "true").lower() not in ("true", "false"):
        raise _refused(url, "`ssl_check_hostname` must be true or false")
    return found


def _refused(url: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"The server URL {redacted(url)} is not understood: {why}.", advice=EXAMPLES)
