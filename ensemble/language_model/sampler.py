"""Logits -> next token and its log-probability. It knows one sequence's row at a time, and no batch.

The order and the arithmetic are those of transformers' logits processors (repetition penalty, temperature,
top-k, top-p, min-p); presence and frequency penalties are OpenAI's, and count generated tokens only.

The choice is the Gumbel-max one: the kept token with the largest score + noise, where the noise belongs to
(seed, number of the token in the answer, token id) alone. So a seed gives the same answer in any batch, and
after a preemption: batches change logits in their last bits, and such a change can turn this choice only
where two candidates are within those bits. Walking a cumulative distribution would let one candidate more
or less, at the very edge of top-p, shift all that come after it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ensemble.language_model.request import Sampling

Logits = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int32]


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
    if not np.isfinite(logits[best]):
        raise NonFiniteLogitsError
    if sampling.greedy:
        return best
    ids, scores = candidates(logits, sampling)
    return int(ids[np.argmax(scores + gumbel(sampling.seed, len(generated), len(logits))[ids])])


def penalise(logits: Logits, sampling: Sampling, prompt: Ids, generated: Ids) -> Logits:
    """A copy of the logits with repetition, frequency and presence penalties."""
    logits = logits.copy()
    if sampling.repetition_penalty != 1.0:
        seen = np.unique(np.concatenate([prompt[prompt < len(logits)], generated]))
        penalty = np.float32(sampling.repetition_penalty)
        chosen = logits[seen]
        logits[seen] = np.where(chosen < 0, chosen * penalty, chosen / penalty)
    if len(generated) and (sampling.presence_penalty or sampling.frequency_penalty):
        ids, counts = np.unique(generated, return_counts=True)
        penalties = sampling.frequency_penalty * counts + sampling.presence_penalty
        logits[ids] -= penalties.astype(np.float32)
    return logits


def candidates(logits: Logits, sampling: Sampling) -> tuple[npt.NDArray[np.intp], Scores]:
    """Ids that temperature, top-k, top-p and min-p leave, and their scores.

    Scores are float64 (logit - largest logit) / temperature: never positive, so no temperature overflows.
    """
    ids = _top_k(logits, sampling.top_k)
    kept = logits[ids].astype(np.float64)
    # Scores far below the best are -inf at tiny temperatures, which is what they mean.
    with np.errstate(over="ignore"):
        scores = (kept - kept.max()) / sampling.temperature
    if sampling.top_p < 1.0:
        keep = _top_p(scores, sampling.top_p)
        ids, scores = ids[keep], scores[keep]
    if sampling.min_p > 0.0:
        keep = np.exp(scores) >= sampling.min_p  # exp(score) is the probability relative to the best
        ids, scores = ids[keep], scores[keep]
    return ids, scores


def _top_k(logits: Logits, k: int) -> npt.NDArray[np.intp]:
    """Ids, ascending, of the logits that are at least the k-th largest; ties with it stay."""
    if k == 0 or k >= len(logits):
        return np.flatnonzero(logits > -np.inf)
    threshold = np.partition(logits, -k)[-k]
    return np.flatnonzero((logits >= threshold) & (logits > -np.inf))


def _top_p(scores: Scores, top_p: float) -> npt.NDArray[np.intp]:
    """Indices, ascending, that remain when the least likely ones with up to 1 - top_p of the mass go."""
    probabilities = np.exp(scores)
    probabilities /= probabilities.sum()
    # Items below (1 - top_p) / n go in any case, for all of them together weigh less than 1 - top_p:
    # sorting the others is much cheaper than sorting a whole vocabulary.
    likely = np.flatnonzero(probabilities >= (1.0 - top_p) / len(probabilities))
    order = likely[np.argsort(probabilities[likely], kind="stable")]
    below = probabilities.sum() - probabilities[order].sum()
    gone = below + np.cumsum(probabilities[order]) <= 1.0 - top_p
    gone[-1] = False
    return np.sort(order[~gone])


def gumbel(seed: int, position: int, vocab_size: int) -> Scores:
    """Standard Gumbel noise of every token id, float64 [vocab_size], for the token number `position`."""
    bits = np.random.Philox(key=seed, counter=position << 64)
    uniform = np.random.Generator(bits).random(vocab_size)
    with np.errstate(divide="ignore"):  # log(0) makes the one token in 2**53 impossible
        noise: Scores = -np.log(-np.log(uniform))
    return noise


def log_probability(logits: Logits, token_id: int) -> float:
    """Natural logarithm of a token's probability under the unmodified logits."""
    largest = logits.max()
    # exp in float32, four times cheaper; the sum in float64, for 150,000 small terms must not be lost
    total = np.exp(logits - largest).sum(dtype=np.float64)
    return float(np.float64(logits[token_id]) - np.float64(largest) - np.log(total))
