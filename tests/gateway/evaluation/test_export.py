"""Rated answers of a real store and object store, out of which a set is made that holds nothing private."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.confidence import calibrate
from gateway.evaluation import cases, export
from gateway.objects import Objects
from gateway.records import (
    Answer,
    Citation,
    Feedback,
    Media,
    MediaRef,
    Message,
    Question,
    Signals,
    Versions,
)
from gateway.store import Store

PICTURE = b"\x89PNG masked picture"
SIGNALS = Signals(0.9, 0.5, 1.0, 0.8)


def question(request_id: str, tenant: str, picture: MediaRef | None = None) -> Question[MediaRef]:
    content = ("手机黑屏，怎么办？",) if picture is None else (picture, "手机黑屏，怎么办？")
    return Question(request_id, tenant, "after_sales", "zh", (Message("user", content),), "chat-1")


def answer(request_id: str, text: str) -> Answer:
    cited = (Citation(1, "black-screen", 1, "黑屏", 0.9),)
    versions = Versions("model-1", "", "prompt-1", "kb-1")
    return Answer(request_id, text, "zh", "after_sales", cited, 0.83, SIGNALS, versions)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tenants with rated answers; the settings point to them."""
    monkeypatch.setenv("GATEWAY_DATABASE__URL", f"sqlite:///{tmp_path}/store.db")
    monkeypatch.setenv("GATEWAY_OBJECTS__URL", str(tmp_path / "objects"))
    objects = Objects(str(tmp_path / "objects"), "")
    kept = asyncio.run(objects.put("one", Media("image", PICTURE, "image/png", "d" * 64, 8, 8)))
    store = Store(f"sqlite:///{tmp_path}/store.db")
    rows = [
        ("one", "r-good", question("r-good", "one", kept), "长按电源键十秒。", 5),
        ("one", "r-bad", question("r-bad", "one"), "不知道。", 1),
        ("one", "r-so-so", question("r-so-so", "one"), "请重启。", 3),
        ("one", "r-private", replace(question("r-private", "one"), personal=True), "好的。", 5),
        ("two", "r-good", question("r-good", "two"), "别家的回答", 5),
    ]
    for tenant, request_id, asked, text, rating in rows:
        store.save_answer(asked, answer(request_id, text))
        store.add_feedback(Feedback(request_id, tenant, rating, "打 13800138000 找我", time.time()))
    store.add_feedback(Feedback("r-bad", "one", 2, "", time.time()))
    store.close()
    return tmp_path


def run(shop: Path, *arguments: str) -> Path:
    output = shop / "out" / "set.jsonl"
    assert export.main(["--tenant", "one", "--output", str(output), *arguments]) == 0
    return output


def test_a_set_holds_one_tenants_answers_and_nothing_private(shop: Path) -> None:
    output = run(shop)
    found = cases.read(output)
    assert [case.rating for case in found] == [5, 2, 3]
    good, bad, so_so = found
    assert (good.reference, good.rejected, good.citations) == ("长按电源键十秒。", "", ("black-screen",))
    assert (bad.reference, bad.rejected, bad.citations) == ("", "不知道。", ())
    assert (so_so.reference, so_so.rejected) == ("", "")
    assert good.versions == {"model": "model-1", "prompt": "prompt-1", "knowledge": "kb-1"}
    (file,) = cases.files(good)
    assert cases.content(output, file) == PICTURE
    text = output.read_text(encoding="utf-8")
    for private in ("13800138000", "r-good", "chat-1", '"one"', "别家"):
        assert private not in text


def test_ids_of_two_tenants_differ_and_stay_the_same(shop: Path) -> None:
    store = Store(f"sqlite:///{shop}/store.db")
    first = [export.case(one, str) for one in export.rated(store, "one", 0.0)]
    second = [export.case(one, str) for one in export.rated(store, "two", 0.0)]
    again = [export.case(one, str) for one in export.rated(store, "one", 0.0)]
    assert {case.id for case in first}.isdisjoint(case.id for case in second)
    assert first == again
    assert [case.reference for case in second] == ["别家的回答"]
    assert export.rated(store, "three", 0.0) == []
    assert export.rated(store, "one", time.time() + 10) == []
    store.close()


def test_a_labelled_set_holds_no_texts_and_fits_a_calibration(shop: Path) -> None:
    output = run(shop, "--labelled")
    text = output.read_text(encoding="utf-8")
    assert text.isascii()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["right"] for row in rows] == [True, False]
    assert [one.signals for one in calibrate.read(output)] == [SIGNALS, SIGNALS]


def test_the_last_judgement_of_an_answer_counts(shop: Path) -> None:
    store = Store(f"sqlite:///{shop}/store.db")
    assert {one.feedback.request_id: one.feedback.rating for one in export.rated(store, "one", 0.0)}[
        "r-bad"
    ] == 2
    store.close()


def test_a_database_that_is_away_is_said(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_OBJECTS__URL", str(shop / "elsewhere"))
    assert export.main(["--tenant", "one", "--output", str(shop / "o.jsonl")]) == 1
    assert capsys.readouterr().err.startswith("export: ")
