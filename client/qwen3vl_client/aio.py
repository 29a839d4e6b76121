"""The asyncio client, the twin of `client`. Knows grpc.aio and tasks; the rules of an answer are in `stream`.

A stream that is cancelled or left raises `Cancelled`; a task that is cancelled gets `asyncio.CancelledError`, as asyncio
demands, and the answer ends on the server too.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from qwen3vl_client import wire
from qwen3vl_client.aio_line import AsyncLine, Cut
from qwen3vl_client.errors import Cancelled, ClientError, TimedOut
from qwen3vl_client.line import Late
from qwen3vl_client.media import Media
from qwen3vl_client.reply import Chunk, Reply
from qwen3vl_client.request import MODEL, Messages, Options, build
from qwen3vl_client.retry import Retry
from qwen3vl_client.stream import Generation
from qwen3vl_client.timeout import Timeout

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class AsyncClient:
    """`Client` for asyncio: same methods and errors. It belongs to the event loop of its first use."""

    def __init__(
        self,
        url: str = "localhost:8001",
        *,
        timeout: Timeout | float = Timeout(),  # noqa: B008 (frozen)
        retries: int = 2,
        tls: wire.TLS | bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.url, self.timeout, self.retry = url, Timeout.of(timeout), Retry(retries)
        self._headers = wire.headers(metadata)
        self._target, self._credentials = wire.target(url), wire.credentials(tls)
        self._connection: _Connection | None = None
        self._closed = False

    async def chat(
        self,
        messages: Messages,
        *,
        images: Media | Iterable[Media] = (),
        videos: Media | Iterable[Media] = (),
        timeout: Timeout | float | None = None,
        retries: int | None = None,
        request_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        **options: Unpack[Options],
    ) -> Reply:
        """The whole answer; as `Client.chat`."""
        async with self.stream(
            messages,
            images=images,
            videos=videos,
            timeout=timeout,
            retries=retries,
            request_id=request_id,
            metadata=metadata,
            **options,
        ) as stream:
            return await stream.read()

    def stream(
        self,
        messages: Messages,
        *,
        images: Media | Iterable[Media] = (),
        videos: Media | Iterable[Media] = (),
        timeout: Timeout | float | None = None,
        retries: int | None = None,
        request_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        **options: Unpack[Options],
    ) -> AsyncChatStream:
        """The answer piece by piece; as `Client.stream`, an async context manager and an async iterator."""
        if self._closed:
            raise RuntimeError("the client is closed")
        request = build(messages, images, videos, options, request_id)
        generation = Generation(
            request.id,
            self.timeout if timeout is None else Timeout.of(timeout),
            self.retry if retries is None else Retry(retries),
        )
        return AsyncChatStream(self, request, generation, self._headers + wire.headers(metadata))

    async def ready(self) -> bool:
        """Whether the server and its model take requests now; False also when nobody answers."""
        stub, seconds = self._connected().stub, self.timeout.connect
        try:
            server = await stub.ServerReady(
                service_pb2.ServerReadyRequest(), timeout=seconds, metadata=self._headers
            )
            model = await stub.ModelReady(
                service_pb2.ModelReadyRequest(name=MODEL), timeout=seconds, metadata=self._headers
            )
        except grpc.aio.AioRpcError:
            return False
        return bool(server.ready and model.ready)

    async def wait_ready(self, timeout: float = 60.0) -> None:
        """Returns once `ready`; TimedOut after `timeout` seconds."""
        until, pause = time.monotonic() + timeout, 0.1
        while not await self.ready():
            if time.monotonic() + pause > until:
                raise TimedOut(f"{MODEL} at {self.url} not ready within {timeout:g} s", "connect")
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 1.5)

    async def close(self) -> None:
        """Ends streams under way on the server too, then closes the connection."""
        self._closed = True
        if self._connection:
            await asyncio.gather(*(line.close() for line in self._connection.lines))
            await self._connection.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def _connected(self) -> _Connection:
        # A grpc.aio channel belongs to the running loop, so it cannot be made before there is one.
        if self._connection is None:
            self._connection = _Connection(self._target, self._credentials)
        return self._connection


class _Connection:
    """A channel, its stubs, and when something was last heard over it."""

    def __init__(self, target: str, credentials: Any) -> None:
        options = list(wire.CHANNEL_OPTIONS)
        self.channel = (
            grpc.aio.secure_channel(target, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(target, options)
        )
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)
        self.infer = wire.stream_of(self.channel)
        self.heard_at = -math.inf
        self.lines: set[AsyncLine] = set()


class AsyncChatStream:
    """An answer being written: iterate for chunks. For one task at a time, except `cancel`."""

    def __init__(
        self, client: AsyncClient, request: Any, generation: Generation, headers: tuple[tuple[str, str], ...]
    ) -> None:
        self._client, self._request, self._generation = client, request, generation
        self._headers = headers
        self._connection: Any = None
        self._line: AsyncLine | None = None
        self._left = asyncio.Event()

    @property
    def request_id(self) -> str:
        """The id under which the server logs the request."""
        return self._generation.request_id

    @property
    def text(self) -> str:
        """The answer so far."""
        return self._generation.text

    @property
    def reply(self) -> Reply:
        """The whole answer; RuntimeError before the stream was read to its end."""
        return self._generation.reply

    async def read(self) -> Reply:
        """Reads to the end and returns the whole answer."""
        async for _ in self:
            pass
        return self.reply

    def cancel(self) -> bool:
        """Ends the answer on the server too; any task of the loop may call it. A reader gets Cancelled.

        True if a request was under way.
        """
        self._left.set()
        if self._line:
            self._line.leave()
        return self._line is not None

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        while not self._generation.finished:
            if self._left.is_set():
                raise self._generation.sign(Cancelled("the stream was cancelled or left"))
            try:
                chunk = await self._receive()
            except ClientError as error:
                await self._hang_up()
                pause = self._generation.pause_s(error)
                if pause is None:
                    self._left.set()
                    raise
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._left.wait(), pause)
                continue
            if chunk:
                return chunk
        await self._hang_up()
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._left.set()
        await self._hang_up()

    async def _receive(self) -> Chunk | None:
        line = self._line or await self._start()
        limit = self._generation.message_limit()
        try:
            response = await line.read(limit.seconds)
        except Late as late:
            line.leave(wire.GRACE_S)
            raise self._generation.late(limit) from late
        except Cut as cut:
            raise self._generation.sign(Cancelled("the stream was cancelled")) from cut
        except asyncio.CancelledError:
            self.cancel()
            raise
        except grpc.aio.AioRpcError as failure:
            self._check_left()
            self._connection.heard_at = -math.inf
            error = self._generation.broken(failure.code().name, failure.details() or "")
            raise error from error.__cause__ or failure
        self._check_left()
        if response is None:
            self._generation.end()
            return None
        self._connection.heard_at = time.monotonic()
        return self._generation.receive(response)

    async def _start(self) -> AsyncLine:
        self._generation.start_attempt()
        self._connection = self._client._connected()
        await self._connect()
        seconds = self._generation.total_limit().seconds
        self._line = AsyncLine(self._connection.infer, self._request, seconds, self._headers)
        self._connection.lines.add(self._line)
        return self._line

    async def _connect(self) -> None:
        """Makes sure that somebody answers: a dead host costs the connect limit, not the first token's."""
        if time.monotonic() - self._connection.heard_at < wire.FRESH_S:
            return
        limit = self._generation.connect_limit()
        try:
            await self._connection.stub.ServerLive(
                service_pb2.ServerLiveRequest(),
                timeout=wire.deadline(limit.seconds),
                metadata=self._headers,
            )
        except grpc.aio.AioRpcError as failure:
            error = self._generation.unanswered(failure.code().name, failure.details() or "", limit)
            if error:
                raise error from failure
        self._connection.heard_at = time.monotonic()

    def _check_left(self) -> None:
        if self._left.is_set() or self._client._closed:
            raise self._generation.sign(Cancelled("the stream was cancelled"))

    async def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            # Until it has ended the line stays known, so that `AsyncClient.close` waits for it even if this task is cancelled.
            await line.part(lambda: self._connection.lines.discard(line))
