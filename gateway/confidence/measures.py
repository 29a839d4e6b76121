"""How good probabilities are: against what came true. Plain functions of numbers; it does not know where they are from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence lies together: how sure they were, how often right, how many."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Choice:
    """A threshold and what comes of it: how many answers pass, and how many of those are right."""

    threshold: float
    precision: float
    coverage: float


def brier(confidence: Sequence[float], right: Sequence[bool]) -> float:
    """Mean squared distance to the truth: 0 is perfect, 0.25 is always saying one half."""
    return float(np.mean((np.array(confidence) - np.array(right, dtype=float)) ** 2))


def bins(confidence: Sequence[float], right: Sequence[bool], count: int = 10) -> list[Bin]:
    """Answers in order of confidence, cut into equally many each, so that no bin is empty."""
    order = np.argsort(np.array(confidence), kind="stable")
    sure, true = np.array(confidence)[order], np.array(right, dtype=float)[order]
    parts = np.array_split(np.arange(len(sure)), min(count, len(sure)))
    return [Bin(float(sure[part].mean()), float(true[part].mean()), len(part)) for part in parts]


def calibration_error(confidence: Sequence[float], right: Sequence[bool], count: int = 10) -> float:
    """Expected calibration error: mean gap of confidence and accuracy, by answers."""
    gaps = [abs(one.confidence - one.accuracy) * one.count for one in bins(confidence, right, count)]
    return float(sum(gaps) / len(confidence))


def auc(confidence: Sequence[float], right: Sequence[bool]) -> float:
    """How often a right answer is surer than a wrong one; ties count half. NaN without both."""
    sure, true = np.array(confidence), np.array(right, dtype=bool)
    good, bad = sure[true], np.sort(sure[~true])
    if not len(good) or not len(bad):
        return float("nan")
    below, upto = np.searchsorted(bad, good, "left"), np.searchsorted(bad, good, "right")
    return float((below + upto).mean() / 2 / len(bad))


def choose(confidence: Sequence[float], right: Sequence[bool], precision: float) -> Choice | None:
    """The lowest threshold above which at least this share of answers is right; None if there is none."""
    best: Choice | None = None
    sure, true = np.array(confidence), np.array(right, dtype=float)
    for threshold in sorted(set(sure.tolist()), reverse=True):
        passed = sure >= threshold
        share = float(true[passed].mean())
        if share >= precision:
            best = Choice(threshold, share, float(passed.mean()))
    return best


def at(confidence: Sequence[float], right: Sequence[bool], threshold: float) -> Choice:
    """What comes of a given threshold; precision 1 where nothing passes."""
    passed = np.array(confidence) >= threshold
    share = float(np.array(right, dtype=float)[passed].mean()) if passed.any() else 1.0
    return Choice(threshold, share, float(passed.mean()))
