"""Feed-forward networks in parts, and as one operation: the same network, for steps of how many tokens."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from build_engine.feed_forward import PARTS, fuse_feed_forward, most_tokens, split_feed_forward
from build_engine.manifest import Manifest
from build_engine.openvino_ir import has_tiles, load_language_model, tile_tokens

EnginesOf = Callable[[Path, str], Path]
HIDDEN, WIDTH = 64, 96

needs_bfloat16 = pytest.mark.skipif(
    "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="without bfloat16 arithmetic, bf16 weights have no form for tiles",
)
needs_amx = pytest.mark.skipif(not has_tiles(), reason="OpenVINO has the fused operation on AMX only")


def weights(out: int, width: int, seed: int) -> ov.Node:
    """bfloat16 [out, in] as an engine file has it."""
    values = np.random.default_rng(seed).standard_normal((out, width)).astype(np.float32) / 8
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    tensor = ov.Tensor(bits, ov.Shape([out, width]), ov.Type.bf16)
    return ops.convert(ops.constant(tensor, shared_memory=False), ov.Type.f32)


def network(width: int = WIDTH) -> ov.Model:
    x = ops.parameter(ov.PartialShape([-1, HIDDEN]), ov.Type.f32)
    gate = ops.swish(ops.matmul(x, weights(width, HIDDEN, 0), False, True))
    inner = ops.multiply(gate, ops.matmul(x, weights(width, HIDDEN, 1), False, True))
    y = ops.add(x, ops.matmul(inner, weights(HIDDEN, width, 2), False, True))
    return ov.Model([ops.result(y)], [x], "network")


def computed(model: ov.Model, x: np.ndarray) -> np.ndarray:
    return np.array(ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0])


def layers(compiled: ov.CompiledModel, kind: str) -> list[ov.Node]:
    nodes = compiled.get_runtime_model().get_ops()
    return [node for node in nodes if node.get_rt_info()["layerType"].astype(str) == kind]


@pytest.mark.parametrize("tokens", [1, 5, 16, 32, 200])
def test_the_parts_are_the_whole(tokens: int) -> None:
    x = np.random.default_rng(tokens).standard_normal((tokens, HIDDEN)).astype(np.float32)
    model = network()
    assert split_feed_forward(model) == 1
    products = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
    assert {node.get_output_partial_shape(0)[0].get_length() for node in products} == {PARTS}
    np.testing.assert_allclose(computed(model, x), computed(network(), x), rtol=1e-4, atol=1e-4)


def test_a_width_that_does_not_divide_is_left_alone() -> None:
    assert split_feed_forward(network(WIDTH + 2)) == 0


@pytest.mark.parametrize("tokens", [1, 5, 16, 32, 200])
def test_what_is_to_be_fused_is_the_same_network(tokens: int) -> None:
    x = np.random.default_rng(tokens).standard_normal((tokens, HIDDEN)).astype(np.float32)
    model = network()
    assert fuse_feed_forward(model) == 1
    np.testing.assert_allclose(computed(model, x), computed(network(), x), rtol=1e-4, atol=1e-4)


@needs_amx
@pytest.mark.parametrize(("hidden", "width"), [(64, 96), (224, 576), (2048, 6112)])
def test_openvino_fuses_it(hidden: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "HIDDEN", hidden)
    model = network(width)
    assert fuse_feed_forward(model) == 1
    compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    assert len(layers(compiled, "LLMMLP")) == 1
    for tokens in (1, 2, 7, 16, 17, 33, 256, 257):
        x = np.random.default_rng(tokens).standard_normal((tokens, hidden)).astype(np.float32)
        made, expected = np.array(compiled(x)[0]), computed(network(width), x)
        # bfloat16 alone is as far off as 0.033 at these sizes.
        assert np.abs(made - expected).max() < 0.06 * (expected - x).std()


@pytest.mark.parametrize(("hidden", "width"), [(48, 96), (64, 80)])
def test_widths_that_the_fused_operation_does_not_take_are_left_alone(
    hidden: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "HIDDEN", hidden)
    assert fuse_feed_forward(network(width)) == 0


def test_weights_beyond_float16_become_the_largest_there_is() -> None:
    x = ops.parameter(ov.PartialShape([-1, 32]), ov.Type.f32)
    bits = np.full((32, 32), 0x4780, np.uint16)  # 65536
    bits[:, 1:] = 0
    large = ops.convert(
        ops.constant(ov.Tensor(bits, ov.Shape([32, 32]), ov.Type.bf16), shared_memory=False), ov.Type.f32
    )
    inner = ops.multiply(ops.swish(ops.matmul(x, large, False, True)), ops.matmul(x, large, False, True))
    model = ov.Model([ops.result(ops.matmul(inner, weights(32, 32, 0), False, True))], [x], "large")
    assert fuse_feed_forward(model) == 1
    stored = {
        float(node.data.max())
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and node.get_element_type() == ov.Type.f16
    }
    assert 65504.0 in stored
    assert np.isfinite(list(stored)).all()


@pytest.mark.parametrize("rewrite", [split_feed_forward, fuse_feed_forward])
def test_other_products_are_left_alone(rewrite: Callable[[ov.Model], int]) -> None:
    x = ops.parameter(ov.PartialShape([-1, HIDDEN]), ov.Type.f32)
    y = ops.matmul(ops.multiply(x, ops.swish(x)), weights(HIDDEN, HIDDEN, 0), False, True)
    assert rewrite(ov.Model([ops.result(y)], [x], "other")) == 0


@pytest.mark.parametrize("rewrite", [split_feed_forward, fuse_feed_forward])
def test_gate_and_up_of_different_activations_are_left_alone(rewrite: Callable[[ov.Model], int]) -> None:
    x = ops.parameter(ov.PartialShape([-1, HIDDEN]), ov.Type.f32)
    gate = ops.swish(ops.matmul(x, weights(WIDTH, HIDDEN, 0), False, True))
    other = ops.matmul(ops.relu(x), weights(WIDTH, HIDDEN, 1), False, True)
    y = ops.matmul(ops.multiply(gate, other), weights(HIDDEN, WIDTH, 2), False, True)
    assert rewrite(ov.Model([ops.result(y)], [x], "different")) == 0


@pytest.mark.parametrize(("hidden", "tokens"), [(1024, 256), (2048, 256), (2560, 208), (4096, 96)])
def test_steps_stay_in_the_cache(hidden: int, tokens: int) -> None:
    """2048, 2560 and 4096 are what oneDNN's verbose output told: it takes tiles up to 288, 224 and 104 tokens."""
    assert most_tokens(hidden) == tokens


@needs_bfloat16
def test_only_the_form_for_tiles_of_bf16_weights_is_in_parts(
    demo_checkpoint: Path, engines_of: EnginesOf, processor: Callable[[str], None]
) -> None:
    processor("amx_int8")
    directory = engines_of(demo_checkpoint, "bf16")
    manifest = Manifest.read(directory)
    for tiles, products in ((True, 3 * manifest.text.num_hidden_layers), (False, 0)):
        compiled = load_language_model(directory, manifest, tiles=tiles)
        of_three_axes = [
            node for node in layers(compiled, "FullyConnected") if len(node.get_output_partial_shape(0)) == 3
        ]
        assert len(of_three_axes) == products


@needs_amx
@pytest.mark.parametrize(("threads", "tiles"), [(2, False), (1, False), (2, True)])
def test_one_thread_and_the_form_for_tiles_are_not_fused(
    threads: int, tiles: bool, demo_checkpoint: Path, engines_of: EnginesOf
) -> None:
    """With one thread, OpenVINO's operation would divide by zero while it is compiled."""
    directory = engines_of(demo_checkpoint, "bf16")
    manifest = Manifest.read(directory)
    compiled = load_language_model(directory, manifest, threads=threads, tiles=tiles, fused=True)
    cores = len(os.sched_getaffinity(0))
    fused = manifest.text.num_hidden_layers if min(threads, cores) > 1 and not tiles else 0
    assert len(layers(compiled, "LLMMLP")) == fused


@pytest.mark.parametrize(
    ("weights", "flags", "options"),
    [("bf16", "amx_int8", {"kv_cache_dtype": "f32"}), ("int8", "amx_int8", {}), ("bf16", "avx512_bf16", {})],
)
def test_what_cannot_be_fused_is_refused(
    weights: str,
    flags: str,
    options: dict[str, Any],
    demo_checkpoint: Path,
    engines_of: EnginesOf,
    processor: Callable[[str], None],
) -> None:
    processor(flags)
    directory = engines_of(demo_checkpoint, weights)
    with pytest.raises(ValueError, match=f"{weights} weights with a .* cache are not fused here"):
        load_language_model(directory, Manifest.read(directory), fused=True, **options)


def test_a_step_of_int8_weights_may_have_as_many_tokens_as_the_engine_allows(
    demo_checkpoint: Path, engines_of: EnginesOf
) -> None:
    manifest = Manifest.read(engines_of(demo_checkpoint, "int8"))
    assert tile_tokens(manifest) == manifest.limits.max_num_tokens
