"""Answers against what is known about good ones, and two versions against each other. Plain functions of records."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Final

from gateway.evaluation.cases import Case
from gateway.evaluation.replay import Outcome

_ALIKE: Final = 0.8  # as good as the reference, when a case names nothing that must be in the answer
_CLEARLY: Final = 0.05  # scores this near count as equal


@dataclass(frozen=True)
class Score:
    """One answer, judged; None where the case says nothing about it.

    Attributes:
        exact: it is the reference, word by word.
        phrases: share of the key phrases in it.
        citations: share of the expected articles that it cites.
        likeness: to the reference, 0 to 1.
        rejected: it is the answer that a customer did not want.
        total: mean of phrases, citations and likeness; 0 for no answer or a rejected one.
        right: all phrases and citations are there; without any expected, it is much like the reference.
    """

    exact: bool | None
    phrases: float | None
    citations: float | None
    likeness: float | None
    rejected: bool
    total: float
    right: bool


@dataclass(frozen=True)
class Summary:
    """A version over a whole set. None: no case says anything about it."""

    cases: int
    errors: int
    right: float
    score: float
    exact: float | None
    phrases: float | None
    citations: float | None
    likeness: float | None
    rejected: int
    confidence: float
    handoffs: float
    p50_s: float
    p95_s: float


@dataclass(frozen=True)
class Duel:
    """Case by case, which of two versions did better; `chance`: how often luck alone gives so clear a result."""

    better_a: int
    better_b: int
    equal: int
    chance: float


def judge(case: Case, outcome: Outcome) -> Score:
    """One answer."""
    said = folded(outcome.text)
    missing = bool(outcome.error)
    phrases = _share([folded(phrase) in said for phrase in case.key_phrases])
    citations = _share([article in outcome.citations for article in case.citations])
    like = likeness(case.reference, outcome.text) if case.reference else None
    rejected = bool(case.rejected) and not missing and folded(case.rejected) == said
    known = [part for part in (phrases, citations, like) if part is not None]
    must = [part for part in (phrases, citations) if part is not None]
    right = all(part == 1.0 for part in must) if must else (like is None or like >= _ALIKE)
    return Score(
        exact=folded(case.reference) == said if case.reference else None,
        phrases=phrases,
        citations=citations,
        likeness=like,
        rejected=rejected,
        total=0.0 if missing or rejected else mean(known) if known else 1.0,
        right=right and not missing and not rejected,
    )


def summarise(scores: Sequence[Score], outcomes: Sequence[Outcome]) -> Summary:
    """A version's figures; times and confidence of the answers that came."""
    came = [outcome for outcome in outcomes if not outcome.error]
    times = sorted(outcome.latency_s for outcome in came)

    def over(values: Sequence[float | bool | None]) -> float | None:
        known = [float(value) for value in values if value is not None]
        return mean(known) if known else None

    return Summary(
        cases=len(scores),
        errors=len(outcomes) - len(came),
        right=mean(score.right for score in scores),
        score=mean(score.total for score in scores),
        exact=over([score.exact for score in scores]),
        phrases=over([score.phrases for score in scores]),
        citations=over([score.citations for score in scores]),
        likeness=over([score.likeness for score in scores]),
        rejected=sum(score.rejected for score in scores),
        confidence=mean(outcome.confidence for outcome in came) if came else 0.0,
        handoffs=mean(bool(outcome.handoff) for outcome in came) if came else 0.0,
        p50_s=_percentile(times, 0.5),
        p95_s=_percentile(times, 0.95),
    )


def duel(first: Sequence[Score], second: Sequence[Score]) -> Duel:
    """Two versions on the same cases, with the exact two-sided sign test."""
    gaps = [one.total - other.total for one, other in zip(first, second, strict=True)]
    better_a = sum(gap > _CLEARLY for gap in gaps)
    better_b = sum(gap < -_CLEARLY for gap in gaps)
    count, fewer = better_a + better_b, min(better_a, better_b)
    tail = sum(math.comb(count, k) for k in range(fewer + 1)) / 2**count
    return Duel(better_a, better_b, len(gaps) - count, min(1.0, 2 * tail))


def likeness(first: str, second: str) -> float:
    """Overlap of the neighbouring characters of two texts (Dice), 0 to 1; works without words, so for Chinese too."""
    one, other = _pairs(folded(first)), _pairs(folded(second))
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


def folded(text: str) -> str:
    """Without differences of width, case and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _pairs(text: str) -> Counter[str]:
    return Counter(text[place : place + 2] for place in range(max(1, len(text) - 1))) if text else Counter()


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None


def _percentile(times: Sequence[float], part: float) -> float:
    return times[min(len(times) - 1, math.ceil(part * len(times)) - 1)] if times else 0.0
