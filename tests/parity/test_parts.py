"""Products in parts: the same numbers, for which products and for steps of how many tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from build_engine.integer_parts import MOST_TOKENS
from build_engine.manifest import Manifest
from build_engine.openvino_ir import load_language_model, tile_tokens
from build_engine.parts import HALVES, PARTS, ROWS, most_tokens, split_products
from tests.parity.networks import HIDDEN, WIDTH, computed, network, products_in_parts, weights

EnginesOf = Callable[[Path, str], Path]
needs_bfloat16 = pytest.mark.skipif(
    "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="without bfloat16 arithmetic, bf16 weights have no form for tiles",
)


def projections(*widths: int) -> ov.Model:
    """Products of one x as attention has them, the first with a bias; each is halved behind it, so none is a result."""
    x = ops.parameter(ov.PartialShape([-1, HIDDEN]), ov.Type.f32)
    made = [ops.matmul(x, weights(out, HIDDEN, seed), False, True) for seed, out in enumerate(widths)]
    made[0] = ops.add(made[0], ops.constant(np.linspace(-1, 1, widths[0], dtype=np.float32)))
    return ov.Model([ops.result(ops.multiply(y, np.float32(0.5))) for y in made], [x], "projections")


def parts_of(model: ov.Model) -> list[int]:
    """How many parts each product has, of those that have any."""
    shapes = [
        node.get_output_partial_shape(0)
        for node in model.get_ordered_ops()
        if node.get_type_name() == "MatMul"
    ]
    return [shape[0].get_length() for shape in shapes if len(shape) == 3]


def check_equal(model: ov.Model, whole: ov.Model, tokens: int) -> None:
    x = np.random.default_rng(tokens).standard_normal((tokens, HIDDEN)).astype(np.float32)
    for made, expected in zip(computed(model, x), computed(whole, x), strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 5, 16, 32, 200])
def test_the_parts_of_a_network_are_the_whole(tokens: int) -> None:
    model = network()
    assert split_products(model, HIDDEN) == 3
    assert parts_of(model) == [PARTS] * 3
    check_equal(model, network(), tokens)


@pytest.mark.parametrize("tokens", [1, 5, 16, 32, 200])
def test_the_halves_of_other_products_are_the_whole(tokens: int) -> None:
    widths = 4 * ROWS, 2 * ROWS, 2 * ROWS
    model = projections(*widths)
    assert split_products(model, HIDDEN) == 3
    assert parts_of(model) == [HALVES] * 3
    assert sum(node.get_type_name() == "Concat" for node in model.get_ops()) == 1  # they share x, twice
    check_equal(model, projections(*widths), tokens)


@pytest.mark.parametrize("width", [2 * ROWS - 2, 2 * ROWS + 1, ROWS])
def test_a_product_too_narrow_for_halves_is_left_alone(width: int) -> None:
    model = projections(width, 2 * ROWS)
    assert split_products(model, HIDDEN) == 1
    check_equal(model, projections(width, 2 * ROWS), 7)


def test_a_product_of_longer_rows_than_a_step_is_made_for_is_left_alone() -> None:
    """As the output of attention has them at 4B: 4,096 values, with a hidden size of 2,560."""
    assert split_products(projections(2 * ROWS), HIDDEN - 1) == 0


def test_a_width_that_does_not_divide_is_left_alone() -> None:
    assert split_products(network(WIDTH + 2), HIDDEN) == 0


def test_a_result_is_left_alone() -> None:
    """As logits are: their product must give float32."""
    x = ops.parameter(ov.PartialShape([-1, HIDDEN]), ov.Type.f32)
    logits = ops.matmul(x, weights(2 * ROWS, HIDDEN, 0), False, True)
    assert (
        split_products(ov.Model([ops.result(logits), ops.result(ops.relu(logits))], [x], "head"), HIDDEN) == 0
    )


def test_weights_that_are_not_stored_as_bfloat16_are_left_alone() -> None:
    x = ops.parameter(ov.PartialShape([-1, HIDDEN]), ov.Type.f32)
    wide = ops.constant(np.ones((2 * ROWS, HIDDEN), np.float32))
    half = ops.convert(ops.constant(np.ones((2 * ROWS, HIDDEN), np.float16)), ov.Type.f32)
    given = ops.parameter(ov.PartialShape([2 * ROWS, HIDDEN]), ov.Type.f32)
    outputs = [ops.result(ops.relu(ops.matmul(x, matrix, False, True))) for matrix in (wide, half, given)]
    assert split_products(ov.Model(outputs, [x, given], "other"), HIDDEN) == 0


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
        assert len(products_in_parts(load_language_model(directory, manifest, tiles=tiles))) == products


def test_a_step_of_int8_weights_has_no_more_tokens_than_are_fast_nor_than_the_engine_allows(
    demo_checkpoint: Path, engines_of: EnginesOf
) -> None:
    manifest = Manifest.read(engines_of(demo_checkpoint, "int8"))
    assert tile_tokens(manifest) == MOST_TOKENS < manifest.limits.max_num_tokens
    short = replace(manifest, limits=replace(manifest.limits, max_num_tokens=100))
    assert tile_tokens(short) == 100
