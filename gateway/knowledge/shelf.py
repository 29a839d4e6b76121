"""Articles in SQLite: one writer at a time, many readers in many processes, every version kept.

Readers see a change by `content`, one row that every change rewrites. It knows nothing of search.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from gateway.errors import Unavailable
from gateway.knowledge.article import Article

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS articles (
  tenant TEXT NOT NULL, article_id TEXT NOT NULL, version INTEGER NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL,
  language TEXT NOT NULL, tags TEXT NOT NULL, scopes TEXT NOT NULL, digest TEXT NOT NULL, created_s REAL NOT NULL,
  PRIMARY KEY (tenant, article_id, version)) STRICT;
CREATE TABLE IF NOT EXISTS current (
  tenant TEXT NOT NULL, article_id TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (tenant, article_id)) STRICT;
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT OR IGNORE INTO state VALUES ('content', 'e3b0c44298fc1c14');
"""
_COLUMNS: Final = "a.article_id, a.title, a.text, a.language, a.tags, a.scopes, a.tenant, a.version"
_CURRENT: Final = f"SELECT {_COLUMNS} FROM current c JOIN articles a USING (tenant, article_id, version)"
_BUSY_S: Final = 30.0


class Shelf:
    """One process's hands on the articles; safe to use from many threads. Makes the file and its folder."""

    def __init__(self, database: Path) -> None:
        self._database, self._lock = database, threading.Lock()
        try:
            database.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                database, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            with self._written():
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._connection.execute(statement)
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"knowledge base {database}: {error}") from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    @property
    def content(self) -> str:
        """What is on the shelf now, as a short hash: equal articles in equal versions, equal hash."""
        return str(self._rows("SELECT value FROM state WHERE name = 'content'")[0][0])

    def put(self, articles: Iterable[Article]) -> list[Article]:
        """Take them all or none. An article that says what it said before keeps its version."""
        kept: list[Article] = []
        with self._lock, self._written():
            for article in articles:
                kept.append(self._put(article))
            self._sign()
        return kept

    def remove(self, article_id: str, tenant: str) -> bool:
        """Take it off; its versions stay readable for answers that cite them. False if it was not there."""
        with self._lock, self._written():
            gone = self._connection.execute(
                "DELETE FROM current WHERE tenant = ? AND article_id = ?", (tenant, article_id)
            ).rowcount
            self._sign()
        return bool(gone)

    def snapshot(self) -> tuple[str, list[Article]]:
        """`content` and all current articles of all tenants, of the same moment. For building indexes only."""
        with self._lock, self._failing():
            self._connection.execute("BEGIN")
            try:
                content = self._connection.execute(
                    "SELECT value FROM state WHERE name = 'content'"
                ).fetchone()[0]
                rows = self._connection.execute(f"{_CURRENT} ORDER BY a.tenant, a.article_id").fetchall()
            finally:
                self._connection.execute("COMMIT")
        return str(content), [_article(row) for row in rows]

    def articles(self, tenant: str) -> list[Article]:
        """What a tenant sees: its own articles, and the shared ones that it has no version of, by id."""
        seen = {row[0]: _article(row) for row in self._rows(f"{_CURRENT} WHERE c.tenant = ''")}
        if tenant:
            own = self._rows(f"{_CURRENT} WHERE c.tenant = ?", tenant)
            seen.update((row[0], _article(row)) for row in own)
        return [seen[name] for name in sorted(seen)]

    def get(self, article_id: str, tenant: str, version: int | None) -> Article | None:
        """An article that the tenant sees, its own first; with `version`, that one, even if it was replaced or removed."""
        for owner in dict.fromkeys((tenant, "")):
            if version is None:
                rows = self._rows(f"{_CURRENT} WHERE c.tenant = ? AND c.article_id = ?", owner, article_id)
            else:
                where = "a.tenant = ? AND a.article_id = ? AND a.version = ?"
                rows = self._rows(
                    f"SELECT {_COLUMNS} FROM articles a WHERE {where}", owner, article_id, version
                )
            if rows:
                return _article(rows[0])
        return None

    def _put(self, article: Article) -> Article:
        key = (article.tenant, article.article_id)
        run, digest = self._connection.execute, article.digest
        where = "c.tenant = ? AND c.article_id = ?"
        same = run(
            f"SELECT c.version FROM current c JOIN articles a USING (tenant, article_id, version) "
            f"WHERE {where} AND a.digest = ?",
            (*key, digest),
        ).fetchone()
        if same:
            return replace(article, version=same[0])
        newest = "SELECT COALESCE(MAX(version), 0) FROM articles WHERE tenant = ? AND article_id = ?"
        kept = replace(article, version=run(newest, key).fetchone()[0] + 1)
        run(
            "INSERT INTO articles VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *key, kept.version, kept.title, kept.text, kept.language,
                json.dumps(kept.tags, ensure_ascii=False), json.dumps(kept.scopes), digest, time.time(),
            ),
        )  # fmt: skip
        run("INSERT OR REPLACE INTO current VALUES (?, ?, ?)", (*key, kept.version))
        return kept

    def _sign(self) -> None:
        digest = hashlib.sha256()
        rows = self._connection.execute(
            "SELECT tenant, article_id, version, digest FROM current JOIN articles USING (tenant, article_id, version) "
            "ORDER BY tenant, article_id"
        )
        for row in rows:
            digest.update(json.dumps(row).encode())
        self._connection.execute(
            "UPDATE state SET value = ? WHERE name = 'content'", (digest.hexdigest()[:16],)
        )

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, self._failing():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _written(self) -> Iterator[None]:
        with self._failing():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise Unavailable(f"knowledge base {self._database}: {error}") from error


def _article(row: tuple[Any, ...]) -> Article:
    name, title, text, language, tags, scopes, tenant, version = row
    return Article(
        name, title, text, language, tuple(json.loads(tags)), tuple(json.loads(scopes)), tenant, version
    )
