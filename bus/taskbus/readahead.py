"""Reading ahead: while one page is worked on, the next one is under way.

Owns the task that fetches it, and ends it when nobody wants more. Called by the history, the archive and sealing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

T = TypeVar("T")


async def ahead(pages: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """The same pages in the same order; one more of them is in memory. Closes what it reads from.

    An error comes when its page is asked for, after all that stand before it.
    """
    coming = asyncio.ensure_future(_next(pages))
    try:
        while (page := await coming) is not None:
            coming = asyncio.ensure_future(_next(pages))
            # So that its question is sent before somebody works on the page that is there.
            await asyncio.sleep(0)
            yield page[0]
    finally:
        coming.cancel()
        # Whatever becomes of a page that nobody wants any more.
        with suppress(asyncio.CancelledError, Exception):
            await coming
        await pages.aclose()


async def _next(pages: AsyncGenerator[T]) -> tuple[T] | None:
    try:
        return (await anext(pages),)
    except StopAsyncIteration:
        return None
