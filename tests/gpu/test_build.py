"""The first items of the hardware checklist: the installed TensorRT-LLM, and builds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from build_engine.checkpoint import Checkpoint
from build_engine.manifest import FILE_NAME, Manifest
from tests.gpu.report import Report
from tests.gpu.small import LAYERS, write_small

TARGET = "tensorrt-llm"


def run(*arguments: str) -> str:
    """The output of a command of ours; AssertionError with its end if it fails."""
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, (
        f"{' '.join(command[1:])}: exit code {done.returncode}\n{done.stdout[-6000:]}"
    )
    return done.stdout


@pytest.mark.gpu
def test_0_doctor(report: Report) -> None:
    with report.line(0, "names that we use from tensorrt_llm", TARGET) as figures:
        figures["last line"] = run("build_engine.trtllm.doctor").strip().splitlines()[-1]


@pytest.mark.gpu
@pytest.mark.timeout(3600)
def test_1_builds_of_two_random_layers(gpu_checkpoint: Path, tmp_path: Path, report: Report) -> None:
    with report.line(1, "engines of two random layers", TARGET) as figures:
        small = write_small(gpu_checkpoint, tmp_path / "small")
        figures["dry"] = run("tests.gpu.dry_build", str(small)).strip().splitlines()[-1]
        limits = ["--max-batch-size", "4", "--max-seq-len", "2048"]
        run("build_engine", str(small), "--target", TARGET, "--output", str(tmp_path / "engines"), *limits)
        manifest = Manifest.read(tmp_path / "engines", check_files=True)
        assert manifest.target == TARGET
        figures["files"] = len(manifest.files)


@pytest.mark.gpu
@pytest.mark.timeout(4 * 3600)
def test_1_engines_of_the_checkpoint(gpu_engines: Path, gpu_checkpoint: Path, report: Report) -> None:
    with report.line(1, "engines of the checkpoint", TARGET) as figures:
        manifest = Manifest.read(gpu_engines, check_files=True)
        assert manifest.checkpoint_hash == Checkpoint.read(gpu_checkpoint).content_hash(), (
            "built from another checkpoint"
        )
        figures["weights"] = manifest.weights
        figures["GB"] = sum((gpu_engines / name).stat().st_size for name in manifest.files) / 1e9


def test_the_small_checkpoint_loads_and_builds(demo_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import Qwen3VLForConditionalGeneration

    small = write_small(demo_checkpoint, tmp_path / "small")
    facts = Checkpoint.read(small)
    assert (facts.text.num_hidden_layers, facts.vision.depth) == (LAYERS, LAYERS)
    assert facts.text.hidden_size == Checkpoint.read(demo_checkpoint).text.hidden_size
    _, told = Qwen3VLForConditionalGeneration.from_pretrained(small, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    run(
        "build_engine",
        str(small),
        "--target",
        "openvino",
        "--weights",
        "f32",
        "--output",
        str(tmp_path / "engines"),
    )
    assert (tmp_path / "engines" / FILE_NAME).is_file()


def test_a_failed_command_is_told_with_its_output() -> None:
    with pytest.raises(AssertionError, match=r"exit code 2\n.*/nowhere is not a directory"):
        run("build_engine", "/nowhere", "--target", "openvino", "--output", "/nowhere/engines")
