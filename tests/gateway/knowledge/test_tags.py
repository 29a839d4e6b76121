"""Every phrase of the shipped tags is asked as a question: a phrase that belongs to a neighbour as well finds the neighbour."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

import gateway.knowledge
from gateway.knowledge import index, reading
from gateway.knowledge.article import Article

_SAMPLE: Final = Path(gateway.knowledge.__file__).parent / "sample"
_OWN: Final = 0.9
"""Share of an article's phrases that find it first; the rest are words like "charger" that several articles need."""
_ARTICLES: Final = [
    article
    for language in ("zh", "en")
    for file in reading.files(_SAMPLE / language)
    for article in reading.read(file)
]


@pytest.fixture(scope="module")
def shipped() -> index.Index:
    return index.Index(index.entries(_ARTICLES))


@pytest.mark.parametrize("article", _ARTICLES, ids=lambda article: article.article_id)
def test_the_phrases_of_an_article_find_it_and_not_its_neighbours(
    article: Article, shipped: index.Index
) -> None:
    first = {tag: shipped.search(tag, article.language, "", 1) for tag in article.tags}
    astray = [tag for tag, found in first.items() if not found or found[0].article_id != article.article_id]
    assert len(astray) <= (1 - _OWN) * len(article.tags), astray


def test_each_article_has_phrases_of_its_own() -> None:
    """Few phrases beside many would lose: the score of an article grows with what its tags name."""
    assert min(len(article.tags) for article in _ARTICLES) >= 40
