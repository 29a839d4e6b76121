"""The labelled set of the demo checkpoint: repeatable, mixed, and labelled by the model's own words."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gateway.assistant import notices
from gateway.confidence import calibrate, demo_set
from gateway.records import Answer, Signals, Versions
from tests.server.triton import serving


def test_items_are_the_same_every_time_and_of_every_kind() -> None:
    first, again = list(demo_set.items(140, 3)), list(demo_set.items(140, 3))
    for one, other in zip(first, again, strict=True):
        assert (one.messages, one.what, one.language) == (other.messages, other.what, other.language)
        assert [np.asarray(p).tobytes() for p in one.pictures] == [
            np.asarray(p).tobytes() for p in other.pictures
        ]
    kinds = Counter(item.what for item in first)
    assert {"fault", "code", "battery", "text", "elsewhere", "no_screen", *demo_set._SPOILERS} <= set(kinds)
    assert Counter(item.language for item in first) == {"zh": 70, "en": 70}
    assert all(item.case is None for item in first if item.what in ("elsewhere", "no_screen"))


def test_titles_of_articles_do_not_make_an_answer_right() -> None:
    below = f"\n\n{notices.REFERENCES['zh']}[1] 黑屏\n\n{notices.HANDED_OVER['zh']}"
    versions, signals = Versions("m", "", "p", "k"), Signals(1, 1, 1, 1)
    answer = Answer("r", f"故障：蓝屏。{below}", "zh", "after_sales", (), 0.5, signals, versions)
    assert demo_set._own_words(answer) == "故障：蓝屏。"


@pytest.mark.server
def test_it_asks_the_served_model(
    demo_engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "labelled.jsonl"
    with serving(demo_engines) as server:
        assert demo_set.main(["--triton", server.grpc_url, "--count", "14", "--output", str(output)]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    labelled = calibrate.read(output)
    assert told == {"answers": 14, "right": sum(one.right for one in labelled)}
    assert len(labelled) == 14
    assert 0 < told["right"] < 14
    assert all(0.5 < one.signals.token_probability <= 1 for one in labelled)
    assert any(one.signals.citation_support > 0.8 for one in labelled)
    assert any(one.signals.image_quality < 0.5 for one in labelled)


def test_without_a_server_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo_set.main(["--triton", "127.0.0.1:9", "--count", "1", "--output", str(tmp_path / "o")]) == 1
    assert capsys.readouterr().err.startswith("demo_set: ")
