"""Multiplies the weights of a bfloat16 graph in parts, for steps of many tokens on matrix tiles.

It knows one thing about OpenVINO: behind it, oneDNN takes weights of two axes for an inner product, weights of three for a
batch of matrix products, with kernels of their own, the faster ones for many tokens (docs/decisions/0013). Columns of a
feed-forward network's gate and up are dealt out to parts, and down adds the parts up, so nothing in between has to be put
together; what attention is made of, and what it gives, is multiplied in parts that are.
"""

from __future__ import annotations

from typing import Final

import openvino as ov
from openvino import opset13 as ops
from openvino.utils import replace_node

from build_engine.bfloat16 import is_result, widened
from build_engine.feed_forward import Network, ints, networks, product, stored, width

PARTS: Final = 4
"""Of a feed-forward network. Two are too long for the cache behind down."""
HALVES: Final = 2
"""Of another product. With four, parts of the fewer keys and values are too short."""
ROWS: Final = 512
"""Outputs that a half needs: with 256, oneDNN leaves tiles and takes 4 times as long."""
_CACHE_BYTES: Final = 3 << 19
"""What oneDNN fills of the second cache, 2 MiB on all processors with AMX so far, before it gives tiles up."""
_BESIDE: Final = 96
"""Rows that other data of a block take of it, at most."""
_MOST: Final = 256
_STEP: Final = 16
_OWNERS: Final[list[ov.Node]] = []
"""Of memory that views are used of, which OpenVINO does not know. What they map of a file costs addresses, not memory."""


def most_tokens(width: int) -> int:
    """Tokens of a step up to which the parts are multiplied on tiles, for activations of `width`; above, they take 4 times as
    long as the whole would.
    """
    return min(_CACHE_BYTES // (2 * width) - _BESIDE, _MOST) // _STEP * _STEP


def split_products(model: ov.Model, hidden: int) -> int:
    """Change the model in place; returns how many products are split.

    Those of feed-forward networks are if their width divides. Others are if their weights leave at least ROWS to a half and
    have no longer rows than `hidden`, for which `most_tokens` is the limit; but for results: theirs stay float32.
    """
    changed = 0
    of_networks: set[str] = set()
    for network in networks(model):
        of_networks.update(node.get_friendly_name() for node in network)
        if width(network.gate) % PARTS == 0:
            _split_network(network)
            changed += 3
    shared: dict[tuple[str, int], ov.Node] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul" or node.get_friendly_name() in of_networks:
            continue
        if not _has_halves(node, hidden):
            continue
        source = node.input_value(0)
        key = source.get_node().get_friendly_name(), source.get_index()
        if key not in shared:
            shared[key] = repeated(source, HALVES)
        _split(node, shared[key])
        changed += 1
    model.validate_nodes_and_infer_types()
    return changed


def _split_network(network: Network) -> None:
    gate, up, down = network
    x = repeated(gate.input_value(0), PARTS)
    inner = ops.multiply(ops.swish(product(x, _rows(gate, PARTS))), product(x, _rows(up, PARTS)))
    replace_node(down, ops.reduce_sum(product(inner, _columns(down, PARTS)), ints(0)))


def _split(node: ov.Node, x: ov.Node) -> None:
    """Multiply x [HALVES, tokens, in] by halves of the rows, and put the outputs together."""
    halves = ops.transpose(product(x, _rows(node, HALVES)), ints(1, 0, 2))
    replace_node(node, ops.reshape(halves, ints(0, width(node)), True))


def _has_halves(node: ov.Node, hidden: int) -> bool:
    """Whether a product is one to split."""
    weights = widened(node.input_value(1))
    if is_result(node) or weights is None or weights.get_node().get_type_name() != "Constant":
        return False
    shape = weights.get_shape()
    return len(shape) == 2 and shape[0] % HALVES == 0 and shape[0] // HALVES >= ROWS and shape[1] <= hidden


def repeated(x: ov.Output, parts: int) -> ov.Node:
    """x [tokens, in] once for each part: [parts, tokens, in]."""
    return ops.concat([ops.unsqueeze(x, ints(0))] * parts, 0)


def _rows(node: ov.Node, parts: int) -> ov.Node:
    """The weights [out, in] of a product as [parts, out / parts, in], where they lie: in the file."""
    weights = stored(node)
    out, inner = weights.get_output_shape(0)
    return ops.convert(in_place(weights, (parts, out // parts, inner)), ov.Type.f32)


def _columns(node: ov.Node, parts: int) -> ov.Node:
    """The weights [out, in] of a product as [parts, out, in / parts], moved, once, by OpenVINO."""
    weights = stored(node)
    out, inner = weights.get_output_shape(0)
    dealt = ops.reshape(weights, ints(out, parts, inner // parts), False)
    return ops.convert(ops.transpose(dealt, ints(1, 0, 2)), ov.Type.f32)


def in_place(weights: ov.Node, shape: tuple[int, ...]) -> ov.Node:
    """The same numbers in another shape, over the same memory. A Reshape in the graph would get memory of its own."""
    view = weights.get_tensor_view()
    _OWNERS.append(weights)
    return ops.constant(ov.Tensor(view.data, ov.Shape(shape), view.element_type), shared_memory=True)
