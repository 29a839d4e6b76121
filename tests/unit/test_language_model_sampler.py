"""The choice of tokens. The comparison with transformers is in tests/parity/test_sampler.py."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ensemble.language_model.request import Sampling
from ensemble.language_model.sampler import (
    NonFiniteLogitsError,
    _splitmix64,
    candidates,
    gumbel,
    sample,
)

NONE = np.zeros(0, np.int32)


def logits_of(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities)).astype(np.float32)


def test_temperature_zero_and_top_k_one_are_greedy() -> None:
    logits = logits_of(0.2, 0.5, 0.3)
    for sampling in (Sampling(temperature=0.0, top_k=0), Sampling(temperature=2.0, top_k=1)):
        assert {sample(logits, sampling, NONE, np.zeros(n, np.int32)) for n in range(50)} == {1}


def test_tokens_are_drawn_as_often_as_their_probabilities_say() -> None:
    probabilities = np.array([0.5, 0.25, 0.15, 0.08, 0.02])
    logits = logits_of(*probabilities)
    draws = 4000
    found = [
        sample(logits, Sampling(top_k=0, seed=seed), NONE, np.zeros(position, np.int32))
        for seed in range(80)
        for position in range(draws // 80)
    ]
    expected = probabilities * draws
    chi_square = float(((np.bincount(found, minlength=5) - expected) ** 2 / expected).sum())
    assert chi_square < 18.5  # 4 degrees of freedom: exceeded once in 1000


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others() -> None:
    rows = np.random.default_rng(0).standard_normal((40, 1000)).astype(np.float32)

    def answer(seed: int) -> list[int]:
        sampling = Sampling(top_k=0, top_p=0.95, seed=seed)
        return [sample(row, sampling, NONE, np.zeros(i, np.int32)) for i, row in enumerate(rows)]

    assert answer(5) == answer(5)
    assert sum(a == b for a, b in zip(answer(5), answer(2**64 - 1), strict=True)) < 10


def test_the_choice_does_not_depend_on_the_last_bits_of_the_logits() -> None:
    noise = np.random.default_rng(1)
    sampling = Sampling(top_k=50, top_p=0.9, temperature=1.2, min_p=0.01, seed=3)
    for position in range(300):
        logits = (noise.standard_normal(5000) * 3).astype(np.float32)
        other = logits + (noise.standard_normal(5000) * 1e-5).astype(np.float32)
        seen = np.zeros(position, np.int32)
        assert sample(logits, sampling, NONE, seen) == sample(other, sampling, NONE, seen)


def test_noise_of_two_positions_seeds_and_tokens_is_unrelated() -> None:
    ids = np.arange(20_000)
    noise = [gumbel(1, 0, ids), gumbel(1, 1, ids), gumbel(2, 0, ids), gumbel(1, 0, ids + 1)]
    assert np.abs(np.corrcoef(noise) - np.eye(4)).max() < 0.03
    assert noise[0].mean() == pytest.approx(0.5772, abs=0.03)  # Euler's constant
    assert noise[0].var() == pytest.approx(np.pi**2 / 6, rel=0.05)
    assert np.array_equal(gumbel(1, 0, ids[5:7]), noise[0][5:7])


def test_the_generator_is_splitmix64() -> None:
    first = _splitmix64(np.array([1234567], np.uint64), np.arange(5, dtype=np.uint64))
    assert first.tolist()[:3] == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert first.tolist()[3:] == [4593380528125082431, 16408922859458223821]


def test_top_p_zero_leaves_the_best_token_only() -> None:
    ids, _ = candidates(logits_of(0.2, 0.5, 0.3), Sampling(top_k=0, top_p=0.0))
    assert ids.tolist() == [1]


def test_a_tiny_temperature_neither_overflows_nor_warns() -> None:
    assert sample(logits_of(0.2, 0.5, 0.3), Sampling(temperature=1e-300, top_k=0), NONE, NONE) == 1


def test_visual_tokens_of_the_prompt_are_not_penalised() -> None:
    logits = logits_of(0.2, 0.5, 0.3)
    sampling = Sampling(repetition_penalty=5.0)
    assert sample(logits, sampling, np.array([3, 4], np.int32), NONE) == 1
    assert sample(logits, sampling, np.array([1, 4], np.int32), NONE) == 2


def test_presence_and_frequency_count_generated_tokens_only() -> None:
    logits = np.array([0.0, 1.0, 0.9], np.float32)
    prompt = np.array([1, 1, 1], np.int32)
    assert sample(logits, Sampling(frequency_penalty=2.0), prompt, NONE) == 1
    assert sample(logits, Sampling(frequency_penalty=0.06), NONE, np.array([1], np.int32)) == 1
    assert sample(logits, Sampling(frequency_penalty=0.06), NONE, np.array([1, 1], np.int32)) == 2
    assert sample(logits, Sampling(presence_penalty=0.06), NONE, np.array([1, 1], np.int32)) == 1
    assert sample(logits, Sampling(presence_penalty=0.2), NONE, np.array([1], np.int32)) == 2
    assert sample(logits, Sampling(presence_penalty=-2.0), NONE, np.array([0], np.int32)) == 0


def test_sampling_does_not_change_the_logits_it_is_given() -> None:
    logits = logits_of(0.2, 0.5, 0.3)
    before = logits.copy()
    sample(logits, Sampling(top_k=2, temperature=0.5, repetition_penalty=2.0), np.array([1], np.int32), NONE)
    assert np.array_equal(logits, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=0), Sampling(presence_penalty=1.0)])
def test_logits_that_are_not_finite_are_an_error(bad: float, sampling: Sampling) -> None:
    logits = logits_of(0.2, 0.5, 0.3)
    logits[2] = bad
    with pytest.raises(NonFiniteLogitsError):
        sample(logits, sampling, NONE, NONE)


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf], np.float32)
    assert {sample(logits, Sampling(top_k=0, seed=s), NONE, NONE) for s in range(50)} == {1}


@pytest.mark.parametrize("size", [3, 64, 97, 640, 5003])
@pytest.mark.parametrize("distinct", [1, 3, 50, 10**6])
def test_top_k_keeps_all_that_reach_the_kth_largest_whatever_the_size_and_the_ties(
    size: int, distinct: int
) -> None:
    random = np.random.default_rng(size + distinct)
    logits = random.integers(0, distinct, size).astype(np.float32)
    logits[random.integers(0, size, size // 5)] = -np.inf
    for k in (1, 2, 7, 10, 70, size - 1, size, size + 1):
        ids, _ = candidates(logits, Sampling(top_k=k))
        line = np.sort(logits)[-min(k, size)]
        assert np.array_equal(ids, np.flatnonzero(logits >= line))
