"""Folding, terms, spelling and splitting."""

from __future__ import annotations

from hypothesis import given, strategies

from gateway.knowledge import passages, terms
from gateway.knowledge.folding import fold
from gateway.knowledge.spelling import Spelling


def test_width_case_and_traditional_characters_are_one() -> None:
    assert fold("ＷｉＦｉ 無線網絡連不上，電腦開機後螢幕還黑") == fold(
        "wifi 无线网络连不上，电脑开机后荧幕还黑"
    )


def test_terms() -> None:
    assert terms.words("手机黑屏 charging") == ["手机", "机黑", "黑屏", "charg"]
    assert terms.words("charged charges charge") == ["charg"] * 3
    assert terms.words(terms.asked("请问手机怎么办")) == ["手机"]


def test_misspelt_words() -> None:
    spelling = Spelling(["warranty", "battery", "screen", "app"])
    assert [spelling.nearest(word)[:1] for word in ("waranty", "batteyr", "scren", "screan")] == [
        ["warranty"], ["battery"], ["screen"], ["screen"],
    ]  # fmt: skip
    assert spelling.nearest("screen") == spelling.nearest("elephant") == spelling.nearest("ap") == []


@given(strategies.text(alphabet="ab。. \n#黑屏", max_size=300), strategies.integers(5, 60))
def test_passages_are_bounded_and_lose_no_character(text: str, longest: int) -> None:
    split = passages.split(text, longest)
    assert all(0 < len(passage) <= longest for passage in split)
    assert "".join("".join(split).split()) == "".join(text.split())
