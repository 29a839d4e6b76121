"""A text -> its sentences, code left out. Knows Chinese and English punctuation and Markdown fences, not meaning."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_CODE: Final = re.compile(r"(`{3,}|~{3,}).*?(?:\1|\Z)|`[^`\n]+`", re.S)
_END: Final = re.compile(
    r"(?:[。！？!?；;…]+[”’」』）)\"']*|\.(?=[\s\[”\"']|\Z)[”\"')]*|\n+)(?:\s*\[\d{1,3}\])*"
)


@dataclass(frozen=True)
class Sentence:
    """`text`, with the marks behind its end, begins at character `start` of the whole."""

    text: str
    start: int


def sentences(text: str) -> Iterator[Sentence]:
    """In order; a mark behind the full stop ("... done. [1]") belongs to the sentence before it."""
    for begin, end in _prose(text):
        at = begin
        for stop in _END.finditer(text, begin, end):
            if text[at : stop.end()].strip():
                yield Sentence(text[at : stop.end()], at)
            at = stop.end()
        if text[at:end].strip():
            yield Sentence(text[at:end], at)


def _prose(text: str) -> Iterator[tuple[int, int]]:
    at = 0
    for code in _CODE.finditer(text):
        yield at, code.start()
        at = code.end()
    yield at, len(text)
