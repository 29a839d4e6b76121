"""Publishes numbers of a model as Triton metrics, from a thread of its own.

It knows names and values; the model supplies a function that reads them. Triton counts requests and latencies
itself; these are what it cannot know.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from ensemble.language_model.batcher import Counters
from ensemble.postprocessing.outcomes import Outcomes

INTERVAL_S: Final = 0.1
IN_FLIGHT: Final = "qwen3vl_requests_in_flight"
DRAINING: Final = "qwen3vl_draining"

HELP: Final = {
    IN_FLIGHT: "Requests that the public model has admitted and not finished",
    DRAINING: "1 when new requests are refused because the server is shutting down",
    "qwen3vl_active_sequences": "Sequences in the language model's running batch",
    "qwen3vl_waiting_sequences": "Sequences that wait for a place in the batch",
    "qwen3vl_kv_blocks_in_use": "KV cache blocks that running sequences hold",
    "qwen3vl_kv_blocks_cached": "KV cache blocks that no sequence holds but an equal prompt can take over",
    "qwen3vl_kv_blocks_total": "KV cache blocks there are",
    "qwen3vl_vision_cache_bytes": "Bytes that the embedding cache holds",
}
COUNTER_HELP: Final = {
    "qwen3vl_requests": "Requests that came to the public model",
    "qwen3vl_requests_refused": "Requests that were refused because the server was full",
    "qwen3vl_requests_failed": "Requests that ended with a fault of the server",
    "qwen3vl_kv_blocks_reused": "KV cache blocks of prompts that were found in the cache",
    "qwen3vl_preemptions": "Sequences that gave their blocks back and were computed again",
    "qwen3vl_generated_tokens": "Tokens that the language model generated",
    "qwen3vl_vision_cache_hits": "Pictures whose embeddings were found in the cache",
    "qwen3vl_vision_cache_misses": "Pictures that had to be encoded",
}
"""Every metric of ours and what it means: values of now, and counts since the start."""

_log = logging.getLogger(__name__)


class Gauges:
    """Publishes what `read` returns, every INTERVAL_S, in its order; only what changed is sent.

    Args:
        pb_utils: the module `triton_python_backend_utils`.
        read: gives values by name, always the same names, each in `HELP` or `COUNTER_HELP`.
    """

    def __init__(self, pb_utils: Any, read: Callable[[], Mapping[str, float]]) -> None:
        self._read = read
        self._values: dict[str, float] = {}
        self._metrics: dict[str, Any] = {}
        self._families: list[Any] = []  # a metric dies with its family
        kinds = pb_utils.MetricFamily
        for name in read():
            family = (
                kinds(name=name, description=COUNTER_HELP[name], kind=kinds.COUNTER)
                if name in COUNTER_HELP
                else kinds(name=name, description=HELP[name], kind=kinds.GAUGE)
            )
            self._families.append(family)
            self._metrics[name] = family.Metric(labels={})
            self._values[name] = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Publish once more, end the thread, and give the metrics back.

        Given back now: a metric that lives until the interpreter ends crashes the stub, whose shared memory is gone.
        """
        self._closed.set()
        self._thread.join()
        self._metrics.clear()
        self._families.clear()

    def _run(self) -> None:
        while True:
            closing = self._closed.wait(INTERVAL_S)
            try:
                self._publish()
            except Exception:
                # Numbers must not end the model; the next round tries again.
                _log.exception("publishing metrics")
            if closing:
                return

    def _publish(self) -> None:
        for name, value in self._read().items():
            before = self._values[name]
            if name in COUNTER_HELP and value > before:
                self._metrics[name].increment(value - before)
            elif name in HELP and value != before:
                self._metrics[name].set(value)
            # A count that fell began anew with its source; what comes next adds to the old ones.
            self._values[name] = value


def outcome_numbers(outcomes: Outcomes) -> dict[str, float]:
    """How requests ended, under their metric names. Triton's own counters take every end of a stream for a success."""
    return {
        "qwen3vl_requests": outcomes.taken,
        "qwen3vl_requests_refused": outcomes.refused,
        "qwen3vl_requests_failed": outcomes.failed,
    }


def language_model_numbers(counters: Counters) -> dict[str, float]:
    """The language model's counters under their metric names."""
    return {
        "qwen3vl_active_sequences": counters.active_sequences,
        "qwen3vl_waiting_sequences": counters.waiting_sequences,
        "qwen3vl_kv_blocks_in_use": counters.kv_blocks_in_use,
        "qwen3vl_kv_blocks_cached": counters.kv_blocks_cached,
        "qwen3vl_kv_blocks_total": counters.kv_blocks,
        "qwen3vl_kv_blocks_reused": counters.reused_blocks,
        "qwen3vl_preemptions": counters.preemptions,
        "qwen3vl_generated_tokens": counters.generated_tokens,
    }
