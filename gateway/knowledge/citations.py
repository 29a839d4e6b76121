"""Does an answer rest on the passages that it cites? Knows words and amounts, no model: it can be wrong about paraphrases.

A sentence is backed by a passage when most of its terms stand there and all of its amounts do. THRESHOLD lies where
sentences of answers and sentences about something else part, as tests/gateway/knowledge/test_citations.py measures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.knowledge import terms
from gateway.knowledge.quantities import quantities
from gateway.knowledge.sentences import Sentence, sentences
from gateway.records import Citation, Passage

THRESHOLD: Final = 0.6
"""Part of a sentence's terms that a passage must hold to back it."""
_FEWEST: Final = 3
"""Terms of a sentence that can be held against anything; "好的。" cannot."""
_MARK: Final = re.compile(r"[ \t]?\[(\d{1,3})\]")


@dataclass(frozen=True)
class Checked:
    """What is left of an answer's citations.

    Attributes:
        text: without the marks that nothing backs; code is untouched.
        citations: passages that back at least one sentence, cited or not, by number.
        support: share of the answer's sentences, by their terms, that a passage backs; 0 when there is none to hold.
    """

    text: str
    citations: tuple[Citation, ...]
    support: float


@dataclass(frozen=True)
class _Source:
    terms: frozenset[str]
    amounts: frozenset[tuple[float, str]]

    def backing(self, said: frozenset[str], amounts: frozenset[tuple[float, str]]) -> float:
        """0 to 1: part of the terms that stand here; 0 when an amount does not."""
        return len(said & self.terms) / len(said) if amounts <= self.amounts else 0.0


def check(text: str, passages: Sequence[Passage]) -> Checked:
    """Hold an answer against the passages it was given, [1] being the first.

    A mark stays if its passage backs its sentence. A sentence without a backed mark counts for the passage that backs it best.
    """
    sources = [_source(passage) for passage in passages]
    backed: dict[int, float] = {}
    dropped: list[tuple[int, int]] = []
    total = supported = 0
    for sentence in sentences(text):
        bare = _MARK.sub("", sentence.text)
        said = frozenset(terms.words(bare))
        amounts = quantities(bare)
        backing = [source.backing(said, amounts) if said else 0.0 for source in sources]
        marks = [(mark, int(mark.group(1)) - 1) for mark in _MARK.finditer(sentence.text)]
        good = {n for _, n in marks if 0 <= n < len(backing) and backing[n] >= THRESHOLD}
        dropped += [_span(sentence, mark) for mark, n in marks if n not in good]
        if len(said) < _FEWEST:
            continue
        if not good and backing and (best := max(backing)) >= THRESHOLD:
            good = {backing.index(best)}
        total += len(said)
        supported += len(said) if good else 0
        for number in good:
            backed[number] = backed.get(number, 0.0) + len(said)
    return Checked(
        _without(text, dropped),
        tuple(_citation(n, passages[n], backed[n] / total) for n in sorted(backed)),
        supported / total if total else 0.0,
    )


def _source(passage: Passage) -> _Source:
    whole = f"{passage.title}\n{passage.text}"
    return _Source(frozenset(terms.words(whole)), quantities(whole))


def _citation(number: int, passage: Passage, support: float) -> Citation:
    return Citation(number + 1, passage.article_id, passage.version, passage.title, round(support, 4))


def _span(sentence: Sentence, mark: re.Match[str]) -> tuple[int, int]:
    return sentence.start + mark.start(), sentence.start + mark.end()


def _without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    kept, at = [], 0
    for begin, end in spans:
        kept.append(text[at:begin])
        at = end
    return "".join((*kept, text[at:]))
