"""Log lines are JSON without content, and a trace goes on over a Kafka message."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway import telemetry
from gateway.errors import Unavailable
from gateway.telemetry import tracing
from gateway.telemetry.logs import JsonFormatter
from tests.gateway.queue.broker import Broker, Mock
from tests.gateway.queue.conftest import Shop, asked, make_shop

__all__ = ["make_shop"]


@pytest.fixture
def broker() -> Mock:
    return Mock()


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.use(None)
    provider.shutdown()


def line(error: Exception | None = None, **extra: Any) -> dict[str, Any]:
    record = logging.makeLogRecord({"msg": "%d tickets", "args": (3,), "name": "gateway.queue", **extra})
    if error is not None:
        try:
            raise error
        except Exception as raised:
            record.exc_info = (type(raised), raised, raised.__traceback__)
    told: dict[str, Any] = json.loads(JsonFormatter("worker").format(record))
    return told


def test_a_line_is_an_object_with_the_request() -> None:
    with telemetry.bound("request-7"):
        told = line(partition=4)
    assert (told["message"], told["request_id"], told["partition"]) == ("3 tickets", "request-7", 4)
    assert "request_id" not in line()


def test_the_text_of_a_foreign_error_is_not_printed() -> None:
    told = line(ValueError("号码 110101199003070000"))["error"]
    assert told["type"] == "ValueError"
    assert any("test_telemetry.py" in place for place in told["at"])
    assert "1101" not in json.dumps(told)
    assert line(Unavailable("the model is away"))["error"]["text"] == "the model is away"


def test_without_a_collector_nothing_is_carried() -> None:
    with telemetry.span("nothing"):
        assert telemetry.inject() == {}
        assert telemetry.trace_id() == ""


def test_a_trace_goes_on_from_the_request_to_the_worker(
    make_shop: Callable[..., Shop], spans: InMemorySpanExporter, broker: Broker | Mock
) -> None:
    shop = make_shop()

    async def run() -> None:
        async with shop.tickets() as tickets, shop.working(tickets):
            with telemetry.span("request"):
                ticket = await tickets.submit(asked("x", 1))
            await shop.finished([ticket.ticket_id])

    asyncio.run(run())
    finished = {one.name: one for one in spans.get_finished_spans() if one.name in ("request", "ticket")}
    assert finished["ticket"].context.trace_id == finished["request"].context.trace_id
    (request,) = broker.read(shop.kafka.requests)
    assert format(finished["request"].context.trace_id, "032x") in request.headers["traceparent"]
