"""What errors on the way to a server are turned into, where no server can be made to cause them."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from taskbus import errors, faults
from taskbus.cli.options import EXIT_CODES, exit_code


@pytest.mark.parametrize(
    ("raised", "kind", "part"),
    [
        (OSError(errno.EACCES, "Permission denied"), errors.NoPermission, "may not open"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), errors.NoServer, "No route to host"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), errors.NoServer, "unreachable"),
        (OSError(errno.ECONNRESET, "Connection reset by peer"), errors.NoServer, "closed the connection"),
        (OSError(errno.ENAMETOOLONG, "File name too long"), errors.ConfigurationError, "too long"),
        (OSError("AF_UNIX path too long"), errors.ConfigurationError, "too long"),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 111] Connect call"),
            errors.NoServer,
            "Nothing listens" if errno.ECONNREFUSED == 111 else "cannot be reached",
        ),
        (OSError("something new"), errors.NoServer, "something new"),
        (socket.gaierror(-2, "Name or service not known"), errors.NoServer, "'some.host' is not known"),
        (ssl.SSLError(1, "[SSL: X] handshake failure"), errors.Unavailable, "handshake failure"),
    ],
)
def test_errors_of_the_system_are_explained(raised, kind, part):
    """Each says what happened at which place, and what to do."""
    error = faults.from_socket(raised, "some.host:6379")
    assert type(error) is kind
    assert part in error.message
    assert "some.host" in error.message
    assert error.advice


def test_a_server_that_speaks_no_tls_is_recognized_by_its_answer():
    """OpenSSL's name for an answer in clear text becomes advice about the URL."""
    raised = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    raised.reason = "WRONG_VERSION_NUMBER"
    error = faults.from_socket(raised, "some.host:6379")
    assert isinstance(error, errors.NotAServer)
    assert "redis://" in str(error.advice)


@pytest.mark.parametrize("code", sorted(faults.REPLIES))
def test_every_known_code_is_unavailable_with_advice(code):
    """Each row of the table names the place and says what to do, and ends with 5."""
    error = faults.from_reply(code, "the server's words", "some.host:6379")
    assert isinstance(error, errors.Unavailable)
    assert exit_code(error) == 5
    assert "{" not in f"{error.message} {error.advice}"
    assert error.advice


@pytest.mark.parametrize(("text", "row"), faults.TEXTS)
def test_every_known_text_is_understood(text, row):
    """A general error is told by its words, whatever stands around them."""
    assert type(faults.from_reply("ERR", f"about {text.upper()} here", "some.host:6379")) is row[0]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.TaskbusError, 1), (errors.UsageError, 2), (errors.ConfigurationError, 2), (errors.NotFound, 3),
        (errors.Conflict, 4), (errors.LifecycleConflict, 4), (errors.Fenced, 4), (errors.DuplicateID, 4),
        (errors.Unavailable, 5), (errors.NoServer, 5), (errors.NotAServer, 5), (errors.WrongPassword, 5),
        (errors.NoPermission, 5), (errors.TooOld, 5), (errors.ReadOnlyServer, 5), (errors.OutOfMemory, 5),
        (errors.ServerFault, 5), (errors.TimedOut, 6), (errors.RefusedByBudget, 7), (errors.InvalidEnvelope, 8),
    ],
)  # fmt: skip
def test_exit_codes_follow_the_tree(kind, code):
    """Each kind of error ends a command with the code of its branch."""
    assert exit_code(kind.__new__(kind)) == code
    assert set(EXIT_CODES.values()) == {2, 3, 4, 5, 6, 7, 8}
