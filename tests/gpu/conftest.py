"""What the hardware checklist runs on: engines, the server over them, transformers beside it, and the report."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from qwen3vl_client import Client

from build_engine.manifest import FILE_NAME, Manifest
from tests.gpu.checks import Subject
from tests.gpu.report import FAIL, Line, Report, machine
from tests.gpu.teacher import Teacher
from tests.server import triton
from tests.server.cpp_backend.engines import write_engines
from tests.server.triton import serving

OPENVINO, TENSORRT_LLM, XQA = "openvino", "tensorrt-llm", "tensorrt-llm, TRTLLM_FORCE_XQA=1"
STAND_IN = "stand-in of the C++ backend"
WITHOUT_GPU = (OPENVINO, STAND_IN)
ENCODERS = [OPENVINO, *(pytest.param(name, marks=pytest.mark.gpu) for name in (TENSORRT_LLM, XQA))]
"""Targets with a vision encoder of their own; the stand-in has none."""
_REPORT = pytest.StashKey[Report]()


@dataclass(frozen=True)
class Target:
    """Engines, and transformers on the checkpoint that they were built from."""

    name: str
    engines: Path
    teacher: Teacher


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_REPORT] = Report()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """An item whose engines or server did not come up is a failed line too."""
    yield
    numbered = re.match(r"test_(\d+)_(\w+)", item.name)
    if (
        numbered
        and call.when == "setup"
        and call.excinfo
        and not call.excinfo.errisinstance(pytest.skip.Exception)
    ):
        title = f"{numbered[2].replace('_', ' ')}: not begun"
        # An item without parameters is one for the GPU alone.
        target = item.callspec.id if hasattr(item, "callspec") else TENSORRT_LLM
        line = Line(int(numbered[1]), title, target, FAIL, call.duration, {}, call.excinfo.exconly())
        item.config.stash[_REPORT].add(line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write the report if a GPU was asked, to $QWEN3VL_REPORT or ./gpu-report, and print its lines together."""
    report = config.stash[_REPORT]
    if all(line.target in WITHOUT_GPU for line in report.lines):
        return
    engines = _engines()
    files = report.write(
        Path(os.environ.get("QWEN3VL_REPORT", "gpu-report")),
        machine(engines if (engines / FILE_NAME).is_file() else None),
    )
    terminalreporter.section("hardware checklist")
    for line in report.lines:
        terminalreporter.line(str(line))
    for file in files:
        terminalreporter.line(f"written: {file}")


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    """Collects the lines of this run."""
    return request.config.stash[_REPORT]


@pytest.fixture(scope="session")
def gpu_checkpoint() -> Path:
    """The Hugging Face directory to check with."""
    if "QWEN3VL_CHECKPOINT" not in os.environ:
        pytest.fail("set QWEN3VL_CHECKPOINT to a Qwen3-VL directory, such as Qwen3-VL-2B-Instruct")
    return Path(os.environ["QWEN3VL_CHECKPOINT"])


@pytest.fixture(scope="session")
def gpu_engines(gpu_checkpoint: Path) -> Path:
    """Engines of the checkpoint: $QWEN3VL_ENGINES, or engines/gpu-check; built if they are not there."""
    engines = _engines()
    if not (engines / FILE_NAME).is_file():
        command = [sys.executable, "-m", "build_engine", str(gpu_checkpoint), "--target", "tensorrt-llm"]
        command += ["--output", str(engines), "--max-batch-size", "16"]
        subprocess.run(command, check=True)
    return engines


@pytest.fixture(scope="session", params=[*ENCODERS, STAND_IN])
def target(request: pytest.FixtureRequest) -> Target:
    """On openvino random weights, whose greedy answers do not end; on a GPU the checkpoint."""
    # Fixtures are asked for by name, since each needs packages that the other's machine lacks.
    if request.param in WITHOUT_GPU:
        checkpoint = request.getfixturevalue("random_checkpoint")("untied")
        engines = request.getfixturevalue("engines_of")(checkpoint, "f32")
        if request.param == STAND_IN:
            directory = request.getfixturevalue("tmp_path_factory").mktemp("engines") / "tensorrt-llm"
            engines = write_engines(directory, engines)
        return Target(request.param, engines, Teacher(checkpoint, engines, "cpu"))
    checkpoint = request.getfixturevalue("gpu_checkpoint")
    engines = request.getfixturevalue("gpu_engines")
    return Target(request.param, engines, Teacher(checkpoint, engines, "cuda"))


@pytest.fixture(scope="session")
def subject(target: Target) -> Iterator[Subject]:
    """The target, served. transformers is loaded already, since the server takes most of the memory that is left."""
    with pytest.MonkeyPatch.context() as patch:
        if target.name not in WITHOUT_GPU:
            patch.setattr(triton, "READY_S", 1800.0)
            patch.setattr(triton, "EXIT_S", 120.0)
        if target.name == XQA:
            patch.setenv("TRTLLM_FORCE_XQA", "1")
        program = "tests.server.cpp_backend.serve" if target.name == STAND_IN else "ensemble"
        with (
            serving(target.engines, program=program) as server,
            Client(server.grpc_url, timeout=600.0) as client,
        ):
            yield Subject(target.name, server, Manifest.read(target.engines), client, target.teacher)


def _engines() -> Path:
    return Path(os.environ.get("QWEN3VL_ENGINES", "engines/gpu-check"))
