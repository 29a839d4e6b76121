"""How words are compared: one character as the letters it stands for, however it was written.

Full-width, styled and accented letters, upper case, traditional Chinese, and Cyrillic or Greek letters that look like
Latin ones become plain letters; what a reader does not see counts as nothing, everything between letters as a gap.
It knows characters; it does not know words.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

Gap = Literal[0, 1, 2, 3]
"""What stands between two letters: nothing that can be seen, marks, white space, the end of a clause or line."""

_LOOKALIKES: Final = str.maketrans("авсԁеԛһіјкӏмнорѕтхуԝϳαβεικνορτυχγı", "abcdeqhijklmhopstxywjabeiknoptuxyi")
_CLAUSE_ENDS: Final = frozenset("，。！？；：、,!?;:\n")
_BLANK_LETTERS: Final = frozenset("\u115f\u1160\u3164\uffa0")


def _traditional() -> dict[int, str]:
    lines = (Path(__file__).parent / "traditional.txt").read_text(encoding="utf-8").splitlines()
    pairs = "".join(line for line in lines if not line.startswith("#"))
    return {ord(old): new for old, new in zip(pairs[::2], pairs[1::2], strict=True)}


_SIMPLIFIED: Final = _traditional()


@lru_cache(maxsize=16384)
def letters(character: str) -> tuple[str, Gap]:
    """The letters and digits that a character stands for, and, where there are none, the gap that it makes."""
    if character in _BLANK_LETTERS:
        return "", 0
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    kept = "".join(part for part in folded if unicodedata.category(part)[0] in "LN")
    if kept:
        return kept.translate(_LOOKALIKES).translate(_SIMPLIFIED), 0
    if character in _CLAUSE_ENDS:
        return "", 3
    if character.isspace():
        return "", 2
    return "", 0 if unicodedata.category(character) in ("Cf", "Mn", "Me", "Mc") else 1


def spelled(text: str) -> str:
    """All letters of a text."""
    return "".join(letters(character)[0] for character in text)


def latin(letter: str) -> bool:
    """Whether a letter is one of those that words with spaces between them are written in."""
    return letter.isascii()
