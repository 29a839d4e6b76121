"""Whole manifests of five profiles, so that a change of a template shows in a review what it does to the cluster.

python -m tests.helm.test_golden     writes them anew; then look at the difference
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import pytest

from tests.helm.chart import manifests
from tests.helm.renderings import RENDERINGS

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("cpu", "gpu-l4", "gpu-h100 production", "gpu-h100 airgap", "scale-to-zero")


def file_of(name: str) -> Path:
    return GOLDEN / f"{name.replace(' ', '-')}.yaml"


def shown(name: str) -> str:
    """What Helm prints, without what is in files of its own: rules, dashboards, the picture of the test."""
    parts = manifests(*RENDERINGS[name]).split("\n---\n")
    apart = ("/rules.yaml", "/dashboards.yaml", "binaryData:")
    return "\n---\n".join(part for part in parts if not any(word in part for word in apart)) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_has_changed_unseen(name: str) -> None:
    file, now = file_of(name), shown(name)
    assert file.exists(), "python -m tests.helm.test_golden writes it"
    difference = difflib.unified_diff(
        file.read_text().splitlines(), now.splitlines(), "golden", "now", lineterm="", n=2
    )
    lines = list(difference)
    assert not lines, "\n".join(lines[:60]) + "\nIf that is meant: python -m tests.helm.test_golden"


def test_there_is_no_other_file() -> None:
    assert {file.name for file in GOLDEN.glob("*")} == {file_of(name).name for name in NAMES}


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for each in NAMES:
        file_of(each).write_text(shown(each))
        print(file_of(each), file=sys.stderr)
