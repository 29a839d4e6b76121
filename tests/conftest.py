"""Fixtures that every kind of test shares: checkpoints, and their engines, each built once and kept between
runs.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Engines depend on these sources and packages as well as on the checkpoint.
SOURCES = sorted((ROOT / "build_engine").glob("*.py"))
PACKAGES = ("openvino", "onnx", "numpy")


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Lets the processor have these flags, for all that build_engine decides by them."""

    def become(flags: str) -> None:
        from build_engine import openvino_ir

        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nflags\t\t: fpu sse2 {flags} tsc\nbugs\t\t: none\n")
        monkeypatch.setattr(openvino_ir, "_CPU", path)

    return become


@pytest.fixture(scope="session")
def demo_checkpoint() -> Path:
    return ROOT / "build_engine" / "demo" / "checkpoint"


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The path of a checkpoint of tests.checkpoints.VARIANTS, written on first use."""
    made: dict[str, Path] = {}

    def write(variant: str) -> Path:
        from tests.checkpoints import make_variant

        if variant not in made:
            made[variant] = make_variant(tmp_path_factory.mktemp("checkpoint") / variant, variant)
        return made[variant]

    return write


@pytest.fixture(scope="session")
def engines_of() -> Callable[[Path, str], Path]:
    """Engines of a checkpoint with given weights, from a cache in the temporary directory."""
    cache = Path(tempfile.gettempdir()) / f"qwen3vl-test-engines-{os.getuid()}"
    software = hashlib.sha256()
    for source in SOURCES:
        software.update(source.read_bytes())
    for package in PACKAGES:
        software.update(importlib.metadata.version(package).encode())

    def get(checkpoint: Path, weights: str = "f32") -> Path:
        from build_engine.build import build
        from build_engine.checkpoint import Checkpoint
        from build_engine.manifest import FILE_NAME
        from build_engine.openvino_build import OpenVino

        key = hashlib.sha256((Checkpoint.read(checkpoint).content_hash() + software.hexdigest()).encode())
        directory = cache / f"{key.hexdigest()[:20]}-{weights}"
        if not (directory / FILE_NAME).is_file():
            build(Checkpoint.read(checkpoint), directory, OpenVino(weights), {}, force=True)
        return directory

    return get


@pytest.fixture(scope="session")
def demo_engines(demo_checkpoint: Path, engines_of: Callable[[Path, str], Path]) -> Path:
    return engines_of(demo_checkpoint, "f32")


@pytest.fixture(scope="session")
def endless_engines(random_checkpoint: Callable[[str], Path], engines_of: Callable[..., Path]) -> Path:
    """A model with random weights: its greedy answers run on until max_tokens, so there is time to break things."""
    return engines_of(random_checkpoint("untied"), "f32")
