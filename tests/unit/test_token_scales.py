"""Activations with one scale a token: what is computed, that it is an integer product, and that tokens stay apart."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from openvino import PartialShape, Type
from openvino import opset13 as ops

from build_engine.openvino_ir import has_integer_products
from build_engine.token_scales import round_activations
from build_engine.weights import Weights, quantise_int8
from tests.unit.test_build_weights import stored

pytestmark = pytest.mark.skipif(
    not has_integer_products(), reason="without VNNI or AMX, int8 products overflow; the form is refused"
)

Floats = npt.NDArray[np.float32]
WIDTH, OUT = 256, 96


def _values(rows: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)


def _model(*schemes: str) -> ov.Model:
    """One input, and for each scheme a product with other weights."""
    weights = Weights(cast(Any, SimpleNamespace()))
    x = ops.parameter(PartialShape([-1, WIDTH]), Type.f32)
    results = [
        ops.result(ops.matmul(x, weights.compressed(_values(OUT, place), scheme), False, True))
        for place, scheme in enumerate(schemes)
    ]
    model = ov.Model(results, [x], "products")
    _ALIVE.append(weights)
    return model


_ALIVE: list[Weights] = []


def _count(model: ov.Model, kind: str) -> int:
    return sum(node.get_type_name() == kind for node in model.get_ops())


def _compiled(model: ov.Model) -> ov.CompiledModel:
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    return ov.Core().compile_model(model, "CPU", exact)


def _rounded(scheme: str) -> ov.CompiledModel:
    model = _model(scheme)
    assert round_activations(model) == 1
    return _compiled(model)


def _expected(x: Floats, scheme: str) -> Floats:
    """What is promised, in numpy: integers times integers, then both scales."""
    scale = np.abs(x).max(axis=1, keepdims=True) / 127
    weights, channels = quantise_int8(stored(_values(OUT, 0), scheme))
    return np.rint(x / scale) @ weights.T.astype(np.float32) * scale * channels.T


@pytest.mark.parametrize("tokens", [1, 2, 33, 512])
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_the_product_is_the_promised_one(scheme: str, tokens: int) -> None:
    x = _values(tokens, 7)
    made, expected = _rounded(scheme)(x)[0], _expected(x, scheme)
    # A value in the middle of two steps may go to either; that is one step of one of 256 values.
    assert np.abs(made - expected).mean() < 1e-4 * expected.std()
    exact = x @ stored(_values(OUT, 0), scheme).T
    assert 1e-3 < np.abs(made - exact).mean() / exact.std() < (0.02 if scheme == "int8" else 0.025)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_openvino_multiplies_integers(scheme: str) -> None:
    kinds = [
        info["runtimePrecision"].astype(str)
        for info in (node.get_rt_info() for node in _rounded(scheme).get_runtime_model().get_ops())
        if info["layerType"].astype(str) == "FullyConnected"
    ]
    assert kinds == ["i8"]


def test_products_of_the_same_activations_share_the_rounding_and_others_are_left_alone() -> None:
    schemes = ("int8", "int8", "bf16", "f32", "int4")
    model = _model(*schemes)
    assert round_activations(model) == 3
    assert _count(model, "FakeQuantize") == 1
    x = _values(5, 3)
    made = _compiled(model)(x)
    for place, scheme in enumerate(schemes):
        exact = x @ stored(_values(OUT, place), scheme).T
        error = np.abs(made[place] - exact).mean() / exact.std()
        assert error < 1e-5 if scheme in ("bf16", "f32") else 1e-3 < error < 0.025


def _errors_of_a_layer(gate: Callable[[ov.Node], ov.Node]) -> tuple[ov.Model, Floats]:
    """gate(x @ a) * (x @ b) @ c after rounding, and its errors for tokens of many sizes, in deviations."""
    weights = Weights(cast(Any, SimpleNamespace()))
    _ALIVE.append(weights)
    down = np.random.default_rng(9).standard_normal((32, OUT)).astype(np.float32)
    x = ops.parameter(PartialShape([-1, WIDTH]), Type.f32)
    one, two = (
        ops.matmul(x, weights.compressed(_values(OUT, place), "int8"), False, True) for place in (0, 1)
    )
    last = ops.matmul(ops.multiply(gate(one), two), weights.compressed(down, "int8"), False, True)
    model = ov.Model([ops.result(last)], [x], "layer")
    exact = _compiled(model)
    assert round_activations(model) == 3
    given = _values(17, 4) * np.geomspace(1e-3, 1e3, 17, dtype=np.float32)[:, None]
    made, expected = _compiled(model)(given)[0], exact(given)[0]
    return model, np.abs(made - expected).mean(axis=1) / expected.std(axis=1)


def test_a_gated_layer_is_rounded_without_its_scales() -> None:
    """As every layer has it: the scales of x @ b go into those of the last product."""
    model, errors = _errors_of_a_layer(ops.swish)
    assert errors.max() < 0.03
    assert _count(model, "FakeQuantize") == 2
    # The gate's scales, and the gate. A third would be an array as large for the scales of x @ b.
    large = [
        node
        for node in model.get_ops()
        if node.get_type_name() == "Multiply" and str(node.get_output_partial_shape(0)) == f"[?,{OUT}]"
    ]
    assert len(large) == 2


def test_two_products_that_are_multiplied_keep_both_scales() -> None:
    assert _errors_of_a_layer(lambda product: product)[1].max() < 0.04


@pytest.mark.parametrize("company", [1e4, 0.0, np.inf, np.nan])
def test_no_token_changes_a_bit_of_another(company: float) -> None:
    """Two customers' tokens are in one step: neither the size of the other's values nor its rubbish may show."""
    compiled, x = _rounded("int8"), _values(64, 5)
    alone = np.array(compiled(x[:40])[0])
    x[40:] *= company
    together = compiled(x)[0]
    assert np.array_equal(together[:40], alone)
    assert np.isfinite(alone).all()


def test_a_token_of_zeros_gives_zeros() -> None:
    x = _values(3, 5)
    x[1] = 0
    assert not _rounded("int8")(x)[0][1].any()


@pytest.mark.parametrize("size", [1e-20, 1e-6, 1.0, 1e6, 1e20])
def test_the_size_of_the_values_does_not_matter(size: float) -> None:
    compiled, x = _rounded("int8"), _values(9, 5)
    made, scaled = np.array(compiled(x)[0]), compiled(x * np.float32(size))[0] / np.float32(size)
    assert np.abs(made - scaled).mean() < 1e-3 * made.std()
