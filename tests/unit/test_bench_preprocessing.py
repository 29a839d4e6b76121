"""The preprocessing benchmark runs, and refuses to time patches that are not transformers'."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ensemble.config import MediaLimits
from ensemble.preprocessing import image_processor
from ensemble.preprocessing.crew import Crew
from ensemble.preprocessing.image_processor import ImageProcessor
from ensemble.preprocessing.media import ImageItem, Item, MediaOpener
from ensemble.preprocessing.messages import IMAGE
from ensemble.preprocessing.packed_media import MediaPacker
from loadtests.benchmarks import preprocessing, several_pictures
from loadtests.benchmarks.preprocessing import (
    LAYOUT,
    MAX_PIXELS,
    MIN_PIXELS,
    Unequal,
    check_equal,
    main,
    make_case,
    ours,
)


def test_it_runs_and_its_last_line_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--pictures", "300x200", "--rounds", "2"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    for case in ("300x200 JPEG", "300x200 PNG"):
        figures = document["figures"][case]
        assert figures["equal_to_hf_pil"] is True
        assert figures["moved_mb"]["hf"] == 4 * figures["moved_mb"]["ours"] > 0
        assert {"ours", "hf_pil", "decode"} <= set(figures["ms"])
        assert set(preprocessing.DEFINITIONS) >= set(figures["ms"])


def test_several_pictures_run_and_the_last_line_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert several_pictures.main(["--requests", "3x300x200", "--rounds", "2", "--threads", "2"]) == 0
    (figures,) = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"].values()
    assert set(figures["ms"]) | {"threads"} == set(several_pictures.DEFINITIONS)


def test_several_pictures_are_not_timed_if_one_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = preprocessing.pack
    monkeypatch.setattr(several_pictures, "pack", lambda files, crew: right(files[::-1], crew))
    with pytest.raises(Unequal):
        several_pictures.main(["--requests", "2x300x200", "--rounds", "1"])


@pytest.mark.parametrize("size", ["300x200", "704x1024"])
def test_equal_patches_pass_and_a_single_other_value_does_not(size: str) -> None:
    case = make_case(size, "JPEG", 3)
    theirs = preprocessing.their_processors()["hf_pil"](case.data)
    patches = ours(case)
    check_equal(patches, theirs)
    patches[-1, 17] ^= 1
    with pytest.raises(Unequal, match="1 of"):
        check_equal(patches, theirs)
    with pytest.raises(Unequal, match="transformers has"):
        check_equal(patches[:-1], theirs)


def test_a_benchmark_of_wrong_patches_does_not_end_well(monkeypatch: pytest.MonkeyPatch) -> None:
    right = preprocessing.ours
    monkeypatch.setattr(preprocessing, "ours", lambda case: right(case)[::-1])
    with pytest.raises(Unequal):
        main(["--pictures", "300x200", "--forms", "PNG", "--rounds", "1"])


def test_peak_memory_counts_what_a_call_keeps() -> None:
    """Nothing but the output (6 bytes a pixel) and less than a strip's worth is held beside the decoded picture."""
    assert 1.5 < preprocessing.peak_extra(make_case("1600x1600", "JPEG", 0)) < 3.0


@pytest.mark.parametrize("strip_bytes", [1, 20_000, 1 << 30])
def test_strips_join_to_the_picture_wherever_it_is_cut(
    strip_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_processor, "_STRIP_BYTES", strip_bytes)
    pixels = np.random.default_rng(1).integers(0, 256, (224, 96, 3), dtype=np.uint8)
    strips = list(ImageProcessor(LAYOUT, MIN_PIXELS, MAX_PIXELS).strips(Image.fromarray(pixels)))
    assert len(strips) == {1: 7, 20_000: 4, 1 << 30: 1}[strip_bytes]
    assert all(strip.shape[2] % LAYOUT.factor == 0 for strip in strips)
    np.testing.assert_array_equal(np.concatenate(strips, axis=2)[0], pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("row", [0, 100, 223])
def test_the_digest_covers_every_strip_and_does_not_depend_on_their_size(
    row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (224, 288, 3), dtype=np.uint8)
    first = _digest(pixels)
    monkeypatch.setattr(image_processor, "_STRIP_BYTES", 1)
    assert _digest(pixels) == first
    pixels[row, 5] ^= 1
    assert _digest(pixels) != first


def test_a_decoded_picture_is_given_back() -> None:
    """Pictures of a request are decoded one after the other; keeping them all would take 4 bytes for each of their pixels."""
    (item,) = _opened(np.zeros((224, 288, 3), np.uint8))
    MediaPacker(LAYOUT, bytes(32), Crew(2, 1 << 20)).pack([item])
    assert isinstance(item, ImageItem)
    with pytest.raises(ValueError, match="closed"):
        item.image.getpixel((0, 0))


def _digest(pixels: NDArray[np.uint8]) -> list[int]:
    words: list[int] = (
        MediaPacker(LAYOUT, bytes(32), Crew(2, 1 << 20)).pack(_opened(pixels)).digests[0].tolist()
    )
    return words


def _opened(pixels: NDArray[np.uint8]) -> list[Item]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    opener = MediaOpener(ImageProcessor(LAYOUT, 1, MAX_PIXELS), None, MediaLimits(), enhanced=False)
    return opener.open([IMAGE], [file.getvalue()], [])
