"""The record of a run of the hardware checklist: one line per item, and a file to attach to an issue.

It knows items and outcomes, and what the machine says about itself. It does not know what is checked.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

PACKAGES = (
    "qwen3-vl-triton",
    "tensorrt_llm",
    "tensorrt",
    "torch",
    "transformers",
    "nvidia-modelopt",
    "numpy",
    "openvino",
)
PASS, FAIL, SKIP = "PASS", "FAIL", "SKIP"


@dataclass(frozen=True)
class Line:
    """One item of the checklist.

    Attributes:
        number: its place in the checklist.
        target: what ran it.
        figures: what was measured, by name.
        reason: why it failed or was skipped.
    """

    number: int
    title: str
    target: str
    outcome: str
    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    def __str__(self) -> str:
        shown = ", ".join(
            f"{name} {_short(value)}" for name, value in self.figures.items() if not isinstance(value, list)
        )
        text = f"{self.outcome} {self.number:2} {self.title} [{self.target}] {self.seconds:.0f} s"
        return "; ".join(
            part for part in (text, shown, self.reason.splitlines()[0] if self.reason else "") if part
        )


class Report:
    """Collects lines, prints each one when it is done, and writes them all."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    @contextmanager
    def line(self, number: int, title: str, target: str) -> Iterator[dict[str, Any]]:
        """Runs one item; fill the dictionary with figures. What the item raises is recorded and goes on."""
        figures: dict[str, Any] = {}
        started, outcome, reason = time.monotonic(), PASS, ""
        try:
            yield figures
        except pytest.skip.Exception as skipped:
            outcome, reason = SKIP, str(skipped)
            raise
        except BaseException as error:
            outcome, reason = FAIL, f"{type(error).__name__}: {error}"
            raise
        finally:
            self.add(Line(number, title, target, outcome, time.monotonic() - started, figures, reason))

    def add(self, line: Line) -> None:
        """Keep a line and print it."""
        self.lines.append(line)
        print(f"\n{line}", flush=True)

    def write(self, directory: Path, machine: Mapping[str, Any]) -> list[Path]:
        """Write report.md and report.json; returns both."""
        directory.mkdir(parents=True, exist_ok=True)
        plain = {"machine": dict(machine), "lines": [asdict(line) for line in self.lines]}
        files = [directory / "report.md", directory / "report.json"]
        files[0].write_text(markdown(machine, self.lines), encoding="utf-8")
        files[1].write_text(
            json.dumps(plain, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
        )
        return files


def markdown(machine: Mapping[str, Any], lines: Sequence[Line]) -> str:
    """The report as people read it."""
    count = {outcome: sum(line.outcome == outcome for line in lines) for outcome in (PASS, FAIL, SKIP)}
    rows = [
        f"| {line.outcome} | {line.number} | {line.title} | {line.target} | {line.seconds:.0f} | {_cell(line)} |"
        for line in lines
    ]
    tables = [
        f"\n### {line.number} {line.title} [{line.target}]: {name}\n\n{_table(value)}\n"
        for line in lines
        for name, value in line.figures.items()
        if isinstance(value, list) and value
    ]
    reasons = [
        f"\n### {line.outcome} {line.number} {line.title} [{line.target}]\n\n```text\n{line.reason}\n```\n"
        for line in lines
        if line.reason
    ]
    facts = "\n".join(f"| {name} | {_short(value)} |" for name, value in machine.items())
    return (
        "# Hardware checklist\n\n"
        f"{count[PASS]} passed, {count[FAIL]} failed, {count[SKIP]} skipped\n\n"
        f"| machine | |\n|---|---|\n{facts}\n\n"
        "| | no. | item | target | seconds | figures |\n|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
        + "".join(tables) + "".join(reasons)
    )  # fmt: skip


def machine(engines: Path | None = None) -> dict[str, Any]:
    """What a reader of the report must know: time, system, GPUs, versions, the engines' manifest."""
    facts: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "gpu": _gpus(),
    }
    for package in PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = "not installed"
    for name in ("NVIDIA_TRITON_SERVER_VERSION", "TRTLLM_FORCE_XQA"):
        facts[name] = os.environ.get(name, "not set")
    if engines is not None:
        manifest = json.loads((engines / "engine_manifest.json").read_text(encoding="utf-8"))
        facts["engines"] = {
            name: manifest[name] for name in ("target", "weights", "limits", "versions", "adapters")
        }
    return facts


def _gpus() -> str:
    """Name, driver, memory and compute capability of every GPU, as nvidia-smi says it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "no nvidia-smi"
    fields = "name,driver_version,memory.total,compute_cap"
    asked = subprocess.run(
        [program, f"--query-gpu={fields}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "; ".join(asked.stdout.split("\n")).strip("; ") or asked.stderr.strip()


def _cell(line: Line) -> str:
    return ", ".join(
        f"{name} {_short(value)}" for name, value in line.figures.items() if not isinstance(value, list)
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_short(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
