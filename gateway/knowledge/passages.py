"""Long articles -> pieces that fit a prompt: split at headings, then paragraphs, then sentences. Knows Markdown, no search."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Final

LONGEST: Final = 1000
"""Characters of a passage: about 700 tokens of Chinese, 250 of English. Most FAQ articles stay whole."""

_HEADING: Final = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.M)
_PARAGRAPH: Final = re.compile(r"\n\s*\n")
_SENTENCE: Final = re.compile(r"(?<=[。！？；])|(?<=[.!?;])\s+|\n")


def split(text: str, longest: int = LONGEST) -> list[str]:
    """Passages in order, none empty, none over `longest` characters. A short article stays whole."""
    if len(stripped := text.strip()) <= longest:
        return [stripped] if stripped else []
    found: list[str] = []
    for section in _sections(stripped):
        found += _packed(section, longest)
    return found


def _sections(text: str) -> Iterator[str]:
    starts = [match.start() for match in _HEADING.finditer(text)]
    edges = [0, *(start for start in starts if start), len(text)]
    for begin, end in itertools.pairwise(edges):
        if section := text[begin:end].strip():
            yield section


def _packed(section: str, longest: int) -> list[str]:
    """Paragraphs joined while they fit; a heading goes along with what follows it."""
    packed: list[str] = []
    for paragraph in _PARAGRAPH.split(section):
        for piece in _fitting(paragraph.strip(), longest):
            if packed and len(packed[-1]) + len(piece) + 2 <= longest:
                packed[-1] += f"\n\n{piece}"
            else:
                packed.append(piece)
    return packed


def _fitting(paragraph: str, longest: int) -> Iterator[str]:
    if len(paragraph) <= longest:
        if paragraph:
            yield paragraph
        return
    held = ""
    for sentence in _SENTENCE.split(paragraph):
        for at in range(0, len(sentence), longest):
            part = sentence[at : at + longest]
            if held and len(held) + len(part) + 1 > longest:
                yield held.strip()
                held = ""
            held += part if not held or held[-1] in "。！？；" else f" {part}"
    if held.strip():
        yield held.strip()
