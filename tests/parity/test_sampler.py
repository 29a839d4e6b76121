"""The sampler keeps the tokens that transformers' logits processors keep, with the same scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ensemble.language_model.request import Sampling
from ensemble.language_model.sampler import candidates, penalise, sample


def processed(logits: np.ndarray, sampling: Sampling, seen: np.ndarray) -> np.ndarray:
    """Scores of transformers, in the order that `generate` applies its processors: float32 [vocab]."""
    scores, ids = torch.tensor(logits)[None], torch.tensor(seen, dtype=torch.long)[None]
    processors = []
    if sampling.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if not sampling.greedy:
        processors.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            processors.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            processors.append(TopPLogitsWarper(sampling.top_p))
        processors.append(MinPLogitsWarper(sampling.min_p))
    for processor in processors:
        scores = processor(ids, scores)
    return scores[0].numpy()


@pytest.mark.parametrize("spread", [0.3, 2.0, 8.0])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=0),
        Sampling(top_k=0, temperature=0.3),
        Sampling(top_k=7),
        Sampling(top_k=50, temperature=1.7),
        Sampling(top_k=10**6, top_p=0.999),
        Sampling(top_k=0, top_p=0.9),
        Sampling(top_k=0, top_p=0.01),
        Sampling(top_k=0, min_p=0.1),
        Sampling(top_k=0, min_p=1.0),
        Sampling(top_k=0, top_p=0.95, min_p=0.02, temperature=0.8),
        Sampling(top_k=40, top_p=0.8, min_p=0.05, temperature=1.3, repetition_penalty=1.2),
        Sampling(top_k=5, top_p=0.5, repetition_penalty=0.7),
    ],
    ids=str,
)
def test_the_same_tokens_are_kept_with_the_same_scores(sampling: Sampling, spread: float) -> None:
    noise = np.random.default_rng(0)
    for _ in range(8):
        logits = (noise.standard_normal(3000) * spread).astype(np.float32)
        seen = noise.integers(0, 3000, 200).astype(np.int32)
        expected = processed(logits, sampling, seen)
        ids, scores = candidates(penalise(logits, sampling, seen, np.zeros(0, np.int32)), sampling)
        assert ids.tolist() == np.flatnonzero(expected > -np.inf).tolist()
        assert scores == pytest.approx(expected[ids] - expected.max(), abs=1e-4)


def test_greedy_with_a_repetition_penalty_takes_the_same_token() -> None:
    noise, sampling = np.random.default_rng(1), Sampling(repetition_penalty=1.5)
    for _ in range(50):
        logits = noise.standard_normal(200).astype(np.float32)
        prompt, generated = (noise.integers(0, 200, 60).astype(np.int32) for _ in range(2))
        expected = processed(logits, sampling, np.concatenate([prompt, generated])).argmax()
        assert sample(logits, sampling, prompt, generated) == expected
