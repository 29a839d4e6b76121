"""The command line: ``python -m build_engine CHECKPOINT --target openvino --output DIR``, and the commands beside it."""

from __future__ import annotations

import argparse
import signal
import sys
from importlib import import_module
from pathlib import Path
from types import FrameType

from build_engine.checkpoint import Checkpoint
from build_engine.target import Target
from build_engine.trtllm.options import WEIGHTS as TENSORRT_LLM_WEIGHTS
from build_engine.trtllm.options import EngineOptions

OPENVINO_WEIGHTS = ("f32", "bf16", "int8", "int4")

_BUILD_EPILOG = """\
A checkpoint is a Hugging Face directory of a dense Qwen3-VL (2B, 4B, 8B, 32B or any other size): config.json,
tokenizer.json, preprocessor_config.json, *.safetensors. Everything about its size is read from it.

--target openvino runs on any x86 machine. Weights (language model / vision encoder; `verify` tells the errors):
  f32    exact: the answers of transformers in float32, token for token. 4 bytes a weight; for tests.
  bf16   the checkpoint's own precision. 2 bytes a weight.
  int8   per output channel, vision bf16. 1 byte a weight; 1.7 to 1.9 times as fast as bf16 for one user. Default.
  int4   groups of 128 or fewer, vocabulary int8, vision bf16. Half a byte a weight; answers change more.

--target tensorrt-llm runs on a data-centre GPU. Build on the same kind of GPU, in the container that serves
(docs/gpu.md); `plan` tells before whether it fits. Weights:
  bf16, fp16    as they are; bf16 is the default.
  int8, int4    weight-only, no calibration.
  fp8, int8_sq, int4_awq, w4a8_awq    calibrated by ModelOpt with --calibration, or with prompts that we ship.
  gptq          a checkpoint that is already GPTQ-quantised.

examples:
  python -m build_engine Qwen3-VL-2B-Instruct --target openvino --weights int8 --output engines/2b
  python -m build_engine verify engines/2b Qwen3-VL-2B-Instruct
  python -m build_engine plan Qwen3-VL-4B-Instruct --gpu h100-80
  python -m build_engine Qwen3-VL-4B-Instruct --target tensorrt-llm --output engines/4b --max-batch-size 16
  python -m build_engine compile-check Qwen3-VL-4B-Instruct --sm 89
"""

# Each module has main(arguments) -> exit code; its --help teaches it.
_COMMANDS = {
    "verify": "build_engine.verify",
    "compile-check": "build_engine.compile_check",
    "plan": "build_engine.trtllm.plan",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        if given and given[0] in _COMMANDS:
            return int(import_module(_COMMANDS[given[0]]).main(given[1:]))
        return _build(given)
    except (ValueError, OSError) as error:  # CheckpointError, OutputError, ManifestError, OptionsError, ...
        print(f"build_engine: {error}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)


def _build(arguments: list[str]) -> int:
    given = _build_parser().parse_args(arguments)
    limits = {name: value for name in _LIMITS if (value := getattr(given, name)) is not None}
    checkpoint = Checkpoint.read(given.checkpoint)
    if given.merge_lora:
        from build_engine.lora import merge

        checkpoint = merge(checkpoint, given.merge_lora)
    # After the cheap checks: openvino alone takes a second to import.
    from build_engine.build import build

    build(checkpoint, given.output, _target(given), limits, given.force)
    return 0


def _target(given: argparse.Namespace) -> Target:
    if given.target == "openvino":
        foreign = [
            name for name in ("kv_cache_dtype", "tp_size", "lora", "calibration") if getattr(given, name)
        ]
        if foreign:
            raise ValueError(f"--{foreign[0].replace('_', '-')} is an option of --target tensorrt-llm")
        from build_engine.openvino_build import OpenVino

        return OpenVino(_weights(given, OPENVINO_WEIGHTS, "int8"))
    from build_engine.tensorrt_build import TensorRtLlm

    options = EngineOptions(
        weights=_weights(given, TENSORRT_LLM_WEIGHTS, "bf16"),
        kv_cache_dtype=given.kv_cache_dtype or "auto",
        tp_size=given.tp_size or 1,
        max_lora_rank=given.max_lora_rank if given.lora else 0,
    )
    return TensorRtLlm(options, dict(given.lora), given.calibration)


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


_LIMITS = {
    "max_batch_size": "sequences that run at once (default 8)",
    "max_input_len": "longest prompt, in tokens (default: max_seq_len less a quarter, at most less 1024)",
    "max_seq_len": "longest prompt and answer together (default: the checkpoint's positions, at most 8192)",
    "max_num_tokens": "tokens of one step: longer prompts are prefilled in chunks (default: at most 2048)",
    "max_visual_tokens": "most image and video tokens of one request (default: max_input_len)",
}


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m build_engine",
        usage="python -m build_engine CHECKPOINT --target openvino|tensorrt-llm --output DIR [options]\n"
        "       python -m build_engine verify|compile-check|plan --help",
        description="Compile a Qwen3-VL checkpoint into a vision encoder and a language model engine.",
        epilog=_BUILD_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="Hugging Face directory of a dense Qwen3-VL")
    parser.add_argument(
        "--target", required=True, choices=("openvino", "tensorrt-llm"), help="engine to build for"
    )
    parser.add_argument(
        "--output", required=True, type=Path, help="engine directory to create, all or nothing"
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
    parser.add_argument("--force", action="store_true", help="replace engines that --output already holds")
    return parser


def _exit(number: int, frame: FrameType | None) -> None:
    """On SIGTERM leave as on Ctrl-C, so that the staging directory is removed."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
