"""What a build compiles for: one side writes OpenVINO engines, the other TensorRT and TensorRT-LLM engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from build_engine.checkpoint import Checkpoint
from build_engine.manifest import Limits

Progress = Callable[[], None]


class Target(Protocol):
    """Writes the engines of one kind. `build_engine.build` calls the methods in the order they have here."""

    @property
    def name(self) -> str:
        """As `--target` spells it."""
        ...

    @property
    def weights(self) -> str:
        """As `--weights` spells it."""
        ...

    @property
    def table_dtype(self) -> str:
        """Type of the prompt embedding table, as Triton spells it."""
        ...

    @property
    def packages(self) -> tuple[str, ...]:
        """Distributions whose versions decide whether the engines can be served."""
        ...

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the LoRA adapters that a request may choose."""
        ...

    def machine(self) -> dict[str, str]:
        """What else of this machine decides that; recorded beside the versions."""
        ...

    def check(self, checkpoint: Checkpoint, limits: Limits) -> None:
        """ValueError, before any work, if this checkpoint cannot be built with these limits."""
        ...

    def estimate_bytes(self, checkpoint: Checkpoint) -> int:
        """Disk that the engines will take, a little on the safe side."""
        ...

    def write_vision_encoder(
        self, checkpoint: Checkpoint, limits: Limits, directory: Path, progress: Progress
    ) -> None:
        """Write `directory`/vision_encoder; `progress` is called once per block."""
        ...

    def write_language_model(
        self, checkpoint: Checkpoint, limits: Limits, directory: Path, progress: Progress
    ) -> None:
        """Write `directory`/language_model, and the adapters; `progress` is called once per layer."""
        ...
