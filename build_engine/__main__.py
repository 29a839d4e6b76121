"""The command line: ``python -m build_engine CHECKPOINT --target openvino --output DIR``, and the commands beside it."""

from __future__ import annotations

import argparse
import signal
import sys
from importlib import import_module
from pathlib import Path
from types import FrameType

from build_engine.request import BuildRequest, add_options

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
  python -m build_engine fetch hf://Qwen/Qwen3-VL-4B-Instruct weights/4b
  python -m build_engine cached weights/4b --target tensorrt-llm --cache engines --key 4b-h100
"""

# Each module has main(arguments) -> exit code; its --help teaches it.
_COMMANDS = {
    "verify": "build_engine.verify",
    "compile-check": "build_engine.compile_check",
    "plan": "build_engine.trtllm.plan",
    "fetch": "build_engine.volume.fetch",
    "cached": "build_engine.volume.cached",
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
    request = BuildRequest.of(given)
    checkpoint = request.read_checkpoint(given.checkpoint)
    # After the cheap checks: openvino alone takes a second to import.
    from build_engine.build import build

    build(checkpoint, given.output, request.make_target(), request.limits, given.force)
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m build_engine",
        usage="python -m build_engine CHECKPOINT --target TARGET --output DIR [options]\n"
        "       python -m build_engine verify|compile-check|plan|fetch|cached --help",
        description="Compile a Qwen3-VL checkpoint into a vision encoder and a language model engine.",
        epilog=_BUILD_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="Hugging Face directory of a dense Qwen3-VL")
    parser.add_argument(
        "--output", required=True, type=Path, help="engine directory to create, all or nothing"
    )
    add_options(parser)
    parser.add_argument("--force", action="store_true", help="replace engines that --output already holds")
    return parser


def _exit(number: int, frame: FrameType | None) -> None:
    """On SIGTERM leave as on Ctrl-C, so that the staging directory is removed."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
