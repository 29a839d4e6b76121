"""Rewrites the feed-forward networks of a bfloat16 graph, down(swish(gate(x)) * up(x)), for matrix tiles.

It knows two things about OpenVINO. Its plugin fuses a network into one operation, the faster one for few tokens, if the
network looks as exporters write it (docs/decisions/0014). And behind it, oneDNN takes weights of two axes for an inner
product, weights of three for a batch of matrix products, with kernels of their own, the faster ones for many tokens
(docs/decisions/0013): columns of gate and up are dealt out to parts, and down adds the parts up, so nothing in between has
to be put together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino._offline_transformations import compress_model_transformation
from openvino.utils import replace_node
from openvino.utils.node_factory import NodeFactory

from build_engine.shards import widen_bfloat16

PARTS: Final = 4
_CACHE_BYTES: Final = 3 << 19
"""What oneDNN fills of the second cache, 2 MiB on all processors with AMX so far, before it gives tiles up."""
_BESIDE: Final = 96
"""Rows that other data of a block take of it, at most."""
_MOST: Final = 256
_STEP: Final = 16
_FUSED_STEP: Final = 32
"""Widths that the fused operation takes are multiples of this."""
_OWNERS: Final[list[ov.Node]] = []
"""Of memory that views are used of, which OpenVINO does not know. What they map of a file costs addresses, not memory."""


def most_tokens(width: int) -> int:
    """Tokens of a step up to which the parts are multiplied on tiles, for activations of `width`; above, they take 4 times as
    long as the whole would.
    """
    return min(_CACHE_BYTES // (2 * width) - _BESIDE, _MOST) // _STEP * _STEP


def split_feed_forward(model: ov.Model) -> int:
    """Change the model in place; returns how many networks are split. Weights [out, in] that do not divide are left."""
    changed = 0
    for gate, up, down in _networks(model):
        if _width(gate) % PARTS:
            continue
        shared = ops.unsqueeze(gate.input_value(0), _ints(0))
        x = ops.concat([shared] * PARTS, 0)
        inner = ops.multiply(ops.swish(_product(x, _dealt(gate, 0))), _product(x, _dealt(up, 0)))
        whole = ops.reduce_sum(_product(inner, _dealt(down, 1)), _ints(0))
        replace_node(down, whole)
        changed += 1
    model.validate_nodes_and_infer_types()
    return changed


def fuse_feed_forward(model: ov.Model) -> int:
    """Let OpenVINO fuse each network, where it has that operation (AMX, two threads and more; with one thread it dies).

    The pattern wants float16 weights behind a Convert of the kind that stays, three axes, and a Swish of one input. bfloat16
    numbers are float16 ones too from 2**-17 on; smaller ones lose at most 2**-25, larger ones than 65504 become that.
    Changes the model in place; returns how many networks are changed. Widths that do not suit the operation are left.
    """
    changed = 0
    for gate, up, down in _networks(model):
        if _width(gate) % _FUSED_STEP or _width(down) % _FUSED_STEP:
            continue
        x = ops.unsqueeze(gate.input_value(0), _ints(0))
        open_gate = NodeFactory("opset4").create("Swish", [_product(x, _half(gate)).output(0)])
        inner = ops.multiply(open_gate, _product(x, _half(up)))
        replace_node(down, ops.squeeze(_product(inner, _half(down)), _ints(0)))
        changed += 1
    model.validate_nodes_and_infer_types()
    return changed


def _networks(model: ov.Model) -> Iterator[tuple[ov.Node, ov.Node, ov.Node]]:
    """The products gate, up and down of each network."""
    for down in model.get_ordered_ops():
        if down.get_type_name() == "MatMul" and (found := _gate_and_up(down)) is not None:
            yield (*found, down)


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
    return gate, up


def _width(product: ov.Node) -> int:
    """How many numbers a token has behind it."""
    return int(product.input_value(1).get_partial_shape()[0].get_length())


def _stored(product: ov.Node) -> ov.Node:
    """The constant [out, in] that a Convert widens to the weights of a product."""
    return product.input_value(1).get_node().input_value(0).get_node()


def _half(product: ov.Node) -> ov.Node:
    """The weights of a product as float16, behind a Convert that OpenVINO does not compute beforehand."""
    stored = _stored(product)
    wide = widen_bfloat16(stored.data.view(np.uint16)).reshape(stored.get_output_shape(0))
    # Only this pass of OpenVINO's converter marks a Convert so.
    model = ov.Model([ops.result(ops.constant(wide, shared_memory=True))], [], "weights")
    compress_model_transformation(model)
    return model.get_results()[0].input_value(0).get_node()


def _dealt(product: ov.Node, axis: int) -> ov.Node:
    """The weights of a product [PARTS, out, in], where `axis` of [out, in] is dealt out.

    Rows are dealt out where they lie, in the file; columns are moved, once, by OpenVINO.
    """
    stored = _stored(product)
    out, width = stored.get_output_shape(0)
    if axis == 0:
        dealt = _in_place(stored, (PARTS, out // PARTS, width))
    else:
        dealt = ops.transpose(ops.reshape(stored, _ints(out, PARTS, width // PARTS), False), _ints(1, 0, 2))
    return ops.convert(dealt, ov.Type.f32)


def _in_place(stored: ov.Node, shape: tuple[int, ...]) -> ov.Node:
    """The same numbers in another shape, over the same memory. A Reshape in the graph would get memory of its own."""
    view = stored.get_tensor_view()
    _OWNERS.append(stored)
    return ops.constant(ov.Tensor(view.data, ov.Shape(shape), view.element_type), shared_memory=True)


def _product(x: ov.Node, weights: ov.Node) -> ov.Node:
    return ops.matmul(x, weights, False, True)


def _ints(*values: int) -> ov.Node:
    return ops.constant(np.array(values, np.int64))
