"""What an article is, and in which language a text is written. Free of files, tables and search."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Final

from gateway.records import Language

_CJK: Final = re.compile(r"[\u3400-\u9fff]")
_LATIN_WORD: Final = re.compile(r"[A-Za-z]{2,}")


@dataclass(frozen=True)
class Article:
    """One article as the company wrote it.

    Attributes:
        article_id: unique within its tenant.
        version: 1 for the first; 0 until the shelf has given one.
        text: Markdown without the title.
        tags: words customers use that the text may lack.
        scopes: scenes it is meant for; () for all.
        tenant: who may see it; "" for every tenant.
    """

    article_id: str
    title: str
    text: str
    language: Language
    tags: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    tenant: str = ""
    version: int = 0

    @property
    def digest(self) -> str:
        """Hex SHA-256 of everything that is written in it, so not of tenant, id and version."""
        written = [self.title, self.text, self.language, self.tags, self.scopes]
        return hashlib.sha256(json.dumps(written, ensure_ascii=False).encode()).hexdigest()


def language_of(text: str) -> Language:
    """Chinese when it has more Chinese characters than Latin words: "iPhone 开不了机" is Chinese."""
    return "zh" if len(_CJK.findall(text)) > len(_LATIN_WORD.findall(text)) else "en"
