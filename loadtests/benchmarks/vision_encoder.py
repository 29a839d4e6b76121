"""`python -m loadtests.bench vision-encoder`: patches per second of the vision encoder, and what a cached picture costs.

The served engine (OpenVINO) beside transformers' tower in bfloat16 with the same weights, several pictures in one call and
each in a call of its own. Rows that differ by more than bfloat16 explains end the benchmark.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from build_engine.checkpoint import Checkpoint
from build_engine.manifest import Manifest
from ensemble.vision_encoder.batch import BatchEncoder, VisionRequest
from ensemble.vision_encoder.embedding_cache import EmbeddingCache
from ensemble.vision_encoder.encoder import OpenVinoEncoder
from loadtests.benchmarks import machine, results, rounds, whole_model

DEFINITIONS: Final = {
    "patches_per_s": "patches of all pictures / seconds of all calls for them; a patch is 16 x 16 pixels",
    "ours_one_by_one": "a call for each picture, as the target openvino serves",
    "ours_packed": "all pictures in one call",
    "hf_bf16_one_by_one": "transformers' tower in bfloat16, a call for each picture",
    "hf_bf16_packed": "the same, all pictures in one call",
    "row_error": "mean absolute difference of ours to transformers' float32 rows / their standard deviation",
    "cache_hit_ms": "a request with one picture whose rows are kept, all of BatchEncoder's work; miss_ms: the same, encoded",
    "flops_share": "matrix operations of ours_one_by_one per second / the better of the two matrix rates measured "
    "around it, bfloat16 and float32",
}
ROW_ERROR_LIMIT: Final = 0.08
_KEEP_BYTES: Final = 1 << 30


class Unequal(RuntimeError):
    """Ours and transformers' rows are too far apart to compare their speed."""


@dataclass(frozen=True)
class Pictures:
    """Random pictures: patches uint8 [N,K] of all of them, and their grids int32 [pictures,3]."""

    patches: npt.NDArray[np.uint8]
    grids: npt.NDArray[np.int32]

    def each(self) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]]:
        """Every picture alone."""
        ends = np.cumsum(self.grids.prod(axis=1))
        starts = ends - self.grids.prod(axis=1)
        return [
            (self.patches[start:end], self.grids[at : at + 1])
            for at, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]


def main(arguments: list[str]) -> int:
    """See the module; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench vision-encoder", description=__doc__)
    parser.add_argument(
        "--shapes", nargs="+", choices=list(whole_model.TOWERS), default=list(whole_model.TOWERS)
    )
    parser.add_argument(
        "--weights", default="int8", help="of the engine directory; its tower is bfloat16 but for f32"
    )
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument(
        "--side", type=int, default=512, help="pixels of a side of each picture, a multiple of 32"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="where checkpoints and engines are kept")
    parser.add_argument("--save", action="store_true", help="write loadtests/results/vision-encoder.json")
    given = parser.parse_args(arguments)
    figures = {}
    for shape in given.shapes:
        figures[shape] = measure(shape, given)
        print(_line(shape, figures[shape]), flush=True)
    command = f"python -m loadtests.bench vision-encoder {' '.join(arguments)}".strip()
    results.publish(results.Result("vision-encoder", command, given.seed, DEFINITIONS, figures), given.save)
    return 0


def measure(shape: str, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of DEFINITIONS for one tower; Unequal if its rows are not transformers'."""
    engines = whole_model.engines(shape, given.weights, given.cache)
    manifest = Manifest.read(engines)
    encoder = OpenVinoEncoder(engines, manifest)
    tower = Tower(Checkpoint.read(whole_model.checkpoint(shape, given.cache)))
    pictures = draw(
        given.pictures, given.side // manifest.vision.patch_size, manifest.vision.patch_values, given.seed
    )
    first = pictures.each()[0]
    error = row_error(encoder.encode(*first), tower.rows(*first))
    if not error <= ROW_ERROR_LIMIT:
        raise Unequal(f"{shape}: rows differ by {error:.3f} of their deviation, {ROW_ERROR_LIMIT} is allowed")
    tower.use_bfloat16()

    def one_by_one(encode: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: [encode(*picture) for picture in pictures.each()]

    cases: dict[str, Callable[[], Any]] = {
        "ours_one_by_one": one_by_one(encoder.encode),
        "ours_packed": lambda: encoder.encode(pictures.patches, pictures.grids),
        "hf_bf16_one_by_one": one_by_one(tower.rows),
        "hf_bf16_packed": lambda: tower.rows(pictures.patches, pictures.grids),
    }
    for run in cases.values():
        run()
    count = len(pictures.patches)
    measured = rounds.run(
        {name: _rate(run, count) for name, run in cases.items()}, given.rounds, machine.calibrate
    )
    operations = 2.0 * tower.multiplications(given.side // manifest.vision.patch_size)
    return {
        "pictures": given.pictures,
        "patches": count,
        "patches_per_s": measured.plain("hf_bf16_one_by_one"),
        "ours_over_hf": measured.ratio("ours_one_by_one", "hf_bf16_one_by_one"),
        "packed_over_one_by_one": measured.ratio("ours_packed", "ours_one_by_one"),
        "row_error": error,
        "flops_share": measured.share("ours_one_by_one", lambda now: now.flops / operations),
        "cache": cache_cost(encoder, manifest, first, given.rounds),
    }


class Tower:
    """transformers' vision tower of a checkpoint, in float32 until `use_bfloat16`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        import torch
        from transformers import Qwen3VLConfig
        from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

        self._torch = torch
        self._facts = checkpoint.vision
        config = Qwen3VLConfig.from_pretrained(checkpoint.directory).vision_config
        config._attn_implementation = "sdpa"
        self._model: Any = Qwen3VLVisionModel(config).eval()
        weights = {
            name.removeprefix("model.visual."): torch.from_numpy(checkpoint.shards.float32(name).copy())
            for name in checkpoint.vision_tensors()
        }
        self._model.load_state_dict(weights)

    def use_bfloat16(self) -> None:
        """Weights and arithmetic from here on."""
        self._model = self._model.to(self._torch.bfloat16)

    def rows(self, patches: npt.NDArray[np.uint8], grids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Rows float32 [V,1+D,H] as the engine gives them."""
        torch = self._torch
        with torch.inference_mode():
            pixels = (torch.from_numpy(patches).float() / 255 - 0.5) / 0.5
            given = pixels.to(next(self._model.parameters()).dtype)
            out = self._model(given, torch.from_numpy(grids.astype(np.int64)))
            rows: npt.NDArray[np.float32] = (
                torch.stack([out.pooler_output, *out.deepstack_features], dim=1).float().numpy()
            )
        return rows

    def multiplications(self, side: int) -> float:
        """Of a patch of a picture of side x side patches: linear layers, and attention to every patch of the picture."""
        facts = self._facts
        merged = facts.spatial_merge_size**2
        linear = 0.0
        for name, parameter in self._model.named_parameters():
            if parameter.ndim > 1 and "pos_embed" not in name:
                linear += parameter.numel() / (merged if "merger" in name else 1)
        return linear + facts.depth * 2.0 * side * side * facts.hidden_size


def draw(count: int, side: int, values: int, seed: int) -> Pictures:
    """`count` pictures of side x side patches."""
    dice = np.random.default_rng(seed)
    patches = dice.integers(0, 256, (count * side * side, values), dtype=np.uint8)
    return Pictures(patches, np.array([(1, side, side)] * count, np.int32))


def row_error(ours: Any, theirs: npt.NDArray[np.float32]) -> float:
    """See DEFINITIONS; the worst over the merged feature and the DeepStack levels."""
    return max(
        float(np.abs(ours[:, level] - theirs[:, level]).mean() / theirs[:, level].std())
        for level in range(theirs.shape[1])
    )


def cache_cost(
    encoder: OpenVinoEncoder,
    manifest: Manifest,
    picture: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]],
    count: int,
) -> dict[str, Any]:
    """Milliseconds of a request whose picture is kept, and of one whose is not."""
    batch = BatchEncoder(encoder, manifest, EmbeddingCache(_KEEP_BYTES))
    numbers = iter(range(1, 1 << 20))

    def ask(number: int) -> float:
        request = VisionRequest(*picture, np.array([[number, 0, 0, 0]], np.uint64))
        start = time.perf_counter()
        batch.encode_batch([request])
        return (time.perf_counter() - start) * 1e3

    ask(0)
    measured = rounds.run({"hit": lambda: ask(0), "miss": lambda: ask(next(numbers))}, count)
    return {"ms": measured.plain("miss"), "hit_over_miss": measured.ratio("hit", "miss")}


def _rate(run: Callable[[], Any], patches: int) -> Callable[[], float]:
    def rate() -> float:
        start = time.perf_counter()
        run()
        return patches / (time.perf_counter() - start)

    return rate


def _line(shape: str, figures: dict[str, Any]) -> str:
    rates: Sequence[str] = [f"{case} {v['median']:.0f}" for case, v in figures["patches_per_s"].items()]
    hit, miss = (figures["cache"]["ms"][name]["median"] for name in ("hit", "miss"))
    return (
        f"{shape}: patches/s {', '.join(rates)}; ours / hf {figures['ours_over_hf']:.2f}; row error "
        f"{figures['row_error']:.3f}; {figures['flops_share']:.0%} of the matrix rate; cache hit {hit:.2f} ms, miss {miss:.0f} ms"
    )
