"""The public model `qwen3_vl`: admits a request, drives the ensemble, streams the answer, maps errors.

It knows admission, threads and errors. It does not know Triton (a request reaches it as a `Call`), nor how
tokens become text (`answer`), nor how callers that leave are noticed (`watcher`).

Why it works like this, each measured on Triton 2.51: a client that goes away is not seen by a decoupled step
inside an ensemble, only by the public model; the inner call cannot be cancelled, so a stop request goes to
the language model under the inner request's id; one that arrives before its request is lost, so it is
repeated until the inner stream ends; and the inner stream is always read to its end, or the server could not
exit. A caller may also say in the stream that it leaves (`options.CANCEL`): Triton 2.51 can lose a server to a
cancelled RPC (docs/decisions/0009), so our own clients never cancel one that can be ended this way.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from build_engine.manifest import TOKENS_PER_BLOCK, Manifest
from ensemble.adapters import Adapters, is_missing
from ensemble.errors import (
    Cancelled,
    Draining,
    EngineFailure,
    InvalidOption,
    Overloaded,
    PromptTooLong,
    ServingError,
    parse,
)
from ensemble.options import CANCEL, Options
from ensemble.postprocessing.answer import Answer, Generated
from ensemble.postprocessing.call import Call, Failure, Tensors
from ensemble.postprocessing.detokenizer import Vocabulary
from ensemble.postprocessing.outcomes import Outcomes
from ensemble.postprocessing.watcher import STOP_INTERVAL_S, Flight, Watcher

_log = logging.getLogger(__name__)


class Frontend:
    """Serves the public model.

    Args:
        manifest: facts of the engines (eos ids, longest sequence).
        vocabulary: bytes of every token.
        max_inflight: requests admitted at once. A request counts until its inner stream has ended.
        adapters: what `lora_name` may be.
        tokens_per_block: tokens of a KV block, to report reused blocks as `cached_tokens`.

    Attributes:
        outcomes: how requests ended so far.
    """

    def __init__(
        self,
        manifest: Manifest,
        vocabulary: Vocabulary,
        max_inflight: int,
        adapters: Adapters,
        tokens_per_block: int = TOKENS_PER_BLOCK,
    ) -> None:
        self._manifest = manifest
        self._adapters = adapters
        self._vocabulary = vocabulary
        self._max_inflight = max_inflight
        self._tokens_per_block = tokens_per_block
        self._lock = threading.Lock()
        self._inflight = 0
        self._cancellable: dict[str, Flight] = {}  # by cancel_key
        self._draining = False
        self._watcher = Watcher()
        self.outcomes = Outcomes()
        self._workers = ThreadPoolExecutor(max_inflight, thread_name_prefix="request")

    @property
    def inflight(self) -> int:
        """Requests admitted whose inner stream has not ended."""
        return self._inflight

    def drain(self) -> None:
        """Refuse new requests as Draining from now on; those in flight go on."""
        with self._lock:
            self._draining = True

    def close(self) -> None:
        """Refuse new requests, wait for those in flight, end all threads."""
        self.drain()
        self._workers.shutdown(wait=True)
        self._watcher.close()

    def submit(self, call: Call) -> None:
        """Admit or refuse a request at once; never raises and never waits for another request."""
        inner_id = str(uuid.uuid4())
        try:
            key = call.parameters.get(CANCEL)
            if key is None:
                self._take(call, inner_id)
            else:
                self._cancel(str(key))
                call.end()
        except Exception as error:
            self._refuse(call, inner_id, error)

    def _take(self, call: Call, inner_id: str) -> None:
        started_s = time.monotonic()
        self.outcomes.take()
        options = Options.from_parameters(call.parameters)
        self._adapters.check(options.lora_name)
        self._admit(Flight(call, options, inner_id, started_s))

    def _cancel(self, key: str) -> None:
        """End the answer of this key; nothing if there is none (any more)."""
        with self._lock:
            flight = self._cancellable.get(key)
        if flight is not None:
            with flight.turn:
                if not flight.ended:
                    flight.cancelled = True
                    self._break_off(flight, Cancelled("the caller left"))

    def _refuse(self, call: Call, inner_id: str, error: Exception) -> None:
        if isinstance(error, ServingError):
            _log.info("request %s (client's id %r) is refused: %s", inner_id, call.request_id, error.wire)
        else:
            # The boundary of a request: whatever happens, the caller must get an end.
            _log.error("request %s (client's id %r)", inner_id, call.request_id, exc_info=error)
            error = _hidden(inner_id)
        self.outcomes.fail(error)
        _fail(call, error, inner_id)

    def _admit(self, flight: Flight) -> None:
        with self._lock:
            if self._draining:
                raise Draining("the server is shutting down; send the request to another one")
            if self._inflight >= self._max_inflight:
                raise Overloaded(f"{self._max_inflight} requests are in flight, the limit; try again later")
            if (key := flight.options.cancel_key) in self._cancellable:
                raise InvalidOption("cancel_key", "a key in use", "a new random string for each request")
            if key:
                self._cancellable[key] = flight
            self._inflight += 1
            self._workers.submit(self._serve, flight)

    def _serve(self, flight: Flight) -> None:
        """Thread of one request: pass on what comes, and read the inner stream to its end in any case."""
        self._watcher.add(flight)
        try:
            answer = Answer(
                self._vocabulary, self._manifest, flight.options, flight.started_s, self._tokens_per_block
            )
            for response in self._responses(flight):
                self._pass_on(flight, answer, response)
            self._pass_on(flight, answer, None)
        except Exception as error:
            with flight.turn:
                self._break_off(flight, error, told=flight.ended)
        finally:
            self._watcher.remove(flight)
            with self._lock:
                self._inflight -= 1
                self._cancellable.pop(flight.options.cancel_key, None)

    def _responses(self, flight: Flight) -> Iterator[Tensors | Failure]:
        """The inner stream; a second one with the adapter's weights if the language model did not hold them."""
        name, missing = flight.options.lora_name, False
        for response in flight.call.generate(flight.inner_id, self._adapters.task(name)):
            if name and isinstance(response, Failure) and is_missing(response.message):
                missing = True
            else:
                yield response
        if missing and not flight.cancelled:
            yield from flight.call.generate(flight.inner_id, self._adapters.with_weights(name))

    def _pass_on(self, flight: Flight, answer: Answer, response: Tensors | Failure | None) -> None:
        """Tell the caller a response, or the end of the inner stream (None); nothing if it got its end before."""
        with flight.turn:
            if flight.ended:
                return
            try:
                if flight.cancelled:
                    raise Cancelled("the caller went away")
                if isinstance(response, Failure):
                    raise _mapped(response.message)
                if response is None:
                    answer.end()
                else:
                    answer.add(Generated.read(response))
                if answer.finish_reason:
                    self._finish(flight, answer)
                elif (chunk := answer.take()) is not None:
                    flight.call.send(chunk, final=False)
            except Exception as error:
                # The caller gets an end here, and the inner stream goes on being read.
                self._break_off(flight, error)

    def _finish(self, flight: Flight, answer: Answer) -> None:
        # After the end token or the last allowed one the language model ends by itself, or else is stopped.
        flight.end(stop_in_s=0.0 if answer.cut else STOP_INTERVAL_S)
        flight.call.send(answer.last(), final=True)
        self._watcher.wake()

    def _break_off(self, flight: Flight, error: Exception, told: bool = False) -> None:
        """End a request with an error, unless the caller was told its end; what is not ours is logged and becomes an
        EngineFailure.
        """
        if isinstance(error, Cancelled):
            _log.info("request %s was cancelled", flight.name)
        elif isinstance(error, EngineFailure) or not isinstance(error, ServingError):
            _log.error("request %s failed", flight.name, exc_info=error)
            error = _hidden(flight.inner_id)
        if not flight.ended:
            self.outcomes.fail(error)
        flight.end(stop_in_s=0.0)
        self._watcher.wake()
        if not told:
            _fail(flight.call, error, flight.inner_id)


# Texts of Triton itself and of NVIDIA's C++ backend that mean the same as an error of ours, in lower case.
_FOREIGN = (
    ("exceeds maximum queue size", Overloaded, "the queue of a model is full; try again later"),
    # executorImpl.cpp, when max_queue_size requests wait
    ("maximum queue size of", Overloaded, "the language model's queue is full; try again later"),
    ("server is stopping", Draining, "the server is shutting down; send the request to another one"),
    # llmRequest.cpp, validate(); preprocessing knows the same limit and says more
    (
        "exceeds maximum input length",
        PromptTooLong,
        "the prompt has more tokens than the engine holds; shorten it",
    ),
)


def _mapped(message: str) -> ServingError:
    """The error of ours that an inner error's text stands for."""
    if (found := parse(message)) is not None:
        return _told(*found)
    for words, foreign, text in _FOREIGN:
        if words in message.lower():
            return _told(foreign, text)
    return EngineFailure(message)


def _told(kind: type[ServingError], text: str) -> ServingError:
    """An error of a class with a text that is ready, whatever the class is usually made from."""
    error = kind.__new__(kind)
    Exception.__init__(error, text)
    return error


def _hidden(inner_id: str) -> EngineFailure:
    """What the caller reads instead of a cause that only the log tells."""
    return EngineFailure(f"the server failed; its log says why under request id {inner_id}")


def _fail(call: Call, error: ServingError, inner_id: str) -> None:
    try:
        call.fail(error)
    except Exception:
        # Nobody is left to be told.
        _log.exception("request %s (client's id %r): %s was not sent", inner_id, call.request_id, error.wire)
