"""Blocked words and where they occur in a text whose end may not have arrived yet.

It knows spelling variants, word boundaries and the phrases in which a word is harmless. It does not know what becomes of
a text that holds a word, and not where the words come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from gateway.errors import InvalidInput
from gateway.policy.spelling import Gap, latin, letters, spelled
from gateway.profiles.profile import Level

SEVERITY: Final[dict[Level, int]] = {"": 0, "warn": 1, "handoff": 2, "block": 3}
_WIDEST_GAP: Final = 12  # visible characters between two letters that are still read as one word
_SPACE: Final[Gap] = 2
_CLAUSE_END: Final[Gap] = 3
_WALL: Final = 4  # the gap over which nothing is read together


class Found(Enum):
    """Whether a pattern stands at a place."""

    NO = 0
    PARTLY = 1  # it may, once more of the text is known
    YES = 2


@dataclass(frozen=True)
class Word:
    """A blocked word.

    Attributes:
        word: how it is called in verdicts.
        forms: how it is spelled; spelling variants need not be listed.
        level: what becomes of an answer that holds it.
        asked: the level after an honest question: one that holds the word, but only in phrases of `allow`.
        allow: phrases in which it is harmless. "|" stands for the end of a clause or line.
    """

    word: str
    forms: tuple[str, ...]
    level: Level
    asked: Level
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """A form without letters would stand everywhere, a phrase without its word be of no use."""
        forms = [spelled(form) for form in self.forms]
        if not all(forms):
            raise InvalidInput(
                f"word {self.word!r}", "a form without letters", "letters or digits in every form"
            )
        for phrase in self.allow:
            if not any(form in spelled(phrase) for form in forms):
                raise InvalidInput(f"word {self.word!r}: allow", repr(phrase), "phrases that hold the word")


class Stream:
    """The letters of a text that grows, with the places they come from; the oldest ones can be dropped."""

    def __init__(self) -> None:
        self.letters: list[str] = []
        self.origins: list[int] = []
        self.gaps: list[int] = []  # before each letter
        self.gap: int = 0  # behind the last letter
        self.ended = False
        self._length = 0
        self._between = 0

    def extend(self, text: str) -> None:
        """More of the text."""
        for character in text:
            kept, gap = letters(character)
            for letter in kept:
                self.letters.append(letter)
                self.origins.append(self._length)
                self.gaps.append(self.gap)
                self.gap = self._between = 0
            if gap:
                self._between += 1
                self.gap = _WALL if self._between > _WIDEST_GAP else max(self.gap, gap)
            self._length += 1

    def drop(self, count: int) -> None:
        """Forget the first letters."""
        del self.letters[:count], self.origins[:count], self.gaps[:count]


@dataclass(frozen=True)
class _Pattern:
    """Letters in a row. `gap_at`: before these a clause ends (in a phrase) or white space may stand (in a word)."""

    letters: str
    gap_at: frozenset[int]
    latin: bool

    @classmethod
    def of(cls, text: str, mark: str) -> _Pattern:
        parts = [spelled(part) for part in text.split(mark)]
        places, length = set(), 0
        for part in parts[:-1]:
            length += len(part)
            places.add(length)
        whole = "".join(parts)
        return cls(whole, frozenset(places), bool(whole) and all(map(latin, whole)))


@dataclass(frozen=True)
class _Form:
    word: Word
    level: Level
    pattern: _Pattern
    phrases: tuple[tuple[_Pattern, int], ...] = field(default=())  # and where in it the form begins


class Lexicon:
    """Words that are looked for. `lowered`: those of them that an honest question mentioned."""

    def __init__(self, words: Iterable[Word], lowered: frozenset[str] = frozenset()) -> None:
        self._forms: dict[str, list[_Form]] = {}
        self.context = 0  # letters before a word that may decide about it
        for word in words:
            phrases = [_Pattern.of(phrase, "|") for phrase in word.allow]
            level = word.asked if word.word in lowered else word.level
            for text in word.forms:
                pattern = _Pattern.of(text, " ")
                around = tuple(
                    (phrase, place)
                    for phrase in phrases
                    for place in _places(phrase.letters, pattern.letters)
                )
                self.context = max([self.context, *(place for _, place in around)])
                form = _Form(word, level, pattern, around)
                self._forms.setdefault(pattern.letters[0], []).append(form)

    def at(self, stream: Stream, start: int) -> _Form | Found:
        """The most severe word at a place, NO, or PARTLY when the text must go on before this is known."""
        worst: _Form | None = None
        waiting = False
        for form in self._forms.get(stream.letters[start], ()):
            found = self._stands(stream, start, form)
            waiting |= found is Found.PARTLY
            if found is Found.YES and (worst is None or SEVERITY[form.level] > SEVERITY[worst.level]):
                worst = form
        if waiting and (worst is None or worst.level != "block"):
            return Found.PARTLY
        return worst or Found.NO

    def honest(self, text: str) -> frozenset[str]:
        """Words that a text holds in harmless phrases only."""
        stream = Stream()
        stream.extend(text)
        stream.ended = True
        harmless: set[str] = set()
        harmful: set[str] = set()
        for start, letter in enumerate(stream.letters):
            for form in self._forms.get(letter, ()):
                if _read(stream, start, form.pattern, word=True) is Found.YES:
                    meant = self._stands(stream, start, form) is Found.YES
                    (harmful if meant else harmless).add(form.word.word)
        return frozenset(harmless - harmful)

    @staticmethod
    def _stands(stream: Stream, start: int, form: _Form) -> Found:
        found = _read(stream, start, form.pattern, word=True)
        if found is not Found.YES:
            return found
        around = [_read(stream, start - place, phrase) for phrase, place in form.phrases if place <= start]
        if Found.YES in around:
            return Found.NO
        return Found.PARTLY if Found.PARTLY in around else Found.YES


def _places(phrase: str, form: str) -> list[int]:
    return [place for place in range(len(phrase)) if phrase.startswith(form, place)]


def _read(stream: Stream, start: int, pattern: _Pattern, word: bool = False) -> Found:
    """Whether a pattern stands at a place; as a `word` it must also begin and end there."""
    count, known = len(pattern.letters), len(stream.letters)
    if word and pattern.latin and not _apart(stream, start):
        return Found.NO
    for offset, letter in enumerate(pattern.letters):
        place = start + offset
        gap = stream.gap if place == known else stream.gaps[place] if place < known else 0
        if offset and place <= known and gap == _WALL:
            return Found.NO
        if place >= known:
            return Found.NO if stream.ended else Found.PARTLY
        if stream.letters[place] != letter:
            return Found.NO
        if not word and offset in pattern.gap_at and gap != _CLAUSE_END:
            return Found.NO
    if not (word and pattern.latin):
        return Found.YES
    if not _joined(stream.gaps[start + 1 : start + count], pattern.gap_at):
        return Found.NO
    end = start + count
    if end < known:
        return Found.YES if _apart(stream, end) else Found.NO
    return Found.YES if stream.gap or stream.ended else Found.PARTLY


def _apart(stream: Stream, place: int) -> bool:
    """Whether a Latin word may begin, or have ended, before this letter."""
    return (
        not place or bool(stream.gaps[place]) or not latin(stream.letters[place - 1] + stream.letters[place])
    )


def _joined(gaps: list[int], spaces_at: frozenset[int]) -> bool:
    """Whether letters of a Latin word with these gaps are read as one word: no white space but where it belongs, or
    something between all of them, so that "it's cam" is not "scam"."""
    if gaps and all(gaps):
        return True
    return all(gap < _SPACE or (gap == _SPACE and place in spaces_at) for place, gap in enumerate(gaps, 1))
