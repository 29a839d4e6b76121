"""The language model as its callers see it: submit from any thread, tokens come by callback.

It knows one thread and the callbacks. What happens in a step is the batcher's. Callbacks run on the engine's
thread and must only enqueue: then no slow consumer delays another request.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from build_engine.manifest import Manifest
from ensemble.errors import Draining, EngineFailure, RequestError, ServingError
from ensemble.language_model.batcher import Batcher, Counters, News
from ensemble.language_model.forward import LanguageModel
from ensemble.language_model.request import Output, Request
from ensemble.language_model.sequence import Sequence

logger = logging.getLogger(__name__)

OnTokens = Callable[[Output], None]


class Engine:
    """A running in-flight batcher. `reuse` shares the KV blocks of equal prefixes."""

    def __init__(self, model: LanguageModel, manifest: Manifest, reuse: bool = True) -> None:
        self._new_batcher = partial(Batcher, model, manifest, reuse)
        self._batcher = self._new_batcher()
        self._changed = threading.Condition()  # guards all below
        self._consumers: dict[str, OnTokens] = {}
        self._arrivals: list[Sequence] = []
        self._cancelled: list[str] = []
        self._draining = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="language-model", daemon=True)
        self._thread.start()

    def submit(self, request: Request, on_tokens: OnTokens) -> None:
        """Start a request. `on_tokens` gets its Outputs in order; the last one is `finished`.

        Raises PromptTooLong if it can never fit, RequestError if its id is in flight, Draining after `drain`.
        """
        sequence = self._batcher.prepare(request)
        with self._changed:
            if self._draining:
                raise Draining("the language model takes no new requests")
            if request.request_id in self._consumers:
                raise RequestError("request_id", request.request_id, "an id that is not in flight")
            self._consumers[request.request_id] = on_tokens
            self._arrivals.append(sequence)
            self._changed.notify_all()

    def cancel(self, request_id: str) -> None:
        """Stop a request before its next step. An id that is not in flight is ignored."""
        with self._changed:
            if request_id in self._consumers:
                self._cancelled.append(request_id)
                self._changed.notify_all()

    def drain(self, timeout_s: float | None = None) -> bool:
        """Take no new requests, and wait until all are finished. Returns whether they are."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._consumers, timeout_s)

    def close(self) -> None:
        """Stop after the current step; requests still in flight end with Draining."""
        with self._changed:
            self._draining = self._closed = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def counters(self) -> Counters:
        """Numbers of this moment, from any thread. A request that had its last Output is not in them."""
        return self._batcher.counters

    def _run(self) -> None:
        while self._wait_for_work():
            try:
                self._take_orders()
                self._deliver(self._batcher.step())
            except Exception:  # a bug of ours: the state cannot be trusted, so start over with a new one
                logger.exception("the batcher failed; all its requests are lost")
                self._start_over(EngineFailure("the language model failed; see the server log"))
        self._take_orders()
        self._start_over(Draining("the language model was closed"))

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do. False when it is time to end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._arrivals or self._cancelled or self._closed or not self._batcher.idle
            )
            return not self._closed

    def _take_orders(self) -> None:
        with self._changed:
            arrivals, self._arrivals = self._arrivals, []
            cancelled, self._cancelled = self._cancelled, []
        for sequence in arrivals:
            self._batcher.submit(sequence)
        for request_id in cancelled:
            self._deliver(self._batcher.cancel(request_id))

    def _start_over(self, error: ServingError) -> None:
        lost = self._batcher.abandon(error)
        self._batcher = self._new_batcher()
        self._deliver(lost)

    def _deliver(self, news: list[News]) -> None:
        for request_id, output in news:
            with self._changed:
                on_tokens = self._consumers.get(request_id)
                if output.finished:
                    self._consumers.pop(request_id, None)
                    self._changed.notify_all()
            try:
                if on_tokens is not None:
                    on_tokens(output)
            except Exception:  # a consumer's fault must not reach the other requests
                logger.exception("the consumer of request %s failed; the request is cancelled", request_id)
                self.cancel(request_id)
