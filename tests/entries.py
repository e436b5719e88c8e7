"""Entries of the log's stream, for tests that write them past the bus, or look at them past the reader."""

from __future__ import annotations


def words(*, id="i", type="status", sender="@a", recipient="@b", task="t", body="{}", **more):
    """What XADD is given for an entry; `more` are further fields, and None leaves the body out."""
    said = [word if isinstance(word, bytes) else word.encode() for word in (task, id, type, sender, recipient)]
    fields = {"head": b" ".join(said), "body": body, **more}
    return [word for field in fields.items() for word in field if field[1] is not None]


def id_of(fields):
    """The ID of the envelope in the fields of an entry."""
    return fields[b"head"].split(b" ")[1]


def with_id(fields, id):
    """The fields of an entry whose envelope has another ID."""
    task, _, *rest = fields[b"head"].split(b" ")
    return {**fields, b"head": b" ".join([task, id, *rest])}
