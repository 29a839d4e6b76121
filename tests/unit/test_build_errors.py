"""Every clear refusal of the build: exit code 2, a message that says what to do, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from build_engine.__main__ import main

Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture
def checkpoint(tmp_path: Path, demo_checkpoint: Path) -> Path:
    """A copy of the demo checkpoint to be spoiled; the weights are linked, not copied."""
    copy = tmp_path / "checkpoint"
    shutil.copytree(demo_checkpoint, copy, copy_function=_link_weights)
    return copy


@pytest.fixture
def refused(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the build, expects exit code 2 and nothing written; gives the message."""

    def run(*options: str, source: Path = checkpoint, output: Path = tmp_path / "engines") -> str:
        before = sorted(tmp_path.rglob("*"))
        code = main(
            [str(source), "--target", "openvino", "--output", str(output), "--weights", "f32", *options]
        )
        assert code == 2
        assert sorted(tmp_path.rglob("*")) == before, "a refused build wrote something"
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("build_engine: ")
        return message

    return run


def test_a_path_that_is_no_directory(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "is not a directory" in refused(source=tmp_path / "nothing")


def test_a_directory_without_config(refused: Callable[..., str], checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    assert "config.json is missing" in refused()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_a_missing_file_is_named(name: str, refused: Callable[..., str], checkpoint: Path) -> None:
    (checkpoint / name).unlink()
    assert f"{name} is missing" in refused()


def test_no_chat_template(refused: Callable[..., str], checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    assert "no chat template" in refused()


class Wrong(NamedTuple):
    edit: Edit
    message: str


WRONG_CONFIGS = {
    "mixture of experts": Wrong(
        lambda c: c.update(architectures=["Qwen3VLMoeForConditionalGeneration"], model_type="qwen3_vl_moe"),
        "mixture of experts",
    ),
    "another architecture": Wrong(
        lambda c: c.update(architectures=["Qwen2VLForConditionalGeneration"]),
        "'Qwen2VLForConditionalGeneration'",
    ),
    "quantised": Wrong(lambda c: c.update(quantization_config={}), "build from the unquantised checkpoint"),
    "a depth in words": Wrong(lambda c: c["vision_config"].update(depth="many"), "depth is 'many'"),
    "no text_config": Wrong(lambda c: c.pop("text_config"), "text_config is missing"),
    "another shape": Wrong(lambda c: c["text_config"].update(intermediate_size=100), "has shape [576, 224]"),
    "more layers than weights": Wrong(
        lambda c: c["text_config"].update(num_hidden_layers=9),
        "'model.language_model.layers.4.input_layernorm.weight'",
    ),
    "untied without a head": Wrong(lambda c: c.update(tie_word_embeddings=False), "'lm_head.weight'"),
    "yarn": Wrong(lambda c: c["text_config"]["rope_parameters"].update(rope_type="yarn"), "rope_type 'yarn'"),
    "no rope theta": Wrong(lambda c: c["text_config"]["rope_parameters"].pop("rope_theta"), "rope_theta"),
    "another activation": Wrong(lambda c: c["text_config"].update(hidden_act="relu"), "hidden_act 'relu'"),
    "a level beyond the tower": Wrong(
        lambda c: c["vision_config"].update(deepstack_visual_indexes=[2, 9]),
        "deepstack_visual_indexes is [2, 9]",
    ),
    "the same level twice": Wrong(
        lambda c: c["vision_config"].update(deepstack_visual_indexes=[2, 2]),
        "deepstack_visual_indexes is [2, 2]",
    ),
    "widths that do not meet": Wrong(
        lambda c: c["vision_config"].update(out_hidden_size=64), "out_hidden_size 64"
    ),
    "a special token outside": Wrong(lambda c: c.update(image_token_id=99999), "special token id"),
}


@pytest.mark.parametrize("name", WRONG_CONFIGS)
def test_a_config_that_cannot_be_built_is_refused_with_its_field(
    name: str, refused: Callable[..., str], checkpoint: Path
) -> None:
    _edit(checkpoint / "config.json", WRONG_CONFIGS[name].edit)
    assert WRONG_CONFIGS[name].message in refused()


def test_config_that_is_not_json(refused: Callable[..., str], checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("{", encoding="utf-8")
    assert "is not JSON" in refused()


def test_a_processor_that_cuts_other_patches(refused: Callable[..., str], checkpoint: Path) -> None:
    _edit(checkpoint / "preprocessor_config.json", lambda c: c.update(patch_size=14))
    assert "patch_size" in refused()


def test_videos_normalised_unlike_images(refused: Callable[..., str], checkpoint: Path) -> None:
    _edit(checkpoint / "video_preprocessor_config.json", lambda c: c.update(image_mean=[0.4, 0.5, 0.5]))
    assert "normalise pixels differently" in refused()


def test_no_end_token(refused: Callable[..., str], checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").unlink()
    _edit(checkpoint / "config.json", lambda c: c["text_config"].update(eos_token_id=None))
    assert "no eos_token_id" in refused()


def test_no_weights(refused: Callable[..., str], checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    assert "neither model.safetensors nor" in refused()


def test_a_missing_shard_is_named(refused: Callable[..., str], checkpoint: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-00002.safetensors")
    message = refused()
    assert "1 of 2 shards are missing" in message
    assert "model-00002-of-00002.safetensors" in message


def test_weights_cut_short(refused: Callable[..., str], checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1000])
    assert "cut short" in refused()


def test_a_git_lfs_pointer_instead_of_weights(refused: Callable[..., str], checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.unlink()
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", encoding="utf-8")
    assert "Git LFS pointer" in refused()


def test_too_little_disk(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr("build_engine.staging.shutil.disk_usage", lambda path: free)
    message = refused()
    assert "too little disk" in message
    assert "0.00 GB are free" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-seq-len", "5000"), "4096 positions"),
        (("--max-seq-len", "512", "--max-input-len", "512"), "must be below --max-seq-len"),
        (("--max-batch-size", "64", "--max-num-tokens", "32"), "at least --max-batch-size"),
        (("--max-visual-tokens", "4000"), "above --max-input-len"),
        (("--max-batch-size", "0"), "above 0"),
    ],
)
def test_limits_that_cannot_be(options: tuple[str, ...], message: str, refused: Callable[..., str]) -> None:
    assert message in refused(*options)


def test_tensorrt_llm_engines_are_built_in_their_container(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), "--target", "tensorrt-llm", "--output", str(tmp_path / "engines")]) == 2
    message = capsys.readouterr().err
    assert "tensorrt_llm not installed here" in message
    assert "docs/gpu.md" in message
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("openvino", ("--weights", "fp8"), "--weights fp8: --target openvino takes f32, bf16, int8, int4"),
        ("tensorrt-llm", ("--weights", "f32"), "--weights f32: --target tensorrt-llm takes bf16, fp16"),
        ("openvino", ("--tp-size", "2"), "--tp-size is an option of --target tensorrt-llm"),
        ("openvino", ("--kv-cache-dtype", "fp8"), "--kv-cache-dtype is an option of --target tensorrt-llm"),
        ("openvino", ("--lora", "a=b"), "--lora is an option of --target tensorrt-llm"),
        ("tensorrt-llm", ("--lora", "../a=b"), "--lora ../a: a name has up to 64 letters"),
    ],
)
def test_options_that_the_target_does_not_have(
    target: str,
    options: tuple[str, ...],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main([str(checkpoint), "--target", target, "--output", str(tmp_path / "engines"), *options])
    assert code == 2
    assert f"build_engine: {message}" in capsys.readouterr().err


def test_a_run_time_adapter_has_a_name(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(checkpoint), "--target", "tensorrt-llm", "--output", "x", "--lora", "directory"])
    assert "NAME=DIR is needed, not 'directory'" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    for word in ("CHECKPOINT", "--weights", "int4", "verify", "--max-visual-tokens", "examples:"):
        assert word in text


def _edit(path: Path, change: Edit) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def _link_weights(source: str, target: str) -> object:
    return os.symlink(source, target) if source.endswith(".safetensors") else shutil.copyfile(source, target)
