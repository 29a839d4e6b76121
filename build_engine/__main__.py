"""The command line: ``python -m build_engine CHECKPOINT --target openvino --output DIR``, and ``verify``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

_BUILD_EPILOG = """\
A checkpoint is a Hugging Face directory of a dense Qwen3-VL (2B, 4B, 8B, 32B or any other size): config.json,
tokenizer.json, preprocessor_config.json, *.safetensors. Everything about its size is read from it.

weights (language model / vision encoder; see `verify` for the errors on your checkpoint):
  f32    exact: the answers of transformers in float32, token for token. 4 bytes a weight; for tests.
  bf16   the checkpoint's own precision. 2 bytes a weight.
  int8   per output channel, vision bf16. 1 byte a weight; 1.7 to 1.9 times as fast as bf16 for one user.
  int4   groups of 128 or fewer, vocabulary int8, vision bf16. Half a byte a weight; answers change more.

examples:
  python -m build_engine Qwen3-VL-2B-Instruct --target openvino --weights int8 --output engines/2b
  python -m build_engine verify engines/2b Qwen3-VL-2B-Instruct
  python -m ensemble serve --engines engines/2b
"""
_VERIFY_EPILOG = """\
Runs sample requests (text, odd image grids, several images, a video) through the engines and through
transformers in float32, prints the largest and the mean error of every output, and how many greedy tokens
agree.
Exit code 1 when an error is above what the engines' weights explain, 2 when the comparison could not be made.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        return _verify(given[1:]) if given[:1] == ["verify"] else _build(given)
    except (
        ValueError,
        OSError,
    ) as error:  # CheckpointError, OutputError, ManifestError: each says what to do
        print(f"build_engine: {error}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)


def _build(arguments: list[str]) -> int:
    given = _build_parser().parse_args(arguments)
    if given.target == "tensorrt-llm":
        print(
            "build_engine: --target tensorrt-llm is not in this version; "
            "--target openvino runs on any x86 machine",
            file=sys.stderr,
        )
        return 2
    from build_engine.build import build

    limits = {name: value for name in _LIMITS if (value := getattr(given, name)) is not None}
    build(given.checkpoint, given.output, given.weights, limits, given.force)
    return 0


def _verify(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m build_engine verify",
        description="Compare built engines with transformers.",
        epilog=_VERIFY_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("engines", type=Path, help="directory that the build wrote")
    parser.add_argument("checkpoint", type=Path, help="checkpoint it was built from")
    given = parser.parse_args(arguments)
    from build_engine.verify import verify

    return 0 if verify(given.engines, given.checkpoint) else 1


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
        usage="python -m build_engine CHECKPOINT --target openvino --output DIR [options]\n"
        "       python -m build_engine verify DIR CHECKPOINT",
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
    parser.add_argument(
        "--weights", default="int8", choices=("f32", "bf16", "int8", "int4"), help="default: int8"
    )
    for name, text in _LIMITS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=text)
    parser.add_argument("--force", action="store_true", help="replace engines that --output already holds")
    return parser


def _exit(number: int, frame: FrameType | None) -> None:
    """On SIGTERM leave as on Ctrl-C, so that the staging directory is removed."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
