"""The server around the models: batching across requests, metrics, options that reach every step."""

from __future__ import annotations

import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from qwen3vl_client import Client

from tests.conversations import IMAGE, said, user
from tests.reference import png
from tests.server.test_many_requests import gauge
from tests.server.triton import Server, serving

pytestmark = pytest.mark.server


def count(url: str, name: str, model: str) -> float:
    return gauge(url, f'{name}{{model="{model}",version="1"}}')


def test_pictures_of_different_requests_and_sizes_are_encoded_together(demo_engines: Path) -> None:
    wide_window = ("--set", "vision_batch_window_us=300000")
    with serving(demo_engines, arguments=wide_window) as server, Client(server.grpc_url) as client:

        def ask(number: int) -> list[int]:
            image = png(64 + 33 * number, 90, number)
            return list(client.chat([user(IMAGE, said("?"))], images=[image], max_tokens=6).token_ids)

        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(ask, range(8)))
        runs = count(server.metrics_url, "nv_inference_exec_count", "vision_encoder")
        assert count(server.metrics_url, "nv_inference_count", "vision_encoder") == 8
        assert runs <= 4, f"{runs} runs for 8 requests"
        assert gauge(server.metrics_url, "qwen3vl_vision_cache_misses") == 8
        assert [ask(number) for number in range(8)] == together
        time.sleep(0.3)  # metrics follow within 0.1 s
        assert gauge(server.metrics_url, "qwen3vl_vision_cache_hits") == 8


def test_admission_is_bounded_and_says_so(demo_engines: Path) -> None:
    with serving(demo_engines, arguments=("--set", "max_inflight=2")) as server:
        errors = []

        def ask(number: int) -> None:
            with Client(server.grpc_url, retries=0) as client:
                try:
                    client.chat("Hello", max_tokens=200, temperature=1.9, seed=number)
                except Exception as error:  # the kind is what is tested
                    errors.append(type(error).__name__)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(16)))
        assert set(errors) == {"Overloaded"}


def test_the_public_model_answers_curl(server: Server) -> None:
    body = json.dumps(
        {"messages": json.dumps([user(said("Hello"))]), "max_tokens": 5, "temperature": 0.5, "seed": 1}
    )
    request = urllib.request.Request(
        f"{server.http_url}/v2/models/qwen3_vl/generate_stream",
        body.encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        events = [
            json.loads(line[6:]) for line in reply.read().decode().splitlines() if line.startswith("data: ")
        ]
    assert events[-1]["finish_reason"] in ("stop", "length")
    assert "".join(event.get("text", "") for event in events)


def test_it_listens_on_the_loopback_only_by_default(server: Server) -> None:
    assert server.grpc_url.startswith("127.0.0.1:")
