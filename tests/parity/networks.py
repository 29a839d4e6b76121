"""Graphs of one feed-forward network, as an engine file has them, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openvino as ov
from openvino import opset13 as ops

HIDDEN, WIDTH = 64, 96


def weights(out: int, width: int, seed: int) -> ov.Node:
    """bfloat16 [out, in], widened."""
    values = np.random.default_rng(seed).standard_normal((out, width)).astype(np.float32) / 8
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    tensor = ov.Tensor(bits, ov.Shape([out, width]), ov.Type.bf16)
    return ops.convert(ops.constant(tensor, shared_memory=False), ov.Type.f32)


def network(
    width: int = WIDTH, hidden: int = HIDDEN, matrix: Callable[[int, int, int], ov.Node] = weights
) -> ov.Model:
    """x + down(swish(gate(x)) * up(x)) of x [tokens, hidden]; `matrix` makes weights [out, in] of a seed."""
    x = ops.parameter(ov.PartialShape([-1, hidden]), ov.Type.f32)
    gate = ops.swish(ops.matmul(x, matrix(width, hidden, 0), False, True))
    inner = ops.multiply(gate, ops.matmul(x, matrix(width, hidden, 1), False, True))
    y = ops.add(x, ops.matmul(inner, matrix(hidden, width, 2), False, True))
    return ov.Model([ops.result(y)], [x], "network")


def computed(model: ov.Model, x: np.ndarray) -> list[np.ndarray]:
    """Its outputs, in float32."""
    made = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)
    return [np.array(made[index]) for index in range(len(model.outputs))]


def layers(compiled: ov.CompiledModel, kind: str) -> list[ov.Node]:
    """Nodes of a compiled model that are of a kind, as OpenVINO's plugin names it."""
    nodes = compiled.get_runtime_model().get_ops()
    return [node for node in nodes if node.get_rt_info()["layerType"].astype(str) == kind]


def products_in_parts(compiled: ov.CompiledModel) -> list[ov.Node]:
    """Those with weights of three axes."""
    products = layers(compiled, "FullyConnected")
    return [node for node in products if len(node.get_output_partial_shape(0)) == 3]
