"""`line` for asyncio. Knows grpc.aio and tasks.

A message is awaited in a task of its own, because grpc.aio cancels the call when the reading task is cancelled. A caller's
task that is cancelled leaves the rest to `AsyncLine.leave`, in the background.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import grpc.aio

from qwen3vl_client import request as requests
from qwen3vl_client import wire
from qwen3vl_client.line import Late


class Cut(Exception):
    """This side has ended the call."""


class AsyncLine:
    """An open call; as `line.Line`, within one event loop."""

    def __init__(
        self, infer: Any, request: Any, seconds: float, headers: tuple[tuple[str, str], ...]
    ) -> None:
        self._goodbye = requests.goodbye(request)
        self._call = infer(timeout=wire.deadline(seconds + wire.GOODBYE_S), metadata=headers)
        self._asking = asyncio.ensure_future(self._call.write(request))
        self._reading: asyncio.Task[Any] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._over = False  # the server has said its last word about the request

    async def read(self, seconds: float) -> Any:
        """The next message; None at the end.

        Late after `seconds`, AioRpcError if the call breaks, Cut if this side has cut it. CancelledError only if the
        caller's task was cancelled; the call then lives on, to be closed.
        """
        reading = self._reading = self._reading or asyncio.ensure_future(self._read())
        done, _ = await asyncio.wait({reading}, timeout=wire.deadline(seconds))
        if not done:
            raise Late
        self._reading = None
        if reading.cancelled():
            raise Cut
        message = reading.result()
        self._over |= message is None or wire.is_last(message)
        return message

    def leave(self, seconds: float = wire.GOODBYE_S) -> asyncio.Task[None]:
        """End the answer on the server and then the call, in the background; cut it after `seconds`. A reader gets a
        message or an error soon.
        """
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close(seconds))
        return self._closing

    async def part(self, ended: Callable[[], object]) -> None:
        """End the call, and call `ended` once it has ended. Waits as `close` does, unless the answer is whole."""
        self.leave().add_done_callback(lambda _: ended())
        if not self._over:
            await self.close()

    async def close(self) -> None:
        """End the call: well if the server lets it end soon, else by cutting it. Goes on if this task is cancelled."""
        await asyncio.shield(self.leave())

    async def _read(self) -> Any:
        with contextlib.suppress(asyncio.InvalidStateError):  # the call is over already; reading tells why
            await self._asking
        message = await self._call.read()
        return None if message is grpc.aio.EOF else message

    async def _close(self, seconds: float) -> None:
        try:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.TimeoutError):
                await asyncio.wait_for(self._part(), seconds)
        finally:
            self._call.cancel()

    async def _part(self) -> None:
        await self._asking
        if not self._over:
            await self._call.write(self._goodbye)
        await self._call.done_writing()
        while True:
            reading, self._reading = self._reading, None
            message = await (reading or self._call.read())
            if message is None or message is grpc.aio.EOF:
                return
