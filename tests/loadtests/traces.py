"""Hand-written traces for the tests of figures."""

from __future__ import annotations

from loadtests.metrics import Window
from loadtests.run_file import RunFile, StageFile
from loadtests.slo import Slo, parse
from loadtests.trace import Outcome, Trace

SLO: Slo = parse("ttft_p95=2s,itl_p95=200ms")


def trace(
    start: float,
    ttft: float | None = 0.1,
    gaps: tuple[float, ...] = (0.02, 0.02),
    outcome: Outcome = "complete",
    cause: str = "",
    tokens: int = 10,
    late: float = 0.0,
    paused: float = 0.0,
    attempts: int = 1,
    target: str = "a:1",
) -> Trace:
    """A request that should have been sent at `start`; it ends with its last chunk."""
    start = round(start, 4)
    first = None if ttft is None else round(start + ttft, 4)
    end = round(start + (ttft or 0.0) + sum(gaps) + paused, 4)
    return Trace(
        "one-image",
        start,
        start + late,
        first,
        gaps,
        end,
        paused,
        outcome,
        cause,
        tokens,
        5,
        0,
        target,
        attempts,
    )


def ladder(*stages: tuple[float, tuple[Trace, ...]], kind: str = "users", seconds: float = 10.0) -> RunFile:
    """A run whose stages all have the window 0 to `seconds`."""
    return RunFile(
        "ladder",
        "users" if kind == "users" else "rate",
        ("a:1",),
        "one-image",
        1,
        0.0,
        SLO,
        "python -m loadtests run",
        tuple(
            StageFile(f"{kind}={load:g}", load, Window(0.0, seconds), traces, 0.25) for load, traces in stages
        ),
    )
