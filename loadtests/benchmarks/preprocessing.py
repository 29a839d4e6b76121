"""`python -m loadtests.bench preprocessing`: an encoded picture to the patches that a vision encoder takes.

Ours beside both processors of transformers (the one on Pillow, whose pixels ours equals bit for bit, and the one on torchvision
where it can be imported), all on one thread. That the patches are equal is checked before anything is timed: unequal ones
end the benchmark.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from ensemble.config import MediaLimits
from ensemble.preprocessing.crew import Crew
from ensemble.preprocessing.image_processor import ImageProcessor
from ensemble.preprocessing.media import MediaOpener
from ensemble.preprocessing.messages import IMAGE
from ensemble.preprocessing.packed_media import MediaPacker
from ensemble.preprocessing.patches import PatchLayout
from loadtests.benchmarks import results, rounds

LAYOUT: Final = PatchLayout(patch_size=16, temporal_patch_size=2, merge_size=2)
MIN_PIXELS, MAX_PIXELS = 65536, 16777216
"""Of the public Qwen3-VL checkpoints."""
_ALONE: Final = Crew(1, MediaLimits().max_image_pixels)
PICTURES: Final = ("640x480", "1024x1024", "4000x3000")
DEFINITIONS: Final = {
    "ours": "ms from the bytes of a file to uint8 patches, their grid and keyed digest: all that a picture costs",
    "hf_pil": "ms from the same bytes to float32 pixel_values with transformers' Qwen2VLImageProcessorPil, the same pixels",
    "hf_torchvision": "ms with transformers' torchvision processor, where it can be imported; its pixels differ after a resize",
    "decode": "ms of Pillow's decoder alone (libjpeg-turbo, zlib): the floor",
    "moved_mb": "bytes that go on to the vision encoder, in MB of 10^6",
    "peak_extra": "growth of a fresh process's peak resident memory by one call, less the decoded picture as Pillow holds it"
    " (4 bytes a pixel), as a multiple of width x height x 3 bytes",
}


class Unequal(RuntimeError):
    """Ours and theirs are not the same patches: their times must not be compared."""


@dataclass(frozen=True)
class Case:
    """One encoded picture."""

    name: str
    data: bytes
    width: int
    height: int


def main(arguments: list[str]) -> int:
    """See the module; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench preprocessing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", nargs="+", default=PICTURES, metavar="WxH")
    parser.add_argument("--forms", nargs="+", default=("JPEG", "PNG"), choices=("JPEG", "PNG"))
    parser.add_argument("--save", action="store_true", help="write loadtests/results/preprocessing.json")
    given = parser.parse_args(arguments)
    use_one_thread()
    theirs = their_processors()
    figures = {}
    for size in given.pictures:
        for form in given.forms:
            case = make_case(size, form, given.seed)
            if len(case.data) > MediaLimits().max_image_bytes:
                print(
                    f"{case.name} is left out: a server takes no file of {len(case.data)} bytes",
                    file=sys.stderr,
                )
                continue
            figures[case.name] = measure(case, theirs, given.rounds)
            print(_line(case.name, figures[case.name]), flush=True)
    command = f"python -m loadtests.bench preprocessing {' '.join(arguments)}".strip()
    results.publish(results.Result("preprocessing", command, given.seed, DEFINITIONS, figures), given.save)
    return 0


def make_case(size: str, form: str, seed: int) -> Case:
    """A picture like a photo: soft shapes and fine grain, which a decoder has to work for."""
    width, height = map(int, size.split("x"))
    dice = np.random.default_rng(seed)
    coarse = dice.normal(128, 40, (max(1, height // 8), max(1, width // 8), 3)).clip(0, 255).astype(np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    grain = dice.normal(0, 1, soft.shape).astype(np.float32)
    file = io.BytesIO()
    picture = Image.fromarray((soft + grain).clip(0, 255).astype(np.uint8))
    picture.save(file, form, **({"quality": 90} if form == "JPEG" else {"compress_level": 1}))
    return Case(f"{size} {form}", file.getvalue(), width, height)


def ours(case: Case) -> npt.NDArray[np.uint8]:
    """Patches [N,1536] by the code that serves."""
    return pack([case.data], _ALONE)


def pack(files: Sequence[bytes], crew: Crew) -> npt.NDArray[np.uint8]:
    """Patches [N,1536] of a request's pictures."""
    opener = MediaOpener(
        ImageProcessor(LAYOUT, MIN_PIXELS, MAX_PIXELS), videos=None, limits=MediaLimits(), enhanced=False
    )
    return MediaPacker(LAYOUT, bytes(32), crew).pack(opener.open([IMAGE] * len(files), files, [])).patches


def measure(case: Case, theirs: dict[str, Callable[[bytes], Any]], count: int) -> dict[str, Any]:
    """All figures of one picture; Unequal if ours differs from transformers' on Pillow."""
    patches = ours(case)
    check_equal(patches, theirs["hf_pil"](case.data))
    timed: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours(case),
        **{name: _bind(run, case.data) for name, run in theirs.items()},
        "decode": lambda: Image.open(io.BytesIO(case.data)).load(),
    }
    for run in timed.values():
        run()
    measured = rounds.run({name: milliseconds(run) for name, run in timed.items()}, count)
    return {
        "ms": measured.plain("ours"),
        "speedup_over_hf_pil": measured.ratio("hf_pil", "ours"),
        "equal_to_hf_pil": True,
        "moved_mb": {"ours": patches.nbytes / 1e6, "hf": 4 * patches.nbytes / 1e6},
        "peak_extra": peak_extra(case),
    }


def check_equal(patches: npt.NDArray[np.uint8], pixel_values: npt.NDArray[np.float32]) -> None:
    """Unequal unless transformers' values are exactly those of our patches: ((x / 255) - 0.5) / 0.5 rounds apart for every x."""
    restored = np.rint((pixel_values * 0.5 + 0.5) * 255)
    if patches.shape != restored.shape:
        raise Unequal(f"patches {patches.shape}, transformers has {restored.shape}")
    if (different := int((patches != restored).sum())) or np.abs(pixel_values).max() > 1.0001:
        raise Unequal(f"{different} of {patches.size} values differ from transformers'")


def peak_extra(case: Case) -> float:
    """See DEFINITIONS; measured in a process of its own, because a peak never falls."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_report_peak, args=(case, sender))
    child.start()
    sender.close()
    grown = int(receiver.recv())
    child.join()
    pixels = case.width * case.height
    return (grown - 4 * pixels) / (3 * pixels)


def _report_peak(case: Case, sender: Any) -> None:
    use_one_thread()
    ours(make_case("64x64", case.name.split()[1], 0))  # decoder and tables are loaded
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    ours(case)
    sender.send(_memory("VmHWM") - before)


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}; peak memory is measured on Linux only")


def their_processors() -> dict[str, Callable[..., Any]]:
    """Name to what makes pixel_values [N,1536] of one or several files."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    settings: dict[str, Any] = {
        "patch_size": LAYOUT.patch_size,
        "temporal_patch_size": LAYOUT.temporal_patch_size,
        "merge_size": LAYOUT.merge_size,
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    found = {"hf_pil": _processor(Qwen2VLImageProcessorPil(**settings))}
    try:
        import torchvision  # noqa: F401
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    except (
        ImportError,
        RuntimeError,
    ) as error:  # a build of torchvision for another torch raises RuntimeError
        print(f"hf_torchvision is left out: {error}", file=sys.stderr)
    else:
        found["hf_torchvision"] = _processor(Qwen2VLImageProcessor(**settings))
    return found


def _processor(processor: Any) -> Callable[..., Any]:
    def run(*files: bytes) -> Any:
        made = processor(images=[Image.open(io.BytesIO(data)) for data in files], return_tensors="pt")
        return made["pixel_values"].numpy()

    return run


def use_one_thread() -> None:
    """Neither torch nor numpy may use more than one thread from here on; Pillow never does."""
    try:
        import torch
    except ImportError:  # the child process that measures memory needs none
        return
    torch.set_num_threads(1)


def _bind(run: Callable[[bytes], Any], data: bytes) -> Callable[[], Any]:
    return lambda: run(data)


def milliseconds(run: Callable[[], Any]) -> Callable[[], float]:
    """Calls `run` and tells how long it took."""

    def timed() -> float:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3

    return timed


def _line(name: str, figures: dict[str, Any]) -> str:
    times = ", ".join(f"{case} {values['median']:.1f} ms" for case, values in figures["ms"].items())
    return (
        f"{name}: {times}; {figures['speedup_over_hf_pil']:.1f} times as fast as hf_pil, patches equal; "
        f"{figures['moved_mb']['ours']:.1f} MB on (hf {figures['moved_mb']['hf']:.1f}); "
        f"peak extra memory {figures['peak_extra']:.1f} x the picture"
    )
