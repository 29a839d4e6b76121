"""A Triton that plays scripts: what the client has to survive, on a real socket and without any model.

A script is the list of acts for one request. It knows the wire of `ModelStreamInfer` and nothing of Qwen3-VL.

    with FakeTriton([Piece("Hel"), Pause(0.1), Piece("lo", finish_reason="stop"), Final()]) as triton:
        Client(triton.url).chat("Hi")
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc


@dataclass(frozen=True)
class Piece:
    """A data response. `rides` puts the final marker on it; `more` are further outputs by name."""

    text: str
    token_ids: tuple[int, ...] = (1,)
    finish_reason: str = ""
    rides: bool = False
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Final:
    """The final marker alone, without outputs."""


@dataclass(frozen=True)
class Pause:
    """Seconds of silence."""

    seconds: float


@dataclass(frozen=True)
class Call:
    """Something that happens elsewhere at this moment."""

    act: Callable[[], object]


@dataclass(frozen=True)
class InBand:
    """An error as text inside the stream."""

    text: str


@dataclass(frozen=True)
class Abort:
    """An error as the status of the stream."""

    code: grpc.StatusCode
    text: str


@dataclass(frozen=True)
class Raw:
    """Any response, for what no sane server sends."""

    response: Any


CLOSE_S = 10.0
"""How long the client may take to close its half after the last response."""

Act = Piece | Final | Pause | Call | InBand | Abort | Raw
Script = Sequence[Act]

LAST: dict[str, Any] = {
    "confidence": np.float32(0.5),
    "prompt_tokens": np.int32(7),
    "completion_tokens": np.int32(2),
    "cached_tokens": np.int32(4),
    "time_to_first_token_ms": np.float32(12.5),
    "total_ms": np.float32(25.0),
}
ANSWER: Script = (
    Piece("Hel"),
    Piece("lo", (2,), finish_reason="stop", more=LAST),
    Final(),
)


@dataclass(frozen=True)
class Request:
    """A request as it arrived."""

    id: str
    model: str
    messages: list[dict[str, Any]]
    images: list[bytes]
    videos: list[bytes]
    parameters: dict[str, Any]
    metadata: dict[str, str]
    peer: str


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Plays `scripts` one by one, the last one for ever; a callable makes a script from the request."""

    def __init__(
        self, *scripts: Script | Callable[[Request], Script], port: int = 0, ready: bool = True
    ) -> None:
        self.scripts = list(scripts) or [ANSWER]
        self.requests: list[Request] = []
        self.cancelled: list[str] = []  # by a goodbye
        self.cut: list[str] = []  # by the transport
        self.completed: list[str] = []
        self.deaf = False  # to goodbyes
        self.is_ready = ready
        self.live_error: grpc.StatusCode | None = None
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=128)
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0), *_UNLIMITED])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.url = f"127.0.0.1:{self.port}"

    def __enter__(self) -> FakeTriton:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(0).wait()
        self._pool.shutdown()

    def wait_cancelled(self, count: int = 1) -> bool:
        """Whether `count` requests were ended by goodbyes of their clients, within some seconds."""
        return _reaches(self.cancelled, count)

    def wait_completed(self, count: int = 1) -> bool:
        """Whether `count` requests came to their end, within some seconds: a client may see the end first."""
        return _reaches(self.completed, count)

    def wait_cut(self, count: int = 1) -> bool:
        """Whether `count` requests were cut off, within some seconds."""
        return _reaches(self.cut, count)

    def ServerLive(self, request: Any, context: Any) -> Any:
        if self.live_error:
            context.abort(self.live_error, "Server exiting")
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerReadyResponse(ready=self.is_ready)

    def ModelReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ModelReadyResponse(ready=self.is_ready and request.name == "qwen3_vl")

    def ModelStreamInfer(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:
        message = next(request_iterator)
        request = _read(message, context)
        over, closed = threading.Event(), threading.Event()
        finished = left = clean = False

        def ended() -> None:
            over.set()
            (self.cut if not finished else self.cancelled if left else self.completed).append(request.id)

        def listen() -> None:
            """A goodbye ends the answer. The client's half has to be closed at the end: an open one would keep a
            draining Triton alive.
            """
            nonlocal left, clean
            with contextlib.suppress(Exception):  # the iterator of a call that was cut raises a bare one
                for goodbye in request_iterator:
                    key = goodbye.parameters["cancel"].string_param
                    if key == request.parameters["cancel_key"] and not self.deaf:
                        left = True
                        over.set()
                clean = True
            closed.set()

        context.add_callback(ended)
        threading.Thread(target=listen, daemon=True).start()
        with self._lock:
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            self.requests.append(request)
        told = False  # the last response was sent
        for act in script(request) if callable(script) else script:
            if over.is_set():
                break
            if isinstance(act, Pause):
                over.wait(act.seconds)
            elif isinstance(act, Call):
                act.act()
            elif isinstance(act, Abort):
                finished = True
                context.abort(act.code, act.text)
            else:
                yield respond(act, request.id)
                told = isinstance(act, Final | InBand) or (isinstance(act, Piece) and act.rides)
        if left:
            yield respond(InBand("Cancelled: the caller left"), request.id)
        if left or told:
            closed.wait(CLOSE_S)
            finished = clean


def _reaches(requests: list[str], count: int, seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while len(requests) < count and time.monotonic() < until:
        time.sleep(0.01)
    return len(requests) == count


_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_DATATYPES = {"int32": "INT32", "float32": "FP32"}


def respond(act: Act, request_id: str = "") -> Any:
    if isinstance(act, Raw):
        return act.response
    if isinstance(act, InBand):
        return service_pb2.ModelStreamInferResponse(error_message=act.text)
    response = service_pb2.ModelStreamInferResponse()
    message = response.infer_response
    message.model_name, message.id = "qwen3_vl", request_id
    message.parameters["triton_final_response"].bool_param = isinstance(act, Final) or (
        isinstance(act, Piece) and act.rides
    )
    if isinstance(act, Piece):
        _add_strings(message, "text", act.text)
        if act.token_ids:
            _add_numbers(message, "token_ids", np.array(act.token_ids, np.int32))
        if act.finish_reason:
            _add_strings(message, "finish_reason", act.finish_reason)
        for name, value in act.more.items():
            _add_numbers(message, name, np.atleast_1d(value))
    return response


def _add_strings(message: Any, name: str, text: str) -> None:
    message.outputs.add(name=name, datatype="BYTES", shape=[1])
    message.raw_output_contents.append(struct.pack("<I", len(text.encode())) + text.encode())


def _add_numbers(message: Any, name: str, values: Any) -> None:
    message.outputs.add(name=name, datatype=_DATATYPES[values.dtype.name], shape=list(values.shape))
    message.raw_output_contents.append(values.tobytes())


def _read(message: Any, context: Any) -> Request:
    tensors = {
        tensor.name: _strings(raw, tensor.shape)
        for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True)
    }
    return Request(
        message.id,
        message.model_name,
        json.loads(tensors["messages"][0]),
        tensors.get("images", []),
        tensors.get("videos", []),
        {
            name: getattr(value, value.WhichOneof("parameter_choice"))
            for name, value in message.parameters.items()
        },
        dict(context.invocation_metadata()),
        context.peer(),
    )


def _strings(raw: bytes, shape: Sequence[int]) -> list[bytes]:
    items, position = [], 0
    while position < len(raw):
        (length,) = struct.unpack_from("<I", raw, position)
        items.append(raw[position + 4 : position + 4 + length])
        position += 4 + length
    assert list(shape) == [len(items)]
    return items


class Wire:
    """A TCP relay to a server; `cut` ends it as if the server were killed. Until then bytes pass."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Wire:
        self._threads[0].start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.cut()
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        """Both ends see their connection die; new connections are refused."""
        self._close(self._listener)
        self.drop()

    def drop(self) -> None:
        """Both ends see their connection die; a new connection works."""
        self._close(*self._ends)

    def _close(self, *ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    self._threads.append(threading.Thread(target=_relay, args=(source, sink)))
                    self._threads[-1].start()


def _relay(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
