"""What a server's error means for the user of a bus: one table from error codes to the tree of errors.

Owns the wording of everything that can be wrong between a bus and its server, each with what to do next.
Knows no client library: the connection says what it met, as the code and text of a reply, or as an OSError.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from typing import TYPE_CHECKING

from taskbus.errors import (
    ConfigurationError,
    NoPermission,
    NoServer,
    NotAServer,
    OutOfMemory,
    ReadOnlyServer,
    ServerFault,
    TaskbusError,
    TimedOut,
    TooOld,
    Unavailable,
    WrongPassword,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

FLOOR = "Redis 7.0 or newer, or Valkey"

# Code of a reply: the class, what happened (of the server at `place`), and what to do.
REPLIES: Mapping[str, tuple[type[TaskbusError], str, str]] = {
    "WRONGPASS": (
        WrongPassword,
        "The server at {place} refused the user or the password.",
        (
            "Correct them in the URL, as redis://user:password@host:6379 (no user: redis://:password@host)."
            " Percent-encode special characters of the password."
        ),
    ),
    "NOAUTH": (
        WrongPassword,
        "The server at {place} wants a password, and none was given.",
        "Put it into the URL: redis://:password@host:6379, or with a user redis://user:password@host:6379.",
    ),
    "NOPERM": (
        NoPermission,
        "The server at {place} does not permit this to the user: {text}",
        (
            "Ask its administrator for the namespace's keys and the commands, for example:"
            " ACL SETUSER name ~my_namespace:* +@all -@admin -@dangerous +info"
        ),
    ),
    "DENIED": (
        NoPermission,
        "The server at {place} is in protected mode: it has no password, and serves its own machine.",
        "Set a password on the server (requirepass) and put it into the URL, or connect from its machine.",
    ),
    "OOM": (
        OutOfMemory,
        "The server at {place} has reached its memory limit; nothing was written.",
        "Raise maxmemory on the server, or archive and trim the log; `bus doctor` shows how full it is.",
    ),
    "READONLY": (
        ReadOnlyServer,
        "The server at {place} is a read-only replica.",
        "Give the URL of the primary; `redis-cli INFO replication` on the replica names it (master_host).",
    ),
    "MISCONF": (
        ReadOnlyServer,
        "The server at {place} refuses writes, because it could not save to its disk: {text}",
        "Look at its log and at the free space of its disk; it writes again once it can save.",
    ),
    "NOREPLICAS": (
        ReadOnlyServer,
        "The server at {place} refuses writes, because too few of its replicas are connected.",
        "Bring its replicas back, or lower min-replicas-to-write on the server.",
    ),
    "LOADING": (
        ServerFault,
        "The server at {place} is still loading its data from disk.",
        "Wait until it has finished, then try again.",
    ),
    "BUSY": (
        ServerFault,
        "The server at {place} is busy with a script that runs for long.",
        "Try again; if it stays so, SCRIPT KILL on the server ends a script that has not written yet.",
    ),
    "CLUSTERDOWN": (
        ServerFault,
        "The cluster at {place} is down: {text}",
        "Look at CLUSTER INFO: each slot needs a reachable primary.",
    ),
    "MASTERDOWN": (
        ServerFault,
        "The replica at {place} has lost its primary.",
        "Give the URL of the primary, or wait for the failover to end.",
    ),
    "MOVED": (
        ServerFault,
        "The server at {place} is a node of a cluster, and another node has this namespace: {text}",
        "Give the URL of the node that the message names.",
    ),
    "ASK": (
        ServerFault,
        "The slot of this namespace is moving to another node of the cluster: {text}",
        "Wait until the move has ended, then try again.",
    ),
    "CROSSSLOT": (
        ServerFault,
        "The server at {place} is a cluster, and the command touches more than one of its slots.",
        "Use one namespace and one shard per command.",
    ),
    "WRONGTYPE": (
        ServerFault,
        "A key of the namespace holds a value of another type than the bus writes: {text}",
        "Another program writes under this prefix. Choose another namespace; `bus doctor` shows the keys.",
    ),
}

# Texts behind the general code ERR: what to look for, and the row as above.
TEXTS: tuple[tuple[str, tuple[type[TaskbusError], str, str]], ...] = (
    # How a script's command is refused: by Valkey 9.1 and Redis 7.0, in their own words.
    ("ACL failure in script", REPLIES["NOPERM"]),
    ("The user executing the script can't", REPLIES["NOPERM"]),
    (
        "without any password configured",
        (
            WrongPassword,
            "The server at {place} has no password, but the URL gives one.",
            "Leave the password out of the URL, or set one on the server (requirepass).",
        ),
    ),
    (
        "invalid password",
        (WrongPassword, "The server at {place} refused the password.", "Correct the password in the URL."),
    ),
    (
        "DB index is out of range",
        (
            ConfigurationError,
            "The server at {place} has no database of this number.",
            "Use database 0: leave the number after the host out of the URL.",
        ),
    ),
    (
        "max number of clients reached",
        (
            ServerFault,
            "The server at {place} has reached its limit of clients.",
            "Raise maxclients on the server, or end clients that are not needed (CLIENT LIST).",
        ),
    ),
    (
        "unknown command",
        (
            TooOld,
            "The server at {place} lacks a command that the bus needs: {text}",
            f"Use {FLOOR}; a hosted server may have renamed or disabled the command.",
        ),
    ),
)


def from_reply(code: str, text: str, place: str) -> TaskbusError:
    """The error for an error reply, such as code `OOM` and the text that followed it."""
    row = REPLIES.get(code)
    if row is None:
        row = next((row for part, row in TEXTS if part.lower() in text.lower()), None)
    if row is None:
        message = f"The server at {place} answered with an error: {code} {text}".rstrip()
        return ServerFault(message, advice="`bus doctor` checks the server; its own log may say more.")
    kind, message, advice = row
    return kind(message.format(place=place, text=text), advice=advice)


def from_socket(error: OSError, place: str) -> TaskbusError:
    """The error for what happened on the way to the server."""
    if isinstance(error, ssl.SSLError):
        return _tls(error, place)
    if isinstance(error, socket.gaierror):
        host = place.rpartition(":")[0]
        message = f"The host name {host!r} is not known ({error.strerror})."
        return NoServer(message, advice="Correct the host in the URL, or check the network's name service.")
    number = error.errno
    if number is None and (found := re.search(r"\[Errno (\d+)\]", str(error))):
        # asyncio joins the errors of several addresses (localhost: ::1, 127.0.0.1) into one without a number.
        number = int(found[1])
    if number in (errno.ECONNRESET, errno.EPIPE):
        return closed(place)
    if number == errno.ENAMETOOLONG or "too long" in str(error):
        message = f"The path of the socket is too long for the operating system: {place}."
        return ConfigurationError(message, advice="Use a path of at most 100 bytes.")
    if number == errno.ENOENT and not place.startswith("/"):
        message = f"A certificate file that the URL of {place} names is not there."
        return ConfigurationError(message, advice="Correct ssl_ca_certs, ssl_certfile and ssl_keyfile in the URL.")
    if number in (errno.ECONNREFUSED, errno.ENOENT):
        what = "Nothing listens at" if number == errno.ECONNREFUSED else "There is no socket"
        advice = "Start the server, or correct BUS_URL; without BUS_URL the bus starts an embedded one."
        return NoServer(f"{what} {place}.", advice=advice)
    if number in (errno.EACCES, errno.EPERM):
        message = f"This user may not open {place}."
        return NoPermission(message, advice="Ask for access to the socket, or run as the user who owns it.")
    message = f"The server at {place} cannot be reached: {error.strerror or error}."
    return NoServer(message, advice="Check the host, the port and the network.")


def closed(place: str) -> TaskbusError:
    """The connection ended without an answer, and it went on ending."""
    message = f"The server at {place} closed the connection without an answer."
    advice = "If it wants TLS, begin the URL with rediss://; else look at its log, or whether it was restarted."
    return NoServer(message, advice=advice)


def silent(place: str, seconds: float) -> TaskbusError:
    """Something accepts connections and says nothing, from the first command on."""
    message = f"{place} accepts connections, but said nothing in {seconds:g} s."
    advice = "It is no Redis, or it is frozen or overloaded. Check the port in the URL, and rediss:// for TLS."
    return NotAServer(message, advice=advice)


def unreachable(place: str, seconds: float, *, tls: bool = False) -> TaskbusError:
    """No connection came about in time."""
    message = f"No {'TLS ' if tls else ''}connection to {place} within {seconds:g} s."
    advice = "Check the host, the port, and firewalls between here and there"
    # A server without TLS takes the handshake for the beginning of a command, and waits for its end.
    return NoServer(message, advice=f"{advice}; without TLS, the URL begins with redis://." if tls else f"{advice}.")


def late(place: str, seconds: float) -> TaskbusError:
    """A server that had answered before did not answer in time."""
    message = f"The server at {place} did not answer within {seconds:g} s."
    return TimedOut(message, advice="Look at the server's load and log (SLOWLOG GET), then try again.")


def garbage(place: str, heard: bytes = b"") -> TaskbusError:
    """The bytes that came, `heard` where they are known, are not the protocol of Redis."""
    said = f" (it says {heard[:40].decode('ascii', 'replace').strip()!r})" if heard else ""
    message = f"What answers at {place} is not Redis or Valkey{said}."
    return NotAServer(message, advice="Another program listens there: correct host and port of the URL.")


def sentinel(place: str) -> TaskbusError:
    """A Sentinel answers, which watches servers and stores nothing."""
    message = f"What answers at {place} is a Sentinel, which stores nothing."
    advice = "Give the URL of the primary: redis-cli -p 26379 SENTINEL GET-MASTER-ADDR-BY-NAME mymaster"
    return NotAServer(message, advice=advice)


def too_old(server: str, place: str) -> TaskbusError:
    """The version is below the floor."""
    message = f"The server at {place} is {server}; the bus needs {FLOOR}."
    return TooOld(message, advice="Upgrade the server, or leave BUS_URL unset to use the embedded one.")


def _tls(error: ssl.SSLError, place: str) -> TaskbusError:
    if isinstance(error, ssl.SSLCertVerificationError):
        message = f"The certificate of {place} is not trusted: {error.verify_message}."
        advice = (
            "Name the authority that signed it: rediss://host:6380?ssl_ca_certs=/path/ca.pem; "
            "ssl_check_hostname=false accepts another host name."
        )
        return Unavailable(message, advice=advice)
    # Python's own errors have none, only OpenSSL's.
    reason: str | None = getattr(error, "reason", None)
    if reason == "WRONG_VERSION_NUMBER":
        message = f"The server at {place} does not speak TLS."
        return NotAServer(message, advice="Begin the URL with redis://, or give the server's TLS port.")
    message = f"TLS with {place} failed: {reason or error}."
    advice = "Check the certificates in the URL: ssl_ca_certs, ssl_certfile and ssl_keyfile."
    return Unavailable(message, advice=advice)
