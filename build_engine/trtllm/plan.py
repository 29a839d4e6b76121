"""The command `plan`: whether an engine fits a GPU, and what would, before anyone waits for a build.

It knows the command line and what is printed; the sums are memory.py's, the rules options.py's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

from build_engine.build import choose_limits
from build_engine.checkpoint import Checkpoint
from build_engine.manifest import Limits
from build_engine.trtllm.gpus import GPUS, Gpu
from build_engine.trtllm.memory import PUBLIC, TOKENS_PER_BLOCK, Plan, fits, plan, public_checkpoint
from build_engine.trtllm.options import KV_CACHE_DTYPES, WEIGHTS, EngineOptions, OptionsError, check


def main(arguments: list[str]) -> int:
    """The command `plan`; 0 when the engine fits, 1 when it does not. OptionsError for what cannot be built at all."""
    given = _parser().parse_args(arguments)
    if (given.checkpoint is None) == (given.model is None):
        raise OptionsError("give either a checkpoint directory or --model")
    checkpoint = public_checkpoint(given.model) if given.model else Checkpoint.read(given.checkpoint)
    if not 0 < given.kv_cache_free_gpu_mem_fraction < 1:
        raise OptionsError(
            f"--kv-cache-free-gpu-mem-fraction {given.kv_cache_free_gpu_mem_fraction}: between 0 and 1 is needed"
        )
    gpu = GPUS[given.gpu]
    options = EngineOptions(given.weights, given.kv_cache_dtype, given.tp_size)
    limits = choose_limits(
        checkpoint.text, {name: value for name in _LIMITS if (value := getattr(given, name)) is not None}
    )
    check(checkpoint.text, checkpoint.architecture, limits, options, gpu.sm)
    fraction = given.kv_cache_free_gpu_mem_fraction
    made = plan(checkpoint, limits, options, gpu.memory, fraction)
    fitting = fits(made, limits, fraction)
    others = [] if fitting else list(_alternatives(checkpoint, limits, options, gpu, fraction))
    name = f"Qwen3-VL-{given.model.upper()}" if given.model else str(given.checkpoint)
    _print(name, given, made, limits, options)
    _print_verdict(made, limits, fitting, others)
    print(json.dumps(_facts(name, given, made, limits, options, fitting, others)))
    return 0 if fitting else 1


def _alternatives(
    checkpoint: Checkpoint, limits: Limits, options: EngineOptions, gpu: Gpu, fraction: float
) -> Iterator[str]:
    """Options near the given ones that do fit, the smallest step of each kind."""

    def works(limits: Limits, options: EngineOptions, gpu: Gpu, fraction: float) -> bool:
        try:
            check(checkpoint.text, checkpoint.architecture, limits, options, gpu.sm)
        except OptionsError:
            return False
        return fits(plan(checkpoint, limits, options, gpu.memory, fraction), limits, fraction)

    for lower in (0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
        if lower < fraction and works(limits, options, gpu, lower):
            yield f"--kv-cache-free-gpu-mem-fraction {lower}"
            break
    for name in ("max_batch_size", "max_visual_tokens"):
        for part in (2, 4, 8):
            lower_limit = getattr(limits, name) // part
            if lower_limit and works(replace(limits, **{name: lower_limit}), options, gpu, fraction):
                yield f"--{name.replace('_', '-')} {lower_limit}"
                break
    for weights in ("fp8", "int8", "int4_awq", "int4"):
        if weights != options.weights and works(limits, replace(options, weights=weights), gpu, fraction):
            yield f"--weights {weights}"
            break
    for size, weights in product((2, 4, 8), (options.weights, "fp8", "int8")):
        split = replace(options, tp_size=size, weights=weights)
        if size > options.tp_size and works(limits, split, gpu, fraction):
            yield f"--tp-size {size}" + f" --weights {weights}" * (weights != options.weights)
            break
    bigger = [name for name, other in GPUS.items() if works(limits, options, other, fraction)]
    if bigger:
        yield f"--gpu {min(bigger, key=lambda name: GPUS[name].memory)}"


def _print(name: str, given: argparse.Namespace, made: Plan, limits: Limits, options: EngineOptions) -> None:
    gpu = GPUS[given.gpu]
    kv = options.dtype if options.kv_cache_dtype == "auto" else options.kv_cache_dtype
    print(
        f"{name} on {options.tp_size} x {given.gpu} (SM{gpu.sm}, {_gib(gpu.memory)} GiB each), weights {options.weights}, "
        f"KV cache {kv}"
    )
    print(", ".join(f"{key} {value}" for key, value in asdict(limits).items()))
    print()
    for title, parts in (("once loaded", made.engine), ("beside the KV cache", made.beside)):
        print(f"{title:<22} {'GiB':>8}")
        for part in parts:
            print(f"  {part.name:<20} {_gib(part.bytes):>8}   {part.why}")
    pool = made.kv_blocks * TOKENS_PER_BLOCK * made.kv_bytes_per_token
    print(
        f"{'KV cache':<22} {_gib(pool):>8}   {made.kv_bytes_per_token / 1024:g} KiB per token, {made.kv_blocks} blocks of "
        f"{TOKENS_PER_BLOCK}: {given.kv_cache_free_gpu_mem_fraction:g} of what is free"
    )
    print()
    for length in (limits.max_seq_len, given.typical_seq_len):
        print(f"{made.sequences(length):>6} sequences of {length} tokens fit in the KV cache")


def _print_verdict(made: Plan, limits: Limits, fitting: bool, others: list[str]) -> None:
    room = made.sequences(limits.max_seq_len)
    if not fitting:
        reason = (
            f"the engine alone needs {_gib(-made.free)} GiB more than there are"
            if made.free <= 0
            else "not one sequence of max_seq_len fits"
            if room == 0
            else "too little is left beside the KV cache"
        )
        print(f"DOES NOT FIT: {reason}")
        print("would fit:    " + ("   or   ".join(others) or "nothing near these options"))
    elif room < limits.max_batch_size:
        print(
            f"FITS; with fewer than max_batch_size {limits.max_batch_size} full sequences at once the others wait"
        )
    else:
        print(f"FITS max_batch_size {limits.max_batch_size} at full length")


def _facts(
    name: str,
    given: argparse.Namespace,
    made: Plan,
    limits: Limits,
    options: EngineOptions,
    fitting: bool,
    others: list[str],
) -> dict[str, object]:
    return {
        "model": name,
        "gpu": given.gpu,
        "weights": options.weights,
        "kv_cache_dtype": options.kv_cache_dtype,
        "tp_size": options.tp_size,
        **asdict(limits),
        "bytes": {part.name.lower().replace(" ", "_"): part.bytes for part in (*made.engine, *made.beside)},
        "kv_bytes_per_token": made.kv_bytes_per_token,
        "kv_blocks": made.kv_blocks,
        "sequences_of_max_seq_len": made.sequences(limits.max_seq_len),
        "sequences_of_typical_seq_len": made.sequences(given.typical_seq_len),
        "highest_kv_cache_free_gpu_mem_fraction": round(max(0.0, made.highest_fraction), 3),
        "fits": fitting,
        "would_fit": others,
    }


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"


_LIMITS = ("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "max_visual_tokens")
_EPILOG = """\
examples:
  python -m build_engine plan --model 4b --gpu h100-80
  python -m build_engine plan Qwen3-VL-8B-Instruct --gpu l40s --weights fp8 --kv-cache-dtype fp8 --max-batch-size 16

The last line is JSON. Exit code 1 when the engine does not fit, 2 when it cannot be built like that at all.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m build_engine plan",
        description="What a TensorRT-LLM engine takes of a GPU, and how many sequences fit.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", nargs="?", type=Path, help="Hugging Face directory; or give --model")
    parser.add_argument("--model", choices=sorted(PUBLIC), help="a public Qwen3-VL, without its files")
    parser.add_argument("--gpu", required=True, choices=sorted(GPUS))
    parser.add_argument("--weights", default="bf16", choices=WEIGHTS)
    parser.add_argument("--kv-cache-dtype", default="auto", choices=KV_CACHE_DTYPES)
    parser.add_argument("--tp-size", type=int, default=1, metavar="N", help="GPUs that share one engine")
    for name in _LIMITS:
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, metavar="N", help="as for the build; same default"
        )
    parser.add_argument(
        "--kv-cache-free-gpu-mem-fraction", type=float, default=0.7, metavar="F",
        help="part of the memory that is free once the engine is loaded that the KV cache takes (default 0.7, as served)",
    )  # fmt: skip
    parser.add_argument(
        "--typical-seq-len", type=int, default=2048, metavar="N", help="also count sequences of this length"
    )
    return parser
