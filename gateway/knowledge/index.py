"""Passages -> the best ones for a question. Immutable once built; knows neither tenants nor versions: who builds it chooses.

Three BM25 fields are added: terms of the passage, terms of title and tags (a passage far down no longer names what it is
about), and pieces that survive a typing error. The `tuning` questions of sample/questions.jsonl hardly tell
the weights apart; what the articles and their tags name decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, get_args

import bm25s
import numpy as np
import numpy.typing as npt

from gateway.knowledge import embedder, passages, terms
from gateway.knowledge.article import Article
from gateway.knowledge.embedder import Embedder, Vectors
from gateway.knowledge.spelling import Spelling
from gateway.records import Language, Passage

NAMES_WEIGHT: Final = 1.0
PIECES_WEIGHT: Final = 0.3
"""Of the other fields beside the passage's own terms."""
_K1: Final = 1.2
_B: Final = 0.75


@dataclass(frozen=True)
class Entry:
    """One passage and the article that it is from."""

    article: Article
    text: str


def entries(articles: Sequence[Article]) -> list[Entry]:
    """All passages of all articles, in order."""
    return [Entry(article, text) for article in articles for text in passages.split(article.text)]


class Index:
    """What a question is held against. Safe to use from many threads."""

    def __init__(self, given: Sequence[Entry], model: Embedder | None = None) -> None:
        self._entries = list(given)
        texts = [_indexed(entry) for entry in given]
        self._words = _Field(texts, _exact)
        self._names = _Field([_name(entry) for entry in given], _exact)
        self._spelling = Spelling(self._words.known)
        self._pieces = _Field(texts, terms.pieces)
        self._articles = np.array(_numbers([entry.article for entry in given]), np.int64)
        self._languages: dict[Language, npt.NDArray[np.bool_]] = {
            language: np.array([entry.article.language == language for entry in given], bool)
            for language in get_args(Language)
        }
        named = {scope for entry in given for scope in entry.article.scopes}
        self._anywhere = np.array([not entry.article.scopes for entry in given], bool)
        self._scopes = {
            scope: self._anywhere | np.array([scope in entry.article.scopes for entry in given], bool)
            for scope in named
        }
        self._model = model
        self._vectors = _embedded(model, texts)

    def __len__(self) -> int:
        """Passages."""
        return len(self._entries)

    def search(self, question: str, language: Language, scope: str, limit: int) -> list[Passage]:
        """The best passage of each of the `limit` best articles, best first.

        Articles of the other language only when the question's own language has none that fits.
        """
        scores = self._scores(question)
        allowed = self._scopes.get(scope, self._anywhere) if scope else np.ones(len(self._entries), bool)
        for candidates in (allowed & self._languages[language], allowed):
            if found := self._best(np.where(candidates, scores, 0), limit):
                return found
        return []

    def _scores(self, question: str) -> Vectors:
        if not self._entries:
            return np.zeros(0, np.float32)
        lean = terms.asked(question)
        said = terms.words(lean) or terms.words(question)
        said += [near for word in said for near in self._spelling.nearest(word)]
        said += terms.pairs(lean)
        scores = self._words.scores(said) + NAMES_WEIGHT * self._names.scores(said)
        scores += PIECES_WEIGHT * self._pieces.scores(terms.pieces(lean))
        if self._model is not None and self._vectors is not None:
            return embedder.fused(scores, self._vectors @ self._model.embed([question])[0])
        return scores

    def _best(self, scores: Vectors, limit: int) -> list[Passage]:
        best: list[Passage] = []
        seen: set[int] = set()
        for at in _descending(scores):
            if scores[at] <= 0 or len(best) >= limit:
                break
            if (number := int(self._articles[at])) in seen:
                continue
            seen.add(number)
            article = self._entries[at].article
            best.append(
                Passage(
                    article.article_id,
                    article.version,
                    article.title,
                    self._entries[at].text,
                    article.language,
                    round(float(scores[at]), 4),
                )
            )
        return best


class _Field:
    """BM25 over one way of taking terms from texts."""

    def __init__(self, texts: Sequence[str], take: Callable[[str], list[str]]) -> None:
        self._take = take
        self.known: dict[str, int] = {}
        numbers = [[self.known.setdefault(term, len(self.known)) for term in take(text)] for text in texts]
        self._bm25 = bm25s.BM25(k1=_K1, b=_B, dtype="float32")
        if self.known:
            self._bm25.index((numbers, dict(self.known)), create_empty_token=False, show_progress=False)
        self._size = len(texts)

    def scores(self, said: Sequence[str]) -> Vectors:
        """float32 [N], 0 where no term fits."""
        numbers = [self.known[term] for term in dict.fromkeys(said) if term in self.known]
        if not numbers:
            return np.zeros(self._size, np.float32)
        scores: Vectors = self._bm25.get_scores_from_ids(numbers)
        return scores


def _name(entry: Entry) -> str:
    return "\n".join((entry.article.title, *entry.article.tags))


def _indexed(entry: Entry) -> str:
    return f"{_name(entry)}\n{entry.text}"


def _exact(text: str) -> list[str]:
    return [*terms.words(text), *terms.pairs(text)]


def _numbers(articles: Sequence[Article]) -> list[int]:
    known: dict[tuple[str, str], int] = {}
    return [known.setdefault((article.tenant, article.article_id), len(known)) for article in articles]


def _descending(scores: Vectors, at_once: int = 64) -> npt.NDArray[np.int64]:
    """Places of the best scores; the rest of the order only if the corpus is small."""
    if len(scores) <= 4 * at_once:
        return np.argsort(-scores, kind="stable")
    top = np.argpartition(-scores, at_once)[:at_once]
    return top[np.argsort(-scores[top], kind="stable")]


def _embedded(model: Embedder | None, texts: Sequence[str], at_once: int = 64) -> Vectors | None:
    if model is None or not texts:
        return None
    parts = [model.embed(texts[at : at + at_once]) for at in range(0, len(texts), at_once)]
    vectors: Vectors = np.concatenate(parts).astype(np.float32)
    return vectors
