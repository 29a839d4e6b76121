"""The model repository on disk: rendered config.pbtxt files beside the model.py shells.

It knows the layout that Triton expects. The committed repository is the rendering of the profile `cpu`, so
that people can read it and Triton can serve it as it is; `difference` tells when it is not. A GPU profile is rendered from
engines, because limits are read from them; its language model has no shell, NVIDIA's C++ backend runs it.
"""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

from ensemble.config import DeploymentConfig
from ensemble.contract import ENSEMBLE, LANGUAGE_MODEL, OCR, OPENVINO, contract
from ensemble.pbtxt import render
from ensemble.tensorrtllm import TensorRtLlmBackend

COMMITTED = Path(__file__).resolve().parent.parent / "model_repository"
VERSION = "1"
LLM_API_SHELL = "llm_api.py"
"""Beside the versions of `tensorrt_llm`, so that Triton does not see it: the shell of the runtime tensorrt-llm-pytorch."""
OCR_SHELL = "ocr.py"
"""The optional model's shell, a file that Triton does not take for a model."""
_CONFIG = "config.pbtxt"


def write_configs(repository: Path, config: DeploymentConfig) -> list[Path]:
    """Render every config.pbtxt into a repository; returns the files. SettingsError if engines and config do not fit."""
    backend = None if config.tensorrt_llm is None else TensorRtLlmBackend.read(config)
    files = []
    for name, text in render(config, backend).items():
        file = repository / name / _CONFIG
        # Triton refuses a model without a version directory, and git keeps no empty one.
        (file.parent / VERSION).mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        files.append(file)
    return files


def write(repository: Path, config: DeploymentConfig, shells: Path = COMMITTED) -> None:
    """Write a complete repository for one deployment: configs of its own, shells copied from `shells`."""
    write_configs(repository, config)
    if config.ocr_instances:
        shutil.copyfile(shells / OCR_SHELL, repository / OCR.name / VERSION / "model.py")
    for name in contract(config.target(OPENVINO), "FP32"):
        shell = f"{VERSION}/model.py"
        if name == ENSEMBLE or (name == LANGUAGE_MODEL and config.tensorrt_llm is not None):
            continue
        if name == LANGUAGE_MODEL and config.llm_api is not None:
            shell = LLM_API_SHELL
        shutil.copyfile(shells / name / shell, repository / name / VERSION / "model.py")


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
