"""The file that a run leaves: what was asked, every trace, and what follows from them. JSON, one document.

It knows the file's form. Figures come from `metrics` and `knee`, so that a file can be read again with another SLO.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from loadtests import metrics
from loadtests.benchmarks.machine import describe
from loadtests.knee import Kind, Knee, Point, find
from loadtests.metrics import Summary, Window
from loadtests.slo import Slo, parse
from loadtests.trace import Trace

VERSION: Final = 1


@dataclass(frozen=True)
class StageFile:
    """One stage: its load, its window, its traces and the generator's CPU (cores; None if nobody measured)."""

    name: str
    load: float
    window: Window
    traces: tuple[Trace, ...]
    generator_cpu: float | None


@dataclass(frozen=True)
class RunFile:
    """A run.

    Attributes:
        plan: "ladder", "overload", "soak" or "restart".
        kind: "users" or "rate".
        checks: what was asserted: name to (passed, what was seen).
        extra: figures of the plan itself, as JSON.
    """

    plan: str
    kind: Kind
    targets: tuple[str, ...]
    scenario: str
    seed: int
    think_s: float
    slo: Slo
    command: str
    stages: tuple[StageFile, ...]
    checks: Mapping[str, tuple[bool, str]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def summaries(self, slo: Slo | None = None) -> list[Summary]:
        """The figures of every stage, goodput under `slo` (default: the run's own)."""
        return [
            metrics.summarise(stage.traces, stage.window, slo or self.slo, stage.generator_cpu)
            for stage in self.stages
        ]

    def knee(self) -> Knee | None:
        """The knee of a ladder; None for another plan."""
        if self.plan != "ladder":
            return None
        points = [
            Point(
                stage.load, figures.arrivals_per_s, figures.requests_per_s, figures.e2e.mean, figures.e2e.p95
            )
            for stage, figures in zip(self.stages, self.summaries(), strict=True)
        ]
        return find(points, self.kind)

    @property
    def passed(self) -> bool:
        """Whether every check held."""
        return all(passed for passed, _ in self.checks.values())

    def write(self, path: Path, with_traces: bool = True) -> None:
        """Write it, with its figures, their definitions and this machine; without traces it cannot be read again."""
        knee = self.knee()
        document = {
            "version": VERSION,
            "plan": self.plan,
            "kind": self.kind,
            "date": self.date,
            "command": self.command,
            "machine": asdict(describe()),
            "targets": self.targets,
            "scenario": self.scenario,
            "seed": self.seed,
            "think_s": self.think_s,
            "slo": str(self.slo),
            "definitions": dict(metrics.DEFINITIONS),
            "knee": asdict(knee) if knee else None,
            "checks": {
                name: {"passed": passed, "seen": seen} for name, (passed, seen) in self.checks.items()
            },
            "extra": dict(self.extra),
            "stages": [
                {
                    "name": stage.name,
                    "load": stage.load,
                    "window": asdict(stage.window),
                    "generator_cpu": stage.generator_cpu,
                    "figures": figures.plain(),
                    **({"traces": [trace.plain() for trace in stage.traces]} if with_traces else {}),
                }
                for stage, figures in zip(self.stages, self.summaries(), strict=True)
            ],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_json(document, with_traces), encoding="utf-8")


def _json(document: Mapping[str, Any], dense: bool) -> str:
    if dense:
        return json.dumps(document, separators=(",", ":"), allow_nan=False)
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def read(path: Path) -> RunFile:
    """A file that `RunFile.write` wrote. ValueError for any other, OSError if there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']}, not {VERSION}")
        return RunFile(
            document["plan"],
            document["kind"],
            tuple(document["targets"]),
            document["scenario"],
            document["seed"],
            document["think_s"],
            parse(document["slo"]),
            document["command"],
            tuple(_stage(stage) for stage in document["stages"]),
            {name: (check["passed"], check["seen"]) for name, check in document["checks"].items()},
            document["extra"],
            document["date"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: got no run of `python -m loadtests run` ({error})") from error


def _stage(values: Mapping[str, Any]) -> StageFile:
    traces: Sequence[Mapping[str, Any]] = values["traces"]
    return StageFile(
        values["name"],
        values["load"],
        Window(**values["window"]),
        tuple(Trace.read(trace) for trace in traces),
        values["generator_cpu"],
    )
