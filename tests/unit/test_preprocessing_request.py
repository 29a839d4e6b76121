"""The whole stage: tensors as the contract names them, limits of the engines, and options."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from build_engine.manifest import Limits
from ensemble import contract
from ensemble.config import MediaLimits
from ensemble.errors import InvalidImage, InvalidMessages, InvalidOption, PromptTooLong
from ensemble.options import DEFAULT_MAX_TOKENS
from ensemble.preprocessing.preprocessor import Preprocessor
from tests.demo_preprocessor import LIMITS, manifest, prepare, preprocessor

HELLO = [{"role": "user", "content": "hello"}]
LOOK = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this?"}]}]
DTYPES = {
    "UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64, "UINT64": np.uint64, "FP32": np.float32,
    "BOOL": np.bool_,
}  # fmt: skip


def picture(seed: int = 0, size: tuple[int, int] = (60, 80), form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Preprocessor:
    return preprocessor(tmp_path_factory.mktemp("engines"))


@pytest.mark.parametrize(("messages", "images"), [(HELLO, ()), (LOOK, (picture(),))])
def test_tensors_are_those_of_the_contract(
    messages: Any, images: tuple[bytes, ...], ours: Preprocessor
) -> None:
    tensors = prepare(ours, messages, images).tensors()
    declared = contract.CONTRACT[contract.PREPROCESSING].outputs
    assert tensors.keys() == {tensor.name for tensor in declared}
    for tensor in declared:
        array = tensors[tensor.name]
        assert array.dtype == DTYPES[tensor.dtype], tensor.name
        assert len(array.shape) == len(tensor.shape), tensor.name
        assert all(want in (-1, got) for want, got in zip(tensor.shape, array.shape, strict=True)), (
            tensor.name
        )
        assert array.flags.c_contiguous, tensor.name
    tokens = tensors["input_lengths"].item() + tensors["request_output_len"].item()
    assert tensors["mrope_rotary_cos_sin"].shape == (1, tokens * manifest().text.head_dim)
    assert (
        tensors["input_lengths"].item()
        == tensors["input_ids"].shape[1]
        == tensors["prompt_table_extra_ids"].shape[1]
    )


def test_tensorrt_llm_gets_cos_and_sin_of_every_position_and_the_openvino_target_those_of_its_tokens(
    ours: Preprocessor, tmp_path: Path
) -> None:
    few = prepare(ours, LOOK, [picture()], max_tokens=7)
    rows = few.input_ids.size + 7
    assert few.mrope_rotary_cos_sin.size == rows * manifest().text.head_dim
    all_rows = prepare(preprocessor(tmp_path, target="tensorrt-llm"), LOOK, [picture()], max_tokens=7)
    assert all_rows.mrope_rotary_cos_sin.size == LIMITS.max_seq_len * manifest().text.head_dim
    same = all_rows.mrope_rotary_cos_sin[:, : few.mrope_rotary_cos_sin.size]
    np.testing.assert_array_equal(few.mrope_rotary_cos_sin, same)


def test_text_has_no_media_and_only_zero_extra_ids(ours: Preprocessor) -> None:
    prompt = prepare(ours, HELLO)
    assert prompt.pixel_patches.shape == (1, 0, manifest().vision.patch_values)
    assert prompt.grid_thw.shape == (1, 0, 3)
    assert prompt.media_digest.shape == (1, 0, 4)
    assert not prompt.prompt_table_extra_ids.any()


def test_extra_ids_mark_visual_tokens_with_the_digest_of_their_picture(ours: Preprocessor) -> None:
    prompt = prepare(ours, LOOK, [picture()])
    visual = prompt.input_ids[0] >= manifest().text.vocab_size
    assert visual.sum() == prompt.grid_thw[0].prod() // 4
    assert set(prompt.prompt_table_extra_ids[0][visual].tolist()) == {prompt.media_digest[0, 0, 0]}
    assert not prompt.prompt_table_extra_ids[0][~visual].any()


def test_digest_depends_on_pixels_and_key(ours: Preprocessor, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").symlink_to(
        (Path(__file__).parents[2] / "build_engine/demo/checkpoint").resolve()
    )
    other_key = Preprocessor(manifest(), tmp_path, MediaLimits(), b"another key, which has 32 bytes.")
    first = prepare(ours, LOOK, [picture(1)]).media_digest
    np.testing.assert_array_equal(prepare(ours, LOOK, [picture(1, form="BMP")]).media_digest, first)
    assert (prepare(ours, LOOK, [picture(2)]).media_digest != first).all()
    assert (prepare(other_key, LOOK, [picture(1)]).media_digest != first).all()


def test_turned_picture_has_a_turned_grid(ours: Preprocessor) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = prepare(ours, LOOK, [picture(size=(60, 200))]).grid_thw[0, 0].tolist()
    assert prepare(ours, LOOK, [picture(size=(60, 200), exif=exif)]).grid_thw[0, 0].tolist() == [
        1,
        lying[2],
        lying[1],
    ]


def test_prompt_too_long_says_how_long_and_the_limit(ours: Preprocessor) -> None:
    with pytest.raises(PromptTooLong, match=r"got \d{4,} prompt tokens; allowed: at most 2048"):
        prepare(ours, [{"role": "user", "content": "7" * 3000}])


def test_too_many_visual_tokens_are_refused_before_anything_is_decoded(ours: Preprocessor) -> None:
    broken = picture(size=(300, 300))[:-500]
    many = [{"role": "user", "content": [{"type": "image"}] * 30}]
    with pytest.raises(PromptTooLong, match=r"got \d+ visual tokens .image 0: \d+.*; allowed: at most 1024"):
        prepare(ours, many, [broken] * 30)


def test_prompt_and_answer_must_fit_together(tmp_path: Path) -> None:
    small = preprocessor(tmp_path, limits=Limits(4, 100, 120, 100, 50))
    length = prepare(small, HELLO).input_lengths.item()
    assert prepare(small, HELLO).request_output_len.item() == 120 - length
    assert prepare(small, HELLO, max_tokens=120 - length).request_output_len.item() == 120 - length
    with pytest.raises(PromptTooLong, match=f"max_tokens may be at most {120 - length} here"):
        prepare(small, HELLO, max_tokens=121 - length)


def test_default_length_of_an_answer_is_bounded(ours: Preprocessor) -> None:
    assert prepare(ours, HELLO).request_output_len.item() == DEFAULT_MAX_TOKENS


def test_greedy_is_top_k_one_at_a_temperature_that_divides(ours: Preprocessor) -> None:
    prompt = prepare(ours, HELLO)
    assert (prompt.runtime_top_k.item(), prompt.temperature.item()) == (1, 1.0)


def test_sampling_options_reach_their_tensors(ours: Preprocessor) -> None:
    options = {
        "temperature": 0.5, "top_p": 0.25, "top_k": 7, "seed": (1 << 63) - 1, "presence_penalty": 1.5,
        "frequency_penalty": -1.5, "repetition_penalty": 1.25,
    }  # fmt: skip
    prompt = prepare(ours, HELLO, **options)
    names = {"top_p": "runtime_top_p", "top_k": "runtime_top_k"}
    for name, value in options.items():
        assert getattr(prompt, names.get(name, name)).item() == value


def test_without_a_seed_each_request_draws_one(ours: Preprocessor) -> None:
    assert prepare(ours, HELLO, temperature=1.0).seed != prepare(ours, HELLO, temperature=1.0).seed


def test_counts_adapters_and_placeholders_are_checked(tmp_path: Path) -> None:
    two = preprocessor(tmp_path, MediaLimits(max_images=2))
    with pytest.raises(InvalidImage, match="3 items; allowed: at most 2"):
        prepare(two, HELLO, [b"", b"", b""])
    with pytest.raises(InvalidMessages, match="1 image parts for 0 items"):
        prepare(two, LOOK)
    with pytest.raises(InvalidOption, match="lora_name"):
        prepare(two, HELLO, lora_name="laptop")


def test_enhance_changes_only_poor_pictures(ours: Preprocessor) -> None:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(100, 130, (60, 80, 3), dtype=np.uint8)).save(out, "PNG")
    poor = out.getvalue()
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, "PNG")
    good = out.getvalue()
    for data, changes in ((poor, True), (good, False)):
        plain, helped = (prepare(ours, LOOK, [data], enhance=how).pixel_patches for how in ("none", "auto"))
        assert np.array_equal(plain, helped) is not changes


def test_serving_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, ensemble.preprocessing.preprocessor as p; "
        "sys.exit(bool({'torch', 'transformers', 'openvino'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
