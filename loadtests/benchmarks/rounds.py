"""Interleaved rounds: every case runs once per round, so that a slow minute of the machine hits all of them.

It knows numbers and their order. It does not know what a case measures, nor whether more is better.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from loadtests.benchmarks.machine import Calibration


class CaseFailed(RuntimeError):
    """A case raised; what was measured until then is worth nothing, because it is no longer interleaved."""


@dataclass(frozen=True)
class Sample:
    """One run of one case.

    Attributes:
        value: what the case returned, in its own unit.
        calibration: what the machine gave just before and just after, the mean of both; None without calibration.
    """

    case: str
    round: int
    value: float
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Rounds:
    """All samples of a run, in the order in which they were taken."""

    samples: tuple[Sample, ...]

    @property
    def cases(self) -> list[str]:
        """Names of the cases, in the order in which they were given."""
        return list(dict.fromkeys(sample.case for sample in self.samples))

    def of(self, case: str) -> list[Sample]:
        """The samples of a case, one per round; KeyError for a name that did not run."""
        samples = [sample for sample in self.samples if sample.case == case]
        if not samples:
            raise KeyError(f"case {case!r} did not run; these did: {', '.join(self.cases)}")
        return sorted(samples, key=lambda sample: sample.round)

    def values(self, case: str) -> list[float]:
        """The values of a case, by round."""
        return [sample.value for sample in self.of(case)]

    def median(self, case: str) -> float:
        """Median of a case."""
        return median(self.values(case))

    def ratio_of_medians(self, case: str, base: str) -> float:
        """Median of `case` / median of `base`."""
        return self.median(case) / self.median(base)

    def ratio(self, case: str, base: str) -> float:
        """Median over the rounds of `case` / `base` in the same round: the figure to quote on a noisy machine."""
        return median(a / b for a, b in zip(self.values(case), self.values(base), strict=True))

    def ratio_range(self, case: str, base: str) -> tuple[float, float]:
        """Smallest and largest `case` / `base` of a round."""
        ratios = [a / b for a, b in zip(self.values(case), self.values(base), strict=True)]
        return min(ratios), max(ratios)

    def share(self, case: str, limit: Callable[[Calibration], float]) -> float | None:
        """Median over the rounds of value / `limit` of the calibration around it; None without calibration."""
        shares = [s.value / limit(s.calibration) for s in self.of(case) if s.calibration is not None]
        return median(shares) if shares else None

    def calibration(self) -> dict[str, dict[str, float]]:
        """Median, min and max of what the machine gave over the run; empty without calibration."""
        given = [dataclasses.asdict(s.calibration) for s in self.samples if s.calibration is not None]
        columns = {name: [each[name] for each in given] for name in (given[0] if given else ())}
        return {
            name: {"median": median(column), "min": min(column), "max": max(column)}
            for name, column in columns.items()
        }

    def plain(self, base: str | None = None) -> dict[str, Any]:
        """For JSON: per case median, min, max and all values; with `base` also the ratios to it."""
        figures: dict[str, Any] = {}
        for case in self.cases:
            values = self.values(case)
            figures[case] = {
                "median": self.median(case),
                "min": min(values),
                "max": max(values),
                "values": values,
            }
            if base is not None and case != base:
                low, high = self.ratio_range(case, base)
                figures[case] |= {
                    f"ratio_to_{base}": self.ratio(case, base),
                    f"ratio_to_{base}_min": low,
                    f"ratio_to_{base}_max": high,
                    f"ratio_of_medians_to_{base}": self.ratio_of_medians(case, base),
                }
        return figures


def run(
    cases: Mapping[str, Callable[[], float]],
    rounds: int,
    calibrate: Callable[[], Calibration] | None = None,
) -> Rounds:
    """Run every case once per round; each round starts with another case, so that none always follows the same one.

    Args:
        cases: name to a function that measures once and returns a number above 0. Warm them up before.
        rounds: at least 1.
        calibrate: measured between every two cases (`machine.calibrate`).

    Raises:
        ValueError: no cases, or no rounds.
        CaseFailed: a case raised, or returned no positive number.
    """
    if not cases or rounds < 1:
        raise ValueError(f"got {len(cases)} cases and {rounds} rounds; at least 1 of each is needed")
    names = list(cases)
    samples = []
    before = calibrate() if calibrate else None
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            try:
                value = float(cases[name]())
            except Exception as error:
                raise CaseFailed(f"case {name!r} failed in round {number}: {error!r}") from error
            if not value > 0:
                raise CaseFailed(f"case {name!r} returned {value} in round {number}; more than 0 is allowed")
            after = calibrate() if calibrate else None
            around = Calibration.mean(before, after) if before and after else None
            samples.append(Sample(name, number, value, around))
            before = after
    order = {name: index for index, name in enumerate(names)}
    return Rounds(tuple(sorted(samples, key=lambda sample: (sample.round, order[sample.case]))))
