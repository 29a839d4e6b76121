"""Stop strings: where an answer ends, although the string may come in pieces.

It knows text only. The end of an answer does not depend on how the text was cut into pieces: the stop string
that is complete first ends it (of two that are complete with the same character, the longer one).
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Looks for stop strings in a text that arrives in pieces, and keeps back what may begin one."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """The text that is certainly part of the answer; nothing more once a stop string was found."""
        if not self._strings or self.found:
            return "" if self.found else piece
        text = self._held + piece
        ends = [(start + len(s), start) for s in self._strings if (start := text.find(s)) >= 0]
        if ends:
            self.found = True
            self._held = ""
            return text[: min(ends)[1]]
        kept = max(_overlap(text, s) for s in self._strings)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def flush(self) -> str:
        """What was kept back, when the answer ended for another reason."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """Length of the longest proper prefix of `string` that `text` ends with."""
    for length in range(min(len(text), len(string) - 1), 0, -1):
        if text.endswith(string[:length]):
            return length
    return 0
