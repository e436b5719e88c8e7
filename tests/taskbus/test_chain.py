"""The chain: no two logs have the same links, and the same log has them everywhere and for ever."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from taskbus import chain
from taskbus.log import Entry
from taskbus.position import Position

ENTRY = Entry(
    Position(0, 1763625600000, 1),
    "i",
    "status",
    "@a",
    "@b",
    "t",
    "r",
    "high",
    "application/json",
    b"{}",
    b"s",
    "text/plain",
)
OTHERS = {
    "ms": replace(ENTRY, position=Position(0, 1763625600001, 1)),
    "sequence": replace(ENTRY, position=Position(0, 1763625600000, 2)),
    **{name: replace(ENTRY, **{name: getattr(ENTRY, name) + "x"}) for name in Entry.__struct_fields__[1:9]},
    "body": replace(ENTRY, body=b"{ "),
    "source": replace(ENTRY, source=b"S"),
    "no source": replace(ENTRY, source=None),
    "empty source": replace(ENTRY, source=b""),
    "source type": replace(ENTRY, source_type="text/html"),
    "no source type": replace(ENTRY, source_type=None),
    "body longer, source shorter": replace(ENTRY, body=b"{}s", source=b""),
}


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_is_changed_changes_the_link(name):
    """Each field, each length and each absence has its part in the link."""
    before = chain.beginning("a:{0}:")
    assert chain.link(before, OTHERS[name]) != chain.link(before, ENTRY)


def test_a_link_depends_on_all_before_it():
    """The same envelope behind another one, or in another log, has another link."""
    first, second = chain.start("a:{0}:"), chain.start("b:{0}:")
    assert first.link != second.link
    assert chain.advance(first, ENTRY).link != chain.advance(second, ENTRY).link
    assert chain.advance(chain.advance(first, ENTRY), ENTRY).link != chain.advance(first, ENTRY).link


def test_heads_count_from_one():
    """The head before the log is number 0; each envelope moves number, position and link."""
    start = chain.start("a:{0}:", shard=3)
    assert (start.n, start.position, len(start.link)) == (0, Position(3, 0, 0), chain.SIZE)
    head = chain.advance(start, ENTRY)
    assert head == chain.Head(1, ENTRY.position, chain.link(start.link, ENTRY))


def test_the_chain_is_what_it_always_was():
    """Heads that were exported once must be found again by every later version."""
    assert chain.beginning("a:{0}:").hex() == "f96d20c4b61ede0e10429fd5f668e472eb2b7ca2e479afa16096394e1ec36c79"
    assert (
        chain.link(chain.beginning("a:{0}:"), ENTRY).hex()
        == "9ce93550f6e745866750ae371f1ba61cb92de82f9e2dd820156721b5420dfdb7"
    )
