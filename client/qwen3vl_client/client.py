"""The blocking client. Knows sync gRPC and threads; the rules of an answer are in `stream`."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from qwen3vl_client import wire
from qwen3vl_client.errors import Cancelled, ClientError, TimedOut
from qwen3vl_client.line import Late, Line
from qwen3vl_client.media import Media
from qwen3vl_client.reply import Chunk, Reply
from qwen3vl_client.request import MODEL, Messages, Options, build
from qwen3vl_client.retry import Retry
from qwen3vl_client.stream import Generation
from qwen3vl_client.timeout import Timeout
from qwen3vl_client.watchdog import Watchdog

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class Client:
    """Talks to one server over one connection, which all threads may share.

    Args:
        url: HOST:PORT of Triton's gRPC port, or any other gRPC target, such as ``dns:///triton:8001``.
        timeout: limits of every request; a number is the total.
        retries: further attempts before the first token when the server is full, draining or away.
        tls: True for a server with a certificate that the system trusts, or a `TLS`.
        metadata: headers of every request, such as a proxy's token.
    """

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
        target, credentials = wire.target(url), wire.credentials(tls)
        self._channel = (
            grpc.secure_channel(target, credentials, wire.CHANNEL_OPTIONS)
            if credentials
            else grpc.insecure_channel(target, wire.CHANNEL_OPTIONS)
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._infer = wire.stream_of(self._channel)
        self._watchdog = Watchdog()
        self._lines: set[Line] = set()
        self._heard_at = -math.inf
        self._closed = False

    def chat(
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
        """The whole answer to a question or a chat (see `request.Messages`).

        Media stand before a plain question. `timeout` and `retries` replace the client's own; `metadata`
        are further headers, such as `traceparent`. Raises the errors of `errors`, and OSError for an unreadable path.
        """
        with self.stream(
            messages,
            images=images,
            videos=videos,
            timeout=timeout,
            retries=retries,
            request_id=request_id,
            metadata=metadata,
            **options,
        ) as stream:
            return stream.read()

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
    ) -> ChatStream:
        """The answer piece by piece; arguments as for `chat`.

        A context manager and an iterator; leaving it early cancels the request on the server. The request is
        sent when the first chunk is asked for.
        """
        if self._closed:
            raise RuntimeError("the client is closed")
        request = build(messages, images, videos, options, request_id)
        generation = Generation(
            request.id,
            self.timeout if timeout is None else Timeout.of(timeout),
            self.retry if retries is None else Retry(retries),
        )
        return ChatStream(self, request, generation, self._headers + wire.headers(metadata))

    def ready(self) -> bool:
        """Whether the server and its model take requests now; False also when nobody answers."""
        seconds = self.timeout.connect
        try:
            server = self._stub.ServerReady(
                service_pb2.ServerReadyRequest(), timeout=seconds, metadata=self._headers
            )
            model = self._stub.ModelReady(
                service_pb2.ModelReadyRequest(name=MODEL), timeout=seconds, metadata=self._headers
            )
        except grpc.RpcError:
            return False
        return bool(server.ready and model.ready)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Returns once `ready`; TimedOut after `timeout` seconds."""
        until, pause = time.monotonic() + timeout, 0.1
        while not self.ready():
            if time.monotonic() + pause > until:
                raise TimedOut(f"{MODEL} at {self.url} not ready within {timeout:g} s", "connect")
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)

    def close(self) -> None:
        """Ends streams under way on the server too, then closes the connection."""
        self._closed = True
        lines = list(self._lines)
        for line in lines:
            line.leave()
        for line in lines:
            line.close()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _connect(self, generation: Generation) -> None:
        """Makes sure that somebody answers: a dead host costs the connect limit, not the first token's."""
        if time.monotonic() - self._heard_at < wire.FRESH_S:
            return
        limit = generation.connect_limit()
        try:
            self._stub.ServerLive(
                service_pb2.ServerLiveRequest(), timeout=wire.deadline(limit.seconds), metadata=self._headers
            )
        except grpc.RpcError as failure:
            error = generation.unanswered(failure.code().name, failure.details() or "", limit)
            if error:
                raise error from failure
        self._heard_at = time.monotonic()


class ChatStream:
    """An answer being written: iterate for chunks. Not for several threads at once, except `cancel`."""

    def __init__(
        self, client: Client, request: Any, generation: Generation, headers: tuple[tuple[str, str], ...]
    ) -> None:
        self._client, self._request, self._generation = client, request, generation
        self._headers = headers
        self._line: Line | None = None
        self._left = threading.Event()

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

    def read(self) -> Reply:
        """Reads to the end and returns the whole answer."""
        for _ in self:
            pass
        return self.reply

    def cancel(self) -> bool:
        """Ends the answer on the server too; any thread and signal handler may call it. A reader gets Cancelled.

        True if a request was under way.
        """
        self._left.set()
        line = self._line
        if line:
            line.leave()
        return line is not None

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        while not self._generation.finished:
            if self._left.is_set():
                raise self._generation.sign(Cancelled("the stream was cancelled or left"))
            try:
                chunk = self._receive()
            except ClientError as error:
                self._hang_up()
                pause = self._generation.pause_s(error)
                if pause is None:
                    self._left.set()
                    raise
                self._left.wait(pause)
                continue
            if chunk:
                return chunk
        self._hang_up()
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._left.set()
        self._hang_up()

    def _receive(self) -> Chunk | None:
        line = self._line or self._start()
        limit = self._generation.message_limit()
        try:
            response = line.read(limit.seconds)
        except Late as late:
            self._check_left()
            raise self._generation.late(limit) from late
        except grpc.RpcError as failure:
            self._check_left()
            self._client._heard_at = -math.inf
            error = self._generation.broken(failure.code().name, failure.details() or "")
            raise error from error.__cause__ or failure
        self._check_left()
        if response is None:
            self._generation.end()
            return None
        self._client._heard_at = time.monotonic()
        return self._generation.receive(response)

    def _start(self) -> Line:
        self._generation.start_attempt()
        self._client._connect(self._generation)
        seconds = self._generation.total_limit().seconds
        self._line = Line(self._client._infer, self._request, seconds, self._headers, self._client._watchdog)
        self._client._lines.add(self._line)
        if self._left.is_set() or self._client._closed:  # by another thread while there was no line to leave
            self._line.leave()
        return self._line

    def _check_left(self) -> None:
        if self._left.is_set() or self._client._closed:
            raise self._generation.sign(Cancelled("the stream was cancelled"))

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            # Until it has ended the line stays known, so that `Client.close` waits for it.
            line.part(lambda: self._client._lines.discard(line))
