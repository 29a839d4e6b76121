"""Multiplies the int8 weights of feed-forward networks in parts, for steps of many tokens on matrix tiles.

It knows what `parts` knows about OpenVINO, and one thing more: of weights with three axes and int8 activations it computes
nonsense for some numbers of tokens, of uint8 ones it does not (docs/decisions/0017). So 128 is added to the whole numbers of
`token_scales`, and what these 128 add to an output, the same for every token, is taken off again.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops
from openvino.utils import replace_node

from build_engine.feed_forward import Network, ints, networks, product, width
from build_engine.parts import PARTS, in_place, repeated
from build_engine.token_scales import fake_quantised, int8_weights, scale_of

MOST_TOKENS: Final = 256
"""Of a step. With 384 tokens, at the 2B shape, down takes 1.7 times as long as in one piece."""
_ZERO: Final = 128


class _Weights(NamedTuple):
    """Weights [out, in] of a product.

    Attributes:
        stored: constant int8 [out, in].
        scale: float32 [out, 1].
        lasting: whether `stored` is of the file, which stays where it is, and not made from int4 for this.
    """

    stored: ov.Node
    scale: npt.NDArray[np.float32]
    lasting: bool


def split_networks(model: ov.Model) -> int:
    """Change the model in place, with activations rounded as `round_activations` does; returns how many networks are split.

    Those are left whose weights are neither int8 nor int4, or whose width does not divide. To be called before
    `round_activations`, which does the rest of the model.
    """
    changed = 0
    for network in networks(model):
        if width(network.gate) % PARTS:
            continue
        gate, up, down = (_weights(node) for node in network)
        if gate and up and down:
            _split(network, gate, up, down)
            changed += 1
    model.validate_nodes_and_infer_types()
    return changed


def _weights(node: ov.Node) -> _Weights | None:
    """Those of a product, if they are int8 or int4."""
    found = int8_weights(node)
    if found is None:
        return None
    stored, scale = (found.input_value(place).get_node() for place in (0, 1))
    # int4 weights are behind a Convert.
    lasting = node.input_value(1).get_node().get_type_name() == found.get_type_name()
    return _Weights(stored.input_value(0).get_node(), scale.data, lasting)


def _split(network: Network, gate: _Weights, up: _Weights, down: _Weights) -> None:
    x = network.gate.input_value(0)
    scale = scale_of(x)
    values = repeated(_bytes(x, scale).output(0), PARTS)
    opened = ops.swish(ops.multiply(_rows(values, gate), scale))
    # What is rounded next needs no scale: its own takes it over.
    inner = ops.multiply(opened, _rows(values, up)).output(0)
    next_scale = scale_of(inner, over_parts=True)
    sums = ops.reduce_sum(_columns(_bytes(inner, next_scale), down), ints(0))
    y = ops.add(sums, ops.constant(_zeros(down)[None]))
    replace_node(network.down, ops.multiply(y, ops.multiply(next_scale, scale)))


def _bytes(x: ov.Output, scale: ov.Node) -> ov.Node:
    """x / scale as whole numbers around _ZERO, 1..255, float32 of x's shape."""
    return fake_quantised(ops.add(ops.divide(x, scale), np.float32(_ZERO)), 0, 255)


def _rows(values: ov.Node, weights: _Weights) -> ov.Node:
    """values [PARTS, T, in] times the rows of the weights, dealt out: [PARTS, T, out / PARTS]."""
    stored = weights.stored
    out, inner = stored.get_output_shape(0)
    shape = PARTS, out // PARTS, inner
    dealt = in_place(stored, shape) if weights.lasting else ops.constant(stored.data.reshape(shape))
    y = product(values, _scaled(dealt, weights.scale.reshape(PARTS, out // PARTS, 1)))
    return ops.add(y, ops.constant(_zeros(weights).reshape(PARTS, 1, out // PARTS)))


def _columns(values: ov.Node, weights: _Weights) -> ov.Node:
    """values [PARTS, T, in / PARTS] times the columns of the weights, dealt out: [PARTS, T, out], to be added up."""
    out, inner = weights.stored.get_output_shape(0)
    columns = weights.stored.data.reshape(out, PARTS, inner // PARTS).transpose(1, 0, 2)
    dealt = ops.constant(np.ascontiguousarray(columns))
    return product(values, _scaled(dealt, np.tile(weights.scale, (PARTS, 1, 1))))


def _zeros(weights: _Weights) -> npt.NDArray[np.float32]:
    """What is to be added to each output so that _ZERO stands for 0: [out]."""
    sums = weights.stored.data.sum(axis=1, dtype=np.int32)
    added: npt.NDArray[np.float32] = sums.astype(np.float32) * weights.scale[:, 0] * np.float32(_ZERO)
    return -added


def _scaled(stored: ov.Node, scale: npt.NDArray[Any]) -> ov.Node:
    return ops.multiply(ops.convert(stored, ov.Type.f32), ops.constant(scale))
