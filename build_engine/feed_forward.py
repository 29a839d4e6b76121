"""Finds the feed-forward networks of a bfloat16 graph, down(swish(gate(x)) * up(x)), and lets OpenVINO fuse them.

It knows that OpenVINO's plugin fuses a network into one operation, the faster one for few tokens, if the network looks as
exporters write it (docs/decisions/0014). Networks in parts, the faster form for many tokens, are made in `parts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino._offline_transformations import compress_model_transformation
from openvino.utils import replace_node
from openvino.utils.node_factory import NodeFactory

from build_engine.shards import widen_bfloat16

_FUSED_STEP: Final = 32
"""Widths that the fused operation takes are multiples of this."""


class Network(NamedTuple):
    """The three products of a network."""

    gate: ov.Node
    up: ov.Node
    down: ov.Node


def fuse_feed_forward(model: ov.Model) -> int:
    """Let OpenVINO fuse each network, where it has that operation (AMX, two threads and more; with one thread it dies).

    The pattern wants float16 weights behind a Convert of the kind that stays, three axes, and a Swish of one input. bfloat16
    numbers are float16 ones too from 2**-17 on; smaller ones lose at most 2**-25, larger ones than 65504 become that.
    Changes the model in place; returns how many networks are changed. Widths that do not suit the operation are left.
    """
    changed = 0
    for gate, up, down in networks(model):
        if width(gate) % _FUSED_STEP or width(down) % _FUSED_STEP:
            continue
        x = ops.unsqueeze(gate.input_value(0), ints(0))
        open_gate = NodeFactory("opset4").create("Swish", [product(x, _half(gate)).output(0)])
        inner = ops.multiply(open_gate, product(x, _half(up)))
        replace_node(down, ops.squeeze(product(inner, _half(down)), ints(0)))
        changed += 1
    model.validate_nodes_and_infer_types()
    return changed


def networks(model: ov.Model) -> Iterator[Network]:
    """The networks of a model."""
    for down in model.get_ordered_ops():
        if down.get_type_name() == "MatMul" and (found := _gate_and_up(down)) is not None:
            yield Network(*found, down)


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


def width(node: ov.Node) -> int:
    """How many numbers a token has behind it."""
    return int(node.input_value(1).get_partial_shape()[0].get_length())


def stored(node: ov.Node) -> ov.Node:
    """The constant [out, in] that a Convert widens to the weights of a product."""
    return node.input_value(1).get_node().input_value(0).get_node()


def _half(node: ov.Node) -> ov.Node:
    """The weights of a product as float16, behind a Convert that OpenVINO does not compute beforehand."""
    weights = stored(node)
    wide = widen_bfloat16(weights.data.view(np.uint16)).reshape(weights.get_output_shape(0))
    # Only this pass of OpenVINO's converter marks a Convert so.
    model = ov.Model([ops.result(ops.constant(wide, shared_memory=True))], [], "weights")
    compress_model_transformation(model)
    return model.get_results()[0].input_value(0).get_node()


def product(x: ov.Node, weights: ov.Node) -> ov.Node:
    """x [..., in] times weights [..., out, in]."""
    return ops.matmul(x, weights, False, True)


def ints(*values: int) -> ov.Node:
    """A constant int64 [n]."""
    return ops.constant(np.array(values, np.int64))
