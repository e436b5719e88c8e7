"""Documents in a stream: how many there are, where each begins, and how little is read of what is too long."""

from __future__ import annotations

import io
import os

import pytest

from taskbus.documents import Part, split
from taskbus.envelope import MAX_BYTES

HEAD = b'<?xml version="1.0"?>'
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
        (b'{"a": oops}\n{"b": 2}\n', [(b'{"a": oops}', 1), (b'{"b": 2}', 2)]),
        (b'{"a": 1} {"b": 2}\n3\n', [(b'{"a": 1} {"b": 2}', 1), (b"3", 2)]),
        (b'{"a": {"b": 1}\n}\n', [(b'{"a": {"b": 1}\n}\n', None)]),
        (b'oops\n{"b": 2}\n', [(b"oops", 1), (b'{"b": 2}', 2)]),
        (b"[1]\n{\n", [(b"[1]", 1), (b"{", 2)]),
        (b"\nnull\n2\n", [(b"null", 2), (b"2", 3)]),
        (b'"x"\n', [(b'"x"', 1)]),
        (b"\xff\xfe\n{}\n", [(b"\xff\xfe", 1), (b"{}", 2)]),
        ('{"a":\n1}'.encode("utf-16"), [('{"a":\n1}'.encode("utf-16"), None)]),
        ("<a>\n</a>".encode("utf-16-be"), [("<a>\n</a>".encode("utf-16-be"), None)]),
        (b"\n\n<a>\n</a>\n", [(b"\n\n<a>\n</a>\n", None)]),
        (XML + b"\n" + XML + b"\n", [(XML, 1), (XML, 2)]),
        (XML + b"\n<!-- the end -->\n\n", [(XML, 1)]),
        (XML, [(XML, 1)]),
        (XML + b"\noops\n", [(XML, 1), (b"oops", 2)]),
        (HEAD + XML + b"\n" + XML, [(HEAD + XML, 1), (XML, 2)]),
        (HEAD + b"\n" + XML + b"\n", [(HEAD + b"\n" + XML + b"\n", None)]),
        (XML[:-1] + b"\n>\n", [(XML[:-1] + b"\n>\n", None)]),
        (b"text\n" * 3, [(b"text", 1), (b"text", 2), (b"text", 3)]),
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


@pytest.mark.parametrize("first", [b'{"a": 1}', b"oops", b"[1]", b'{"a": oops}', XML, HEAD + XML])
def test_a_document_is_given_out_before_the_next_one_is_there(first: bytes) -> None:
    """Whoever writes envelopes into a pipe gets each answered at once, also the first one, and a bad one."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    with os.fdopen(read, "rb") as stream:
        os.write(write, first + b"\n")
        documents = split(stream)
        assert next(documents) == Part(first, 1)
        os.write(write, b'{"b": 2}\n')
        assert next(documents) == Part(b'{"b": 2}', 2)
        os.close(write)
        assert list(documents) == []
