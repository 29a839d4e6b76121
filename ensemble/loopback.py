"""Calls other models of the same server over its own gRPC port, with tensors as numpy arrays.

It knows Triton's gRPC protocol. It does not know what the models do. It stands in for the Python backend's
own inner calls (BLS), which cannot be used: before Triton 2.55 the Python stub builds the arrays of an inner
response without holding the GIL (triton-inference-server/python_backend pull request 394 adds it), which
corrupts memory as soon as two threads run. With Triton 2.51, 16 to 32 streams at once ended the model's
process within 15 s, 3 of 3 times, by "double free", a segmentation fault, or tensors of size 0; and where it
did not crash it could stand still, each of three threads holding what the next one waits for (the GIL, the
stub's table of streams, a stream), which no release that we have read mends. This way 2280 requests, a third
of them cancelled, ran without an error, and a token costs the same within 20 %.

One call is one RPC whose request half is closed at once, so nothing stays open when the stream has ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

import grpc
import grpc.experimental
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from ensemble.contract import Model, Tensor

VARIABLE: Final = "QWEN3VL_GRPC_TARGET"
"""Environment variable with HOST:PORT of the server's gRPC port, as seen from its own models."""
DEFAULT_TARGET: Final = "127.0.0.1:8001"

_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # gRPC's own pauses grow to two minutes.
    ("grpc.max_reconnect_backoff_ms", 1000),
    # The thread that reads a stream waits for its messages itself. Otherwise a further thread takes each token and wakes it.
    (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),
)
_NUMPY = {"BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64, "UINT64": np.uint64, "FP32": np.float32}

Tensors = Mapping[str, npt.NDArray[Any]]


class Loopback:
    """A connection to the own server, shared by all threads. It connects with the first call.

    Args:
        target: HOST:PORT; None takes it from the environment.
    """

    def __init__(self, target: str | None = None) -> None:
        self._channel = grpc.insecure_channel(
            target or os.environ.get(VARIABLE, DEFAULT_TARGET), _CHANNEL_OPTIONS
        )
        self._stream = self._channel.unary_stream(
            _STREAM,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )

    def close(self) -> None:
        """Close the connection; calls that still run are cut."""
        self._channel.close()

    def call(
        self,
        model: Model,
        request_id: str,
        tensors: Tensors,
        parameters: Mapping[str, bool | int | float | str],
    ) -> Iterator[dict[str, npt.NDArray[Any]] | str]:
        """Run a model; yields each response's outputs by name (read-only arrays), or an error's text.

        BF16, which numpy lacks, is sent from any two-byte type that holds its bits.
        Ends when the model has sent its last response. Responses without outputs are left out.
        """
        request = service_pb2.ModelInferRequest(model_name=model.name, id=request_id)
        for name, array in tensors.items():
            _add_input(request, model.input(name), array)
        for name, value in {**parameters, "triton_enable_empty_final_response": True}.items():
            _set_parameter(request.parameters[name], value)
        try:
            for message in self._stream(request):
                if message.error_message:
                    yield message.error_message
                elif message.infer_response.id != request_id:
                    yield f"INTERNAL: a response of request {message.infer_response.id!r} came to {request_id!r}"
                elif message.infer_response.outputs:
                    yield _outputs(message.infer_response)
        except grpc.RpcError as error:
            yield f"{error.code().name}: {error.details()}"


def _add_input(request: Any, tensor: Tensor, array: npt.NDArray[Any]) -> None:
    request.inputs.add(
        name=tensor.name, datatype="BYTES" if tensor.dtype == "STRING" else tensor.dtype, shape=array.shape
    )
    request.raw_input_contents.append(
        _serialize(array) if tensor.dtype == "STRING" else np.ascontiguousarray(array).tobytes()
    )


def _serialize(array: npt.NDArray[Any]) -> bytes:
    """Each item with its length, 4 bytes little-endian, before it."""
    return b"".join(len(item).to_bytes(4, "little") + item for item in array.reshape(-1).tolist())


def _set_parameter(parameter: Any, value: bool | int | float | str) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value


def _outputs(response: Any) -> dict[str, npt.NDArray[Any]]:
    return {
        output.name: np.frombuffer(raw, _NUMPY[output.datatype]).reshape(output.shape)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
