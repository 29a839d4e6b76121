"""Soak: a steady load for long, and what the server holds meanwhile. What is asserted, and from which samples."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, Final

from loadtests.resources import Sample, growth_per_hour

GROWTH: Final = 0.05
"""Allowed growth of resident memory from the second fifth of the run to the last: a leak is not bounded, noise is."""
SLACK_BYTES: Final = 16 << 20

Checks = dict[str, tuple[bool, str]]


def judge(samples: Sequence[Sample], end: Sample) -> Checks:
    """Every check by name. `samples` are of the run, under load; `end` is when the server is idle again.

    The first fifth is left out: caches and pools fill. The vision cache, which has a budget of its own, is subtracted.
    """
    checks: Checks = {}
    fifth = max(1, len(samples) // 5)
    early, late = samples[fifth : 2 * fifth] or samples[:1], samples[-fifth:]
    if end.resident:
        one, other = _median(early, _memory), _median(late, _memory)
        checks["resident memory stays"] = (
            other <= one * (1 + GROWTH) + SLACK_BYTES,
            f"{one / 1e6:.0f} MB in the second fifth, {other / 1e6:.0f} MB in the last (vision cache subtracted)",
        )
        one, other = _median(early, _threads), _median(late, _threads)
        checks["threads stay"] = (other <= one + 2, f"{one:.0f} in the second fifth, {other:.0f} in the last")
        one, other = _median(early, _shared), _median(late, _shared)
        checks["shared memory stays"] = (
            other <= one * (1 + GROWTH) + SLACK_BYTES,
            f"{one / 1e6:.1f} MB in the second fifth, {other / 1e6:.1f} MB in the last",
        )
    for name in ("qwen3vl_kv_blocks_in_use", "qwen3vl_requests_in_flight"):
        if name in end.gauges:
            checks[f"{name} is 0 at the end"] = (end.gauges[name] == 0, f"{end.gauges[name]:g}")
    return checks


def figures(samples: Sequence[Sample], end: Sample) -> dict[str, Any]:
    """What the report draws, as JSON: every series over time in seconds, and its slope over the last four fifths."""
    times = [sample.at_s - samples[0].at_s for sample in samples]
    processes = sorted({name for sample in samples for name in sample.resident})
    series = {
        **{f"resident MB {name}": [s.resident.get(name, 0) / 1e6 for s in samples] for name in processes},
        "resident MB all, less vision cache": [_memory(sample) / 1e6 for sample in samples],
        "threads": [_threads(sample) for sample in samples],
        "shared memory MB": [_shared(sample) / 1e6 for sample in samples],
        **{name: [s.gauges.get(name, 0.0) for s in samples] for name in sorted(end.gauges)},
    }
    skip = len(samples) // 5
    return {
        "seconds": times,
        "series": series,
        "growth_per_hour": {
            name: growth_per_hour(times[skip:], values[skip:]) for name, values in series.items()
        },
        "at_end": dict(end.gauges),
    }


def _memory(sample: Sample) -> float:
    return sum(sample.resident.values()) - sample.gauges.get("qwen3vl_vision_cache_bytes", 0.0)


def _threads(sample: Sample) -> float:
    return sum(sample.threads.values())


def _shared(sample: Sample) -> float:
    return sample.shared_memory


def _median(samples: Sequence[Sample], read: Callable[[Sample], float]) -> float:
    return statistics.median(read(sample) for sample in samples)
