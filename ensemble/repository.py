"""The model repository on disk: rendered config.pbtxt files beside the model.py shells.

It knows the layout that Triton expects. The committed repository is the rendering of the default profile, so
that people can read it and Triton can serve it as it is; `difference` tells when it is not.
"""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

from ensemble.config import DeploymentConfig
from ensemble.contract import ENSEMBLE, MODELS
from ensemble.pbtxt import render

COMMITTED = Path(__file__).resolve().parent.parent / "model_repository"
VERSION = "1"
_CONFIG = "config.pbtxt"


def write_configs(repository: Path, config: DeploymentConfig) -> list[Path]:
    """Render every config.pbtxt into a repository; returns the files."""
    files = []
    for name, text in render(config).items():
        file = repository / name / _CONFIG
        # Triton refuses a model without a version directory, and git keeps no empty one.
        (file.parent / VERSION).mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        files.append(file)
    return files


def write(repository: Path, config: DeploymentConfig, shells: Path = COMMITTED) -> None:
    """Write a complete repository for one deployment: configs of its own, shells copied from `shells`."""
    write_configs(repository, config)
    for name in MODELS:
        if name != ENSEMBLE:
            shutil.copyfile(shells / name / VERSION / "model.py", repository / name / VERSION / "model.py")


def difference(repository: Path, config: DeploymentConfig) -> str:
    """Unified diff from a repository's config.pbtxt files to their rendering; "" when they are equal."""
    diff: list[str] = []
    for name, text in render(config).items():
        file = repository / name / _CONFIG
        found = file.read_text(encoding="utf-8") if file.is_file() else ""
        diff += difflib.unified_diff(
            found.splitlines(keepends=True), text.splitlines(keepends=True), f"{name}/{_CONFIG}", "rendered"
        )
    return "".join(diff)
