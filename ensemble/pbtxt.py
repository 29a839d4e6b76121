"""Renders config.pbtxt: the contract and a deployment become Triton's own ModelConfig message, then text.

It knows Triton's configuration language. It does not know files or servers. Because every field goes through
the protobuf message, a misspelled field cannot be rendered; `wire` checks what protobuf cannot: that every
step of the ensemble gets each of its inputs from exactly one place, with the same data type and a shape that
fits.

Two things found by trial on Triton 2.51: the vision encoder batches requests of different sizes only when its
inputs allow ragged batches; and a batching step of an ensemble declares its dims without the leading 1, while
the ensemble's tensors keep it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from ensemble.config import PARAMETER, DeploymentConfig
from ensemble.contract import (
    CONTRACT,
    ENSEMBLE,
    PREPROCESSING,
    STEPS,
    VISION_ENCODER,
    Model,
    Tensor,
)

HEADER = "# Rendered from ensemble/contract.py and ensemble/config.py by `python -m ensemble render`. Do not edit.\n"


class ContractError(ValueError):
    """The models of the contract do not fit together."""


@dataclass(frozen=True)
class Step:
    """One step of the ensemble: which of its tensors flow; names are the same inside and outside a step."""

    model: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def render(config: DeploymentConfig) -> dict[str, str]:
    """The text of every model's config.pbtxt, by model name."""
    return {name: HEADER + _text(_model_config(model, config)) for name, model in CONTRACT.items()}


def wire(contract: Mapping[str, Model]) -> tuple[Step, ...]:
    """Connect the ensemble's steps by tensor name; ContractError where they do not fit."""
    ensemble = contract[ENSEMBLE]
    known: dict[str, Tensor] = {tensor.name: tensor for tensor in ensemble.inputs}
    steps = []
    for name in STEPS:
        model = contract[name]
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


def _model_config(model: Model, config: DeploymentConfig) -> Any:
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
        message.ensemble_scheduling.step.extend(_step(step) for step in wire(CONTRACT))
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
