"""Logits -> next token. It knows one sequence's row, and no batch.

The order and the arithmetic are those of transformers' logits processors (repetition penalty, temperature,
top-k, top-p, min-p); presence and frequency penalties are OpenAI's, and count generated tokens only.

The choice is the Gumbel-max one: the kept token with the largest score + noise, where the noise belongs to
(seed, number of the token in the answer, token id) alone. So a seed gives the same answer in any batch, and
after a preemption: batches change logits in their last bits, and such a change can turn this choice only
where two candidates are within those bits. Walking a cumulative distribution would let one candidate more
or less, at the very edge of top-p, shift all that come after it.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from ensemble.language_model.request import Sampling

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]
Kept = npt.NDArray[np.intp]

_COLDEST: Final = 1e-30
"""Any lower temperature does the same, and would be 0 in float32."""
_BUCKETS: Final = 256
_ROWS: Final = 64
"""Of the matrix that logits are laid out as to find their columns' maxima; whole rows are compared at a time."""


class NonFiniteLogitsError(ArithmeticError):
    """A row of logits holds NaN or +infinity."""


def sample(logits: Logits, sampling: Sampling, prompt: Ids, generated: Ids) -> int:
    """The next token of one sequence.

    `logits` float32 [vocab], `prompt` and `generated` int32; prompt ids outside the vocabulary are visual
    tokens and are not penalised. Raises NonFiniteLogitsError.
    """
    if sampling.penalised:
        logits = penalise(logits, sampling, prompt, generated)
    best = int(logits.argmax())  # numpy's argmax is the first NaN if there is one
    if not math.isfinite(logits[best]):  # of one number, numpy's takes as long as the argmax
        raise NonFiniteLogitsError
    if sampling.greedy:
        return best
    ids, scores = candidates(logits, sampling)
    return int(ids[np.argmax(scores + gumbel(sampling.seed, len(generated), ids))])


def penalise(logits: Logits, sampling: Sampling, prompt: Ids, generated: Ids) -> Logits:
    """A copy of the logits with repetition, frequency and presence penalties."""
    logits = logits.copy()
    if sampling.repetition_penalty != 1.0:
        # A token that was seen twice is written twice, with the same value.
        seen = np.concatenate([prompt[prompt < len(logits)], generated])
        penalty = np.float32(sampling.repetition_penalty)
        chosen = logits[seen]
        logits[seen] = np.where(chosen < 0, chosen * penalty, chosen / penalty)
    if len(generated) and (sampling.presence_penalty or sampling.frequency_penalty):
        ids, counts = np.unique(generated, return_counts=True)
        penalties = sampling.frequency_penalty * counts + sampling.presence_penalty
        logits[ids] -= penalties.astype(np.float32)
    return logits


def candidates(logits: Logits, sampling: Sampling) -> tuple[Kept, Logits]:
    """Ids, ascending, that temperature, top-k, top-p and min-p leave, and their scores.

    Scores are (logit - largest logit) / temperature: 0 for the best, never positive, so none overflows.
    """
    ids = _top_k(logits, sampling.top_k)
    kept = logits[ids]
    with np.errstate(over="ignore"):  # -inf, far below the best at a tiny temperature, is what it means
        scores = (kept - kept.max()) / np.float32(max(sampling.temperature, _COLDEST))
    if sampling.top_p < 1.0:
        keep = _top_p(scores, sampling.top_p)
        ids, scores = ids[keep], scores[keep]
    if sampling.min_p > 0.0:
        keep = np.flatnonzero(np.exp(scores) >= sampling.min_p)  # probabilities relative to the best
        ids, scores = ids[keep], scores[keep]
    return ids, scores


def _top_k(logits: Logits, k: int) -> Kept:
    """Ids of the logits that are at least the k-th largest; ties with it stay."""
    if k == 0 or k >= len(logits):
        return np.arange(len(logits))
    # Sorting a vocabulary into two parts is what costs. The k-th largest of the maxima of columns is exceeded or
    # reached by k logits, so the k-th largest logit is no less than it, and only the few that reach it are parted.
    width = len(logits) // _ROWS
    if k <= width:
        maxima = logits[: _ROWS * width].reshape(_ROWS, width).max(axis=0)
        ids: Kept = np.flatnonzero(logits >= np.partition(maxima, -k)[-k])
        kept = logits[ids]
        return ids[np.flatnonzero(kept >= np.partition(kept, -k)[-k])]
    return np.flatnonzero(logits >= np.partition(logits, -k)[-k])


def _top_p(scores: Logits, top_p: float) -> Kept:
    """Indices, ascending, that remain when the least likely ones with up to 1 - top_p of the mass go."""
    weights = np.exp(scores)
    mass = weights.sum(dtype=np.float64) * (1.0 - top_p)
    # The line is found among buckets of equal score first, and only its bucket is sorted: that is many times
    # cheaper than sorting a vocabulary.
    buckets = (np.minimum(-scores, _BUCKETS / 8 - 0.1) * 8).astype(np.intp)
    below = np.append(np.cumsum(np.bincount(buckets, weights, _BUCKETS)[::-1])[::-1], 0.0)
    # below[b] is the mass of bucket b and all less likely ones: the last that exceeds `mass` holds the line
    line = max(int(np.count_nonzero(below > mass)) - 1, 0)
    inside = np.flatnonzero(buckets == line)
    inside = inside[np.argsort(weights[inside], kind="stable")]
    gone = below[line + 1] + np.cumsum(weights[inside], dtype=np.float64) <= mass
    keep = buckets < line
    keep[inside[~gone]] = True
    keep[scores.argmax()] = True
    return np.flatnonzero(keep)


def gumbel(seed: int, position: int, ids: Kept) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise of these token ids, for token number `position` of an answer.

    The uniform numbers behind it are outputs of SplitMix64 (Steele, Lea and Flood, 2014): number `id` of the
    stream whose seed is number `position` of the stream of `seed`. A token that was not kept costs nothing.
    """
    stream = _splitmix64(np.array([seed], np.uint64), np.array([position], np.uint64))
    uniform = ((_splitmix64(stream, ids.astype(np.uint64)) >> np.uint64(11)) + 0.5) * 2.0**-53  # never 0 or 1
    noise: npt.NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise


def _splitmix64(seed: npt.NDArray[np.uint64], index: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Output number `index` of the generator with this seed; arithmetic modulo 2**64."""
    z = seed + (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed
