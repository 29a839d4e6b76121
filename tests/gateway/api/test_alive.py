"""Events that are kept alive: whoever reads them can leave at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from gateway.api.sse import alive


@pytest.mark.parametrize("turns", range(8))
def test_a_reader_who_leaves_in_the_moment_of_an_event_has_left(turns: int) -> None:
    """`turns` of the event loop lie between the event and the leaving: in one of them both are seen at once."""

    async def run() -> tuple[bool, bool]:
        given, closed = asyncio.Event(), asyncio.Event()

        async def events() -> AsyncGenerator[str]:
            try:
                await given.wait()
                yield "an event"
                await asyncio.Event().wait()
            finally:
                closed.set()

        async def read() -> None:
            async for _ in alive(events()):
                pass

        reader = asyncio.create_task(read())
        await asyncio.sleep(0.01)
        given.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait({reader}, timeout=1)
        left = reader.done()
        reader.cancel()
        await asyncio.wait({reader})
        await asyncio.wait_for(closed.wait(), 1)
        return left, reader.cancelled()

    assert asyncio.run(run()) == (True, True)
