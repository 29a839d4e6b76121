"""Feed-forward networks in parts: the same network, for steps of how many tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from build_engine.feed_forward import PARTS, most_tokens, split_feed_forward
from build_engine.manifest import Manifest
from build_engine.openvino_ir import load_language_model, tile_tokens

EnginesOf = Callable[[Path, str], Path]
HIDDEN, WIDTH = 64, 96


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


def test_other_products_are_left_alone() -> None:
    x = ops.parameter(ov.PartialShape([-1, HIDDEN]), ov.Type.f32)
    y = ops.matmul(ops.multiply(x, ops.swish(x)), weights(HIDDEN, HIDDEN, 0), False, True)
    assert split_feed_forward(ov.Model([ops.result(y)], [x], "other")) == 0


def test_gate_and_up_of_different_activations_are_left_alone() -> None:
    x = ops.parameter(ov.PartialShape([-1, HIDDEN]), ov.Type.f32)
    gate = ops.swish(ops.matmul(x, weights(WIDTH, HIDDEN, 0), False, True))
    other = ops.matmul(ops.relu(x), weights(WIDTH, HIDDEN, 1), False, True)
    y = ops.matmul(ops.multiply(gate, other), weights(HIDDEN, WIDTH, 2), False, True)
    assert split_feed_forward(ov.Model([ops.result(y)], [x], "different")) == 0


@pytest.mark.parametrize(("hidden", "tokens"), [(1024, 256), (2048, 256), (2560, 208), (4096, 96)])
def test_steps_stay_in_the_cache(hidden: int, tokens: int) -> None:
    """2048, 2560 and 4096 are what oneDNN's verbose output told: it takes tiles up to 288, 224 and 104 tokens."""
    assert most_tokens(hidden) == tokens


@pytest.mark.skipif(
    "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="without bfloat16 arithmetic, bf16 weights have no form for tiles",
)
def test_only_the_form_for_tiles_of_bf16_weights_is_in_parts(
    demo_checkpoint: Path, engines_of: EnginesOf, processor: Callable[[str], None]
) -> None:
    processor("amx_int8")
    directory = engines_of(demo_checkpoint, "bf16")
    manifest = Manifest.read(directory)
    for tiles, products in ((True, 3 * manifest.text.num_hidden_layers), (False, 0)):
        compiled = load_language_model(directory, manifest, tiles=tiles)
        in_parts = [
            node
            for node in compiled.get_runtime_model().get_ops()
            if node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
            and len(node.get_output_partial_shape(0)) == 3
        ]
        assert len(in_parts) == products


def test_a_step_of_int8_weights_may_have_as_many_tokens_as_the_engine_allows(
    demo_checkpoint: Path, engines_of: EnginesOf
) -> None:
    manifest = Manifest.read(engines_of(demo_checkpoint, "int8"))
    assert tile_tokens(manifest) == manifest.limits.max_num_tokens
