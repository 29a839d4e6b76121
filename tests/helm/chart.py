"""Renders the chart with Helm itself.

It knows files, values and versions; it does not know what a right object looks like.
"""

from __future__ import annotations

import copy
import functools
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.helm.binaries import helm

CHART = Path(__file__).parents[2] / "helm" / "qwen3-vl"
PROFILES = sorted((CHART / "values").glob("*.yaml"))
KUBERNETES = ("1.30", "1.33", "1.37")
RELEASE, NAMESPACE = "demo", "shop"

Object = dict[str, Any]


class Refused(Exception):
    """Helm did not render; the text is what it said."""


def render(
    values: Sequence[Path] = (),
    sets: Sequence[str] = (),
    kubernetes: str = "1.33",
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    chart: Path = CHART,
) -> list[Object]:
    """The objects, hooks included. Refused if Helm refuses."""
    text = manifests(tuple(values), tuple(sets), kubernetes, release, namespace, chart)
    return copy.deepcopy(_parsed(text))


@functools.lru_cache(maxsize=256)
def manifests(
    values: tuple[Path, ...] = (),
    sets: tuple[str, ...] = (),
    kubernetes: str = "1.33",
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    chart: Path = CHART,
) -> str:
    """What Helm prints."""
    command = [
        str(helm()),
        "template",
        release,
        str(chart),
        "--namespace",
        namespace,
        "--kube-version",
        kubernetes,
    ]
    for file in values:
        command += ["--values", str(file)]
    for one in sets:
        command += ["--set-json" if "={" in one or "=[" in one else "--set", one]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> list[Object]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [each for each in yaml.load_all(text, loader) if each]
