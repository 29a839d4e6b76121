"""`python -m build_engine compile-check`: compiles the vision encoder for GPUs that are not in this machine.

TensorRT-RTX compiles ahead of time for a named architecture, without a GPU or driver. It has TensorRT's ONNX parser, type
checks and graph compiler, so most of what the real build would refuse is refused here in seconds. It says nothing about the
numbers an engine gives, nor about speed; and its build times are not those of TensorRT, which tries kernels on the GPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from build_engine.checkpoint import Checkpoint
from build_engine.manifest import Limits
from build_engine.tensorrt_plan import PlanError, ShapeRange, compile_onnx, profile
from build_engine.tower_shapes import SHAPES, random_tower
from build_engine.vision import write_onnx

ARCHITECTURES: Final = (80, 86, 89, 120)
LIBRARY: Final = "tensorrt_rtx"
_INSTALL: Final = "pip install tensorrt-rtx-cu13==1.7.1.116"

_EPILOG = """\
architectures (--sm): 80 A100, A30 · 86 A10, A40, RTX 30 · 89 L4, L40S, RTX 40 · 120 RTX 50, RTX PRO 6000 Blackwell;
also 75 (float16 only) and 121. TensorRT-RTX has no Hopper: H100 and H200 (90) can only be compiled for on themselves.

What is compiled is the same ONNX model, with the same profile, that `--target tensorrt-llm` gives to TensorRT.
Every architecture is compiled in a process of its own; "memory" is the most that it held.

examples:
  python -m build_engine compile-check build_engine/demo/checkpoint
  python -m build_engine compile-check --shape 2b --sm 89            # random weights: no download
  python -m build_engine compile-check Qwen3-VL-8B-Instruct --dtype float16 --max-visual-tokens 16384

The last line is JSON. Exit code: 0 all compiled, 1 something was refused, 2 wrong use.
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one architecture. `refused` is None when it compiled, else the compiler's words."""

    sm: int
    seconds: float
    engine_mb: float | None = None
    scratch_mb: float | None = None
    memory_mb: float | None = None
    refused: str | None = None


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    given = _parser().parse_args(arguments)
    if (given.checkpoint is None) == (given.shape is None):
        raise ValueError("compile-check needs either a CHECKPOINT or --shape")
    if find_spec(LIBRARY) is None:
        raise ValueError(f"{LIBRARY} is not installed; it needs no GPU: {_INSTALL}")
    tower = random_tower(given.shape) if given.shape else Checkpoint.read(given.checkpoint)
    shapes = profile(tower.vision, _limits(given.max_visual_tokens))
    with tempfile.TemporaryDirectory(prefix="compile-check-") as scratch:
        onnx_path = Path(scratch) / "model.onnx"
        started = time.monotonic()
        write_onnx(tower, onnx_path, dtype=given.dtype)
        onnx_seconds = time.monotonic() - started
        onnx_mb = sum(path.stat().st_size for path in onnx_path.parent.iterdir()) / 1e6
        largest = shapes["gather_index"].max
        print(
            f"{given.shape or given.checkpoint}: {tower.vision.depth} blocks of width {tower.vision.hidden_size}, "
            f"{given.dtype}; ONNX {onnx_mb:.1f} MB in {onnx_seconds:.1f} s\n"
            f"up to {largest[1]} patches in {largest[0]} segments a call"
        )
        outcomes = []
        for outcome in _compile(onnx_path, shapes, given.sm):
            print(_line(outcome), flush=True)
            outcomes.append(outcome)
    print(
        json.dumps(
            {
                "tower": given.shape or str(given.checkpoint),
                "dtype": given.dtype,
                "onnx_mb": round(onnx_mb, 1),
                "onnx_seconds": round(onnx_seconds, 1),
                "architectures": [asdict(outcome) for outcome in outcomes],
            }
        )
    )
    return int(any(outcome.refused for outcome in outcomes))


def compile_one(onnx_path: Path, shapes: dict[str, ShapeRange], sm: int) -> Outcome:
    """Compile for one architecture in this process, which should be new: its peak memory is reported."""
    import tensorrt_rtx

    started = time.monotonic()
    try:
        plan = compile_onnx(tensorrt_rtx, onnx_path, shapes, sm)
    except PlanError as error:
        return Outcome(sm, round(time.monotonic() - started, 1), refused=str(error))
    scratch_mb = None if plan.scratch_bytes is None else round(plan.scratch_bytes / 1e6, 1)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return Outcome(
        sm, round(plan.seconds, 1), round(plan.data.nbytes / 1e6, 1), scratch_mb, round(peak_mb, 1)
    )


def _compile(onnx_path: Path, shapes: dict[str, ShapeRange], sms: list[int]) -> Iterator[Outcome]:
    for sm in sms:
        started = time.monotonic()
        # Spawned, not forked: a child's memory then is the compiler's, and a crash in native code ends only the child.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            try:
                yield pool.submit(compile_one, onnx_path, shapes, sm).result()
            except BrokenProcessPool:
                yield Outcome(
                    sm,
                    round(time.monotonic() - started, 1),
                    refused=f"{LIBRARY} died while it compiled: out of memory, or a fault of its own",
                )


def _line(outcome: Outcome) -> str:
    if outcome.refused is not None:
        return f"  SM{outcome.sm:<4} refused after {outcome.seconds:.1f} s: {outcome.refused}"
    scratch = (
        "" if outcome.scratch_mb is None else f", at most {outcome.scratch_mb:.0f} MB scratch on the GPU"
    )
    return (
        f"  SM{outcome.sm:<4} compiled in {outcome.seconds:.1f} s: engine {outcome.engine_mb:.1f} MB, "
        f"memory {outcome.memory_mb:.0f} MB{scratch}"
    )


def _limits(max_visual_tokens: int) -> Limits:
    if max_visual_tokens < 1:
        raise ValueError(f"--max-visual-tokens {max_visual_tokens}: must be above 0")
    # Only visual tokens shape the encoder.
    return Limits(1, max_visual_tokens, max_visual_tokens, max_visual_tokens, max_visual_tokens)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m build_engine compile-check",
        description="Compile the vision encoder with TensorRT-RTX for GPUs that need not be here.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, nargs="?", help="Hugging Face directory of a dense Qwen3-VL")
    parser.add_argument(
        "--shape", choices=tuple(SHAPES), help="instead: a tower of this public size with random weights"
    )
    parser.add_argument(
        "--sm", type=int, nargs="+", default=list(ARCHITECTURES), metavar="N",
        help=f"GPU architectures (default {' '.join(map(str, ARCHITECTURES))})",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16"), default="bfloat16", help="default: bfloat16"
    )
    parser.add_argument(
        "--max-visual-tokens", type=int, default=7168, metavar="N",
        help="as in the build (default 7168, what its defaults give)",
    )  # fmt: skip
    return parser
