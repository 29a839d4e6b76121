"""What a soak's samples say: which checks hold, and how much each part grew. It knows samples, and no process."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import fields
from typing import Final

from loadtests.gateway_soak.holdings import Sample
from loadtests.resources import growth_per_hour
from loadtests.soak import GROWTH, SLACK_BYTES

Checks = dict[str, tuple[bool, str]]

BOUNDED_ELSEWHERE: Final = ("broker", "cache")
"""Their memory is what they are for: the broker keeps all messages, the cache stops at its own limit. It is told, not judged."""
WARM_S: Final = 600.0
"""Of a shorter run, growth is told and not judged: allocators, pools and caches are still filling."""
_COMING_AND_GOING: Final = 8
"""Connections and files of requests under way."""


def judge(
    samples: Sequence[Sample], end: Sample, failures: Sequence[str], left: Sequence[str], code: int
) -> Checks:
    """Every check by name, with its figures in words.

    Args:
        samples: of the run, under load.
        end: when the stack was idle again.
        failures: of requests.
        left: names in /dev/shm after the stack ended.
        code: with which the stack ended.
    """
    checks: Checks = {
        "every request led to what it must": (not failures, "; ".join(failures[:3]) or "all did")
    }
    for part in samples[0].parts:
        lives = all(sample.parts[part].processes for sample in (*samples, end))
        checks[f"{part} lives"] = (lives, "from the first look to the last" if lives else "it died")
    if end.at_s >= WARM_S:
        checks |= _growth_checks(samples)
    return checks | {
        "every object has a row": (not end.unreferenced, f"{end.unreferenced} of {end.objects} have none"),
        "every row has its object": (not end.missing, f"{end.missing} are not stored"),
        "no half objects": (not end.unfinished, f"{end.unfinished}"),
        "the stack ends well": (code == 0, f"exit code {code}"),
        "nothing is left in shared memory": (not left, ", ".join(left) or "nothing"),
    }


def _growth_checks(samples: Sequence[Sample]) -> Checks:
    checks: Checks = {}
    for part in samples[0].parts:
        if part not in BOUNDED_ELSEWHERE:
            checks[f"{part}: memory stays"] = _bytes_stay(_resident(samples, part))
        checks[f"{part}: descriptors stay"] = _number_stays([one.parts[part].descriptors for one in samples])
    return checks | {
        "temporary files stay": _number_stays([sample.temporary for sample in samples]),
        "shared memory stays": _bytes_stay([sample.shared_bytes for sample in samples]),
    }


def growth(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Of each part: MB in the second fifth and in the last, and the slope from the second fifth on in MB an hour."""
    skip = len(samples) // 5
    times = [sample.at_s for sample in samples[skip:]]
    found = {}
    for part in samples[0].parts:
        megabytes = [value / 1e6 for value in _resident(samples, part)]
        early, late = _fifths(megabytes)
        found[part] = {
            "second_fifth_mb": round(early, 1),
            "last_fifth_mb": round(late, 1),
            "mb_per_hour": round(growth_per_hour(times, megabytes[skip:]), 1),
        }
    return found


def series(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Every figure over time, by its name."""
    found: dict[str, list[float]] = {"seconds": [sample.at_s for sample in samples]}
    for part in samples[0].parts:
        found[f"{part} MB"] = [round(value / 1e6, 1) for value in _resident(samples, part)]
        for name in ("processes", "descriptors", "threads"):
            found[f"{part} {name}"] = [getattr(sample.parts[part], name) for sample in samples]
    for field in fields(Sample):
        if field.name not in ("at_s", "parts"):
            found[field.name] = [getattr(sample, field.name) for sample in samples]
    return found


def _resident(samples: Sequence[Sample], part: str) -> list[float]:
    """Less Triton's vision cache, which has a budget of its own."""
    return [one.parts[part].resident - (one.vision_cache if part == "triton" else 0) for one in samples]


def _fifths(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the second fifth and of the last. In the first, caches and pools fill."""
    fifth = max(1, len(values) // 5)
    return statistics.median(values[fifth : 2 * fifth] or values[:1]), statistics.median(values[-fifth:])


def _bytes_stay(values: Sequence[float]) -> tuple[bool, str]:
    early, late = _fifths(values)
    words = f"{early / 1e6:.1f} MB in the second fifth, {late / 1e6:.1f} MB in the last"
    return late <= early * (1 + GROWTH) + SLACK_BYTES, words


def _number_stays(values: Sequence[int]) -> tuple[bool, str]:
    early, late = _fifths(values)
    return late <= early + _COMING_AND_GOING, f"{early:g} in the second fifth, {late:g} in the last"
