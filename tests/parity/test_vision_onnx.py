"""The encoder's ONNX model in its three types against transformers in float32, and the TensorRT encoder around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from build_engine.checkpoint import Checkpoint
from build_engine.manifest import Limits, Manifest, VisionFacts
from build_engine.tensorrt_plan import profile
from build_engine.vision import write_onnx
from build_engine.vision_plan import plan
from ensemble.contract import VISION_ENCODER, contract
from ensemble.errors import EngineFailure
from ensemble.triton_io import check
from ensemble.vision_encoder.batch import BatchEncoder, VisionRequest
from ensemble.vision_encoder.embedding_cache import EmbeddingCache
from ensemble.vision_encoder.tensorrt_encoder import TensorRtEncoder
from tests import fake_tensorrt
from tests.rounded_onnx import rounded

Grid = tuple[int, int, int]
Rows = npt.NDArray[Any]
CALLS: dict[str, tuple[Grid, ...]] = {
    "three images": ((1, 8, 12), (1, 16, 4), (1, 6, 6)),
    "one token": ((1, 2, 2),),
    "two frames and an image": ((2, 10, 6), (1, 22, 8)),
    "odd grids": ((1, 2, 90), (1, 66, 4), (1, 38, 26), (3, 6, 10)),
}
LIMITS = Limits(4, 400, 512, 64, 300)
# Absolute; the rows' standard deviation is 0.4 to 3, the largest error measured 5.2e-6.
LARGEST_ERROR = 1e-5
# Shares of an output's standard deviation: largest and mean error allowed, about twice the measured.
TYPED = {"float16": (0.01, 0.0025), "bfloat16": (0.11, 0.022)}
TABLE = {"float16": "FP16", "bfloat16": "BF16"}


def pixels(grids: tuple[Grid, ...], vision: VisionFacts, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Patches as a picture has them: neighbouring values alike, all of 0..255 used."""
    count = sum(t * h * w for t, h, w in grids)
    dice = np.random.default_rng(seed)
    smooth = np.cumsum(dice.normal(0, 12, (count, vision.patch_values)), axis=1)
    return np.clip(smooth + dice.uniform(0, 255, (count, 1)), 0, 255).astype(np.uint8)


class World:
    """A checkpoint, its three ONNX models, and transformers."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.checkpoint = Checkpoint.read(checkpoint)
        self.vision = self.checkpoint.vision
        self.folder = folder
        model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
        self._tower = model.model.visual.eval()
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def path(self, dtype: str) -> Path:
        file = self.folder / f"{dtype}.onnx"
        if not file.exists():
            write_onnx(self.checkpoint, file, dtype=dtype)
        return file

    def run(self, dtype: str, patches: npt.NDArray[np.uint8], grids: tuple[Grid, ...]) -> Rows:
        if dtype not in self._sessions:
            file = self.path(dtype)
            model = rounded(file) if dtype == "bfloat16" else file.read_bytes()
            self._sessions[dtype] = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        inputs = {"pixel_patches": patches, **plan(np.array(grids, np.int32), self.vision).inputs()}
        (rows,) = self._sessions[dtype].run(["visual_rows"], inputs)
        return np.asarray(rows)

    def reference(self, patches: npt.NDArray[np.uint8], grids: tuple[Grid, ...]) -> Rows:
        """[V, 1+D, H]; pixels normalised as transformers' image processor does."""
        vision = self.vision
        shape = (len(patches), vision.in_channels, -1)
        mean, std = (torch.tensor(values)[:, None] for values in (vision.image_mean, vision.image_std))
        values = (torch.from_numpy(patches).reshape(shape) * vision.rescale_factor - mean) / std
        with torch.no_grad():
            output = self._tower(values.reshape(len(patches), -1), torch.tensor(grids))
        return torch.stack([output.pooler_output, *output.deepstack_features], 1).numpy()


@pytest.fixture(
    scope="module", params=["demo", "three_levels", "other_patches", "other_colours", "exact_gelu"]
)
def world(
    request: pytest.FixtureRequest,
    demo_checkpoint: Path,
    random_checkpoint: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> World:
    checkpoint = demo_checkpoint if request.param == "demo" else random_checkpoint(request.param)
    return World(checkpoint, tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def demo(demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(demo_checkpoint, tmp_path_factory.mktemp("demo"))


def whole(grids: tuple[Grid, ...], vision: VisionFacts) -> tuple[Grid, ...]:
    """The grids in units of a checkpoint's own merge size."""
    merge = vision.spatial_merge_size
    return tuple((t, h // 2 * merge, w // 2 * merge) for t, h, w in grids)


@pytest.mark.parametrize("call", list(CALLS))
def test_every_output_in_float32_is_that_of_transformers(world: World, call: str) -> None:
    grids = whole(CALLS[call], world.vision)
    patches = pixels(grids, world.vision)
    got, want = world.run("float32", patches, grids), world.reference(patches, grids)
    assert got.shape == want.shape
    for level in range(got.shape[1]):
        error, spread = np.abs(got[:, level] - want[:, level]).max(), want[:, level].std()
        print(f"float32 {call}, level {level}: largest error {error:.1e}, deviation {spread:.3f}")
        assert error <= LARGEST_ERROR


@pytest.mark.parametrize("dtype", list(TYPED))
@pytest.mark.parametrize("call", list(CALLS))
def test_the_typed_forms_differ_by_their_rounding(world: World, call: str, dtype: str) -> None:
    grids = whole(CALLS[call], world.vision)
    patches = pixels(grids, world.vision)
    got, want = world.run(dtype, patches, grids).astype(np.float32), world.reference(patches, grids)
    largest, mean = TYPED[dtype]
    for level in range(got.shape[1]):
        errors = np.abs(got[:, level] - want[:, level]) / want[:, level].std()
        print(
            f"{dtype} {call}, level {level}: largest {errors.max():.4f}, mean {errors.mean():.5f} deviations"
        )
        assert errors.max() < largest
        assert errors.mean() < mean


@pytest.mark.parametrize("dtype", ["float32", *TYPED])
def test_other_pictures_of_a_call_leave_no_trace_in_any_bit(world: World, dtype: str) -> None:
    grids = whole(((1, 8, 12), (2, 6, 4), (1, 10, 10)), world.vision)
    ends = np.cumsum([t * h * w for t, h, w in grids])
    first = pixels(grids, world.vision)
    second = first.copy()
    second[ends[0] : ends[1]] = pixels(grids, world.vision, seed=1)[ends[0] : ends[1]]
    a, b = world.run(dtype, first, grids), world.run(dtype, second, grids)
    merged = world.vision.spatial_merge_size**2
    changed = slice(ends[0] // merged, ends[1] // merged)
    assert (a[changed] != b[changed]).any()
    a[changed], b[changed] = 0, 0
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", list(TYPED))
def test_a_strongly_typed_network_can_take_the_model(demo: World, dtype: str) -> None:
    """No node mixes types, which TensorRT would refuse and ONNX Runtime may not see; float32 is only where it should be."""
    model = onnx.shape_inference.infer_shapes(onnx.load(demo.path(dtype)), strict_mode=True, data_prop=True)
    graph = model.graph
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    kinds |= {weight.name: weight.data_type for weight in graph.initializer}
    real = {getattr(onnx.TensorProto, name.upper()) for name in ("float", "float16", "bfloat16")}
    narrow = onnx.TensorProto.FLOAT16 if dtype == "float16" else onnx.TensorProto.BFLOAT16
    by_kind: dict[str, set[int]] = {}
    for node in graph.node:
        given = {kinds[name] for name in node.input if name} & real
        assert len(given) <= 1, f"{node.name} mixes types"
        by_kind.setdefault(node.op_type, set()).update(given)
    assert by_kind["Gemm"] == by_kind["MatMul"] == by_kind["Softmax"] == by_kind["Gelu"] == {narrow}
    assert by_kind["LayerNormalization"] == {onnx.TensorProto.FLOAT}
    assert kinds["visual_rows"] == narrow
    assert {kinds[value.name] for value in graph.input} == {
        onnx.TensorProto.UINT8, onnx.TensorProto.INT32, onnx.TensorProto.FLOAT,
    }  # fmt: skip


def test_a_bfloat16_weight_of_the_checkpoint_is_kept_bit_by_bit(
    random_checkpoint: Any, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.read(random_checkpoint("base"))
    write_onnx(checkpoint, tmp_path / "m.onnx", dtype="bfloat16")
    name = "blocks.1.mlp.linear_fc1.weight"
    weights = {weight.name: weight for weight in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert weights[name].raw_data == checkpoint.shards.bits(f"model.visual.{name}").tobytes()


def test_weights_beside_the_model_give_the_same_rows(
    demo: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("build_engine.vision._EXTERNAL_DATA_BYTES", 0)
    write_onnx(demo.checkpoint, tmp_path / "big.onnx", dtype="float16")
    assert (tmp_path / "big.onnx").stat().st_size < 200_000 < (tmp_path / "big.onnx.data").stat().st_size
    session = onnxruntime.InferenceSession(tmp_path / "big.onnx", providers=["CPUExecutionProvider"])
    grids = CALLS["three images"]
    patches = pixels(grids, demo.vision)
    inputs = {"pixel_patches": patches, **plan(np.array(grids, np.int32), demo.vision).inputs()}
    np.testing.assert_array_equal(session.run(None, inputs)[0], demo.run("float16", patches, grids))


def tensorrt_encoder(demo: World, dtype: str, directory: Path) -> tuple[TensorRtEncoder, Manifest]:
    """The encoder over the stand-in for TensorRT, and a manifest of its engines."""
    checkpoint = demo.checkpoint
    manifest = Manifest(
        target="tensorrt-llm", weights="bf16", checkpoint_hash="c", engine_hash="e", vision=demo.vision,
        text=checkpoint.text, tokens=checkpoint.tokens, limits=LIMITS, versions={"tensorrt": "10.14.1"}, files={},
        table_dtype=TABLE[dtype],
    )  # fmt: skip
    made = fake_tensorrt.make_plan(demo.path(dtype), profile(demo.vision, LIMITS))
    (directory / "vision_encoder").mkdir(parents=True, exist_ok=True)
    (directory / "vision_encoder" / "model.plan").write_bytes(made)
    return TensorRtEncoder(directory, manifest, "cpu", fake_tensorrt), manifest


def media(patches: npt.NDArray[np.uint8], grids: tuple[Grid, ...], seed: int = 0) -> VisionRequest:
    digests = np.arange(4 * len(grids), dtype=np.uint64).reshape(-1, 4) + np.uint64(1000 * seed)
    return VisionRequest(patches, np.array(grids, np.int32).reshape(-1, 3), digests)


@pytest.mark.parametrize("dtype", list(TYPED))
def test_the_tensorrt_encoder_gives_the_models_rows_call_after_call(
    demo: World, dtype: str, tmp_path: Path
) -> None:
    encoder, _ = tensorrt_encoder(demo, dtype, tmp_path)
    assert (encoder.call_limits.max_patches, encoder.call_limits.max_segments) == (1200, 16)
    for call in ("one token", "three images", "two frames and an image", "one token"):
        grids = CALLS[call]
        patches = pixels(grids, demo.vision)
        patches.flags.writeable = False  # as Triton gives them
        rows = encoder.encode(patches, np.array(grids, np.int32))
        assert rows.dtype == getattr(torch, dtype)
        np.testing.assert_array_equal(
            rows.float().numpy(), demo.run(dtype, patches, grids).astype(np.float32)
        )


@pytest.mark.parametrize("dtype", list(TYPED))
def test_a_batch_is_packed_into_one_call_and_cached_as_tensors(
    demo: World, dtype: str, tmp_path: Path
) -> None:
    encoder, manifest = tensorrt_encoder(demo, dtype, tmp_path)
    cache = EmbeddingCache(1 << 20)
    batch = BatchEncoder(encoder, manifest, cache, encoder.call_limits)
    sets = (((1, 8, 8), (1, 8, 6)), ((2, 8, 8),), ())
    requests = [media(pixels(grids, demo.vision, seed), grids, seed) for seed, grids in enumerate(sets)]
    tables = batch.encode_batch(requests)
    declared = contract("tensorrt-llm", TABLE[dtype])[VISION_ENCODER].output("prompt_embedding_table")
    calls = encoder._context.calls
    assert len(calls) == 1
    assert calls[0]["gather_index"] == (4, 64)
    for grids, request, table in zip(sets, requests, tables, strict=True):
        check(declared, table)
        assert table.is_contiguous()
        if grids:
            # The kernels of ONNX Runtime round by the shape of a call, in the last bit of the type.
            want = demo.run(dtype, request.pixel_patches, grids).astype(np.float32).reshape(table.shape)
            np.testing.assert_allclose(table.float().numpy(), want, atol=0.05 * want.std())
    assert tables[2].shape == (1, manifest.rows_per_visual_token, demo.vision.out_hidden_size)
    assert not tables[2].any()
    per_token = manifest.rows_per_visual_token * demo.vision.out_hidden_size * 2
    assert cache.size_bytes == (16 + 12 + 32) * per_token
    tables[0].zero_()
    again = batch.encode_batch(requests[:2])
    assert len(calls) == 1
    assert again[0].any(), "a table is a copy of what the cache holds"
    assert torch.equal(again[1], tables[1])


def test_a_call_beyond_the_profile_is_refused_with_the_sizes(demo: World, tmp_path: Path) -> None:
    encoder, manifest = tensorrt_encoder(demo, "float16", tmp_path)
    too_large = ((1, 40, 32),)
    request = media(pixels(too_large, demo.vision), too_large)
    (failure,) = BatchEncoder(encoder, manifest, EmbeddingCache(0), encoder.call_limits).encode_batch(
        [request]
    )
    assert isinstance(failure, EngineFailure)
    assert "[1280, 1536]" in str(failure)
    assert "to [1200, 1536]" in str(failure)
    fine = ((1, 4, 4),)
    assert len(encoder.encode(pixels(fine, demo.vision), np.array(fine, np.int32))) == 4


def test_a_plan_that_does_not_fit_is_refused_at_load(demo: World, tmp_path: Path) -> None:
    encoder, manifest = tensorrt_encoder(demo, "float16", tmp_path)
    with pytest.raises(RuntimeError, match=r"gives rows of DataType\.HALF, the manifest says BF16"):
        TensorRtEncoder(tmp_path, dataclasses.replace(manifest, table_dtype="BF16"), "cpu", fake_tensorrt)
    (tmp_path / "vision_encoder" / "model.plan").write_bytes(b"of another TensorRT")
    with pytest.raises(
        RuntimeError, match=r"cannot be loaded by TensorRT 10\.14\.1 .* build the engines again"
    ):
        TensorRtEncoder(tmp_path, manifest, "cpu", fake_tensorrt)
    assert encoder.call_limits.max_padding
