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
    merged = merge(checkpoint, adapter)
    build(merged, tmp_path / "engines", OpenVino("f32"), {}, force=False)
    trial = Trial(tmp_path / "engines", threads=1)
    reference = Transformers(directory, trial.manifest.vision)
    unchanged = Transformers(directory, trial.manifest.vision)
    _merge_as_peft(reference.model, adapter, merged)
    changed = 0
    for sample in make_samples(trial.manifest):
        comparisons, agreed = compare(sample, reference, trial)
        for made in comparisons:
            assert made.largest < EXACT * made.spread, made
        assert agreed == NEW_TOKENS, sample.name
        changed += reference.answer(sample, NEW_TOKENS)[0] != unchanged.answer(sample, NEW_TOKENS)[0]
    assert changed, "the adapter must change answers, or the test shows nothing"


@torch.no_grad()
def _merge_as_peft(model: torch.nn.Module, adapter: Path, merged: Checkpoint) -> None:
    """Gives the model W + B A * scaling, rounded to the bfloat16 that the checkpoint stores: PEFT's formula (PEFT 0.21.2 itself
    gave the bits of `merge` for all 3.4 million adapted values of the demo checkpoint, with and without rsLoRA).

    torch and numpy add up B A in an order of their own, which differs from processor to processor. A sum that lies in the
    middle between two bfloat16 values is then rounded to one by the first and to the other by the second. There, and nowhere
    else, the model gets the value of `merged`.
    """
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    divisor = np.sqrt(config["r"]) if config["use_rslora"] else config["r"]
    torn = values = 0
    for key in [key for key in tensors if ".lora_A." in key]:
        name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        weight = model.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        down, up = tensors[key], tensors[key.replace("lora_A", "lora_B")]
        scaling = config["lora_alpha"] / divisor
        exact = weight + (up @ down) * scaling
        ours = torch.from_numpy(merged.shards.float32(f"{name}.weight"))
        theirs = exact.bfloat16().float()
        differ = ours != theirs
        middle = (ours + theirs) / 2
        # Float32 noise of the sum: its terms may be larger than what they add up to.
        near = (weight.abs() + (up.abs() @ down.abs()) * scaling) * 2**-22
        assert ((exact - middle).abs() <= near)[differ].all(), f"{name}: rounded otherwise than PEFT"
        torn, values = torn + int(differ.sum()), values + differ.numel()
        weight.copy_(ours)
    assert torn <= values * 1e-3, f"{torn} of {values} values rounded otherwise than PEFT"
