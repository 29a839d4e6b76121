"""Rounds the activations before int8 weights to int8, with one scale a token: what OpenVINO multiplies on matrix tiles.

It knows graphs of OpenVINO, not networks. The option DYNAMIC_QUANTIZATION_GROUP_SIZE rounds them too, with a scale for
every group of values, and the CPU plugin has no product on tiles for that (docs/decisions/0011).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from build_engine.weights import requantise_int4

_LARGEST: Final = 127
_SMALLEST_SCALE: Final = np.float32(1e-30)
"""For a token of zeros, which must not be divided by zero."""

_Scaled = tuple[ov.Output, ov.Output]
"""Values [..., width], and what each token's are to be multiplied by, [..., 1]."""


def round_activations(model: ov.Model) -> int:
    """Change the model in place; returns how many products have int8 activations now.

    A product is changed if its weights [out, in] are stored as `Weights` stores int8 or int4; int4 ones become int8, with one
    scale per output channel. The last axis of its activations holds the values of a token. With s = largest magnitude /
    127: x @ w becomes (round(x / s) @ w) * s, and products of the same x share the rounding.
    """
    rounded: dict[tuple[str, int], _Scaled] = {}
    restored: set[str] = set()
    changed = 0
    for product in model.get_ordered_ops():
        if product.get_type_name() != "MatMul" or (weights := int8_weights(product)) is None:
            continue
        source = product.input_value(0)
        key = source.get_node().get_friendly_name(), source.get_index()
        if key not in rounded:
            rounded[key] = _rounded_again(source.get_node()) if key[0] in restored else _rounded(source)
        values, scale = rounded[key]
        product.input(0).replace_source_output(values)
        product.input(1).replace_source_output(weights.output(0))
        plain = _last_product(product)
        readers = plain.output(0).get_target_inputs()
        scaled = ops.multiply(plain, scale)
        for reader in readers:
            reader.replace_source_output(scaled.output(0))
        restored.add(scaled.get_friendly_name())
        changed += 1
    return changed


def _last_product(product: ov.Node) -> ov.Node:
    """Where to multiply by the scales: the product, or what it is multiplied by anyway."""
    readers = product.output(0).get_target_inputs()
    only = next(iter(readers)).get_node() if len(readers) == 1 else product
    return only if only.get_type_name() == "Multiply" else product


def _rounded(x: ov.Output) -> _Scaled:
    """The whole numbers -127..127 as float32 of x's shape, and the scales."""
    scale = scale_of(x)
    return fake_quantised(ops.divide(x, scale), -_LARGEST - 1, _LARGEST).output(0), scale.output(0)


def scale_of(x: ov.Output, over_parts: bool = False) -> ov.Node:
    """The scale of each token [..., 1]; of x [parts, T, width], one [T, 1] for all its parts."""
    last, first = np.array([-1], np.int32), np.array([0], np.int32)
    largest, smallest = ops.reduce_max(x, last, keep_dims=True), ops.reduce_min(x, last, keep_dims=True)
    if over_parts:
        largest, smallest = ops.reduce_max(largest, first), ops.reduce_min(smallest, first)
    magnitude = ops.maximum(largest, ops.negative(smallest))
    return ops.maximum(ops.multiply(magnitude, np.float32(1 / _LARGEST)), _SMALLEST_SCALE)


def fake_quantised(x: ov.Node, low: int, high: int) -> ov.Node:
    """x rounded to the 256 whole numbers low..high. In front of int8 weights, OpenVINO makes of it an integer product."""
    limits = [ops.constant(np.array([[value]], np.float32)) for value in (low, high)]
    return ops.fake_quantize(x, *limits, *limits, 256)


def _rounded_again(product: ov.Node) -> _Scaled:
    """The same of a product that is multiplied by its scales: without them its values give the same whole numbers, and no large
    array is multiplied.
    """
    values, scale = _rounded(product.input_value(0))
    return values, ops.multiply(scale, product.input_value(1)).output(0)


def int8_weights(product: ov.Node) -> ov.Node | None:
    """The weights [out, in] of a product as int8 -> Convert -> Multiply by a scale; None if they are neither int8 nor int4."""
    weights = product.input_value(1).get_node()
    if len(weights.get_output_partial_shape(0)) != 2:  # those of a network in parts
        return None
    below = weights.input_value(0).get_node() if weights.get_input_size() else weights
    if weights.get_type_name() == "Multiply" and _stored(below) == ov.Type.i8:
        return weights
    # int4 with its groups: Convert(Reshape(Multiply(Convert(stored), scale)))
    if weights.get_type_name() == "Convert" and below.get_type_name() == "Reshape":
        grouped = below.input_value(0).get_node()
        if grouped.get_type_name() == "Multiply":
            widened, scale = (grouped.input_value(place).get_node() for place in (0, 1))
            if _stored(widened) == ov.Type.i4:
                packed = widened.input_value(0).get_node().data.view(np.uint8).reshape(-1)
                values, scales = requantise_int4(packed, scale.data)
                return ops.multiply(ops.convert(ops.constant(values), ov.Type.f32), ops.constant(scales))
    return None


def _stored(widened: ov.Node) -> ov.Type | None:
    """The type of the constant that a Convert widens; None if it is something else."""
    if widened.get_type_name() != "Convert":
        return None
    constant = widened.input_value(0).get_node()
    return constant.get_output_element_type(0) if constant.get_type_name() == "Constant" else None
