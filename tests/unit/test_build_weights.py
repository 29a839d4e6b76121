"""Number formats: rounding, packing, and that OpenVINO multiplies with exactly what was stored."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from openvino import PartialShape, Type
from openvino import opset13 as ops

from build_engine.shards import round_bfloat16
from build_engine.weights import (
    GROUP_SIZES,
    SCHEMES,
    Weights,
    group_size,
    quantise_int4,
    quantise_int8,
    requantise_int4,
)

Floats = npt.NDArray[np.float32]


def _values(out: int, width: int) -> Floats:
    return np.random.default_rng(width).standard_normal((out, width)).astype(np.float32)


def stored(values: Floats, scheme: str) -> Floats:
    """The float32 values that a scheme keeps."""
    if scheme == "f32":
        return values
    if scheme == "bf16":
        return (round_bfloat16(values).astype(np.uint32) << 16).view(np.float32)
    if scheme == "int8" or group_size(values.shape[1]) is None:
        quantised, scale = quantise_int8(values)
        return quantised * scale
    packed, halves = quantise_int4(values)
    steps = np.stack([packed & 0xF, packed >> 4], axis=1).reshape(-1).astype(np.int8)
    signed = np.where(steps > 7, steps - 16, steps).reshape(len(values), halves.shape[1], -1)
    return (signed * halves.astype(np.float32)).reshape(values.shape)


@pytest.mark.parametrize(("out", "width"), [(1, 16), (31, 48), (32, 128), (100, 384)])
def test_requantised_int4_is_int8_of_what_was_stored(out: int, width: int) -> None:
    values = _values(out, width)
    values[out // 2] = 0
    made, expected = requantise_int4(*quantise_int4(values)), quantise_int8(stored(values, "int4"))
    np.testing.assert_array_equal(made[0], expected[0])
    np.testing.assert_array_equal(made[1], expected[1])


@pytest.mark.parametrize(("scheme", "error"), [("bf16", 2.0**-8), ("int8", 0.5 / 127), ("int4", 0.5 / 7)])
def test_rounding_errors_stay_within_half_a_step_of_the_largest_value(scheme: str, error: float) -> None:
    values = _values(64, 256)
    size = 128 if scheme == "int4" else 256
    groups = (values.reshape(64, -1, size), stored(values, scheme).reshape(64, -1, size))
    peak = np.abs(groups[0]).max(axis=2, keepdims=True)
    # int4 uses -8..7: the value opposite to the peak may be cut by one step.
    limit = error * peak * (1.0 if scheme != "int4" else 2.0)
    assert (np.abs(groups[0] - groups[1]) <= limit).all()


def test_bfloat16_rounds_ties_to_even() -> None:
    tie_down, tie_up = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)
    assert round_bfloat16(np.array([tie_down, tie_up])).tolist() == [0x3F80, 0x3F82]


def test_a_row_of_zeros_stays_zero() -> None:
    values = _values(4, 128)
    values[2] = 0
    for scheme in SCHEMES:
        assert np.array_equal(stored(values, scheme)[2], values[2]), scheme


def test_groups_are_the_largest_power_of_two_that_fits() -> None:
    assert [group_size(width) for width in (4096, 576, 224, 48, 100)] == [128, 64, 32, 16, None]
    assert all(size & (size - 1) == 0 for size in GROUP_SIZES)


@pytest.mark.parametrize("width", [256, 224, 576, 176, 100, 90])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("tokens", [1, 2, 33])
def test_openvino_multiplies_with_exactly_the_stored_values(scheme: str, width: int, tokens: int) -> None:
    """One token takes another kernel than many, and that kernel is wrong for some group sizes of int4."""
    values = _values(72, width)
    weights = Weights(cast(Any, SimpleNamespace()))
    x = ops.parameter(PartialShape([-1, width]), Type.f32)
    model = ov.Model(
        [ops.result(ops.matmul(x, weights.compressed(values, scheme), False, True))], [x], "one_layer"
    )
    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    given = np.random.default_rng(tokens).standard_normal((tokens, width)).astype(np.float32)
    made = ov.Core().compile_model(model, "CPU", exact)(given)[0]
    expected = given @ stored(values, scheme).T
    assert np.abs(made - expected).max() < 1e-5 * expected.std()
