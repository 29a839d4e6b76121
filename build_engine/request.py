"""What a build is asked for: the options of the command line, checked before anything heavy is imported.

A build and `cached` take the same options, so they are defined once, here.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from build_engine.checkpoint import Checkpoint
from build_engine.target import Target
from build_engine.trtllm.options import WEIGHTS as TENSORRT_LLM_WEIGHTS
from build_engine.trtllm.options import EngineOptions

TARGETS = ("openvino", "tensorrt-llm", "tensorrt-llm-pytorch")
OPENVINO_WEIGHTS = ("f32", "bf16", "int8", "int4")
_LIMITS = {
    "max_batch_size": "sequences that run at once (default 8)",
    "max_input_len": "longest prompt, in tokens (default: max_seq_len less a quarter, at most less 1024)",
    "max_seq_len": "longest prompt and answer together (default: the checkpoint's positions, at most 8192)",
    "max_num_tokens": "tokens of one step: longer prompts are prefilled in chunks (default: at most 2048)",
    "max_visual_tokens": "most image and video tokens of one request (default: max_input_len)",
}


@dataclass(frozen=True)
class BuildRequest:
    """A build that was asked for.

    Attributes:
        target: as `--target` spells it.
        weights: as `--weights` spells it.
        limits: those fields of `Limits` that were given.
        merge_lora: adapter that is added to the weights.
        engine: options of the TensorRT-LLM engine; None for the other targets.
        lora: directories of the adapters that a request may choose, by name.
        calibration: prompts for weights that need them; None takes those that we ship.
    """

    target: str
    weights: str
    limits: dict[str, int]
    merge_lora: Path | None
    engine: EngineOptions | None
    lora: Mapping[str, Path]
    calibration: Path | None

    @classmethod
    def of(cls, given: argparse.Namespace) -> BuildRequest:
        """From the parsed options of `add_options`; ValueError when they contradict each other."""
        limits = {name: value for name in _LIMITS if (value := getattr(given, name)) is not None}
        lora = dict(given.lora)
        if given.target != "tensorrt-llm":
            foreign = [
                name for name in ("kv_cache_dtype", "tp_size", "lora", "calibration") if getattr(given, name)
            ]
            if foreign:
                raise ValueError(f"--{foreign[0].replace('_', '-')} is an option of --target tensorrt-llm")
            own = (
                (OPENVINO_WEIGHTS, "int8") if given.target == "openvino" else (("checkpoint",), "checkpoint")
            )
            weights, engine = _weights(given, *own), None
        else:
            weights = _weights(given, TENSORRT_LLM_WEIGHTS, "bf16")
            engine = EngineOptions(
                weights=weights,
                kv_cache_dtype=given.kv_cache_dtype or "auto",
                tp_size=given.tp_size or 1,
                max_lora_rank=given.max_lora_rank if lora else 0,
            )
        return cls(given.target, weights, limits, given.merge_lora, engine, lora, given.calibration)

    def read_checkpoint(self, directory: Path) -> Checkpoint:
        """The checkpoint, with the adapter that is to be merged."""
        checkpoint = Checkpoint.read(directory)
        if self.merge_lora is None:
            return checkpoint
        from build_engine.lora import merge

        return merge(checkpoint, self.merge_lora)

    def make_target(self) -> Target:
        """What builds it; imports openvino, or what the TensorRT side needs, only here."""
        if self.target == "tensorrt-llm-pytorch":
            from build_engine.described import Described

            return Described()
        if self.engine is None:
            from build_engine.openvino_build import OpenVino

            return OpenVino(self.weights)
        from build_engine.tensorrt_build import TensorRtLlm

        return TensorRtLlm(self.engine, self.lora, self.calibration)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is built."""
    parser.add_argument(
        "--target",
        required=True,
        choices=TARGETS,
        help="engine to build for; tensorrt-llm-pytorch builds none",
    )
    parser.add_argument("--weights", metavar="NAME", help="how weights are stored, see below")
    parser.add_argument(
        "--merge-lora", type=Path, metavar="DIR", help="PEFT adapter to add to the weights for good"
    )
    for name, text in _LIMITS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=text)
    gpu = parser.add_argument_group("only --target tensorrt-llm")
    gpu.add_argument(
        "--kv-cache-dtype", choices=("auto", "fp8", "int8"), help="default: auto, the engine's own"
    )
    gpu.add_argument("--tp-size", type=int, metavar="N", help="GPUs that share one engine (default 1)")
    gpu.add_argument(
        "--lora", type=_named_directory, action="append", default=[], metavar="NAME=DIR",
        help="PEFT adapter that a request may choose as lora_name; may be repeated",
    )  # fmt: skip
    gpu.add_argument("--max-lora-rank", type=int, default=64, metavar="N", help="default: 64")
    gpu.add_argument(
        "--calibration", type=Path, metavar="FILE", help="JSONL of prompts like those of your users"
    )


def _weights(given: argparse.Namespace, allowed: tuple[str, ...], default: str) -> str:
    weights: str = given.weights or default
    if weights not in allowed:
        raise ValueError(f"--weights {weights}: --target {given.target} takes {', '.join(allowed)}")
    return weights


def _named_directory(text: str) -> tuple[str, Path]:
    name, equals, directory = text.partition("=")
    if not (name and equals and directory):
        raise argparse.ArgumentTypeError(f"NAME=DIR is needed, not {text!r}")
    return name, Path(directory)
