"""A log to seal and to trim, made quickly, with positions that a test can count on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskbus.log import Entry

if TYPE_CHECKING:
    from taskbus.archive import Archive
    from taskbus.chain import Head
    from taskbus.client import Bus
    from taskbus.position import Position

FILL = """
for n = tonumber(ARGV[1]), tonumber(ARGV[2]) do
    -- Three in each millisecond, and a millisecond without any between them.
    local id = string.format('%d-%d', 1763625600000 + math.floor(n / 3) * 2, n % 3)
    redis.call('XADD', KEYS[1], id, 'head', 't' .. n % 7 .. ' e' .. n .. ' status @a @b',
        'body', '{"n":' .. n .. ',"text":"' .. string.rep('x', tonumber(ARGV[3])) .. '"}')
end
"""


async def fill(bus: Bus, first: int, last: int, *, size: int = 20) -> None:
    """Append the entries with these numbers, with bodies of about `size` bytes."""
    await bus.connection.execute("EVAL", FILL, 1, bus.keys.log, first, last, size)


async def live(bus: Bus) -> list[Entry]:
    """What stands in the log now, without asking anything of ours."""
    return [Entry.of(position, fields) for position, fields in await bus.connection.range(bus.keys.log)]


async def trim(bus: Bus, archive: Archive, upto: Position) -> Head:
    """Trim the log up to a position, and record it as the server's script does, in one step."""
    head = await archive.head_at(upto)
    assert head is not None
    step = """
        redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1] .. '-' .. ARGV[2] + 1)
        redis.call('HSET', KEYS[2], 'count', ARGV[3], 'position', ARGV[1] .. '-' .. ARGV[2], 'head', ARGV[4],
            'store', ARGV[5], 'segment', 'the-last-one')
    """
    at = head.position
    keys = (bus.keys.log, bus.keys.archive)
    await bus.connection.execute("EVAL", step, 2, *keys, at.ms, at.sequence, head.n, head.link.hex(), archive.url)
    return head
