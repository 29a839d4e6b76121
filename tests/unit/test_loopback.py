"""Calls over the own gRPC port, against a gRPC server in memory that speaks Triton's protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from ensemble.contract import CONTRACT, ENSEMBLE, LANGUAGE_MODEL
from ensemble.loopback import Loopback

Handler = Callable[[Any, Any], Iterator[Any]]


class MemoryTriton(grpc.GenericRpcHandler):
    """Answers ModelStreamInfer with `handler(request, context)` and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.handler: Handler = lambda request, context: iter(())
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((self,))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def service(self, handler_call_details: Any) -> Any:
        assert handler_call_details.method == "/inference.GRPCInferenceService/ModelStreamInfer"
        return grpc.stream_stream_rpc_method_handler(
            self._answer,
            request_deserializer=service_pb2.ModelInferRequest.FromString,
            response_serializer=service_pb2.ModelStreamInferResponse.SerializeToString,
        )

    def _answer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            self.requests.append(request)
            yield from self.handler(request, context)

    def stop(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture
def triton() -> Iterator[MemoryTriton]:
    triton = MemoryTriton()
    yield triton
    triton.stop()


@pytest.fixture
def loopback(triton: MemoryTriton) -> Iterator[Loopback]:
    loopback = Loopback(triton.target)
    yield loopback
    loopback.close()


def message(**outputs: np.ndarray[Any, Any]) -> Any:
    made = service_pb2.ModelStreamInferResponse()
    made.infer_response.id = "id"
    for name, array in outputs.items():
        datatype = {"int32": "INT32", "float32": "FP32"}[str(array.dtype)]
        made.infer_response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        made.infer_response.raw_output_contents.append(array.tobytes())
    return made


def test_tensors_parameters_and_the_id_arrive_as_triton_reads_them(
    triton: MemoryTriton, loopback: Loopback
) -> None:
    images = np.array([b"\xff\xd8", "图".encode(), b""], dtype=np.object_)
    parameters = {"max_tokens": 5, "temperature": 0.25, "logprobs": True, "stop": '["x"]'}
    tensors = {"messages": np.array([b"[]"], dtype=np.object_), "images": images}
    assert list(loopback.call(CONTRACT[ENSEMBLE], "inner-1", tensors, parameters)) == []
    (request,) = triton.requests
    assert (request.model_name, request.id) == (ENSEMBLE, "inner-1")
    assert [(i.name, i.datatype, list(i.shape)) for i in request.inputs] == [
        ("messages", "BYTES", [1]),
        ("images", "BYTES", [3]),
    ]
    assert request.raw_input_contents[1] == b"\2\0\0\0\xff\xd8\3\0\0\0" + "图".encode() + b"\0\0\0\0"
    got = request.parameters
    assert (got["max_tokens"].int64_param, got["temperature"].double_param) == (5, 0.25)
    assert (got["logprobs"].bool_param, got["stop"].string_param) == (True, '["x"]')
    assert got["triton_enable_empty_final_response"].bool_param


def test_numbers_are_sent_raw_with_the_type_of_the_contract(triton: MemoryTriton, loopback: Loopback) -> None:
    list(loopback.call(CONTRACT[LANGUAGE_MODEL], "id", {"stop": np.array([[True]])}, {}))
    (request,) = triton.requests
    assert (request.inputs[0].datatype, request.raw_input_contents[0]) == ("BOOL", b"\1")


def test_responses_come_in_order_and_empty_ones_are_left_out(
    triton: MemoryTriton, loopback: Loopback
) -> None:
    def answer(request: Any, context: Any) -> Iterator[Any]:
        yield message(output_ids=np.array([[[7, 8]]], np.int32), sequence_length=np.array([[2]], np.int32))
        yield message(output_log_probs=np.array([[[-0.5]]], np.float32))
        yield message()

    triton.handler = answer
    first, second = loopback.call(CONTRACT[ENSEMBLE], "id", {}, {})
    assert not isinstance(first, str)
    assert not isinstance(second, str)
    assert first["output_ids"].tolist() == [[[7, 8]]]
    assert second["output_log_probs"].dtype == np.float32


def test_a_response_of_another_request_is_an_error(triton: MemoryTriton, loopback: Loopback) -> None:
    triton.handler = lambda request, context: iter([message(sequence_length=np.array([1], np.int32))])
    (failure,) = loopback.call(CONTRACT[ENSEMBLE], "another", {}, {})
    assert failure == "INTERNAL: a response of request 'id' came to 'another'"


def test_an_error_in_the_stream_is_its_text_and_the_stream_goes_on(
    triton: MemoryTriton, loopback: Loopback
) -> None:
    def answer(request: Any, context: Any) -> Iterator[Any]:
        yield service_pb2.ModelStreamInferResponse(error_message="in ensemble 'e', InvalidImage: broken")
        yield message(sequence_length=np.array([1], np.int32))

    triton.handler = answer
    error, after = loopback.call(CONTRACT[ENSEMBLE], "id", {}, {})
    assert error == "in ensemble 'e', InvalidImage: broken"
    assert not isinstance(after, str)


def test_a_broken_rpc_is_an_error_text_with_its_code(triton: MemoryTriton, loopback: Loopback) -> None:
    def answer(request: Any, context: Any) -> Iterator[Any]:
        yield message(sequence_length=np.array([1], np.int32))
        context.abort(grpc.StatusCode.UNAVAILABLE, "Server is stopping")

    triton.handler = answer
    _, error = loopback.call(CONTRACT[ENSEMBLE], "id", {}, {})
    assert error == "UNAVAILABLE: Server is stopping"


def test_no_server_is_an_error_text_too() -> None:
    loopback = Loopback("127.0.0.1:1")
    (error,) = loopback.call(CONTRACT[ENSEMBLE], "id", {}, {})
    assert isinstance(error, str)
    assert error.startswith("UNAVAILABLE: ")
    loopback.close()
