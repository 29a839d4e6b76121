"""OpenTelemetry, where it is configured; without it every function here does nothing and imports nothing.

A trace begins with an HTTP request, is carried in the headers of a Kafka message as `traceparent`, and goes to Triton as
gRPC metadata. Attributes of spans are ids, numbers and names of ours, never a customer's words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

_tracer: Any = None


def install(endpoint: str, service: str) -> None:
    """Send spans to a collector. `endpoint`: its HTTP address, such as http://collector:4318."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise RuntimeError(
            "telemetry.otlp_endpoint is set but OpenTelemetry is not installed; install the extra `otel`"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": f"cs-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    use(provider)


def use(provider: Any) -> None:
    """Take the spans of this process from here on; None: none are made."""
    global _tracer, _provider
    _provider = provider
    _tracer = None if provider is None else provider.get_tracer("gateway")


_provider: Any = None


def instrument(app: FastAPI) -> None:
    """A span for every HTTP request, continuing the caller's trace."""
    if _tracer is None:
        return
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=_provider,
        excluded_urls="healthz,readyz,metrics",
        exclude_spans=["receive", "send"],
    )


def flush() -> None:
    """Send what is waiting, before the process ends."""
    if _provider is not None:
        _provider.shutdown()


@contextmanager
def span(name: str, **attributes: str | int | float | bool) -> Iterator[None]:
    """Time what happens within, below the span that is open."""
    if _tracer is None:
        yield
        return
    # The text of an exception may hold content; its type is in the log.
    with _tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ):
        yield


def inject() -> dict[str, str]:
    """What the next process needs to continue this trace; for headers of Kafka, HTTP or gRPC."""
    carrier: dict[str, str] = {}
    if _tracer is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(carrier)
    return carrier


@contextmanager
def carried(headers: Mapping[str, str]) -> Iterator[None]:
    """Continue the trace that came with these headers."""
    if _tracer is None:
        yield
        return
    from opentelemetry import context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    token = context.attach(TraceContextTextMapPropagator().extract(dict(headers)))
    try:
        yield
    finally:
        context.detach(token)


def trace_id() -> str:
    """Of the open span, as hexadecimal digits; "" if none."""
    if _tracer is None:
        return ""
    from opentelemetry import trace

    found = trace.get_current_span().get_span_context()
    return format(found.trace_id, "032x") if found.is_valid else ""
