"""The table of values in the chart's README is that of values.yaml, and every key says what it means."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "helm" / "readme.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_key_without_a_comment_is_told() -> None:
    sys.path.insert(0, str(ROOT / "helm"))
    try:
        import readme
    finally:
        sys.path.remove(str(ROOT / "helm"))
    rows = readme.rows("# -- One\na: 1\nb:\n  # -- Deep\n  c: [1, 2]\n  d: x\n")
    assert [(row.key, row.default, row.about) for row in rows] == [
        ("a", "1", "One"),
        ("b.c", "[1, 2]", "Deep"),
        ("b.d", '"x"', ""),
    ]


def test_the_next_command_is_told() -> None:
    """NOTES is what a user reads after an installation: it names the objects that there are."""
    from tests.helm.binaries import helm

    command = [
        str(helm()),
        "install",
        "demo",
        str(ROOT / "helm" / "qwen3-vl"),
        "--dry-run=client",
        "--namespace",
        "shop",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.split("NOTES:")[1]
    for told in (
        "kubectl -n shop rollout status deployment/demo-qwen3-vl-server",
        "helm -n shop test demo --logs",
        "kubectl -n shop port-forward svc/demo-qwen3-vl-gateway 7860:80",
        "For trials only",
        "No API keys",
    ):
        assert told in notes
