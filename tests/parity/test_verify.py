"""The command `verify`: passes on good engines, names what is wrong with bad ones, refuses what it cannot
compare.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from build_engine.__main__ import main
from build_engine.build import build
from build_engine.checkpoint import Checkpoint
from build_engine.manifest import Manifest
from build_engine.openvino_build import OpenVino


def test_good_engines_pass_and_every_output_is_listed(
    demo_engines: Path, demo_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(demo_engines), str(demo_checkpoint)]) == 0
    text = capsys.readouterr().out
    for output in ("text: logits", "three images: merged feature", "video: deepstack level 1"):
        assert f"{output} " in text
    assert "greedy tokens that agree: 96 of 96" in text
    assert "TOO FAR" not in text


def test_a_spoiled_deepstack_level_is_named_and_fails(
    demo_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled = shutil.copytree(demo_checkpoint, tmp_path / "checkpoint")
    weights = load_file(spoiled / "model.safetensors")
    weights["model.visual.deepstack_merger_list.1.linear_fc2.weight"].zero_()
    save_file(weights, spoiled / "model.safetensors", metadata={"format": "pt"})
    engines = tmp_path / "engines"
    manifest = build(Checkpoint.read(spoiled), engines, OpenVino("f32"), {}, force=False)
    true_hash = build(
        Checkpoint.read(demo_checkpoint), tmp_path / "true", OpenVino("f32"), {}, force=False
    ).checkpoint_hash
    dataclasses.replace(manifest, checkpoint_hash=true_hash).write(engines)
    capsys.readouterr()

    assert main(["verify", str(engines), str(demo_checkpoint)]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.endswith("TOO FAR")]
    assert any(line.startswith("one image: deepstack level 1") for line in wrong)
    assert not any(
        "merged feature" in line or "deepstack level 0" in line or "text:" in line for line in wrong
    )


def test_what_cannot_be_compared_is_refused(
    demo_engines: Path, demo_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = shutil.copytree(demo_engines, tmp_path / "engines")
    other = shutil.copytree(demo_checkpoint, tmp_path / "checkpoint")
    settings = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps({**settings, "temperature": 0.7}))
    refusals: list[tuple[Path, Path, Callable[[], object], str]] = [
        (engines, other, lambda: None, "another checkpoint"),
        (tmp_path, demo_checkpoint, lambda: None, "not an engine directory"),
        (
            engines,
            demo_checkpoint,
            lambda: (engines / "language_model/model.bin").write_bytes(b"x"),
            "was changed",
        ),
        (engines, demo_checkpoint, lambda: (engines / "language_model/model.bin").unlink(), "is missing"),
    ]
    for directory, checkpoint, spoil, message in refusals:
        spoil()
        assert main(["verify", str(directory), str(checkpoint)]) == 2
        assert message in capsys.readouterr().err
    assert Manifest.read(demo_engines, check_files=True)
