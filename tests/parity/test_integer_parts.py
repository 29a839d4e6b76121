"""int8 networks in parts: the numbers of the whole ones, for which weights, and for steps of how many tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import openvino as ov
import pytest

from build_engine.integer_parts import split_networks
from build_engine.manifest import Manifest
from build_engine.openvino_ir import has_integer_products, load_language_model
from build_engine.parts import PARTS
from build_engine.token_scales import round_activations
from build_engine.weights import Weights
from tests.parity import networks
from tests.parity.networks import computed, products_in_parts

pytestmark = pytest.mark.skipif(
    not has_integer_products(), reason="without VNNI or AMX, int8 products overflow; the form is refused"
)

EnginesOf = Callable[[Path, str], Path]
TOKENS = [1, 2, 3, 5, 8, 16, 31, 32, 33, 48, 64, 100, 128, 200, 255, 256, 3, 256]
_ALIVE: list[Weights] = []


def network(scheme: str, hidden: int = 64, width: int = 384, bias: float = 0.0) -> ov.Model:
    """With weights of a scheme, whose mean is `bias` of their deviation."""
    store = Weights(cast(Any, SimpleNamespace()))
    _ALIVE.append(store)

    def matrix(out: int, inner: int, seed: int) -> ov.Node:
        values = np.random.default_rng(seed).standard_normal((out, inner)) + bias
        return store.compressed(values.astype(np.float32) / inner**0.5, scheme)

    return networks.network(width, hidden, matrix)


def tokens_of(count: int, hidden: int) -> np.ndarray:
    """Of many sizes, one of them zero."""
    x = np.random.default_rng(count).standard_normal((count, hidden)).astype(np.float32)
    x *= np.geomspace(0.1, 30, count, dtype=np.float32)[:, None]
    x[count // 2] *= count == 1
    return x


@pytest.mark.parametrize(
    ("scheme", "hidden", "width", "bias"),
    # With the last shape, int8 activations before the same parts give nonsense for 3, 5, 8, 16 and 31 tokens.
    [("int8", 64, 384, 0.0), ("int8", 64, 384, 2.0), ("int4", 128, 384, 0.0), ("int8", 2048, 6144, 0.0)],
)
def test_the_parts_of_a_network_are_the_whole(scheme: str, hidden: int, width: int, bias: float) -> None:
    parts, whole = (network(scheme, hidden, width, bias) for _ in range(2))
    assert split_networks(parts) == 1
    assert round_activations(parts) == 0
    assert round_activations(whole) == 3
    made, expected = (
        ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}) for model in (parts, whole)
    )
    for count in TOKENS:
        x = tokens_of(count, hidden)
        one, other = made(x)[0], expected(x)[0]
        # A value in the middle of two steps may go to either. What such a step changes is small beside the output.
        errors = np.abs(one - other).mean(axis=1) / (np.abs(other - x).mean(axis=1) + 1e-6)
        assert errors.max() < 0.02, count


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_openvino_multiplies_them_as_integers_in_parts(scheme: str) -> None:
    model = network(scheme, 128)
    split_networks(model)
    products = products_in_parts(ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}))
    assert len(products) == 3
    assert {node.get_rt_info()["runtimePrecision"].astype(str) for node in products} == {"u8"}


def test_tokens_of_a_step_do_not_share_a_scale() -> None:
    model = network("int8")
    split_networks(model)
    x = tokens_of(40, 64)
    (made,) = computed(model, x)
    x[7] *= 1000
    (beside,) = computed(model, x)
    assert np.array_equal(np.delete(made, 7, axis=0), np.delete(beside, 7, axis=0))


@pytest.mark.parametrize(("scheme", "width"), [("f32", 384), ("bf16", 384), ("int8", 384 + PARTS // 2)])
def test_other_weights_and_widths_that_do_not_divide_are_left_alone(scheme: str, width: int) -> None:
    model = network(scheme, width=width)
    assert split_networks(model) == 0
    assert round_activations(model) == (3 if scheme == "int8" else 0)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_only_the_form_for_tiles_is_in_parts(
    weights: str, demo_checkpoint: Path, engines_of: EnginesOf, processor: Callable[[str], None]
) -> None:
    processor("avx512_vnni amx_int8")
    directory = engines_of(demo_checkpoint, weights)
    manifest = Manifest.read(directory)
    for tiles, products in ((True, 3 * manifest.text.num_hidden_layers), (False, 0)):
        assert len(products_in_parts(load_language_model(directory, manifest, tiles=tiles))) == products
