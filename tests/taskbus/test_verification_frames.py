"""Frames: by which manifests nothing can be read, and what is read of a frame that is not whole."""

from __future__ import annotations

import pytest
import zstandard
from msgspec import structs

from taskbus.archive import lines
from taskbus.archive.manifest import Frame, Manifest
from taskbus.chain import start
from taskbus.keys import Keys
from taskbus.log import Entry
from taskbus.position import Position
from taskbus.verification.frames import read_head, unusable

KEYS = Keys("frames:")
ENTRIES = [
    Entry(Position(0, n, 0), f"id-{n}", "status", "@a", "@b", "t", "t", "normal", "application/json", b"{}")
    for n in range(1, 4)
]
LINES = b"".join(lines.write(n, entry, bytes(32)) + b"\n" for n, entry in enumerate(ENTRIES, 1))
PACKED = zstandard.ZstdCompressor(write_checksum=True).compress(LINES)
FRAME = Frame(0, len(PACKED), len(LINES), "", 1, 3, "1-0", "3-0", "00" * 32)
MANIFEST = Manifest(
    version=1,
    namespace=KEYS.namespace,
    prefix=KEYS.prefix,
    shard=0,
    file="0000000001-0000000003.jsonl.zst",
    first=1,
    last=3,
    count=3,
    first_position="1-0",
    last_position="3-0",
    first_time="",
    last_time="",
    bytes=len(PACKED),
    raw_bytes=len(LINES),
    sha256="",
    before_position="0-0",
    before=start(KEYS.prefix).link.hex(),
    head="00" * 32,
    tool="",
    frames=[FRAME],
)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"first": 2}, "that of 0000000002"),
        ({"prefix": "others:{0}:"}, "segment of 'others:{0}:'"),
        ({"shard": 1}, "segment of"),
        ({"file": "../../secret"}, "another file"),
        ({"file": "0000000001-0000000003-0123456789ab.jsonl.zst"}, None),
        ({"frames": [structs.replace(FRAME, offset=4)]}, "do not follow"),
        ({"frames": [structs.replace(FRAME, bytes=0)]}, "do not follow"),
        ({"frames": [structs.replace(FRAME, count=0)]}, "do not follow"),
        ({"before": "00"}, "no link"),
    ],
)
def test_a_manifest_by_which_nothing_can_be_read(changes, why):
    """Its numbers, its log, its file and its frames must be those of the segment; else it is said why not."""
    found = unusable(structs.replace(MANIFEST, **changes), MANIFEST.name, KEYS)
    assert found == why or (why is not None and found is not None and why in found)


@pytest.mark.parametrize(
    ("packed", "frame"),
    [
        (PACKED, FRAME),
        (PACKED, structs.replace(FRAME, raw_bytes=7)),
        (zstandard.ZstdCompressor(write_content_size=False).compress(LINES), FRAME),
    ],
)
def test_a_head_is_read_of_a_frame(packed, frame):
    """By its number, also where the manifest or the frame says the wrong size, or none."""
    head = read_head(packed, MANIFEST, frame, 2)
    assert head is not None
    assert (head.n, head.position) == (2, ENTRIES[1].position)


@pytest.mark.parametrize("packed", [b"", b"not packed", PACKED[:8], PACKED[:-30]])
def test_no_head_is_read_of_what_is_broken(packed):
    """Nothing, something else, and a frame that is cut off: what cannot be read is no head."""
    assert read_head(packed, MANIFEST, FRAME, 3) is None


def test_no_head_is_read_of_a_line_that_is_none():
    """The frame is whole, and what stands in it is not from an archive."""
    packed = zstandard.ZstdCompressor().compress(LINES.replace(b'"n":2', b'"n":x'))
    assert read_head(packed, MANIFEST, FRAME, 2) is None
