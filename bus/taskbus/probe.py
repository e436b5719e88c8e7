"""A few questions to a server, asked once and in bounded time, without the client library.

The launcher of the embedded server asks whether one answers, and the doctor what listens on a port. It knows
no scripts, no retries and no pool; whatever is to last goes through taskbus.connection.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from taskbus import faults, replies

if TYPE_CHECKING:
    from collections.abc import Sequence


class ErrorReply(str):
    """An error that the server answered, such as `NOAUTH Authentication required.`"""

    __slots__ = ()

    @property
    def code(self) -> str:
        """The first word, such as `NOAUTH`."""
        return self.partition(" ")[0]


async def ask(
    target: Path | tuple[str, int],
    *commands: Sequence[str],
    password: str | None = None,
    timeout: float = 1.0,
) -> list[object]:
    """The reply to each command: text, int, None, a list of these, or an ErrorReply.

    `target` is a unix socket, or host and port; `timeout` in seconds covers everything. A refused password is
    the reply to each command. Raises NoServer, NotAServer or another Unavailable when there are no replies.
    """
    place = str(target) if isinstance(target, Path) else f"{target[0]}:{target[1]}"
    asked = [("AUTH", password), *commands] if password is not None else list(commands)
    try:
        async with asyncio.timeout(timeout):
            answers = await _exchange(target, asked)
    except TimeoutError as error:
        raise faults.silent(place, timeout) from error
    except asyncio.IncompleteReadError as error:
        raise (faults.garbage(place, error.partial) if error.partial else faults.closed(place)) from error
    except OSError as error:
        raise faults.from_socket(error, place) from error
    except (ValueError, asyncio.LimitOverrunError) as error:
        heard: object = error.args[-1]
        raise faults.garbage(place, heard if isinstance(heard, bytes) else b"") from error
    if password is not None and isinstance(answers[0], ErrorReply):
        return [answers[0]] * len(commands)
    return answers[len(asked) - len(commands) :]


async def _exchange(target: Path | tuple[str, int], asked: Sequence[Sequence[str]]) -> list[object]:
    if isinstance(target, Path):
        reader, writer = await asyncio.open_unix_connection(target)
    else:
        reader, writer = await asyncio.open_connection(*target)
    try:
        writer.write(b"".join(_packed(command) for command in asked))
        await writer.drain()
        return [await _reply(reader) for _ in asked]
    finally:
        writer.close()


def _packed(words: Sequence[str]) -> bytes:
    data = [word.encode() for word in words]
    return b"*%d\r\n" % len(data) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in data)


async def _reply(reader: asyncio.StreamReader) -> object:
    head = await reader.readuntil(b"\r\n")
    kind, rest = head[:1], head[1:-2]
    if kind == b"+":
        return replies.text(rest)
    if kind == b"-":
        return ErrorReply(replies.text(rest))
    if kind not in b":$*":
        raise ValueError("no reply begins like this", head)
    try:
        number = int(rest)
    except ValueError as error:
        raise ValueError("no number where one must be", head) from error
    if kind == b":":
        return number
    if number < 0:
        return None
    if kind == b"$":
        return replies.text((await reader.readexactly(number + 2))[:-2])
    return [await _reply(reader) for _ in range(number)]
