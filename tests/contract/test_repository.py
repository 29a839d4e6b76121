"""The committed model repository is what the contract and the configuration say."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ensemble import repository
from ensemble.config import PARAMETER, DeploymentConfig, MediaLimits
from ensemble.contract import (
    CONTRACT,
    ENSEMBLE,
    LANGUAGE_MODEL,
    MODELS,
    PREPROCESSING,
    PROMPT_EMBEDDING_TABLE,
    STEPS,
    VISION_ENCODER,
    Model,
    Tensor,
)
from ensemble.pbtxt import ContractError, render, wire

SHELLS = [name for name in MODELS if name != ENSEMBLE]


def parsed(name: str) -> Any:
    text = (repository.COMMITTED / name / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_the_committed_configs_are_the_rendering_of_the_default_profile() -> None:
    assert repository.difference(repository.COMMITTED, DeploymentConfig()) == ""


def test_check_prints_the_drift_and_fails(tmp_path: Path) -> None:
    repository.write_configs(tmp_path, DeploymentConfig())
    config = tmp_path / VISION_ENCODER / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 8", "max_batch_size: 9"))
    command = [sys.executable, "-m", "ensemble", "check", "--repository", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "-max_batch_size: 9" in done.stdout
    assert "+max_batch_size: 8" in done.stdout
    shutil.rmtree(tmp_path / ENSEMBLE)
    assert "+platform" in repository.difference(tmp_path, DeploymentConfig())


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_of_the_contract_is_in_the_config_with_dtype_and_dims(name: str) -> None:
    config, model = parsed(name), CONTRACT[name]
    assert config.name == name
    batch = 1 if config.max_batch_size else 0
    for rendered, tensors in ((config.input, model.inputs), (config.output, model.outputs)):
        got = [(t.name, model_config_pb2.DataType.Name(t.data_type), tuple(t.dims)) for t in rendered]
        assert got == [(t.name, f"TYPE_{t.dtype}", t.shape[batch:]) for t in tensors]
    assert [t.optional for t in config.input] == [t.optional for t in model.inputs]
    if batch:
        assert all(t.shape[0] == 1 for t in model.inputs + model.outputs)


@pytest.mark.parametrize("name", SHELLS)
def test_a_model_streams_exactly_if_the_contract_says_so(name: str) -> None:
    assert parsed(name).model_transaction_policy.decoupled == CONTRACT[name].decoupled


@pytest.mark.parametrize("name", MODELS)
def test_every_config_carries_the_deployment(name: str) -> None:
    config = replace(
        DeploymentConfig(), engines=Path("/x y"), max_inflight=3, media=MediaLimits(max_images=2)
    )
    message = text_format.Parse(render(config)[name], model_config_pb2.ModelConfig())
    assert DeploymentConfig.from_json(message.parameters[PARAMETER].string_value) == config


def test_configured_numbers_reach_the_configs() -> None:
    config = DeploymentConfig(preprocessing_instances=3, vision_max_batch=5, vision_batch_window_us=77)
    texts = render(config)
    read = {name: text_format.Parse(text, model_config_pb2.ModelConfig()) for name, text in texts.items()}
    assert read[PREPROCESSING].instance_group[0].count == 3
    assert read[VISION_ENCODER].max_batch_size == 5
    assert read[VISION_ENCODER].dynamic_batching.max_queue_delay_microseconds == 77


def test_the_ensemble_is_wired_completely() -> None:
    config = parsed(ENSEMBLE)
    assert [step.model_name for step in config.ensemble_scheduling.step] == list(STEPS)
    known = {tensor.name for tensor in config.input}
    for step in config.ensemble_scheduling.step:
        model = CONTRACT[step.model_name]
        assert set(step.input_map.values()) <= known
        required = {tensor.name for tensor in model.inputs if not tensor.optional}
        assert required <= set(step.input_map)
        assert set(step.output_map) == {tensor.name for tensor in model.outputs}
        known |= set(step.output_map.values())
    assert {tensor.name for tensor in config.output} <= known
    language = config.ensemble_scheduling.step[-1]
    # All but `stop`, which only a stop request carries.
    assert set(language.input_map) == {t.name for t in CONTRACT[LANGUAGE_MODEL].inputs} - {"stop"}


def changed(model: str, **tensors: tuple[Tensor, ...]) -> dict[str, Model]:
    return {**CONTRACT, model: replace(CONTRACT[model], **tensors)}


TABLE = PROMPT_EMBEDDING_TABLE
WRONG = {
    "a tensor nobody gives": (VISION_ENCODER, {"inputs": (Tensor("depth", "FP32", (1, -1)),)}, "needs 'depth'"),
    "another data type": (VISION_ENCODER, {"outputs": (replace(TABLE, dtype="FP16"),)}, "is FP16"),
    "another rank": (VISION_ENCODER, {"outputs": (replace(TABLE, shape=(-1, -1)),)}, "has shape"),
    "another size": (
        VISION_ENCODER,
        {"inputs": (*CONTRACT[VISION_ENCODER].inputs[:2], Tensor("media_digest", "UINT64", (1, -1, 5)))},
        "has shape",
    ),
    "two givers": (
        VISION_ENCODER, {"outputs": (TABLE, CONTRACT[PREPROCESSING].output("input_ids"))}, "already comes from",
    ),
    "a tensor nobody takes": (VISION_ENCODER, {"outputs": (TABLE, Tensor("idle", "FP32", (1,)))}, "nobody takes 'idle'"),
    "a required tensor that may be missing": (
        ENSEMBLE, {"inputs": tuple(replace(t, optional=True) for t in CONTRACT[ENSEMBLE].inputs)}, "may be missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_wiring_is_refused(case: str) -> None:
    model, tensors, words = WRONG[case]
    with pytest.raises(ContractError, match=words):
        wire(changed(model, **tensors))


@pytest.mark.parametrize("name", SHELLS)
def test_a_shell_is_short_and_only_a_shell(name: str) -> None:
    text = (repository.COMMITTED / name / repository.VERSION / "model.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 45
    imported = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert all(module.split(".")[0] in ("ensemble", "build_engine") for module in imported if module)
    assert "triton_python_backend_utils as pb_utils" in text


def test_only_triton_io_and_gauges_know_the_python_backend() -> None:
    package = Path(repository.__file__).parent
    users = {file.name for file in package.rglob("*.py") if "pb_utils." in file.read_text(encoding="utf-8")}
    assert users <= {"triton_io.py", "gauges.py"}
