"""The target tensorrt-llm-pytorch: no engines, because TensorRT-LLM's PyTorch runtime reads the checkpoint itself.

What is written is what our models need beside it: the manifest, the tokenizer, the template and the processor. Seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from build_engine.checkpoint import Checkpoint
from build_engine.manifest import Limits
from build_engine.target import Progress

NAME = "tensorrt-llm-pytorch"


@dataclass(frozen=True)
class Described:
    """See `Target`; nothing is compiled."""

    name: str = NAME
    weights: str = "checkpoint"
    table_dtype: str = "FP32"
    packages: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()

    def machine(self) -> dict[str, str]:
        """Nothing: there is nothing that another machine could not read."""
        return {}

    def check(self, checkpoint: Checkpoint, limits: Limits) -> None:
        """Every checkpoint that can be read can be described."""

    def estimate_bytes(self, checkpoint: Checkpoint) -> int:
        """See `Target`."""
        return 0

    def write_vision_encoder(
        self, checkpoint: Checkpoint, limits: Limits, directory: Path, progress: Progress
    ) -> None:
        """Nothing: the runtime has its own."""
        for _ in range(checkpoint.vision.depth):
            progress()

    def write_language_model(
        self, checkpoint: Checkpoint, limits: Limits, directory: Path, progress: Progress
    ) -> None:
        """Nothing: the runtime has its own."""
        for _ in range(checkpoint.text.num_hidden_layers):
            progress()
