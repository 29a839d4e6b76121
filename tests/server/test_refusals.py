"""Requests that are refused at once, many in a row: the answer is the refusal, and the server lives on.

With the header triton_grpc_error, which the client once sent, 4 of 6 servers were dead within 60 of them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from qwen3vl_client import Client
from qwen3vl_client.errors import InvalidOption, Overloaded

from tests.server.triton import serving

pytestmark = pytest.mark.server


def test_refused_requests_do_not_end_the_server(demo_engines: Path) -> None:
    with (
        serving(demo_engines, arguments=("--set", "max_inflight=2")) as server,
        Client(server.grpc_url, retries=0) as client,
    ):
        for _ in range(150):
            with pytest.raises(InvalidOption):
                client.chat("Hello", temperature=-5.0)

        def ask(_: int) -> str:
            try:
                return client.chat("Hello", max_tokens=4).finish_reason
            except Overloaded:
                return "overloaded"

        with ThreadPoolExecutor(16) as threads:
            said = list(threads.map(ask, range(300)))
        assert set(said) == {"overloaded", "length"}
        assert client.chat("Hello", max_tokens=4).finish_reason == "length"
