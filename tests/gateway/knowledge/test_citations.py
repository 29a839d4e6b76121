"""What counts as backed. Positives: the demo model's own answers; negatives: the same against every other article."""

from __future__ import annotations

from typing import get_args

import pytest

from build_engine.demo.dialogue import FAULTS, diagnosis
from gateway.knowledge.citations import check
from gateway.knowledge.library import Library
from gateway.knowledge.quantities import quantities
from gateway.records import Language, Passage


def passage(text: str, title: str = "T", language: Language = "zh") -> Passage:
    return Passage("a", 1, title, text, language, 1.0)


BLACK = passage("长按电源键十秒强制重启，充电半小时，仍不亮请联系售后。", "手机黑屏")
WARRANTY = passage("The device has one year of warranty. Keep the invoice.", "Warranty", "en")


@pytest.mark.parametrize("language", get_args(Language))
def test_answers_are_backed_by_their_article_and_by_no_other(sample: Library, language: Language) -> None:
    right = wrong = others = 0
    for key, fault in FAULTS.items():
        answer = diagnosis(language, key).text
        found = sample.search(fault.name[language], language, "", "", 5)
        right += check(answer, found[:1]).support >= 0.6
        wrong += sum(check(answer, [other]).support >= 0.6 for other in found[1:])
        others += len(found) - 1
    assert right == len(FAULTS)
    assert wrong / others <= 0.1


def test_marks_without_support_go_and_code_stays() -> None:
    text = "请长按电源键十秒强制重启 [1]。保修三年不收费 [2]。`a[9]` 充电半小时。[7]"
    checked = check(text, [BLACK, WARRANTY])
    assert checked.text == "请长按电源键十秒强制重启 [1]。保修三年不收费。`a[9]` 充电半小时。"
    assert [citation.number for citation in checked.citations] == [1]
    assert 0.5 < checked.support < 1


def test_an_uncited_sentence_counts_for_its_passage() -> None:
    checked = check("The device has one year of warranty, keep the invoice.", [BLACK, WARRANTY])
    assert [(c.number, c.support) for c in checked.citations] == [(2, 1.0)]


def test_another_amount_is_no_support() -> None:
    assert check("The device has three years of warranty. [1]", [WARRANTY]).citations == ()
    assert check("请长按电源键三十秒强制重启。", [BLACK]).support == 0


def test_nothing_to_hold() -> None:
    assert check("", [BLACK]).support == check("好的。", [BLACK]).support == 0
    assert check("请长按电源键十秒强制重启。", []).support == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("十秒", "10 s"),
        ("三十天", "30 days"),
        ("半小时", "half an hour"),
        ("三个工作日", "three working days"),
    ],
)
def test_amounts_in_both_languages_are_one(one: str, other: str) -> None:
    assert quantities(one) == quantities(other) != frozenset()
