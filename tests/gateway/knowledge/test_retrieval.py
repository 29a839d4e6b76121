"""The shipped question set against the shipped articles, and what search must never do."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest

from build_engine.demo.dialogue import FAULTS
from gateway.knowledge.article import Article
from gateway.knowledge.index import Index, entries
from gateway.knowledge.library import SAMPLE, Library
from gateway.records import Language

QUESTIONS = [json.loads(line) for line in (SAMPLE / "questions.jsonl").read_text("utf-8").splitlines()]


def hits(library: Library, part: str) -> float:
    asked = [question for question in QUESTIONS if question["part"] == part]
    found = [library.search(q["question"], q["language"], "", "", 1) for q in asked]
    return sum(f[0].article_id == q["article"] for f, q in zip(found, asked, strict=True)) / len(asked)


def test_questions_name_articles_and_repeat_nothing(sample: Library) -> None:
    known = {article.article_id: article.language for article in sample.articles()}
    assert all(known[q["article"]] == q["language"] for q in QUESTIONS)
    assert len({q["question"] for q in QUESTIONS}) == len(QUESTIONS) >= 140
    assert (
        min(sum(a.language == language for a in sample.articles()) for language in get_args(Language)) >= 30
    )


def test_questions_the_tags_were_written_for(sample: Library) -> None:
    assert hits(sample, "tuning") >= 0.98


def test_questions_that_nothing_was_changed_for(sample: Library) -> None:
    """Colloquial words that no article has are not found without an embedder: 0.77 is what lexical search reaches."""
    assert hits(sample, "held_out") >= 0.945


@pytest.mark.parametrize("language", get_args(Language))
@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_what_the_demo_model_names_finds_its_article(sample: Library, fault, language: Language) -> None:
    found = sample.search(fault.name[language], language, "", "after_sales", 3)
    assert fault.advice[language] in found[0].text


def test_scope_language_and_limit(sample: Library) -> None:
    assert sample.search("报销要交哪些材料", "zh", "", "education", 3) == [] or all(
        passage.article_id != "reimbursement-zh"
        for passage in sample.search("报销要交哪些材料", "zh", "", "education", 3)
    )
    found = sample.search("screen 黑屏", "en", "", "", 2)
    assert len(found) == 2
    assert {passage.language for passage in found} == {"en"}
    assert sample.search("！？", "zh", "", "", 3) == sample.search("", "en", "", "", 3) == []


def test_the_other_language_when_there_is_nothing_else(library: Library) -> None:
    library.put([Article("only", "蓝牙 Bluetooth 配对", "长按按键。", "zh")])
    assert [p.article_id for p in library.search("bluetooth pairing", "en", "", "", 3)] == ["only"]


class Topics:
    """Knows which words mean the same: what a real embedding model would add."""

    def embed(self, texts):
        words = (("jacuzzi", "water"), ("ant", "insect"))
        rows = [[float(any(word in text.lower() for word in group)) for group in words] for text in texts]
        return np.array([[*row, 0.1] for row in rows], np.float32)


def test_embedder_finds_what_no_word_finds() -> None:
    articles = [
        Article("wet", "Water damage", "Switch it off.", "en"),
        Article("other", "Invoice", "Ask for it.", "en"),
    ]
    assert Index(entries(articles)).search("jacuzzi", "en", "", 1) == []
    found = Index(entries(articles), Topics()).search("jacuzzi", "en", "", 1)
    assert [passage.article_id for passage in found] == ["wet"]
    assert found[0].score > 0
