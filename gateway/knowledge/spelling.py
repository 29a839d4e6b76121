"""Misspelt Latin words -> words that the articles use. Knows letters, no language: one deletion on either side, so a
missing, doubled, wrong or swapped letter is found by two look-ups, however many words there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_SHORTEST: Final = 4  # shorter words are one letter away from too many others
_MOST: Final = 3


class Spelling:
    """The words of one index. Immutable once made."""

    def __init__(self, known: Iterable[str]) -> None:
        self._words = {word for word in known if word.isascii() and word.isalpha()}
        self._by_deletion: dict[str, list[str]] = {}
        for word in self._words:
            if len(word) >= _SHORTEST:
                for form in _forms(word):
                    self._by_deletion.setdefault(form, []).append(word)

    def nearest(self, word: str) -> list[str]:
        """Known words that `word` may stand for, the likeliest first, at most three; [] when it is known or like none."""
        if len(word) < _SHORTEST or word in self._words or not (word.isascii() and word.isalpha()):
            return []
        found: dict[str, int] = {}
        for form in _forms(word):
            for known in self._by_deletion.get(form, ()):
                found[known] = found.get(known, 0) + 1
        near = [known for known in found if sorted(known) == sorted(word) or known[0] == word[0]]
        return sorted(near, key=lambda known: (_distance(word, known), known))[:_MOST]


def _forms(word: str) -> set[str]:
    return {word, *(word[:at] + word[at + 1 :] for at in range(len(word)))}


def _distance(word: str, known: str) -> int:
    """0 for the same letters in another order, 1 for one more or less, 2 for a wrong one."""
    return 0 if sorted(word) == sorted(known) else 1 if len(word) != len(known) else 2
