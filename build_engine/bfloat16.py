"""Puts bfloat16 into a graph where OpenVINO's own choice of a precision would not: it knows graphs, not networks."""

from __future__ import annotations

from typing import Final

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino._offline_transformations import compress_model_transformation

_FUSED: Final = ("Multiply", "Add", "Gelu", "Swish")


def multiply_in_bfloat16(model: ov.Model) -> int:
    """Multiply weights that are stored as bfloat16 as they are; returns how many products do.

    A Convert widens them in the file. OpenVINO computes it once and keeps the float32 weights beside the bfloat16 ones that it
    multiplies, three times what it needs. The results are the same, bit for bit, where it multiplies in bfloat16 anyway.
    Products that are results themselves (logits) are left alone: theirs are float32, and would be rounded.
    """
    changed = 0
    for product in model.get_ordered_ops():
        if product.get_type_name() != "MatMul" or (weights := widened(product.input_value(1))) is None:
            continue
        if is_result(product):
            continue
        _narrow(product.input(0))
        product.input(1).replace_source_output(weights)
        _widen(_last(product).output(0))
        changed += 1
    model.validate_nodes_and_infer_types()
    return changed


def keep_bfloat16(model: ov.Model) -> int:
    """Let OpenVINO keep weights that are stored as bfloat16 where it multiplies in float32; returns how many products do.

    It then widens them as it multiplies, which the numbers do not show, instead of keeping them twice in float32. It does so
    in language models only.
    """
    changed = 0
    for product in model.get_ordered_ops():
        if product.get_type_name() == "MatMul" and (weights := widened(product.input_value(1))) is not None:
            product.input(1).replace_source_output(_widened_late(weights))
            changed += 1
    model.validate_nodes_and_infer_types()
    return changed


def _widened_late(weights: ov.Output) -> ov.Output:
    """float32 of them, by a Convert that OpenVINO does not compute beforehand."""
    # Only this pass of OpenVINO's converter marks a Convert so.
    model = ov.Model([ops.result(ops.constant(np.ones(1, np.float32)))], [], "a marked Convert")
    compress_model_transformation(model)
    convert = model.get_results()[0].input_value(0).get_node()
    convert.input(0).replace_source_output(weights)
    return convert.output(0)


def is_result(node: ov.Node) -> bool:
    """Whether a model gives what this node does."""
    return any(reader.get_node().get_type_name() == "Result" for reader in node.output(0).get_target_inputs())


def attend_in_bfloat16(model: ov.Model) -> None:
    """Compute attention in bfloat16, which has matrix tiles of its own: prompts of 1,024 tokens gain a tenth."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "PagedAttentionExtension":
            for place in range(3):  # queries, keys, values
                _narrow(node.input(place))
            _widen(node.output(0))
    model.validate_nodes_and_infer_types()


def _last(product: ov.Node) -> ov.Node:
    """The product, or what a bias and an activation make of it: OpenVINO fuses those only with nothing in between."""
    readers = product.output(0).get_target_inputs()
    if len(readers) != 1:
        return product
    reader = next(iter(readers))
    node = reader.get_node()
    others = [other for other in node.inputs() if other.get_index() != reader.get_index()]
    constant = all(_is_constant(other.get_source_output().get_node()) for other in others)
    if node.get_type_name() not in _FUSED or not constant:
        return product
    for other in others:
        _narrow(other)
    return _last(node)


def _is_constant(node: ov.Node) -> bool:
    """Whether it is computed from constants alone."""
    inputs = [value.get_node() for value in node.input_values()]
    return all(map(_is_constant, inputs)) if inputs else bool(node.get_type_name() == "Constant")


def _narrow(value: ov.Input) -> None:
    """Give this input bfloat16."""
    value.replace_source_output(ops.convert(value.get_source_output(), ov.Type.bf16).output(0))


def _widen(output: ov.Output) -> None:
    """Give its readers float32."""
    readers = output.get_target_inputs()
    wide = ops.convert(output, ov.Type.f32)
    for reader in readers:
        reader.replace_source_output(wide.output(0))


def widened(values: ov.Output) -> ov.Output | None:
    """What a Convert widens, if that is computed from bfloat16 constants; None if it is something else."""
    convert = values.get_node()
    if convert.get_type_name() != "Convert":
        return None
    stored = convert.input_value(0)
    return stored if stored.get_element_type() == ov.Type.bf16 and _is_constant(stored.get_node()) else None
