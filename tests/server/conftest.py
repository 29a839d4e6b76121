"""One server for the whole session, over the demo checkpoint's float32 engines, and ways to talk to it."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qwen3vl_client import Client
from tritonclient import grpc as triton

from tests.server.triton import Server, serving


@pytest.fixture(scope="session")
def server(demo_engines: Path) -> Iterator[Server]:
    with serving(demo_engines) as running:
        yield running


@pytest.fixture(scope="session")
def grpc_url(server: Server) -> str:
    return server.grpc_url


@pytest.fixture(scope="session")
def http_url(server: Server) -> str:
    return server.http_url


@pytest.fixture(scope="session")
def metrics_url(server: Server) -> str:
    return server.metrics_url


@pytest.fixture(scope="session")
def client(grpc_url: str) -> Iterator[Client]:
    with Client(grpc_url) as opened:
        yield opened


@pytest.fixture
def raw(grpc_url: str) -> Callable[..., str]:
    """Asks with NVIDIA's own client, which checks nothing; gives the text of the error ("" if there is none)."""

    def ask(
        messages: Any = None,
        messages_text: str | None = None,
        images: Sequence[bytes] = (),
        videos: Sequence[bytes] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> str:
        text = messages_text if messages_text is not None else json.dumps(messages)
        inputs = [_strings("messages", [text.encode()])]
        inputs += [_strings("images", list(images))] if images else []
        inputs += [_strings("videos", list(videos))] if videos else []
        answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        with triton.InferenceServerClient(grpc_url) as stock:
            stock.start_stream(lambda result, error: answers.put((result, error)))
            stock.async_stream_infer("qwen3_vl", inputs, parameters=dict(parameters or {}))
            _, error = answers.get(timeout=60)
            stock.stop_stream(cancel_requests=True)
        return "" if error is None else str(error.message())

    return ask


def _strings(name: str, values: list[bytes]) -> Any:
    tensor = triton.InferInput(name, [len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array(values, dtype=np.object_))
    return tensor
