"""The end of a benchmark: its JSON line, and the file in loadtests/results that the README quotes.

It knows where results go and what they must name. It does not know what was measured.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from loadtests.benchmarks.machine import describe

DIRECTORY: Final = Path(__file__).parents[1] / "results"
PACKAGES: Final = (
    "numpy",
    "openvino",
    "torch",
    "transformers",
    "pillow",
    "tritonclient",
    "nvidia-pytriton",
    "av",
)
"""Packages whose versions change what a benchmark measures."""


@dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
        name: file name in loadtests/results, without .json.
        command: the command line that repeats it.
        seed: of everything that is drawn.
        definitions: metric to what exactly is measured, in one sentence.
        figures: JSON values; medians with their spread, ratios as `Rounds.plain` gives them.
    """

    name: str
    command: str
    seed: int
    definitions: Mapping[str, str]
    figures: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        """All of it, with the machine, the time (UTC) and the versions of what is installed."""
        return {
            "name": self.name,
            "command": self.command,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seed": self.seed,
            "machine": dataclasses.asdict(describe()),
            "versions": versions(),
            "definitions": dict(self.definitions),
            "figures": dict(self.figures),
        }


def publish(result: Result, save: bool, directory: Path = DIRECTORY) -> None:
    """Print the definitions and, as the last line, everything as JSON; `save` also writes directory/NAME.json."""
    document = result.document()
    for metric, meaning in result.definitions.items():
        print(f"{metric}: {meaning}")
    if save:
        path = directory / f"{result.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        print(f"saved {path}")
    print(json.dumps(document, allow_nan=False), flush=True)


def versions() -> dict[str, str]:
    """Package to version, of those of PACKAGES that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
