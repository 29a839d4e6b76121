"""Runs the bfloat16 form of an ONNX model on a CPU: float32 arithmetic, every result rounded to bfloat16.

ONNX Runtime has no bfloat16 kernels for CPUs, but it can cast. GPU kernels compute in this way too: bfloat16 operands,
float32 accumulation, one rounding at the end.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BFLOAT16 = TensorProto.BFLOAT16


def rounded(path: Path) -> bytes:
    """The model of `path` with float32 in place of bfloat16, and roundings behind each node that gave bfloat16."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    graph = model.graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    nodes = []
    for node in graph.node:
        for place, name in enumerate(node.output):
            if kinds[name] != BFLOAT16:
                continue
            if node.op_type == "Cast":
                node.attribute[0].i = TensorProto.FLOAT
            node.output[place] = f"{name}.exact"
        nodes.append(node)
        for name in [name.removesuffix(".exact") for name in node.output if name.endswith(".exact")]:
            nodes.append(helper.make_node("Cast", [f"{name}.exact"], [f"{name}.bfloat16"], to=BFLOAT16))
            nodes.append(helper.make_node("Cast", [f"{name}.bfloat16"], [name], to=TensorProto.FLOAT))
    weights = [
        numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name)
        if weight.data_type == BFLOAT16
        else weight
        for weight in graph.initializer
    ]
    for value in graph.output:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
