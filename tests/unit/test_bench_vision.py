"""The vision encoder's benchmark runs, and refuses to time rows that are not transformers'."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from build_engine.checkpoint import Checkpoint
from ensemble.vision_encoder.encoder import OpenVinoEncoder
from loadtests.benchmarks import shapes, vision_encoder, whole_model
from loadtests.benchmarks.vision_encoder import Tower, Unequal, draw, main, row_error


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    cache = tmp_path_factory.mktemp("engines")
    return ["--shapes", "demo", "--pictures", "2", "--side", "64", "--rounds", "2", "--cache", str(cache)]


def test_it_runs_and_its_last_line_is_json(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tiny) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]["demo"]
    assert figures["patches"] == 2 * 4 * 4
    assert set(figures["patches_per_s"]) <= set(vision_encoder.DEFINITIONS)
    assert 0 < figures["row_error"] < vision_encoder.ROW_ERROR_LIMIT
    assert figures["flops_share"] > 0
    assert set(figures["cache"]["ms"]) == {"hit", "miss"}


@pytest.mark.parametrize("wrong", ["shuffled tokens", "levels swapped", "not a number"])
def test_wrong_rows_end_it(wrong: str, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    right = OpenVinoEncoder.encode

    def encode(self: OpenVinoEncoder, *picture: Any) -> Any:
        rows = right(self, *picture)
        changed = {
            "shuffled tokens": rows[::-1],
            "levels swapped": rows[:, ::-1],
            "not a number": rows * np.float32("nan"),
        }
        return changed[wrong]

    monkeypatch.setattr(OpenVinoEncoder, "encode", encode)
    with pytest.raises(Unequal):
        main(tiny)


def test_row_error_is_that_of_the_worst_level() -> None:
    theirs = np.random.default_rng(0).standard_normal((64, 3, 8)).astype(np.float32)
    ours = theirs.copy()
    ours[:, 2] += 0.5
    assert row_error(ours, theirs) == pytest.approx(0.5 / theirs[:, 2].std(), rel=1e-5)


def test_multiplications_of_a_patch_by_hand() -> None:
    """The demo's tower: 5 blocks of 128 wide, 3 mergers (the last and two levels) that see four patches as one."""
    tower = Tower(Checkpoint.read(whole_model.checkpoint("demo")))
    block = 128 * 384 + 128 * 128 + 2 * 128 * 384
    merger = (512 * 512 + 512 * 224) / 4
    attention = 2 * 64 * 128
    assert tower.multiplications(8) == 1536 * 128 + 5 * (block + attention) + 3 * merger


def test_pictures_are_drawn_from_the_seed_and_cut_right() -> None:
    pictures = draw(3, 4, 12, 5)
    np.testing.assert_array_equal(pictures.patches, draw(3, 4, 12, 5).patches)
    each = pictures.each()
    assert [(len(patches), grids.tolist()) for patches, grids in each] == [(16, [[1, 4, 4]])] * 3
    np.testing.assert_array_equal(each[2][0], pictures.patches[32:])


def test_an_unknown_shape_is_named() -> None:
    with pytest.raises(ValueError, match="'3b'"):
        whole_model.checkpoint("3b")


def test_the_checkpoint_is_the_demo_itself() -> None:
    assert whole_model.checkpoint("demo") == shapes.DEMO
