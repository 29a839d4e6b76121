"""Signals to one probability: a logistic model with an intercept, read from a file or fitted by Newton's method.

The coefficients are drawn towards a prior, not towards zero: a signal that the labelled set hardly varies keeps the
weight that common sense gives it. No weight may be negative, since no signal speaks against an answer by being good.
It knows signals; it does not know how the labels came about.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway.errors import InvalidInput, NotFound
from gateway.profiles.profile import Profile
from gateway.records import Signals

SIGNALS: Final = tuple(field.name for field in fields(Signals))
PRIOR: Final = (-3.0, 0.8, 0.5, 1.5, 1.0)
"""Intercept, then a weight for each signal; of the token probability, for its log-odds."""
_DIRECTORY: Final = Path(__file__).parent
_EDGE: Final = 1e-5  # token probabilities nearer to 0 or 1 count as this near
_STEPS: Final = 50
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """A fitted model. `weights` in the order of `SIGNALS`; `origin`: what it was fitted to, for the reader."""

    intercept: float
    weights: tuple[float, ...]
    origin: str = ""

    @classmethod
    def load(cls, profile: str) -> Calibration:
        """The one that a profile names: a file in gateway/confidence, or a path."""
        name = Profile.load(profile).calibration
        path = Path(name) if name.endswith(".json") else _DIRECTORY / f"{name}.json"
        if not path.is_file():
            raise NotFound(f"calibration: got {name!r}, allowed: the path of a file that `calibrate` wrote")
        return cls.read(path)

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """From a file that `write` made."""
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            weights = tuple(float(values["weights"][name]) for name in SIGNALS)
            read = cls(float(values["intercept"]), weights, str(values.get("origin", "")))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"calibration {path.name}", repr(error), "what `calibrate` writes") from error
        if not all(map(math.isfinite, (read.intercept, *read.weights))) or min(read.weights) < 0:
            raise InvalidInput(f"calibration {path.name}: weights", read.weights, "finite, none negative")
        return read

    def write(self, path: Path) -> None:
        """As JSON."""
        weights = {name: round(weight, 6) for name, weight in zip(SIGNALS, self.weights, strict=True)}
        values = {"intercept": round(self.intercept, 6), "weights": weights, "origin": self.origin}
        path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def confidence(self, signals: Signals) -> float:
        """The probability that an answer with these signals is right."""
        inputs = _inputs([signals])[0]
        return float(_sigmoid(inputs @ np.array((self.intercept, *self.weights))))

    @classmethod
    def fit(
        cls, signals: Sequence[Signals], right: Sequence[bool], penalty: float = 1.0, origin: str = ""
    ) -> Calibration:
        """Maximum a posteriori by iterated least squares. `penalty`: how strongly the prior holds.

        Raises InvalidInput when the labels are all equal: nothing can be learned from them.
        """
        if len(set(right)) < 2:
            raise InvalidInput(
                "labels", f"{len(right)} times the same", "answers that are right and that are wrong"
            )
        inputs, labels = _inputs(signals), np.array(right, dtype=np.float64)
        free = np.ones(len(PRIOR), dtype=bool)
        weights = np.array(PRIOR)
        while True:
            weights = _newton(inputs, labels, weights, free, penalty)
            negative = free & (weights < 0)
            negative[0] = False
            if not negative.any():
                return cls(float(weights[0]), tuple(map(float, weights[1:])), origin)
            free &= ~negative
            weights[negative] = 0.0


def _newton(inputs: Floats, labels: Floats, start: Floats, free: NDArray[np.bool_], penalty: float) -> Floats:
    """The free weights' optimum; the others stay. The intercept is hardly penalised."""
    pull = np.full(len(PRIOR), penalty)
    pull[0] = 1e-3 * penalty
    prior, weights = np.array(PRIOR), start.copy()
    chosen, pull = inputs[:, free], pull[free]

    def loss(at: Floats) -> float:
        odds = inputs @ at
        fit = np.logaddexp(0, odds) - labels * odds
        return float(fit.sum() + 0.5 * (pull * (at[free] - prior[free]) ** 2).sum())

    for _ in range(_STEPS):
        chance = _sigmoid(inputs @ weights)
        slope = chosen.T @ (chance - labels) + pull * (weights[free] - prior[free])
        curve = (chosen.T * (chance * (1 - chance))) @ chosen + np.diag(pull)
        step = np.linalg.solve(curve, slope)
        scale, before = 1.0, loss(weights)
        while scale > 1e-8:  # never uphill: far from the optimum a whole step may overshoot
            after = weights.copy()
            after[free] -= scale * step
            if loss(after) <= before:
                weights = after
                break
            scale /= 2
        if np.abs(scale * step).max() < 1e-9:
            break
    return weights


def _inputs(signals: Sequence[Signals]) -> Floats:
    values = np.array([[getattr(one, name) for name in SIGNALS] for one in signals], dtype=np.float64)
    values = np.clip(np.nan_to_num(values, nan=0.0), 0.0, 1.0)
    chance = np.clip(values[:, 0], _EDGE, 1 - _EDGE)
    values[:, 0] = np.log(chance / (1 - chance))
    return np.hstack([np.ones((len(values), 1)), values])


def _sigmoid(odds: Any) -> Any:
    return np.exp(-np.logaddexp(0, -odds))
