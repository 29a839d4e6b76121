"""bfloat16 weights are multiplied as they are stored: the same numbers, in half the memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from build_engine import openvino_ir
from build_engine.bfloat16 import multiply_in_bfloat16
from build_engine.manifest import Manifest
from build_engine.openvino_ir import VISION_ENCODER, load_vision_encoder
from build_engine.samples import make_samples
from build_engine.trial import Trial
from build_engine.verify import Transformers, answer_forced

EnginesOf = Callable[[Path, str], Path]

HAS_BFLOAT16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
multiplies = pytest.mark.skipif(
    not HAS_BFLOAT16, reason="without bfloat16 arithmetic the model is compiled for float32"
)
widens = pytest.mark.skipif(HAS_BFLOAT16, reason="with bfloat16 arithmetic nothing is widened")


def with_and_without(change: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Trial, Trial]:
    """An engine as it is loaded, and the same without one change to its graphs."""
    changed = Trial(directory, threads=1)
    monkeypatch.setattr(openvino_ir, change, lambda model: 0)
    return changed, Trial(directory, threads=1)


@widens
def test_weights_stay_as_they_are_stored_where_products_are_float32(
    demo_checkpoint: Path, engines_of: EnginesOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, plain = with_and_without("keep_bfloat16", engines_of(demo_checkpoint, "bf16"), monkeypatch)
    reference = Transformers(demo_checkpoint, plain.manifest.vision)
    for sample in make_samples(plain.manifest):
        ours, theirs = (
            answer_forced(sample, [1, 2, 3, 4], reference, trial, None) for trial in (kept, plain)
        )
        # float32 sums in another order, of the same numbers.
        assert np.abs(ours - theirs).max() < 1e-4 * theirs.std()
    found = [products_weights(trial.language.get_compiled_model()) for trial in (kept, plain)]
    assert found == [{ov.Type.bf16}, {ov.Type.f32}]


def products_weights(compiled: ov.CompiledModel) -> set[ov.Type]:
    """Types of the weights that products take."""
    return {
        node.get_input_element_type(1)
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
    }


@multiplies
def test_answers_are_the_same_numbers(
    demo_checkpoint: Path, engines_of: EnginesOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, plain = with_and_without(
        "multiply_in_bfloat16", engines_of(demo_checkpoint, "bf16"), monkeypatch
    )
    reference = Transformers(demo_checkpoint, plain.manifest.vision)
    for sample in make_samples(plain.manifest):
        if sample.items:
            pixels = np.concatenate([item.pixels for item in sample.items])
            grids = np.array([item.grid for item in sample.items])
            np.testing.assert_array_equal(changed.encode(pixels, grids), plain.encode(pixels, grids))
        ours, theirs = (
            answer_forced(sample, [1, 2, 3, 4], reference, trial, None) for trial in (changed, plain)
        )
        np.testing.assert_array_equal(ours, theirs)


@multiplies
def test_only_the_weights_of_the_logits_are_kept_as_float32(
    demo_checkpoint: Path, engines_of: EnginesOf
) -> None:
    trial = Trial(engines_of(demo_checkpoint, "bf16"), threads=1)
    assert wide_products(trial.vision) == []
    assert wide_products(trial.language.get_compiled_model()) == [trial.manifest.text.vocab_size]


def wide_products(compiled: ov.CompiledModel) -> list[int]:
    """Widths of the products whose weights are float32 constants as they come in."""
    return [
        node.get_output_partial_shape(0)[-1].get_length()
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
        and kind_of_weights(node) == ov.Type.f32
    ]


def kind_of_weights(node: ov.Node) -> ov.Type:
    weights = node.input_value(1).get_node()
    while weights.get_input_size():  # a reordering on the way
        weights = weights.input_value(0).get_node()
    return weights.get_output_element_type(0)


@multiplies
@pytest.mark.parametrize("tail", ["bias", "scaled bias", "activation", "two readers", "varying sum"])
def test_what_follows_a_product_is_computed(tail: str) -> None:
    random = np.random.default_rng(0)
    stored = random.integers(0x3C00, 0x3E00, (32, 48)).astype(np.uint16)  # 0.008 to 0.13
    tensor = ov.Tensor(stored, ov.Shape([32, 48]), ov.Type.bf16)
    weights = ops.convert(ops.constant(tensor, shared_memory=False), ov.Type.f32)
    x = ops.parameter(ov.PartialShape([-1, 48]), ov.Type.f32)
    product = ops.matmul(x, weights, False, True)
    bias = ops.constant(random.standard_normal(32).astype(np.float32))
    outputs = {
        "bias": lambda: [ops.add(bias, product)],
        "scaled bias": lambda: [
            ops.add(ops.multiply(product, np.float32(1)), ops.multiply(bias, np.float32(1)))
        ],
        "activation": lambda: [ops.gelu(ops.add(product, bias), "tanh")],
        "two readers": lambda: [ops.add(product, bias), ops.exp(product)],
        "varying sum": lambda: [ops.add(product, ops.reduce_sum(x, np.int64(1), True))],
    }[tail]()
    model = ov.Model([ops.result(output) for output in outputs], [x], tail)
    values = random.standard_normal((5, 48)).astype(np.float32)
    before = ov.compile_model(model.clone(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(values)
    assert multiply_in_bfloat16(model) == 1
    assert {output.get_element_type() for output in model.outputs} == {ov.Type.f32}
    after = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})(values)
    for expected, got in zip(before.values(), after.values(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0.05, atol=0.05)
    assert multiply_in_bfloat16(model) == 0  # nothing is left to change


@multiplies
def test_an_encoder_of_float32_engines_is_left_alone(demo_checkpoint: Path, engines_of: EnginesOf) -> None:
    directory = engines_of(demo_checkpoint, "f32")
    model = ov.Core().read_model(directory / VISION_ENCODER)
    assert multiply_in_bfloat16(model) == 0
    assert load_vision_encoder(directory, Manifest.read(directory))
