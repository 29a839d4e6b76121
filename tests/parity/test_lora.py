"""A merged checkpoint built to float32 engines answers as transformers does with PEFT's merge of the same adapter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from build_engine.build import build
from build_engine.checkpoint import Checkpoint
from build_engine.lora import merge
from build_engine.openvino_build import OpenVino
from build_engine.samples import make_samples
from build_engine.trial import Trial
from build_engine.verify import NEW_TOKENS, Transformers, compare
from tests.adapters import make_adapter, text_modules, vision_modules

EXACT = 1e-4  # of the standard deviation: float32 noise of two ways to add up


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("variant", "use_rslora"), [("demo", False), ("untied", True)], ids=["demo", "random-rslora"]
)
def test_engines_of_a_merged_checkpoint_answer_as_transformers_with_the_merged_weights(
    variant: str,
    use_rslora: bool,
    demo_checkpoint: Path,
    random_checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    directory = demo_checkpoint if variant == "demo" else random_checkpoint(variant)
    checkpoint = Checkpoint.read(directory)
    modules = [*text_modules(checkpoint), *vision_modules(checkpoint)]
    if variant != "demo":
        modules.append("lm_head")
    adapter = make_adapter(
        tmp_path / "adapter", checkpoint, modules, alpha=8.0, config={"use_rslora": use_rslora}, size=0.2
    )
    build(merge(checkpoint, adapter), tmp_path / "engines", OpenVino("f32"), {}, force=False)
    trial = Trial(tmp_path / "engines", threads=1)
    reference = Transformers(directory, trial.manifest.vision)
    unchanged = Transformers(directory, trial.manifest.vision)
    _merge_as_peft(reference.model, adapter)
    changed = 0
    for sample in make_samples(trial.manifest):
        comparisons, agreed = compare(sample, reference, trial)
        for made in comparisons:
            assert made.largest < EXACT * made.spread, made
        assert agreed == NEW_TOKENS, sample.name
        changed += reference.answer(sample, NEW_TOKENS)[0] != unchanged.answer(sample, NEW_TOKENS)[0]
    assert changed, "the adapter must change answers, or the test shows nothing"


@torch.no_grad()
def _merge_as_peft(model: torch.nn.Module, adapter: Path) -> None:
    """W + B A * scaling, rounded to the bfloat16 that the checkpoint stores: PEFT's formula (PEFT 0.21.2 itself gave the
    bits of `merge` for all 3.4 million adapted values of the demo checkpoint, with and without rsLoRA).
    """
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    divisor = np.sqrt(config["r"]) if config["use_rslora"] else config["r"]
    for key in [key for key in tensors if ".lora_A." in key]:
        module = model.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
        delta = tensors[key.replace("lora_A", "lora_B")] @ tensors[key] * (config["lora_alpha"] / divisor)
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        weight.copy_((weight + delta).bfloat16().float())
