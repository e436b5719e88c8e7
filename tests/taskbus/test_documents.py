"""Documents in a stream: how many there are, where each begins, and how little is read of what is too long."""

from __future__ import annotations

import io
import os

import pytest

from taskbus.documents import Part, split
from taskbus.envelope import MAX_BYTES

XML = b"<agent-message></agent-message>"


def parts(stream: bytes, *, lines: bool = False) -> list[tuple[bytes, int | None]]:
    """The documents of a stream, with their lines."""
    return [(part.data, part.line) for part in split(io.BytesIO(stream), lines=lines)]


@pytest.mark.parametrize(
    ("stream", "found"),
    [
        (b"", [(b"", None)]),
        (b"\n \n", [(b"\n \n", None)]),
        (b'{"a": 1}', [(b'{"a": 1}', 1)]),
        (b'{"a": 1}\n\n  {"b": 2} \r\nfoo\n', [(b'{"a": 1}', 1), (b'{"b": 2}', 3), (b"foo", 4)]),
        (b'\n\n{"a": 1}\n{}', [(b'{"a": 1}', 3), (b"{}", 4)]),
        (b'\xef\xbb\xbf{"a": 1}\n{}', [(b'\xef\xbb\xbf{"a": 1}', 1), (b"{}", 2)]),
        (b'{\n  "a": 1\n}\n', [(b'{\n  "a": 1\n}\n', None)]),
        (b'{"a":\n1}', [(b'{"a":\n1}', None)]),
        (b'{"a": 1,\n{"b": 2}\n', [(b'{"a": 1,', 1), (b'{"b": 2}', 2)]),
        (b"[1]\n[2]\n", [(b"[1]\n[2]\n", None)]),
        (b"\n\n<a>\n</a>\n", [(b"\n\n<a>\n</a>\n", None)]),
        (XML + b"\n" + XML + b"\n", [(XML, 1), (XML, 2)]),
        (XML + b"\n<!-- the end -->\n", [(XML + b"\n<!-- the end -->\n", None)]),
        (XML, [(XML, None)]),
        (b"text\n" * 3, [(b"text\n" * 3, None)]),
    ],
)
def test_documents_are_told_apart(stream: bytes, found: list[tuple[bytes, int | None]]) -> None:
    """A document over several lines is one; whole documents on lines of their own are several."""
    assert parts(stream) == found


def test_each_line_is_a_document_where_that_is_known() -> None:
    """Also where the first line does not look like it; an empty stream is one empty document."""
    assert parts(b"text\n[1]\n\n{", lines=True) == [(b"text", 1), (b"[1]", 2), (b"{", 4)]
    assert parts(b"", lines=True) == [(b"", None)]
    assert parts(b"\n\n", lines=True) == [(b"\n\n", None)]


def test_of_a_document_that_is_too_long_little_is_read() -> None:
    """It is given out just long enough to be refused, and the next line is not lost for it."""
    long = b'{"a":"' + b"x" * (3 * MAX_BYTES) + b'"}'
    assert [len(data) for data, _ in parts(b"x" * (3 * MAX_BYTES))] == [MAX_BYTES + 1]
    assert [len(data) for data, _ in parts(long)] == [MAX_BYTES + 1]
    assert [len(data) for data, _ in parts(b"\n" * (3 * MAX_BYTES))] == [MAX_BYTES + 1]
    several = parts(b"{}\n" + long + b"\n{}\n")
    assert [(len(data), line) for data, line in several] == [(2, 1), (MAX_BYTES + 1, 2), (2, 3)]


def test_endless_nesting_on_a_line_is_a_document_like_any_other() -> None:
    """Whether a line is a whole object is found out without crashing."""
    deep = b'{"a":' * 100_000
    assert parts(deep) == [(deep, None)]


def test_a_document_is_given_out_before_the_next_one_is_there() -> None:
    """Whoever writes envelopes into a pipe gets each answered at once."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stream:
        os.write(write, b'{"a": 1}\n')
        documents = split(stream)
        assert next(documents) == Part(b'{"a": 1}', 1)
        os.write(write, b'{"b": 2}\n')
        assert next(documents) == Part(b'{"b": 2}', 2)
        os.close(write)
        assert list(documents) == []
