"""Which engine a manifest's target loads, and on which GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ensemble.config import BackendOptions, DeploymentConfig
from ensemble.vision_encoder import tensorrt_encoder
from ensemble.vision_encoder.encoder import UNSHARED, OpenVinoEncoder, load_encoder
from tests.unit.test_vision_batch import MANIFEST


def test_the_target_openvino_loads_openvino(demo_engines: Path) -> None:
    from build_engine.manifest import Manifest

    encoder = load_encoder(demo_engines, Manifest.read(demo_engines), DeploymentConfig(engines=demo_engines))
    assert isinstance(encoder, OpenVinoEncoder)
    assert encoder.call_limits == UNSHARED


@pytest.mark.parametrize(("gpus", "device"), [("", "cuda:0"), ("1", "cuda:1"), ("2,3", "cuda:2")])
def test_the_target_tensorrt_llm_loads_the_plan_beside_rank_0(
    gpus: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(tensorrt_encoder, "TensorRtEncoder", lambda *arguments: asked.append(arguments))
    config = DeploymentConfig(tensorrt_llm=BackendOptions(gpu_device_ids=gpus))
    manifest = dataclasses.replace(MANIFEST, target="tensorrt-llm", table_dtype="BF16")
    load_encoder(Path("/engines"), manifest, config)
    assert asked == [(Path("/engines"), manifest, device)]
