"""Numbers that alerts are made of: the first text of a stream, streams that broke, what waits in the store."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

import gateway.cache.answers
import gateway.queue.metrics  # noqa: F401 (their numbers)
from gateway.api import backlog
from gateway.errors import InvalidInput, Unavailable
from gateway.store import Store
from tests.gateway.api.conftest import Running, wait_for


def number(name: str, **labels: str) -> float:
    value = REGISTRY.get_sample_value(name, labels)
    assert value is not None, name
    return value


def stream(gateway: Running) -> str:
    body = {"model": "qwen3_vl", "stream": True, "messages": [{"role": "user", "content": "黑屏怎么办？"}]}
    return gateway.http().post("/v1/chat/completions", json=body).text


def test_the_first_text_of_a_stream_is_timed_once(gateway: Running) -> None:
    gateway.assistant.pause_s = 0.2
    before = [number("cs_first_text_seconds_count"), number("cs_first_text_seconds_sum")]
    assert "[DONE]" in stream(gateway)
    took_s = number("cs_first_text_seconds_sum") - before[1]
    assert number("cs_first_text_seconds_count") - before[0] == 1
    assert 0.2 <= took_s < 0.6, "the first piece comes after one pause, the answer ends after three"


def test_an_answer_without_text_is_not_timed(gateway: Running) -> None:
    gateway.assistant.pieces = ()
    before = number("cs_first_text_seconds_count")
    stream(gateway)
    assert number("cs_first_text_seconds_count") == before


@pytest.mark.parametrize(
    ("fault", "counts"),
    [
        (Unavailable("away"), 1),
        (RuntimeError("broken"), 1),
        (InvalidInput("messages", "x", "y"), 0),
        (None, 0),
    ],
)
def test_streams_that_broke_by_our_fault_are_counted(
    gateway: Running, fault: Exception | None, counts: int
) -> None:
    gateway.assistant.fault, gateway.assistant.fault_after = fault, 1
    before = number("cs_broken_answers_total")
    text = stream(gateway)
    assert ('"error"' in text) == (fault is not None)
    assert number("cs_broken_answers_total") - before == counts


def test_what_waits_is_published(gateway: Running) -> None:
    body = {"model": "qwen3_vl", "messages": [{"role": "user", "content": "黑屏怎么办？"}]}
    assert gateway.http().post("/v1/tickets", json=body).status_code == 202
    asyncio.run(backlog.measure(gateway.store))
    page = httpx.get(f"{gateway.url}/metrics").text
    assert "\ncs_tickets_waiting 1.0\n" in page
    assert number("cs_ticket_oldest_seconds") > 0
    assert "\ncs_handoffs_open 0.0\n" in page


def test_a_gateway_looks_by_itself(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "_EVERY_S", 0.05)
    with start() as gateway:
        body = {"model": "qwen3_vl", "messages": [{"role": "user", "content": "黑屏怎么办？"}]}
        gateway.http().post("/v1/tickets", json=body)
        wait_for(lambda: number("cs_tickets_waiting") == 1, "nobody looked")


def test_a_store_that_is_away_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"sqlite:///{tmp_path}/gateway.db")
    asyncio.run(backlog.measure(store))
    assert number("cs_handoffs_open") == 0

    def away() -> None:
        raise Unavailable("the database does not answer")

    monkeypatch.setattr(store, "backlog", away)
    asyncio.run(backlog.measure(store))
    store.close()
    for name in (
        "cs_tickets_waiting",
        "cs_ticket_oldest_seconds",
        "cs_handoffs_open",
        "cs_handoff_oldest_seconds",
    ):
        assert math.isnan(number(name)), name


def test_counts_that_alerts_wait_for_begin_at_zero() -> None:
    """Prometheus sees an increase only from one number to a larger one."""
    assert number("gateway_answer_cache_total", outcome="away") >= 0
    assert number("gateway_answer_cache_total", outcome="error") >= 0
    for reason in ("not_decodable", "unknown_ticket", "missing_object", "invalid", "attempts", "error"):
        assert number("cs_dead_letters_total", reason=reason) >= 0
