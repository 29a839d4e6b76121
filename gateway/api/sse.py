"""Server-sent events: their form, and a response that notices readers who are gone or too slow."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

_log = logging.getLogger(__name__)

SEND_S: Final = 60.0
"""A reader who takes nothing for so long is cut off: he holds a place that others wait for."""
QUIET_S: Final = 10.0
"""After so long without an event a comment is sent, so that proxies keep the connection."""
_AHEAD: Final = 16
"""Events that may be written before they are read."""
_HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
DONE: Final = "data: [DONE]\n\n"
DOCUMENTED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "Events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


def event(data: Any, name: str = "") -> str:
    """An event: JSON on one line, and its name."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n" if name else f"data: {text}\n\n"


async def alive(events: AsyncGenerator[str], quiet_s: float = QUIET_S) -> AsyncGenerator[str]:
    """The events, and a comment whenever there was none for a while. Closing it closes `events`."""
    written: asyncio.Queue[str | Exception | None] = asyncio.Queue(_AHEAD)

    async def write() -> None:
        try:
            async with aclosing(events):
                async for text in events:
                    await written.put(text)
        except Exception as error:
            await written.put(error)
        else:
            await written.put(None)

    # A task of its own, so that a wait that ends too early does not end what is waited for.
    writer = asyncio.create_task(write())
    try:
        while True:
            try:
                # Not wait_for: until Python 3.12 it can swallow a cancellation that comes with an item, and then the model
                # works on for a reader who is gone.
                async with asyncio.timeout(quiet_s):
                    item = await written.get()
            except TimeoutError:
                yield ": working\n\n"
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        writer.cancel()
        await asyncio.wait({writer})


class EventStream(StreamingResponse):
    """Ends its events when the reader is gone: the generator is closed, and with it the model's work."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[str], headers: dict[str, str] | None = None, send_s: float = SEND_S
    ) -> None:
        super().__init__(events, headers={**_HEADERS, **(headers or {})})
        self._events = events
        self._send_s = send_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Starlette's own has no limit for a reader that stands still."""
        sending = asyncio.create_task(self._send_all(send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when="FIRST_COMPLETED")
        finally:
            leaving.cancel()
            sending.cancel()
            await asyncio.wait({sending, leaving})
        if not sending.cancelled():
            sending.result()

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            if not await self._sent(send, start):
                return
            async for text in events:
                body = {"type": "http.response.body", "body": text.encode(), "more_body": True}
                if not await self._sent(send, body):
                    return
            await self._sent(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _sent(self, send: Send, message: Message) -> bool:
        try:
            async with asyncio.timeout(self._send_s):
                await send(message)
        except TimeoutError:
            _log.warning("a reader took nothing for %.0f s and is cut off", self._send_s)
            return False
        return True


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
