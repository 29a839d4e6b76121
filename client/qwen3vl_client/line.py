"""One call of ModelStreamInfer: the request out, messages in, and a goodbye if the caller leaves early.

Leaving is said in the stream, as a second request that names the first one's key, and the server ends the answer. The
call itself is cut only if no end comes: Triton 2.51 can crash, or mix up streams, when a call is cancelled in the moment
its last response is made (docs/decisions/0009). The request half stays open until then, so that the goodbye reaches
the same server whatever balances the calls.

Knows blocking gRPC and threads; `aio_line` is the twin for asyncio. The rules of an answer are in `stream`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import grpc

from qwen3vl_client import request as requests
from qwen3vl_client import wire
from qwen3vl_client.watchdog import Watchdog


class Late(Exception):
    """The limit of `Line.read` has passed."""


class Line:
    """An open call, for any thread.

    Args:
        infer: the call, of `wire.stream_of`.
        request: what to ask. It gets a new key.
        seconds: limit of the whole call, in seconds; infinity for none.
        headers: of the call.
        watchdog: keeps the limits.
    """

    def __init__(
        self,
        infer: Any,
        request: Any,
        seconds: float,
        headers: tuple[tuple[str, str], ...],
        watchdog: Watchdog,
    ) -> None:
        self._goodbye = requests.goodbye(request)
        self._outgoing: SimpleQueue[Any] = SimpleQueue()
        self._outgoing.put(request)
        # The limit of the whole is kept here; gRPC's own is for the case that this process stands still.
        deadline = wire.deadline(seconds + wire.GOODBYE_S)
        self._call = infer(iter(self._outgoing.get, None), timeout=deadline, metadata=headers)
        self._over = False  # the server has said its last word about the request
        self._left = False
        self._torn = False  # a read was broken off by an exception from outside
        self._turn = threading.Lock()
        self._watchdog = watchdog
        self._watch = watchdog.add(self._end)

    def read(self, seconds: float) -> Any:
        """The next message; None at the end. Late after `seconds`, grpc.RpcError if the call breaks."""
        with self._turn:
            try:
                with self._watchdog.limit(self._watch, seconds):
                    message = next(self._call, None)
            except grpc.RpcError:
                if self._watch.expired:
                    raise Late from None
                raise
            except BaseException:  # Ctrl-C
                self._torn = True
                raise
            if self._watch.expired:
                raise Late
            self._over |= message is None or wire.is_last(message)
            return message

    def leave(self) -> None:
        """End the answer on the server. A reader gets a message or an error soon."""
        self._say_goodbye()
        self._watchdog.hurry(self._watch, wire.GOODBYE_S)

    def part(self, ended: Callable[[], object]) -> None:
        """End the call, and call `ended` once it has ended, in whatever thread.

        Waits as `close` does, unless the answer is whole: then the call's end is one more round trip, which nobody needs
        to wait for.
        """
        with self._turn:
            if whole := self._over and not self._torn:
                self._left = True
                self._outgoing.put(None)
                self._watchdog.hurry(self._watch, wire.GOODBYE_S)
        if whole:
            self._call.add_done_callback(lambda _: self._watchdog.remove(self._watch))
            self._call.add_done_callback(lambda _: ended())
        else:
            self.close()
            ended()

    def close(self) -> None:
        """End the call: well if the server lets it end soon, else by cutting it. A read under way comes first."""
        with self._turn:
            if not self._over:
                self._say_goodbye()
            self._left = True
            self._outgoing.put(None)
            if self._torn:
                # gRPC waits for a message that nobody may ask for again, and the exception may have left a lock of it
                # closed. So the goodbye gets its time, and the watchdog's thread does the rest.
                time.sleep(wire.GRACE_S)
                self._watchdog.hurry(self._watch, 0.0)
                return
            self._drain()
            self._call.cancel()
            self._watchdog.remove(self._watch)

    def _drain(self) -> None:
        with contextlib.suppress(grpc.RpcError), self._watchdog.limit(self._watch, wire.GOODBYE_S):
            while next(self._call, None) is not None:
                pass

    def _say_goodbye(self) -> None:
        if not self._left:
            self._left = True
            self._outgoing.put(self._goodbye)

    def _end(self) -> float | None:
        """A limit has passed: ask the server to end, and cut the call if it was asked before."""
        if not self._left:
            self._say_goodbye()
            return wire.GRACE_S
        self._call.cancel()
        self._outgoing.put(None)
        return None
