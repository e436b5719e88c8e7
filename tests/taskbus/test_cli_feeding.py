"""Feeding: documents in batches of what is there, in bounded memory, without ever waiting for more."""

from __future__ import annotations

import queue
import tracemalloc
from typing import TYPE_CHECKING

import anyio
import pytest

from taskbus.cli.feeding import Feed
from taskbus.envelope import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskbus.documents import Part

pytestmark = pytest.mark.anyio


def feed(read: Callable[[int], bytes], *, lines: bool = True, whole: int | None = None) -> Feed:
    """A feed of what a function reads."""
    return Feed(read, lambda: None, lines=lines, whole=whole)


def chunks(*given: bytes) -> Callable[[int], bytes]:
    """A source that gives out these chunks, and then ends."""
    rest = iter(given)
    return lambda _: next(rest, b"")


async def everything(feed: Feed) -> list[list[Part]]:
    """All batches, to the end."""
    batches: list[list[Part]] = []
    while parts := await feed.parts():
        batches.append(parts)
    return batches


async def test_what_is_there_comes_at_once() -> None:
    """Lines that came together are one batch; the last one needs no line break."""
    batches = await everything(feed(chunks(b'{"a":1}\n{"b":2}\n{"c"', b":3}\n", b"4")))
    assert [[part.data for part in parts] for parts in batches] == [[b'{"a":1}', b'{"b":2}'], [b'{"c":3}'], [b"4"]]
    assert [part.line for parts in batches for part in parts] == [1, 2, 3, 4]


async def test_a_batch_has_at_most_a_hundred() -> None:
    """However many lines are there, a batch has a hundred, and few megabytes."""
    batches = await everything(feed(chunks(b"1\n" * 250)))
    assert [len(parts) for parts in batches] == [100, 100, 50]
    line = b"x" * (MAX_BYTES - 10) + b"\n"
    assert max(map(len, await everything(feed(chunks(*[line] * 12))))) <= 5


async def test_nobody_waits_for_more() -> None:
    """A producer that waits for its answer gets it: one line is enough."""
    given: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    source = feed(lambda _: given.get())
    with anyio.fail_after(10):
        for number in range(3):
            given.put(b"%d\n" % number)
            [part] = await source.parts()
            assert part.data == b"%d" % number
        given.put(b"")
        assert await source.parts() == []


@pytest.mark.parametrize("between", [b"\n", b"\n \n", b"\n<!-- a comment -->\n"])
async def test_nobody_waits_for_more_behind_a_blank_line(between: bytes) -> None:
    """What came with the line but holds no document keeps no answer back."""
    given: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    source = feed(lambda _: given.get())
    given.put(b"1\n" + between)
    with anyio.fail_after(10):
        [part] = await source.parts()
        assert part.data == b"1"
        given.put(b"2\n")
        [part] = await source.parts()
        assert part.data == b"2"
    given.put(b"")


async def test_a_document_that_never_ends_is_cut_off() -> None:
    """No more is read of it than a reader needs to refuse it."""
    read = 0

    def endless(most: int) -> bytes:
        nonlocal read
        read += most
        return b"x" * most

    [part] = await feed(endless, lines=False).parts()
    assert len(part.data) == MAX_BYTES + 1
    assert read < 3 * MAX_BYTES


async def test_a_long_input_takes_little_memory() -> None:
    """Neither many lines nor one line of 64 MiB is ever held as a whole."""
    size = 64 << 20
    for content in (b"x" * 999 + b"\n", b"x" * 1000):
        rest = size

        def source(most: int, content: bytes = content) -> bytes:
            nonlocal rest
            rest -= most
            return content * (most // 1000) if rest > 0 else b""

        lines = feed(source)
        tracemalloc.start()
        while await lines.parts():
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < size / 4


async def test_a_whole_text_is_one_document() -> None:
    """A model's free text is taken as it is, up to a limit."""
    [[part]] = await everything(feed(chunks(b'{"a":1}\n', b'{"b":2}\n'), whole=1000))
    assert part.data == b'{"a":1}\n{"b":2}\n'
    [[part]] = await everything(feed(chunks(*[b"x" * 100] * 20), whole=1000))
    assert len(part.data) == 1001


async def test_an_error_of_the_source_is_the_reader_s() -> None:
    """What goes wrong while reading is raised where the documents are waited for."""

    def broken(_: int) -> bytes:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        await feed(broken).parts()
