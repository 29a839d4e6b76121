"""Articles and the search over them, as the rest of the gateway uses them.

`version` and `search` belong together: `version` names the articles that the next search looks into, or older ones, never
newer, so an answer kept under it is never staler than its name. Another process's change is noticed at the next call,
and the index is then rebuilt in the background while the old one goes on answering.

A tenant with articles of its own has an index of its own, shared articles included: not even the rarity of a word
in one tenant's articles changes another tenant's ranking.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from gateway.errors import NotFound
from gateway.knowledge import reading
from gateway.knowledge.article import Article
from gateway.knowledge.embedder import Embedder
from gateway.knowledge.index import Index, entries
from gateway.knowledge.shelf import Shelf
from gateway.records import Language, Passage

_log = logging.getLogger(__name__)

SAMPLE: Final = Path(__file__).parent / "sample"
"""The shipped after-sales articles, Chinese and English, for every scene and tenant."""


@dataclass(frozen=True)
class _Built:
    """Indexes over one content of the shelf. `own` by tenant; others use `shared`."""

    content: str
    shared: Index
    own: Mapping[str, Index]

    def of(self, tenant: str) -> Index:
        return self.own.get(tenant, self.shared)


class Library:
    """Safe to use from many threads and, on the same database, from many processes.

    Args:
        database: SQLite file, made if it is not there.
        embedder: adds its ranking to the lexical one; None for lexical alone.
    """

    def __init__(self, database: Path, embedder: Embedder | None = None) -> None:
        self._shelf = Shelf(database)
        self._embedder = embedder
        self._built: _Built | None = None
        self._building = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        """End the background work, let go of the database."""
        self._closed = True
        if (thread := self._thread) is not None:
            thread.join()
        self._shelf.close()

    @property
    def version(self) -> str:
        """Changes with every change of the articles; a few microseconds."""
        built = self._fresh()
        return built.content if built is not None else self._shelf.content

    def search(self, query: str, language: Language, tenant: str, scope: str, limit: int) -> list[Passage]:
        """The best passages for the query, at most one per article, best first; those of `scope` ("": all) and tenant."""
        built = self._fresh() or self._build()
        return built.of(tenant).search(query, language, scope, limit)

    def add(self, path: Path, tenant: str = "", scope: str = "") -> list[Article]:
        """Take the articles of a file, or of all files below a directory; all or none. InvalidInput says what is wrong."""
        return self.put(
            chain.from_iterable(reading.read(file, tenant, scope) for file in reading.files(path))
        )

    def put(self, articles: Iterable[Article]) -> list[Article]:
        """Take articles, each as the next version of its id; one that says nothing new keeps its version."""
        kept = self._shelf.put(list(articles))
        self._follow()
        return kept

    def remove(self, article_id: str, tenant: str = "") -> None:
        """Take an article of this tenant ("": a shared one) out of the search. NotFound if there is none."""
        if not self._shelf.remove(article_id, tenant):
            raise NotFound(
                f"article {article_id!r}: not in the knowledge base; `kb list` names those that are"
            )
        self._follow()

    def articles(self, tenant: str = "", language: Language | None = None, scope: str = "") -> list[Article]:
        """What a tenant sees, by id."""
        return [
            article
            for article in self._shelf.articles(tenant)
            if (language is None or article.language == language)
            and (not scope or not article.scopes or scope in article.scopes)
        ]

    def get(self, article_id: str, tenant: str = "", version: int | None = None) -> Article:
        """An article that the tenant sees; an old or removed one only by its version. NotFound otherwise."""
        if (found := self._shelf.get(article_id, tenant, version)) is None:
            raise NotFound(f"article {article_id!r}: not in the knowledge base")
        return found

    def reindex(self) -> int:
        """Build the indexes now, whether or not they are stale. Returns the passages in the shared one."""
        self._built = None
        return len(self._build().shared)

    def _follow(self) -> None:
        """After a change of our own: whoever reads `version` next must see it."""
        if self._built is not None:
            self._build()

    def _fresh(self) -> _Built | None:
        """The indexes to use now; a stale one is replaced in the background."""
        built = self._built
        if built is not None and built.content != self._shelf.content and not self._building.locked():
            self._thread = threading.Thread(target=self._refresh, name="knowledge-index", daemon=True)
            self._thread.start()
        return built

    def _refresh(self) -> None:
        try:
            self._build()
        except Exception:
            if not self._closed:
                _log.exception("knowledge index was not rebuilt, the old one stays in use")

    def _build(self) -> _Built:
        """Indexes over what is on the shelf; one builder at a time, the second finds the work done."""
        with self._building:
            built = self._built
            if built is not None and built.content == self._shelf.content:
                return built
            content, articles = self._shelf.snapshot()
            shared = [article for article in articles if not article.tenant]
            own: dict[str, list[Article]] = {}
            for article in articles:
                if article.tenant:
                    own.setdefault(article.tenant, []).append(article)
            self._built = _Built(
                content,
                self._index(shared),
                {tenant: self._index([*_unshadowed(shared, mine), *mine]) for tenant, mine in own.items()},
            )
            return self._built

    def _index(self, articles: list[Article]) -> Index:
        return Index(entries(articles), self._embedder)


def _unshadowed(shared: list[Article], own: list[Article]) -> list[Article]:
    names = {article.article_id for article in own}
    return [article for article in shared if article.article_id not in names]
