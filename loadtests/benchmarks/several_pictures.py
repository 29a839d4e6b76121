"""`python -m loadtests.bench several-pictures`: the pictures of one request, from their files to patches.

Ours with several threads beside ours with one and beside transformers' processor on Pillow, which takes them in turns. That the
patches are equal is checked before anything is timed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from ensemble.config import MediaLimits
from ensemble.preprocessing.crew import Crew
from loadtests.benchmarks import results, rounds
from loadtests.benchmarks.preprocessing import (
    check_equal,
    make_case,
    milliseconds,
    pack,
    their_processors,
    use_one_thread,
)

REQUESTS: Final = ("4x4000x3000", "8x1024x1024", "8x640x480")
DEFINITIONS: Final = {
    "side_by_side": "ms from the JPEG files of one request to uint8 patches, grids and keyed digests, as a server with"
    " preprocessing_threads does it",
    "in_turns": "the same with one thread",
    "hf_pil": "ms from the same files to float32 pixel_values with one call of transformers' Qwen2VLImageProcessorPil",
    "threads": "of side_by_side",
}


def main(arguments: list[str]) -> int:
    """See the module; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench several-pictures", description=__doc__)
    parser.add_argument("--requests", nargs="+", default=REQUESTS, metavar="COUNTxWxH")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: one for each processor"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write loadtests/results/several-pictures.json")
    given = parser.parse_args(arguments)
    use_one_thread()
    theirs = their_processors()["hf_pil"]
    figures = {}
    for request in given.requests:
        count, _, size = request.partition("x")
        files = [make_case(size, "JPEG", given.seed + at).data for at in range(int(count))]
        figures[request] = measure(files, theirs, given.threads, given.rounds)
        print(_line(request, figures[request]), flush=True)
    command = f"python -m loadtests.bench several-pictures {' '.join(arguments)}".strip()
    results.publish(results.Result("several-pictures", command, given.seed, DEFINITIONS, figures), given.save)
    return 0


def measure(files: Sequence[bytes], theirs: Callable[..., Any], threads: int, count: int) -> dict[str, Any]:
    """All figures of one request; Unequal if patches differ."""
    crews = {
        name: Crew(number, MediaLimits().max_image_pixels)
        for name, number in (("side_by_side", threads), ("in_turns", 1))
    }
    for crew in crews.values():
        check_equal(pack(files, crew), theirs(*files))
    cases: dict[str, Callable[[], float]] = {name: _timed(files, crew) for name, crew in crews.items()}
    measured = rounds.run(cases | {"hf_pil": milliseconds(lambda: theirs(*files))}, count)
    return {
        "ms": measured.plain("side_by_side"),
        "speedup_over_in_turns": measured.ratio("in_turns", "side_by_side"),
        "speedup_over_hf_pil": measured.ratio("hf_pil", "side_by_side"),
        "threads": threads,
    }


def _timed(files: Sequence[bytes], crew: Crew) -> Callable[[], float]:
    return milliseconds(lambda: pack(files, crew))


def _line(request: str, figures: dict[str, Any]) -> str:
    times = ", ".join(f"{case} {values['median']:.0f} ms" for case, values in figures["ms"].items())
    return (
        f"{request}: {times}; {figures['threads']} threads: {figures['speedup_over_in_turns']:.2f} times as fast as in turns, "
        f"{figures['speedup_over_hf_pil']:.1f} times as fast as hf_pil, patches equal"
    )
