"""Between Triton's Python backend and our types: requests to arrays, arrays to responses, errors to TritonError.

The only module that touches `triton_python_backend_utils`, which exists only inside Triton's stub process:
the model.py shells pass it in. It knows tensors by the contract and checks what leaves against it. It does
not know what the models do.

A response sender may be used from any thread. Sending takes a fraction of a millisecond, so the language
model's thread hands its outputs to an `ensemble.language_model.outbox`.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.config import PARAMETER, DeploymentConfig
from ensemble.contract import ENSEMBLE, LANGUAGE_MODEL, STOP, Model, Tensor
from ensemble.errors import EngineFailure, InvalidOption, ServingError
from ensemble.language_model.request import Output
from ensemble.loopback import Loopback
from ensemble.postprocessing.call import Failure
from ensemble.process import end_with_parent, step_back

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

# As numpy and torch both name them.
_DTYPE_NAMES = {
    "STRING": "object", "BOOL": "bool", "UINT8": "uint8", "INT32": "int32", "INT64": "int64", "UINT64": "uint64",
    "FP32": "float32", "BF16": "bfloat16", "FP16": "float16",
}  # fmt: skip
_TRITON_CODES = {"INVALID_ARGUMENT": "INVALID_ARG", "UNAVAILABLE": "UNAVAILABLE", "CANCELLED": "CANCELLED"}
_log = logging.getLogger(__name__)


def load(args: Mapping[str, str]) -> DeploymentConfig:
    """The deployment that config.pbtxt carries; also ties this process to Triton, its log and its end."""
    end_with_parent()
    if args["model_name"] != LANGUAGE_MODEL:
        step_back()
    # Full collections then pass over all that was imported: 3 % of the language model's time under load.
    gc.freeze()
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"%(asctime)s %(levelname)s {args['model_name']} %(name)s: %(message)s",
    )
    # A crash in native code then leaves the Python stack of every thread in the log.
    faulthandler.enable(sys.stderr)
    parameters = json.loads(args["model_config"])["parameters"]
    return DeploymentConfig.from_json(parameters[PARAMETER]["string_value"])


class TritonIO:
    """Requests and responses of one model.

    Args:
        pb_utils: the module `triton_python_backend_utils`.
        model: the model's contract.
    """

    def __init__(self, pb_utils: Any, model: Model) -> None:
        self.pb_utils = pb_utils
        self.model = model

    def tensors(self, request: Any) -> dict[str, Array]:
        """The inputs that a request has; views that are valid as long as the request."""
        found = {}
        for tensor in self.model.inputs:
            given = self.pb_utils.get_input_tensor_by_name(request, tensor.name)
            if given is not None:
                found[tensor.name] = given.as_numpy()
        return found

    def parameters(self, request: Any) -> dict[str, Any]:
        """The request parameters; InvalidOption if Triton's JSON of them cannot be read (a number that is not finite)."""
        text = request.parameters() or "{}"
        try:
            return dict(json.loads(text))
        except json.JSONDecodeError:
            raise InvalidOption("parameters", text, "finite numbers, strings, true and false") from None

    def response(self, tensors: Mapping[str, Any]) -> Any:
        """A response with these outputs; EngineFailure if one is not as the contract says.

        An output is a numpy array, or a contiguous torch tensor, which is handed on where it lies: on the GPU too.
        """
        outputs = []
        for name, array in tensors.items():
            check(self.model.output(name), array)
            if isinstance(array, np.ndarray):
                outputs.append(self.pb_utils.Tensor(name, np.ascontiguousarray(array)))
            else:
                outputs.append(self.pb_utils.Tensor.from_dlpack(name, array))
        return self.pb_utils.InferenceResponse(outputs)

    def error_response(self, error: ServingError) -> Any:
        """A response that carries the error's text and code."""
        code = getattr(self.pb_utils.TritonError, _TRITON_CODES.get(error.code, "INTERNAL"))
        return self.pb_utils.InferenceResponse(error=self.pb_utils.TritonError(error.wire, code))

    def failure(self, error: Exception, request: Any) -> Any:
        """The response for any exception; one that is not ours is logged and told as an EngineFailure."""
        return self.error_response(as_serving_error(error, request.request_id()))

    def send_output(self, sender: Any, output: Output) -> None:
        """Send what the language model made: new tokens, an error, the end."""
        response = None
        if output.error is not None:
            response = self.error_response(output.error)
        elif output.token_ids:
            response = self.response(generated(output))
        self.send(sender, response, final=output.finished)

    def send(self, sender: Any, response: Any | None, final: bool) -> None:
        """Send a response, the end of the stream, or both in one message."""
        flags = self.pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        if response is None:
            sender.send(flags=flags)
        else:
            sender.send(response, flags=flags)


def check(tensor: Tensor, array: Any) -> None:
    """EngineFailure unless the array (numpy or torch) has the contract's data type and shape."""
    fits = array.ndim == len(tensor.shape) and all(
        want in (-1, got) for want, got in zip(tensor.shape, array.shape, strict=True)
    )
    if str(array.dtype).removeprefix("torch.") != _DTYPE_NAMES[tensor.dtype] or not fits:
        raise EngineFailure(
            f"output {tensor.name!r} is {array.dtype}{list(array.shape)}, the contract says "
            f"{tensor.dtype}{list(tensor.shape)}"
        )


def as_serving_error(error: Exception, request_id: str) -> ServingError:
    """The error itself if it is ours to tell, else an EngineFailure, the cause in the log under the request id."""
    if isinstance(error, ServingError):
        return error
    _log.error("request %s", request_id, exc_info=error)
    return EngineFailure(
        f"{type(error).__name__}; the server's log tells more, under request id {request_id}"
    )


class EntryCall:
    """One request to the public model; implements `ensemble.postprocessing.call.Call`.

    Args:
        io: of the public model.
        loopback: to the models behind it.
        models: the target's contract.
        request: Triton's.
    """

    def __init__(self, io: TritonIO, loopback: Loopback, models: Mapping[str, Model], request: Any) -> None:
        self._io = io
        self._loopback = loopback
        self._models = models
        self._request = request
        self._sender = request.get_response_sender()

    @property
    def request_id(self) -> str:
        """The id that the client chose, "" if none."""
        return str(self._request.request_id())

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The request parameters."""
        return self._io.parameters(self._request)

    def is_cancelled(self) -> bool:
        """Whether the caller cancelled or disconnected."""
        return bool(self._sender.is_cancelled())

    def send(self, tensors: Tensors, final: bool) -> None:
        """Send one chunk."""
        self._io.send(self._sender, self._io.response(tensors), final)

    def fail(self, error: ServingError) -> None:
        """Send an error as the last response."""
        self._io.send(self._sender, self._io.error_response(error), final=True)

    def end(self) -> None:
        """Send the last response without anything in it."""
        self._io.send(self._sender, None, final=True)

    def generate(self, inner_id: str, adapter: Tensors) -> Iterator[dict[str, Array] | Failure]:
        """Call the ensemble with this request's tensors and parameters, and the tensors of an adapter."""
        tensors = {**self._io.tensors(self._request), **adapter}
        for response in self._loopback.call(self._models[ENSEMBLE], inner_id, tensors, self.parameters):
            yield Failure(response) if isinstance(response, str) else response

    def stop(self, inner_id: str) -> None:
        """Send the language model a stop request and wait until it is taken."""
        # Without these three NVIDIA's C++ backend refuses the request before it looks at `stop`.
        dummies = {"input_ids": 0, "input_lengths": 1, "request_output_len": 1}
        model = self._models[LANGUAGE_MODEL]
        tensors: dict[str, Array] = {STOP.name: np.array([[True]])}
        for tensor in model.inputs:
            if tensor.name in dummies:
                tensors[tensor.name] = np.array([[dummies[tensor.name]]], np.int32)
        for _ in self._loopback.call(model, inner_id, tensors, {}):
            pass


def generated(output: Output) -> dict[str, Array]:
    """The contract's GENERATED tensors of one Output: only the tokens that are new in it."""
    return {
        "output_ids": np.array([output.token_ids], np.int32),
        "sequence_length": np.array([len(output.token_ids)], np.int32),
        "output_log_probs": np.array([output.log_probs], np.float32),
        "num_input_tokens": np.array([output.num_input_tokens], np.int32),
        "kv_cache_reused_blocks": np.array([output.reused_blocks], np.int32),
    }
