"""Feed-forward networks as one operation: the same network, where OpenVINO has it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from build_engine.feed_forward import fuse_feed_forward
from build_engine.manifest import Manifest
from build_engine.openvino_ir import has_tiles, load_language_model
from build_engine.parts import split_products
from tests.parity.networks import HIDDEN, WIDTH, computed, layers, network, weights

EnginesOf = Callable[[Path, str], Path]
needs_amx = pytest.mark.skipif(not has_tiles(), reason="OpenVINO has the fused operation on AMX only")


@pytest.mark.parametrize("tokens", [1, 5, 16, 32, 200])
def test_what_is_to_be_fused_is_the_same_network(tokens: int) -> None:
    x = np.random.default_rng(tokens).standard_normal((tokens, HIDDEN)).astype(np.float32)
    model = network()
    assert fuse_feed_forward(model) == 1
    np.testing.assert_allclose(computed(model, x)[0], computed(network(), x)[0], rtol=1e-4, atol=1e-4)


@needs_amx
@pytest.mark.parametrize(("hidden", "width"), [(64, 96), (224, 576), (2048, 6112)])
def test_openvino_fuses_it(hidden: int, width: int) -> None:
    model = network(width, hidden)
    assert fuse_feed_forward(model) == 1
    compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    assert len(layers(compiled, "LLMMLP")) == 1
    for tokens in (1, 2, 7, 16, 17, 33, 256, 257):
        x = np.random.default_rng(tokens).standard_normal((tokens, hidden)).astype(np.float32)
        made, expected = np.array(compiled(x)[0]), computed(network(width, hidden), x)[0]
        # bfloat16 alone is as far off as 0.033 at these sizes.
        assert np.abs(made - expected).max() < 0.06 * (expected - x).std()


@pytest.mark.parametrize(("hidden", "width"), [(48, 96), (64, 80)])
def test_widths_that_the_fused_operation_does_not_take_are_left_alone(hidden: int, width: int) -> None:
    assert fuse_feed_forward(network(width, hidden)) == 0


def test_weights_beyond_float16_become_the_largest_there_is() -> None:
    x = ops.parameter(ov.PartialShape([-1, 32]), ov.Type.f32)
    bits = np.full((32, 32), 0x4780, np.uint16)  # 65536
    bits[:, 1:] = 0
    large = ops.convert(
        ops.constant(ov.Tensor(bits, ov.Shape([32, 32]), ov.Type.bf16), shared_memory=False), ov.Type.f32
    )
    inner = ops.multiply(ops.swish(ops.matmul(x, large, False, True)), ops.matmul(x, large, False, True))
    model = ov.Model([ops.result(ops.matmul(inner, weights(32, 32, 0), False, True))], [x], "large")
    assert fuse_feed_forward(model) == 1
    stored = {
        float(node.data.max())
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and node.get_element_type() == ov.Type.f16
    }
    assert 65504.0 in stored
    assert np.isfinite(list(stored)).all()


@pytest.mark.parametrize("rewrite", [partial(split_products, hidden=HIDDEN), fuse_feed_forward])
def test_other_products_are_left_alone(rewrite: Callable[[ov.Model], int]) -> None:
    x = ops.parameter(ov.PartialShape([-1, HIDDEN]), ov.Type.f32)
    y = ops.matmul(ops.multiply(x, ops.swish(x)), weights(HIDDEN, HIDDEN, 0), False, True)
    assert rewrite(ov.Model([ops.result(y)], [x], "other")) == 0


@pytest.mark.parametrize("rewrite", [partial(split_products, hidden=HIDDEN), fuse_feed_forward])
def test_gate_and_up_of_different_activations_are_left_alone(rewrite: Callable[[ov.Model], int]) -> None:
    x = ops.parameter(ov.PartialShape([-1, HIDDEN]), ov.Type.f32)
    gate = ops.swish(ops.matmul(x, weights(WIDTH, HIDDEN, 0), False, True))
    other = ops.matmul(ops.relu(x), weights(WIDTH, HIDDEN, 1), False, True)
    y = ops.matmul(ops.multiply(gate, other), weights(HIDDEN, WIDTH, 2), False, True)
    assert rewrite(ov.Model([ops.result(y)], [x], "different")) == 0


@needs_amx
@pytest.mark.parametrize(("threads", "tiles"), [(2, False), (1, False), (2, True)])
def test_one_thread_and_the_form_for_tiles_are_not_fused(
    threads: int, tiles: bool, demo_checkpoint: Path, engines_of: EnginesOf
) -> None:
    """With one thread, OpenVINO's operation would divide by zero while it is compiled."""
    directory = engines_of(demo_checkpoint, "bf16")
    manifest = Manifest.read(directory)
    compiled = load_language_model(directory, manifest, threads=threads, tiles=tiles, fused=True)
    cores = len(os.sched_getaffinity(0))
    fused = manifest.text.num_hidden_layers if min(threads, cores) > 1 and not tiles else 0
    assert len(layers(compiled, "LLMMLP")) == fused


@pytest.mark.parametrize(
    ("weights", "flags", "options"),
    [("bf16", "amx_int8", {"kv_cache_dtype": "f32"}), ("int8", "amx_int8", {}), ("bf16", "avx512_bf16", {})],
)
def test_what_cannot_be_fused_is_refused(
    weights: str,
    flags: str,
    options: dict[str, Any],
    demo_checkpoint: Path,
    engines_of: EnginesOf,
    processor: Callable[[str], None],
) -> None:
    processor(flags)
    directory = engines_of(demo_checkpoint, weights)
    with pytest.raises(ValueError, match=f"{weights} weights with a .* cache are not fused here"):
        load_language_model(directory, Manifest.read(directory), fused=True, **options)
