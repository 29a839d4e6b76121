"""Renders config.pbtxt: the contract and a deployment become Triton's own ModelConfig message, then text.

It knows Triton's configuration language. It does not know files or servers. Because every field goes through
the protobuf message, a misspelled field cannot be rendered; `wire` checks what protobuf cannot: that every
step of the ensemble gets each of its inputs from exactly one place, with the same data type and a shape that
fits.

Two things found by trial on Triton 2.51: the vision encoder batches requests of different sizes only when its
inputs allow ragged batches; and a batching step of an ensemble declares its dims without the leading 1, while
the ensemble's tensors keep it. Both hold for the C++ backend of the target tensorrt-llm too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from ensemble.config import PARAMETER, DeploymentConfig
from ensemble.contract import (
    ENSEMBLE,
    LANGUAGE_MODEL,
    OCR,
    OPENVINO,
    PREPROCESSING,
    STEPS,
    VISION_ENCODER,
    Model,
    Tensor,
    contract,
)
from ensemble.tensorrtllm import NAME, Parameter, TensorRtLlmBackend

HEADER = "# Rendered from ensemble/contract.py and ensemble/config.py by `python -m ensemble render`. Do not edit.\n"


class ContractError(ValueError):
    """The models of the contract do not fit together."""


@dataclass(frozen=True)
class Step:
    """One step of the ensemble: which of its tensors flow; names are the same inside and outside a step."""

    model: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def render(config: DeploymentConfig, backend: TensorRtLlmBackend | None = None) -> dict[str, str]:
    """The text of every model's config.pbtxt, by model name.

    Args:
        config: the deployment.
        backend: NVIDIA's C++ backend over its engines; None renders the target openvino, or the LLM API if the deployment
            has it.
    """
    texts = {OCR.name: HEADER + _text(_ocr(config))} if config.ocr_instances else {}
    if backend is None:
        models = contract(config.target(OPENVINO), "FP32")
        for name, model in models.items():
            texts[name] = HEADER + _text(_python_model(model, models, config))
        return texts
    models = contract(backend.manifest.target, backend.manifest.table_dtype)
    for name, model in models.items():
        if name == LANGUAGE_MODEL:
            texts[name] = HEADER + _text(_cpp_model(model, backend)) + _commented(backend.parameters())
            continue
        message = _python_model(model, models, config)
        if name == VISION_ENCODER:
            group = message.instance_group[0]
            group.kind = pb.ModelInstanceGroup.KIND_GPU
            group.gpus.append(backend.gpu_device_ids[0])
        texts[name] = HEADER + _text(message)
    return texts


def wire(contract: Mapping[str, Model]) -> tuple[Step, ...]:
    """Connect the ensemble's steps by tensor name; ContractError where they do not fit."""
    ensemble = contract[ENSEMBLE]
    known: dict[str, Tensor] = {tensor.name: tensor for tensor in ensemble.inputs}
    steps = []
    for model in (contract[name] for name in STEPS if name in contract):
        name = model.name
        inputs = tuple(tensor.name for tensor in model.inputs if _flows(tensor, known, name))
        for tensor in model.outputs:
            if tensor.name in known:
                raise ContractError(f"{name} gives {tensor.name!r}, which already comes from elsewhere")
            known[tensor.name] = tensor
        steps.append(Step(name, inputs, tuple(tensor.name for tensor in model.outputs)))
    taken = {name for step in steps for name in step.inputs}
    for tensor in ensemble.outputs:
        _flows(tensor, known, ENSEMBLE)
        taken.add(tensor.name)
    if idle := sorted(set(known) - taken):
        raise ContractError(f"nobody takes {idle[0]!r}; remove it from the contract")
    return tuple(steps)


def _flows(wanted: Tensor, known: Mapping[str, Tensor], model: str) -> bool:
    """Whether an earlier step gives the wanted tensor; an optional one may be missing."""
    given = known.get(wanted.name)
    if given is None:
        if wanted.optional:
            return False
        raise ContractError(f"{model} needs {wanted.name!r}, which no earlier step gives")
    if given.dtype != wanted.dtype:
        raise ContractError(f"{wanted.name!r} is {given.dtype}, {model} takes {wanted.dtype}")
    fits = len(given.shape) == len(wanted.shape) and all(
        -1 in (a, b) or a == b for a, b in zip(given.shape, wanted.shape, strict=True)
    )
    if not fits:
        raise ContractError(
            f"{wanted.name!r} has shape {list(given.shape)}, {model} takes {list(wanted.shape)}"
        )
    if given.optional and not wanted.optional:
        raise ContractError(f"{wanted.name!r} may be missing, but {model} needs it")
    return True


def _cpp_model(model: Model, backend: TensorRtLlmBackend) -> Any:
    """The language model on NVIDIA's backend; shapes are declared as in NVIDIA's own template."""
    batch = backend.engine.max_batch_size
    message = pb.ModelConfig(
        name=model.name,
        backend=NAME,
        max_batch_size=batch,
        input=[_cpp_input(tensor) for tensor in model.inputs],
        output=[
            pb.ModelOutput(name=tensor.name, data_type=_data_type(tensor), dims=tensor.shape[1:])
            for tensor in model.outputs
        ],
    )
    message.model_transaction_policy.decoupled = True
    # The backend starts one executor, which finds its GPUs itself.
    message.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    # Requests are handed over at once, and join the running batch one by one. The backend takes the queue's length for its
    # own: as long as the entry admits no more, it never refuses.
    message.dynamic_batching.preferred_batch_size.append(batch)
    message.dynamic_batching.default_queue_policy.max_queue_size = backend.max_inflight
    return message


def _cpp_input(tensor: Tensor) -> Any:
    message = pb.ModelInput(
        name=tensor.name, data_type=_data_type(tensor), dims=tensor.shape[1:], optional=tensor.optional
    )
    if tensor.name == "mrope_position_deltas":
        return message  # the template gives it no reshape
    if tensor.shape == (1, 1):
        message.reshape.SetInParent()  # a scalar: [batch], not [batch, 1]
    else:
        message.allow_ragged_batch = True
    return message


def _commented(parameters: tuple[Parameter, ...]) -> str:
    return "".join(
        f"# {parameter.comment}\n{_text(_parameter(parameter.name, parameter.value))}"
        for parameter in parameters
    )


def _parameter(name: str, value: str) -> Any:
    message = pb.ModelConfig()
    message.parameters[name].string_value = value
    return message


def _python_model(model: Model, models: Mapping[str, Model], config: DeploymentConfig) -> Any:
    """Triton's message for one model. Types of protobuf's generated classes are opaque to mypy."""
    batching = model.name == VISION_ENCODER
    message = pb.ModelConfig(
        name=model.name,
        max_batch_size=config.vision_max_batch if batching else 0,
        input=[_input(tensor, batching) for tensor in model.inputs],
        output=[
            pb.ModelOutput(
                name=tensor.name, data_type=_data_type(tensor), dims=tensor.shape[1 if batching else 0 :]
            )
            for tensor in model.outputs
        ],
    )
    message.parameters[PARAMETER].string_value = config.to_json()
    if model.name == ENSEMBLE:
        message.platform = "ensemble"
        message.ensemble_scheduling.step.extend(_step(step) for step in wire(models))
        return message
    message.backend = "python"
    # Said, because on a machine with a GPU Triton would otherwise start one process per GPU.
    message.instance_group.add(
        kind=pb.ModelInstanceGroup.KIND_CPU,
        count=config.preprocessing_instances if model.name == PREPROCESSING else 1,
    )
    if model.decoupled:
        message.model_transaction_policy.decoupled = True
    if batching:
        message.dynamic_batching.max_queue_delay_microseconds = config.vision_batch_window_us
    return message


def _ocr(config: DeploymentConfig) -> Any:
    """One picture at a time in each instance; a batch of 1 is what gives a model a queue with an end."""
    message = pb.ModelConfig(
        name=OCR.name,
        backend="python",
        max_batch_size=1,
        input=[_input(tensor, batching=True) for tensor in OCR.inputs],
        output=[
            pb.ModelOutput(name=tensor.name, data_type=_data_type(tensor), dims=tensor.shape[1:])
            for tensor in OCR.outputs
        ],
    )
    message.parameters[PARAMETER].string_value = config.to_json()
    message.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=config.ocr_instances)
    message.dynamic_batching.default_queue_policy.max_queue_size = config.ocr_max_queue
    return message


def _input(tensor: Tensor, batching: bool) -> Any:
    return pb.ModelInput(
        name=tensor.name,
        data_type=_data_type(tensor),
        dims=tensor.shape[1 if batching else 0 :],
        optional=tensor.optional,
        allow_ragged_batch=batching,
    )


def _data_type(tensor: Tensor) -> int:
    return int(pb.DataType.Value(f"TYPE_{tensor.dtype}"))


def _step(step: Step) -> Any:
    message = pb.ModelEnsembling.Step(model_name=step.model, model_version=-1)
    message.input_map.update({name: name for name in step.inputs})
    message.output_map.update({name: name for name in step.outputs})
    return message


def _text(message: Any) -> str:
    return str(text_format.MessageToString(message, as_utf8=True, use_short_repeated_primitives=True))
