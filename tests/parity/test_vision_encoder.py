"""The built vision encoder against transformers: every output, many grids, any batch composition."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from build_engine.build import build
from build_engine.checkpoint import Checkpoint
from build_engine.demo.architecture import Sizes, make_model, save_checkpoint
from build_engine.manifest import Manifest
from build_engine.openvino_build import OpenVino
from ensemble.errors import EngineFailure
from ensemble.vision_encoder.batch import BatchEncoder, VisionRequest
from ensemble.vision_encoder.embedding_cache import EmbeddingCache
from ensemble.vision_encoder.encoder import CallLimits, OpenVinoEncoder

DEMO = Path(__file__).parents[2] / "build_engine" / "demo" / "checkpoint"
Grid = tuple[int, int, int]
Rows = npt.NDArray[np.float32]

# Square, one token, extreme aspects, larger than the position table (16 x 16), several frames.
GRIDS: tuple[Grid, ...] = (
    (1, 8, 8),
    (1, 2, 2),
    (1, 2, 90),
    (1, 66, 4),
    (1, 38, 26),
    (3, 6, 10),
    (1, 8, 8),
    (5, 2, 4),
)
SHAPES = {
    "demo": None,
    "one level after the first block, wide heads": Sizes(
        vision_hidden=144,
        vision_depth=2,
        vision_heads=2,
        vision_intermediate=200,
        deepstack=(0,),
        text_hidden=96,
    ),
    "three levels, the last after the last block": Sizes(
        vision_hidden=64,
        vision_depth=4,
        vision_heads=4,
        vision_intermediate=300,
        deepstack=(0, 1, 3),
        text_hidden=64,
    ),
}
# Largest error allowed, as a share of the standard deviation of the output; about three times the measured.
TOLERANCE = {"f32": 2e-5, "bf16": 0.1, "int8": 0.25}


class World:
    """A checkpoint, its engines by weights, and transformers beside them."""

    def __init__(self, folder: Path, sizes: Sizes | None) -> None:
        self._folder = folder
        self._checkpoint = DEMO
        if sizes is not None:
            self._checkpoint = folder / "checkpoint"
            model = make_model(AutoTokenizer.from_pretrained(DEMO), sizes, seed=0)
            with torch.no_grad():
                # A new model's weights are so small that blocks hardly matter: errors would not show.
                for name, weight in model.model.visual.named_parameters():
                    weight.mul_(3.0 if "norm" not in name else 1.0)
            save_checkpoint(model, AutoTokenizer.from_pretrained(DEMO), self._checkpoint)
        model = Qwen3VLForConditionalGeneration.from_pretrained(self._checkpoint, dtype=torch.float32).eval()
        self._tower = model.model.visual
        self._engines: dict[str, tuple[Manifest, OpenVinoEncoder]] = {}

    def engine(self, weights: str) -> tuple[Manifest, OpenVinoEncoder]:
        if weights not in self._engines:
            directory = self._folder / weights
            manifest = build(
                Checkpoint.read(self._checkpoint),
                directory,
                OpenVino(weights),
                {"max_seq_len": 512},
                force=False,
            )
            self._engines[weights] = manifest, OpenVinoEncoder(directory, manifest)
        return self._engines[weights]

    def reference(self, patches: npt.NDArray[np.uint8], grids: list[Grid]) -> Rows:
        """[V, 1+D, H] of transformers; pixels normalised as its image processor does."""
        pixels = torch.from_numpy(patches.astype(np.float32) / 255 * 2 - 1)
        with torch.no_grad():
            output = self._tower(pixels, torch.tensor(grids))
        return np.stack(
            [output.pooler_output.numpy(), *(f.numpy() for f in output.deepstack_features)], axis=1
        )


@pytest.fixture(scope="module", params=list(SHAPES))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("vision"), SHAPES[request.param])


def pixels(world: World, grids: list[Grid] | tuple[Grid, ...], seed: int = 0) -> npt.NDArray[np.uint8]:
    """Patches as a picture has them: neighbouring values alike, all of 0..255 used."""
    values = world.engine("f32")[0].vision.patch_values
    count = sum(t * h * w for t, h, w in grids)
    dice = np.random.default_rng(seed)
    smooth = np.cumsum(dice.normal(0, 12, (count, values)), axis=1) + dice.uniform(0, 255, (count, 1))
    return np.clip(smooth, 0, 255).astype(np.uint8)


def media(patches: npt.NDArray[np.uint8], grids: tuple[Grid, ...]) -> VisionRequest:
    ends = np.cumsum([t * h * w for t, h, w in grids])[:-1]
    digests = [hashlib.sha256(part.tobytes()).digest() for part in np.split(patches, ends)]
    words = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 4)
    return VisionRequest(patches, np.array(grids, np.int32), words)


@pytest.mark.parametrize("weights", list(TOLERANCE))
def test_a_packed_call_equals_transformers_at_every_level(world: World, weights: str) -> None:
    manifest, encoder = world.engine(weights)
    patches = pixels(world, GRIDS)
    got = encoder.encode(patches, np.array(GRIDS, np.int32))
    want = world.reference(patches, list(GRIDS))
    assert got.shape == want.shape
    assert got.shape[1] == manifest.rows_per_visual_token >= 2
    for level in range(got.shape[1]):
        error = np.abs(got[:, level] - want[:, level]).max() / want[:, level].std()
        print(f"{weights} level {level}: largest error {error:.2e} of std {want[:, level].std():.3f}")
        assert error < TOLERANCE[weights]


def test_the_grid_matters_not_only_the_number_of_patches(world: World) -> None:
    _, encoder = world.engine("f32")
    patches = pixels(world, [(1, 4, 16)])
    rows = [
        encoder.encode(patches, np.array([grid], np.int32)) for grid in ((1, 4, 16), (1, 8, 8), (4, 2, 8))
    ]
    for i, grid in enumerate(((1, 4, 16), (1, 8, 8), (4, 2, 8))):
        want = world.reference(patches, [grid])
        np.testing.assert_allclose(rows[i], want, atol=TOLERANCE["f32"] * want.std())
    assert np.abs(rows[0] - rows[1]).max() > 0.02 * rows[0].std()
    assert np.abs(rows[1] - rows[2]).max() > 0.02 * rows[0].std()


@pytest.mark.parametrize("weights", list(TOLERANCE))
def test_rows_do_not_depend_on_what_else_is_in_the_batch_to_the_bit(world: World, weights: str) -> None:
    manifest, encoder = world.engine(weights)

    def encode(*requests: VisionRequest) -> list[Rows]:
        results = BatchEncoder(encoder, manifest, EmbeddingCache(0), CallLimits(64)).encode_batch(requests)
        assert not any(isinstance(result, EngineFailure) for result in results)
        return [result for result in results if not isinstance(result, EngineFailure)]

    one = media(pixels(world, GRIDS[2:4], seed=1), GRIDS[2:4])
    others = [media(pixels(world, grids, seed=2), grids) for grids in (GRIDS[:2], GRIDS[4:6], GRIDS[2:4])]
    (alone,) = encode(one)
    for batch in ([one, *others], [others[1], one], [one, one, others[2]]):
        table = encode(*batch)[next(i for i, request in enumerate(batch) if request is one)]
        np.testing.assert_array_equal(table, alone)


@pytest.mark.parametrize("weights", list(TOLERANCE))
def test_other_pictures_of_a_packed_call_leave_no_trace(world: World, weights: str) -> None:
    _, encoder = world.engine(weights)
    grids = np.array([(1, 8, 8), (1, 6, 4)], np.int32)
    mine = pixels(world, [(1, 8, 8)])
    packed = [
        encoder.encode(np.concatenate([mine, pixels(world, [(1, 6, 4)], seed)]), grids)[:16]
        for seed in (3, 4)
    ]
    np.testing.assert_array_equal(packed[0], packed[1])


def test_a_cut_video_equals_the_whole_one(world: World) -> None:
    manifest, encoder = world.engine("f32")
    grid = (5, 6, 4)
    video = media(pixels(world, [grid]), (grid,))
    (table,) = BatchEncoder(encoder, manifest, EmbeddingCache(1 << 20), CallLimits(50)).encode_batch([video])
    assert not isinstance(table, EngineFailure)
    want = world.reference(video.pixel_patches, [grid]).reshape(1, -1, table.shape[-1])
    np.testing.assert_allclose(table, want, atol=TOLERANCE["f32"] * want.std())
