"""Writes the engines of the target tensorrt-llm: a TensorRT plan, TensorRT-LLM engines, adapters.

It puts the parts together; each has a module of its own. Not yet run on hardware.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from build_engine.checkpoint import Checkpoint
from build_engine.gptq import require_packed
from build_engine.manifest import Limits
from build_engine.target import Progress
from build_engine.trtllm.gpus import COMPUTE_CAPABILITY, compute_capability
from build_engine.trtllm.options import EngineOptions, OptionsError, check

ADAPTERS = "adapters"
_TRITON_DTYPE = {"bfloat16": "BF16", "float16": "FP16"}
_BITS_PER_WEIGHT = {
    "bf16": 16, "fp16": 16, "int8": 8, "int4": 4, "fp8": 8, "int8_sq": 8, "int4_awq": 4.5, "w4a8_awq": 4.5, "gptq": 4.5,
}  # fmt: skip


@dataclass(frozen=True)
class TensorRtLlm:
    """The target tensorrt-llm.

    Args:
        options: options of the engine.
        lora: directories of the LoRA adapters that a request may choose, by name.
        calibration: JSONL of prompts for `weights` that need calibration; None takes the samples we ship.
    """

    options: EngineOptions
    lora: Mapping[str, Path] = field(default_factory=dict)
    calibration: Path | None = None
    name: str = "tensorrt-llm"
    packages: tuple[str, ...] = ("tensorrt_llm", "tensorrt", "torch", "transformers")

    @property
    def weights(self) -> str:
        """See `Target`."""
        return self.options.weights

    @property
    def table_dtype(self) -> str:
        """See `Target`."""
        return _TRITON_DTYPE[self.options.dtype]

    @property
    def adapters(self) -> tuple[str, ...]:
        """See `Target`."""
        return tuple(self.lora)

    def machine(self) -> dict[str, str]:
        """The GPU's compute capability: a plan runs on no other."""
        found = compute_capability()
        return {COMPUTE_CAPABILITY: found} if found else {}

    def check(self, checkpoint: Checkpoint, limits: Limits) -> None:
        """See `Target`; also refuses adapters whose names could leave their directory."""
        check(checkpoint.text, checkpoint.architecture, limits, self.options)
        if self.weights == "gptq":
            require_packed(checkpoint)
        for name in self.lora:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
                raise OptionsError(
                    f"--lora {name}: a name has up to 64 letters, digits, '_', '.' and '-', and starts with a "
                    "letter or digit"
                )
        if missing := [name for name in ("tensorrt", "tensorrt_llm") if find_spec(name) is None]:
            raise OptionsError(
                f"{' and '.join(missing)} not installed here: engines are built in the container that serves them, on "
                "the kind of GPU that serves them (docs/gpu.md). `plan` and `compile-check` run anywhere"
            )

    def estimate_bytes(self, checkpoint: Checkpoint) -> int:
        """See `Target`."""
        shards = checkpoint.shards
        vision = 2 * sum(shards.stored(name).size for name in checkpoint.vision_tensors())
        text = sum(shards.stored(name).size for name in checkpoint.text_tensors())
        embedding = checkpoint.text.vocab_size * checkpoint.text.hidden_size * 2
        engines = text * _BITS_PER_WEIGHT[self.weights] / 8 + embedding
        # The ONNX model stands beside the plan until the plan is written.
        return int(1.05 * (2 * vision + engines)) + (16 << 20)

    def write_vision_encoder(
        self, checkpoint: Checkpoint, limits: Limits, directory: Path, progress: Progress
    ) -> None:
        """Write model.plan."""
        from build_engine.tensorrt_plan import write_vision_encoder

        write_vision_encoder(checkpoint, self.options.dtype, limits, directory, progress)

    def write_language_model(
        self, checkpoint: Checkpoint, limits: Limits, directory: Path, progress: Progress
    ) -> None:
        """Write config.json, the engine of every rank, and the adapters."""
        from build_engine.trtllm.build import write_language_model
        from build_engine.trtllm.lora import convert

        for name, adapter in self.lora.items():
            convert(checkpoint, adapter, directory / ADAPTERS / name, self.options)
        write_language_model(checkpoint, self.options, limits, directory, progress, self.calibration)
