"""Which language a customer writes. It knows letters, not words: two languages need no more."""

from __future__ import annotations

import re
from typing import Final

from gateway.records import Language

_HAN: Final = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_WORD: Final = re.compile(r"[A-Za-z]{2,}")


def detect(text: str, accept_language: str = "") -> Language:
    """Of a text; where it has no letters, of the browser; Chinese if that is silent too.

    Model names are Latin in Chinese sentences also, so a Latin word weighs no more than one Chinese character.
    """
    han, latin = len(_HAN.findall(text)), len(_WORD.findall(text))
    if han or latin:
        return "zh" if han >= latin else "en"
    return "en" if accept_language.strip().lower().startswith("en") else "zh"
