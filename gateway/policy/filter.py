"""Text on its way to a customer, piece by piece: what may go out now, and where it must stop.

A piece is kept back while it may turn out to be the beginning of a blocked word; everything else passes unchanged, byte
for byte. It does not know which words there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gateway.policy.fences import closing
from gateway.policy.lexicon import SEVERITY, Found, Lexicon, Stream
from gateway.profiles.profile import Level


@dataclass(frozen=True)
class Verdict:
    """What was found in a text so far.

    Attributes:
        level: the most severe one.
        words: which of the policy's words, in order, once each.
        replacement: what the customer reads in place of the rest; "" unless blocked.
    """

    level: Level = ""
    words: tuple[str, ...] = ()
    replacement: str = ""


class Filter:
    """One answer's filter. After a block it gives the replacement once, then nothing more."""

    def __init__(self, lexicon: Lexicon, replacement: str) -> None:
        self._lexicon, self._replacement = lexicon, replacement
        self._stream = Stream()
        self._next = 0  # the first letter that nothing is known about
        self._raw = ""
        self._base = 0  # where in the text `_raw` begins
        self._shown: list[str] = []
        self._verdict = Verdict()

    @property
    def verdict(self) -> Verdict:
        """What was found so far."""
        return self._verdict

    def push(self, text: str) -> str:
        """What may go out, now that this came in."""
        if self._verdict.level == "block" or self._stream.ended:
            return ""
        self._raw += text
        self._stream.extend(text)
        return self._decide()

    def end(self) -> str:
        """What was kept back, now that nothing comes any more."""
        if self._verdict.level == "block" or self._stream.ended:
            return ""
        self._stream.ended = True
        return self._decide()

    def _decide(self) -> str:
        stream = self._stream
        while self._next < len(stream.letters):
            found = self._lexicon.at(stream, self._next)
            if found is Found.PARTLY:
                return self._release(stream.origins[self._next])
            if not isinstance(found, Found):
                self._note(found.word.word, found.level)
                if found.level == "block":
                    return self._stop(stream.origins[self._next])
            self._next += 1
        return self._release(self._base + len(self._raw))

    def _release(self, end: int) -> str:
        out, self._raw = self._raw[: end - self._base], self._raw[end - self._base :]
        self._base = end
        if (spent := self._next - self._lexicon.context - 1) > 0:
            self._stream.drop(spent)
            self._next -= spent
        if out:
            self._shown.append(out)
        return out

    def _stop(self, end: int) -> str:
        before = self._release(end)
        self._raw = ""
        self._verdict = replace(self._verdict, replacement=self._replacement)
        shown = "".join(self._shown)
        between = f"{closing(shown)}\n\n" if shown.strip() else ""
        return f"{before}{between}{self._replacement}"

    def _note(self, word: str, level: Level) -> None:
        old = self._verdict
        self._verdict = Verdict(
            max(old.level, level, key=SEVERITY.__getitem__),
            old.words if word in old.words else (*old.words, word),
        )
