"""What turns logits into log-probabilities, as OpenVINO computes it: exact enough, never overflowing, beside the same logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from openvino import PartialShape, Type
from openvino import opset13 as ops

from build_engine.logsumexp import NAME, add_logsumexp
from ensemble.language_model.forward import Scores

Floats = npt.NDArray[np.float32]


def _said(logits: Floats, product: bool = False) -> tuple[Floats, Floats]:
    """The logits and what is said of them; as a `product` with the identity, if asked for: logits of a model are a product."""
    width = logits.shape[1]
    x = ops.parameter(PartialShape([-1, width]), Type.f32)
    same = (
        ops.matmul(x, np.eye(width, dtype=np.float32), False, True) if product else ops.add(x, np.float32(0))
    )
    model = ov.Model([ops.result(same)], [x], "head")
    add_logsumexp(model)
    said = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([logits])
    return np.array(said[0]), np.array(said[NAME])


def _exact(logits: Floats) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    largest = wide.max(axis=1, keepdims=True)
    found: npt.NDArray[np.float64] = largest + np.log(np.exp(wide - largest).sum(axis=1, keepdims=True))
    return found


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("width", [5, 97, 4096])
def test_equals_float64(rows: int, width: int) -> None:
    logits = (np.random.default_rng(rows * width).standard_normal((rows, width)) * 8).astype(np.float32)
    same, found = _said(logits, product=True)
    np.testing.assert_array_equal(same, logits)
    assert found.dtype == np.float32
    assert found.shape == (rows, 1)
    np.testing.assert_allclose(found, _exact(logits), rtol=0, atol=1e-5)


def test_a_vocabulary_of_small_terms_is_not_lost() -> None:
    """150,000 terms of e^-12 each beside a 1: they are half of the sum."""
    logits = np.full((2, 150_000), -12.0, np.float32)
    logits[:, 7] = 0.0
    _, found = _said(logits)
    np.testing.assert_allclose(found, _exact(logits), rtol=0, atol=1e-5)


@pytest.mark.parametrize("offset", [-1000.0, 1000.0])
def test_large_logits_do_not_overflow(offset: float) -> None:
    logits = np.array([[0.0, 1.0, 2.0, 3.0]], np.float32) + np.float32(offset)
    _, found = _said(logits, product=True)
    np.testing.assert_allclose(found, _exact(logits), rtol=1e-7)


def test_a_token_that_cannot_be_adds_nothing() -> None:
    logits = np.array([[0.0, -np.inf, 0.0]], np.float32)
    _, found = _said(logits)
    np.testing.assert_allclose(found, np.log([[2.0]]), rtol=1e-6)


def test_a_log_probability_is_the_logit_less_it_and_never_above_0() -> None:
    scores = Scores(np.array([[1.0, 3.0], [5.0, -90.0]], np.float32), np.array([4.0, 4.999], np.float32))
    assert scores.log_probability(0, 1) == -1.0
    assert scores.log_probability(1, 1) == pytest.approx(-94.999)
    assert scores.log_probability(1, 0) == 0.0
