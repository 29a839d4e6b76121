"""Traces: a span for every request to the public model that came with a sampled `traceparent`, below its caller's.

Our own and not those of Triton's tracer, which reads that header past its end and loses some of the traces
(docs/decisions/0020). Triton hands the headers on as request parameters instead.

It knows OpenTelemetry, which is imported only where spans are made, and a request as a `Call`. Attributes are numbers and
names of ours, never a customer's words; names are those of OpenTelemetry's conventions for generative AI.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ensemble.contract import ENTRY
from ensemble.errors import Cancelled, InvalidOption, RequestError, ServingError
from ensemble.options import CANCEL, TRACE_HEADERS
from ensemble.postprocessing.call import Call, Failure, Tensors

VARIABLE: Final = "QWEN3VL_TRACE_URL"
"""Environment variable with the collector's address."""
SERVICE: Final = "qwen3-vl"


class Tracing:
    """Makes the spans of one process.

    Args:
        provider: an OpenTelemetry TracerProvider; None: no spans.
    """

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider
        self._tracer: Any = None if provider is None else provider.get_tracer(SERVICE)

    @classmethod
    def to_collector(cls, url: str | None = None) -> Tracing:
        """Spans sent in the background. `url`: such as http://collector:4318, "" for none; None takes it from the
        environment.
        """
        url = os.environ.get(VARIABLE, "") if url is None else url
        if not url:
            return cls()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url.rstrip('/')}/v1/traces")))
        return cls(provider)

    def of(self, call: Call) -> Call:
        """The call, with a span around it if its caller is traced. The span ends with the call."""
        if self._tracer is None:
            return call
        try:
            parameters = call.parameters
        except InvalidOption:  # whoever serves the call refuses it
            return call
        if CANCEL in parameters:
            return call
        return self._begun(call, parameters)

    def close(self) -> None:
        """Send what is waiting."""
        if self._provider is not None:
            self._provider.shutdown()

    def _begun(self, call: Call, parameters: Mapping[str, Any]) -> Call:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers = {name: str(parameters[name]) for name in TRACE_HEADERS if name in parameters}
        context = TraceContextTextMapPropagator().extract(headers)
        if not trace.get_current_span(context).get_span_context().trace_flags.sampled:
            return call
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": ENTRY}
        span = self._tracer.start_span(f"chat {ENTRY}", context, trace.SpanKind.SERVER, attributes)
        return _Traced(call, span)


class _Traced:
    """A call whose span ends when the caller got its end."""

    def __init__(self, call: Call, span: Any) -> None:
        self._call = call
        self._span = span
        self._begun = False

    @property
    def request_id(self) -> str:
        return self._call.request_id

    @property
    def parameters(self) -> Mapping[str, Any]:
        return self._call.parameters

    def is_cancelled(self) -> bool:
        return self._call.is_cancelled()

    def generate(self, inner_id: str, adapter: Tensors) -> Iterator[Tensors | Failure]:
        return self._call.generate(inner_id, adapter)

    def stop(self, inner_id: str) -> None:
        self._call.stop(inner_id)

    def send(self, tensors: Tensors, final: bool) -> None:
        self._call.send(tensors, final)
        if not self._begun:
            self._begun = True
            self._span.add_event("first_token")
        if final:
            self._span.set_attributes(
                {
                    "gen_ai.response.finish_reasons": [tensors["finish_reason"][0].decode()],
                    "gen_ai.usage.input_tokens": int(tensors["prompt_tokens"][0]),
                    "gen_ai.usage.output_tokens": int(tensors["completion_tokens"][0]),
                    "gen_ai.usage.cache_read.input_tokens": int(tensors["cached_tokens"][0]),
                }
            )
            self._span.end()

    def fail(self, error: ServingError) -> None:
        from opentelemetry.trace import StatusCode

        # The class alone: the text of an error may quote the request.
        self._span.set_attribute("error.type", type(error).__name__)
        if not isinstance(error, RequestError | Cancelled):
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
        self._call.fail(error)

    def end(self) -> None:
        self._span.end()
        self._call.end()
