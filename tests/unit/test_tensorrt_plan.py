"""From ONNX to plans: profiles, a real compile by TensorRT-RTX without a GPU, and what refusals say."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import onnx
import pytest
import tensorrt_rtx
from onnx import TensorProto, helper

from build_engine import tensorrt_plan
from build_engine.__main__ import main
from build_engine.checkpoint import Checkpoint
from build_engine.manifest import Limits
from build_engine.tensorrt_plan import (
    MAX_SEGMENTS,
    PlanError,
    ShapeRange,
    compile_onnx,
    profile,
    write_vision_encoder,
)
from build_engine.tower_shapes import SHAPES, random_tower
from build_engine.vision import write_onnx


def limits(max_visual_tokens: int) -> Limits:
    return Limits(4, max_visual_tokens, max_visual_tokens + 100, 256, max_visual_tokens)


LIMITS = limits(2048)


def test_the_profile_spans_one_visual_token_to_one_picture_of_all_of_a_request() -> None:
    vision = random_tower("2b").vision
    shapes = profile(vision, LIMITS)
    assert shapes["pixel_patches"] == ShapeRange((4, 1536), (4096, 1536), (8192, 1536))
    assert shapes["gather_index"] == ShapeRange((1, 4), (4, 1024), (MAX_SEGMENTS, 8192))
    assert shapes["segment_length"] == ShapeRange((1,), (4,), (MAX_SEGMENTS,))
    assert shapes["position_weight"] == ShapeRange((4, 4), (4, 4096), (4, 8192))


@pytest.mark.parametrize("tokens", [1, 2, 5, 700, 30000])
def test_every_profile_is_in_order(tokens: int) -> None:
    for name, span in profile(random_tower("8b").vision, limits(tokens)).items():
        for low, usual, high in zip(span.min, span.opt, span.max, strict=True):
            assert 1 <= low <= usual <= high, name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_tensorrt_rtx_compiles_the_demo_encoder(demo_checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    checkpoint = Checkpoint.read(demo_checkpoint)
    write_onnx(checkpoint, tmp_path / "m.onnx", dtype=dtype)
    plan = compile_onnx(tensorrt_rtx, tmp_path / "m.onnx", profile(checkpoint.vision, LIMITS), sm=89)
    weights = sum(checkpoint.shards.stored(name).size for name in checkpoint.vision_tensors())
    assert plan.data.nbytes > 2 * weights
    # Attention is fused: the scores of 16 segments of 8192 patches alone would take 8.6 GB in memory, the mask 2.1 GB if it were
    # written out; 160 MB were measured.
    assert plan.scratch_bytes is not None
    assert plan.scratch_bytes < 200e6


def test_a_refusal_while_compiling_is_told_in_the_compilers_words(tmp_path: Path) -> None:
    graph = [helper.make_node("Attention", ["q", "k", "v"], ["o"], name="attend", scale=1.0)]
    declared = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", 4, "L", 32]) for n in "qkvo"]
    save(tmp_path / "m.onnx", graph, declared[:3], declared[3:])
    span = ShapeRange((1, 4, 4, 32), (2, 4, 64, 32), (4, 4, 256, 32))
    with pytest.raises(PlanError, match=r"SM89.*Attention operation was not supported by a dedicated kernel"):
        compile_onnx(tensorrt_rtx, tmp_path / "m.onnx", dict.fromkeys("qkv", span), sm=89)


def test_a_refused_node_is_named(tmp_path: Path) -> None:
    value = functools.partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT16)
    node = helper.make_node("Det", ["x"], ["y"], name="blocks.3/Det")
    save(tmp_path / "m.onnx", [node], [value("x", shape=["B", 4, 4])], [value("y", shape=["B"])])
    span = ShapeRange((1, 4, 4), (1, 4, 4), (2, 4, 4))
    with pytest.raises(PlanError) as refused:
        compile_onnx(tensorrt_rtx, tmp_path / "m.onnx", {"x": span}, sm=89)
    assert "tensorrt_rtx 1.7" in str(refused.value)
    assert "node 'blocks.3/Det' (Det)" in str(refused.value)
    assert "UNSUPPORTED_NODE" in str(refused.value)


def test_mixed_types_are_refused_by_name_and_without_talk_of_cuda(tmp_path: Path) -> None:
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["B", 4]),
        helper.make_tensor_value_info("z", TensorProto.FLOAT, ["B", 4]),
    ]
    node = helper.make_node("Add", ["x", "z"], ["y"], name="blocks.1/Add")
    save(
        tmp_path / "m.onnx",
        [node],
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["B", 4])],
    )
    with pytest.raises(
        PlanError, match=r"blocks\.1/Add.*must have same input types.*Half and Float"
    ) as refused:
        compile_onnx(tensorrt_rtx, tmp_path / "m.onnx", {}, sm=89)
    assert "cudaError" not in str(refused.value)


def test_an_unknown_architecture_and_an_unknown_input_are_refused(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.read(demo_checkpoint)
    write_onnx(checkpoint, tmp_path / "m.onnx", dtype="float16")
    shapes = profile(checkpoint.vision, LIMITS)
    with pytest.raises(PlanError, match="does not know SM90; it compiles for 75, 80, 86, 89"):
        compile_onnx(tensorrt_rtx, tmp_path / "m.onnx", shapes, sm=90)
    del shapes["scatter_index"]
    with pytest.raises(PlanError, match="'scatter_index' that the profile has no shape for"):
        compile_onnx(tensorrt_rtx, tmp_path / "m.onnx", shapes, sm=89)


def test_the_build_writes_the_plan_and_nothing_else(
    demo_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build's own path, with TensorRT-RTX for an SM89 in the place of TensorRT."""
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", tensorrt_rtx)
    monkeypatch.setattr(tensorrt_plan, "compile_onnx", functools.partial(compile_onnx, sm=89))
    checkpoint, steps = Checkpoint.read(demo_checkpoint), []
    write_vision_encoder(checkpoint, "bfloat16", LIMITS, tmp_path, lambda: steps.append(1))
    (written,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert written == tmp_path / "vision_encoder" / "model.plan"
    assert written.stat().st_size > 4e6
    assert len(steps) == checkpoint.vision.depth


def test_random_towers_have_the_public_shapes() -> None:
    towers = {shape: random_tower(shape) for shape in SHAPES}
    counts = {
        shape: sum(tower.shards.stored(name).size for name in tower.vision_tensors())
        for shape, tower in towers.items()
    }
    assert counts["2b"] == 406_957_056
    assert [tower.vision.hidden_size // tower.vision.num_heads for tower in towers.values()] == [
        64,
        64,
        72,
        72,
        32,
    ]
    assert [tower.vision.out_hidden_size for tower in towers.values()] == [2048, 2560, 4096, 5120, 224]
    bits = towers["demo"].shards.bits("model.visual.pos_embed.weight")
    assert bits is not None
    assert bits.shape == (256, 128)
    drawn = towers["demo"].shards.float32("model.visual.pos_embed.weight")
    assert 0.019 < drawn.std() < 0.021


def test_the_command_reports_every_architecture_and_ends_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile-check", "--shape", "demo", "--sm", "89", "120", "--max-visual-tokens", "512"]) == 0
    *told, last = capsys.readouterr().out.strip().splitlines()
    report = json.loads(last)
    assert [outcome["sm"] for outcome in report["architectures"]] == [89, 120]
    for outcome in report["architectures"]:
        assert outcome["refused"] is None
        assert outcome["engine_mb"] > report["onnx_mb"]
        assert outcome["memory_mb"] > outcome["engine_mb"]
    assert sum("compiled in" in line for line in told) == 2


def test_the_command_tells_what_was_refused_and_goes_on(
    demo_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["compile-check", str(demo_checkpoint), "--sm", "75", "89", "--max-visual-tokens", "512"]) == 1
    )
    out = capsys.readouterr().out
    assert "SM75   refused" in out
    assert "HW-specific datatypes: b16" in out
    assert "SM89   compiled" in out
    first, second = json.loads(out.strip().splitlines()[-1])["architectures"]
    assert first["engine_mb"] is None
    assert second["refused"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either a CHECKPOINT or --shape"),
        (["somewhere", "--shape", "2b"], "either a CHECKPOINT or --shape"),
        (["--shape", "demo", "--max-visual-tokens", "0"], "must be above 0"),
        (["/nowhere"], "/nowhere is not a directory"),
    ],
)
def test_wrong_use_ends_with_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile-check", *arguments]) == 2
    assert message in capsys.readouterr().err


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> None:
    graph = helper.make_graph(nodes, "made", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11), path)
