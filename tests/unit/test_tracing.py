"""Spans around calls in memory, kept by OpenTelemetry's own exporter for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from ensemble.errors import Cancelled, EngineFailure, InvalidImage, InvalidOption, Overloaded, ServingError
from ensemble.options import CANCEL, Options
from ensemble.postprocessing.call import Call, Failure, Tensors
from ensemble.tracing import Tracing

TRACE, CALLER = "ab" * 16, "cd" * 8
TRACED = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=abc"}
PIECE: dict[str, Any] = {"text": np.array([b"geheim"], object), "token_ids": np.array([1], np.int32)}
LAST: dict[str, Any] = PIECE | {
    "finish_reason": np.array([b"stop"], object),
    "prompt_tokens": np.array([7], np.int32),
    "completion_tokens": np.array([3], np.int32),
    "cached_tokens": np.array([4], np.int32),
}


class MemoryCall:
    """A call that remembers what was done to it."""

    def __init__(self, **parameters: Any) -> None:
        self.request_id = "geheim"
        self._parameters = parameters
        self.done: list[Any] = []
        self.broken = False

    @property
    def parameters(self) -> Mapping[str, Any]:
        if "bad" in self._parameters:
            raise InvalidOption("parameters", "nan", "finite numbers")
        return self._parameters

    def is_cancelled(self) -> bool:
        return self.broken

    def send(self, tensors: Tensors, final: bool) -> None:
        if self.broken:
            raise RuntimeError("gone")
        self.done.append(final)

    def fail(self, error: ServingError) -> None:
        self.done.append(error)

    def end(self) -> None:
        self.done.append("end")

    def generate(self, inner_id: str, adapter: Tensors) -> Iterator[Tensors | Failure]:
        yield Failure(inner_id)

    def stop(self, inner_id: str) -> None:
        self.done.append(inner_id)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider)


def spans(exporter: InMemorySpanExporter) -> list[Any]:
    return list(exporter.get_finished_spans())


def test_a_span_tells_an_answer_in_numbers(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    call = MemoryCall(**TRACED)
    traced = tracing.of(call)
    traced.send(PIECE, final=False)
    traced.send(PIECE, final=False)
    assert not spans(exporter), "the answer goes on"
    traced.send(LAST, final=True)
    (span,) = spans(exporter)
    assert call.done == [False, False, True]
    assert (span.name, span.kind, span.status.status_code) == (
        "chat qwen3_vl",
        SpanKind.SERVER,
        StatusCode.UNSET,
    )
    assert format(span.context.trace_id, "032x") == TRACE
    assert format(span.parent.span_id, "016x") == CALLER
    assert span.parent.is_remote
    assert span.context.trace_state.get("vendor") == "abc"
    assert [event.name for event in span.events] == ["first_token"]
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "qwen3_vl",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 4,
    }
    assert "geheim" not in span.to_json()


def test_the_rest_of_a_call_goes_through(tracing: Tracing) -> None:
    call = MemoryCall(**TRACED, max_tokens=3)
    traced: Call = tracing.of(call)
    assert traced is not call
    assert (traced.request_id, traced.parameters) == (call.request_id, call.parameters)
    assert list(traced.generate("inner", {})) == [Failure("inner")]
    traced.stop("inner")
    assert call.done == ["inner"]
    assert not traced.is_cancelled()
    call.broken = True
    assert traced.is_cancelled()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EngineFailure("geheim"), StatusCode.ERROR),
        (Overloaded("full"), StatusCode.ERROR),
        (InvalidImage("images", "geheim", "a picture"), StatusCode.UNSET),
        (Cancelled("left"), StatusCode.UNSET),
    ],
)
def test_an_error_is_told_by_its_class(
    tracing: Tracing, exporter: InMemorySpanExporter, error: ServingError, status: StatusCode
) -> None:
    call = MemoryCall(**TRACED)
    tracing.of(call).fail(error)
    (span,) = spans(exporter)
    assert call.done == [error]
    assert span.attributes["error.type"] == type(error).__name__
    assert span.status.status_code == status
    assert "geheim" not in span.to_json()


def test_an_answer_that_cannot_be_sent_ends_with_its_failure(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    call = MemoryCall(**TRACED)
    call.broken = True
    traced = tracing.of(call)
    with pytest.raises(RuntimeError):
        traced.send(LAST, final=True)
    traced.fail(EngineFailure("not sent"))
    (span,) = spans(exporter)
    assert span.attributes["error.type"] == "EngineFailure"
    assert not span.events, "no token reached the caller"


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"traceparent": f"00-{TRACE}-{CALLER}-00"},
        {"traceparent": "no trace"},
        {"traceparent": f"00-{'0' * 32}-{CALLER}-01"},
        {"traceparent": True},
        {"tracestate": "vendor=abc"},
        {**TRACED, CANCEL: "k" * 16},
        {**TRACED, "bad": float("nan")},
    ],
)
def test_other_requests_have_none(
    tracing: Tracing, exporter: InMemorySpanExporter, parameters: dict[str, Any]
) -> None:
    call = MemoryCall(**parameters)
    with TracerProvider().get_tracer("").start_as_current_span("of this thread"):
        assert tracing.of(call) is call
    assert not spans(exporter)


def test_without_a_collector_nothing_is_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QWEN3VL_TRACE_URL", raising=False)
    call = MemoryCall(**TRACED)
    for tracing in (Tracing(), Tracing.to_collector(), Tracing.to_collector("")):
        assert tracing.of(call) is call
        tracing.close()


def test_calls_at_once_do_not_mix(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    def answer(number: int) -> None:
        traced = tracing.of(MemoryCall(traceparent=f"00-{number:032x}-{number:016x}-01"))
        traced.send(LAST | {"prompt_tokens": np.array([number], np.int32)}, final=True)

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(1, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = spans(exporter)
    assert len(found) == 32
    for span in found:
        number = span.attributes["gen_ai.usage.input_tokens"]
        assert (span.context.trace_id, span.parent.span_id) == (number, number)


def test_trace_headers_are_no_options() -> None:
    assert Options.from_parameters({**TRACED, "max_tokens": 3}) == Options(max_tokens=3)
