"""Drops citation marks of articles that were not shown: a model that writes [7] of three passages made it up.

It knows text in pieces. Whether a cited passage really says so is checked when the text is whole.
"""

from __future__ import annotations

import re
from typing import Final

_MARK: Final = re.compile(r"(`+)|\[(\d{1,3})\]")
_BEGUN: Final = re.compile(r"(?:\[\d{0,3}|`+)\Z")


class Markers:
    """Keeps back at most the beginning of a mark, and leaves code alone. `known`: passages shown, numbered from 1."""

    def __init__(self, known: int) -> None:
        self._known = known
        self._held = ""
        self._fence = ""  # the backticks that opened the code we are in

    def push(self, text: str) -> str:
        """What may go out now."""
        if not self._known:
            return text
        text, self._held = self._held + text, ""
        if begun := _BEGUN.search(text):
            text, self._held = text[: begun.start()], begun.group()
        return _MARK.sub(self._kept, text)

    def end(self) -> str:
        """What was kept back."""
        held, self._held = self._held, ""
        return held

    def _kept(self, found: re.Match[str]) -> str:
        ticks, number = found.groups()
        if ticks:
            if not self._fence:
                self._fence = ticks
            elif ticks == self._fence:
                self._fence = ""
            return found.group()
        return found.group() if self._fence or 1 <= int(number) <= self._known else ""
