"""Splits the feed-forward networks of a bfloat16 graph into parts, whose products are faster on matrix tiles.

It knows the network of a decoder layer, down(swish(gate(x)) * up(x)), and what oneDNN does behind OpenVINO: weights of two
axes are an inner product there, weights of three axes a batch of matrix products, with kernels of their own
(docs/decisions/0013). Columns of gate and up are dealt out to the parts, and down adds the parts up, so nothing in between
has to be put together.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.utils import replace_node

PARTS: Final = 4
_CACHE_BYTES: Final = 3 << 19
"""What oneDNN fills of the second cache, 2 MiB on all processors with AMX so far, before it gives tiles up."""
_BESIDE: Final = 96
"""Rows that other data of a block take of it, at most."""
_MOST: Final = 256
_STEP: Final = 16


def most_tokens(width: int) -> int:
    """Tokens of a step up to which the parts are multiplied on tiles, for activations of `width`; above, they take 4 times as
    long as the whole would.
    """
    return min(_CACHE_BYTES // (2 * width) - _BESIDE, _MOST) // _STEP * _STEP


def split_feed_forward(model: ov.Model) -> int:
    """Change the model in place; returns how many networks are split. Weights [out, in] that do not divide are left."""
    changed = 0
    for down in model.get_ordered_ops():
        if down.get_type_name() != "MatMul" or (found := _gate_and_up(down)) is None:
            continue
        gate, up = found
        shared = ops.unsqueeze(gate.input_value(0), _ints(0))
        x = ops.concat([shared] * PARTS, 0)
        inner = ops.multiply(ops.swish(_product(x, _dealt(gate, 0))), _product(x, _dealt(up, 0)))
        whole = ops.reduce_sum(_product(inner, _dealt(down, 1)), _ints(0))
        replace_node(down, whole)
        changed += 1
    model.validate_nodes_and_infer_types()
    return changed


def _gate_and_up(down: ov.Node) -> tuple[ov.Node, ov.Node] | None:
    """The other two products of the network that ends in `down`."""
    inner = down.input_value(0).get_node()
    if inner.get_type_name() != "Multiply":
        return None
    swish, up = (inner.input_value(place).get_node() for place in (0, 1))
    if swish.get_type_name() != "Swish" or up.get_type_name() != "MatMul":
        return None
    gate = swish.input_value(0).get_node()
    if gate.get_type_name() != "MatMul" or gate.input_value(0).get_node() != up.input_value(0).get_node():
        return None
    width = down.input_value(1).get_partial_shape()[1].get_length()
    return (gate, up) if width % PARTS == 0 else None


def _dealt(product: ov.Node, axis: int) -> ov.Node:
    """The weights of a product [PARTS, out, in], where `axis` of [out, in] is dealt out. OpenVINO computes that once."""
    convert = product.input_value(1).get_node()
    stored = convert.input_value(0)
    out, width = (side.get_length() for side in stored.get_partial_shape())
    if axis == 0:
        dealt = ops.reshape(stored, _ints(PARTS, out // PARTS, width), False)
    else:
        dealt = ops.transpose(ops.reshape(stored, _ints(out, PARTS, width // PARTS), False), _ints(1, 0, 2))
    return ops.convert(dealt, ov.Type.f32)


def _product(x: ov.Node, weights: ov.Node) -> ov.Node:
    return ops.matmul(x, weights, False, True)


def _ints(*values: int) -> ov.Node:
    return ops.constant(np.array(values, np.int64))
