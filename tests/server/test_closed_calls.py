"""Calls that a served model has no use for, and that would open the server to whoever reaches its ports."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ensemble.command import CLOSED
from tests.server.triton import Server

_GRPC: dict[str, list[Callable[[InferenceServerClient], object]]] = {
    "model-repository": [
        lambda client: client.get_model_repository_index(),
        lambda client: client.unload_model("ensemble"),
        lambda client: client.load_model("ensemble"),
    ],
    "shared-memory": [
        lambda client: client.register_system_shared_memory("all", "/x", 64),
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.unregister_system_shared_memory(),
    ],
    "trace": [lambda client: client.get_trace_settings()],
    "logging": [lambda client: client.update_log_settings({"log_verbose_level": 1})],
}
_HTTP = {
    "model-repository": ("v2/repository/index", b"{}"),
    "shared-memory": ("v2/systemsharedmemory/region/all/register", b'{"key": "/x", "offset": 0, "byte_size": 64}'),
    "trace": ("v2/trace/setting", None),
    "logging": ("v2/logging", None),
}  # fmt: skip


@pytest.mark.parametrize("group", CLOSED)
def test_grpc_refuses_them(server: Server, group: str) -> None:
    with InferenceServerClient(server.grpc_url) as client:
        for call in _GRPC[group]:
            with pytest.raises(
                InferenceServerException, match="expecting header 'triton-grpc-protocol-closed'"
            ):
                call(client)


@pytest.mark.parametrize("group", CLOSED)
def test_http_refuses_them(server: Server, group: str) -> None:
    path, body = _HTTP[group]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.http_url}/{path}", data=body, timeout=5)
    with refused.value as reply:
        assert reply.code == 403


def test_what_callers_need_is_open(server: Server) -> None:
    with InferenceServerClient(server.grpc_url) as client:
        assert client.is_server_ready()
        assert client.get_model_metadata("qwen3_vl").name == "qwen3_vl"
        assert client.get_model_config("qwen3_vl").config.name == "qwen3_vl"
        assert client.get_inference_statistics("qwen3_vl").model_stats
