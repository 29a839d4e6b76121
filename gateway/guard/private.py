"""Private data in text, found by its shape: numbers of identity and bank cards, telephone numbers, e-mail addresses.

A number that has the shape is masked whether or not its check digit is right: a customer mistypes, an OCR misreads, and
either is no reason to store the rest. The check digit only decides what the place is called. So any number of 15 to 19
digits is masked, a serial or an order number among them; shorter ones (codes, prices, order numbers up to 14 digits) and
dates stay. Numbers written in words ("幺三八...") are not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["ID", "CARD", "PHONE", "EMAIL", "NUMBER"]

# Spaces and dashes of all widths, and what cannot be seen but is copied along.
_GAP: Final = r"[ \t\u00a0\u00ad._\-\u2000-\u2015\u202f\u2060\ufeff]{0,2}"
_EMAIL: Final = re.compile(r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9._%+\-]+@[A-Za-z0-9\-]+(?:\.[A-Za-z0-9\-]+)+")
_LONG: Final = re.compile(rf"(?<![0-9])[0-9](?:{_GAP}[0-9]){{13,17}}{_GAP}(?:[0-9](?![0-9])|[Xx])")
_MOBILE: Final = re.compile(rf"(?<![0-9])(?:(?:\+|00)?86{_GAP})?1[3-9](?:{_GAP}[0-9]){{9}}(?![0-9])")
_ABROAD: Final = re.compile(rf"\+[1-9](?:{_GAP}[0-9]){{7,13}}(?![0-9])")
_LANDLINE: Final = re.compile(r"(?<![0-9])\(?0[1-9][0-9]{1,2}\)?[ \-][2-9][0-9]{6,7}(?![0-9])")
_DATE: Final = r"(?:19|20)[0-9]{2}[.\-/][01]?[0-9][.\-/][0-3]?[0-9]"
_DATES: Final = re.compile(rf"{_DATE}(?:[ .\-\u2010-\u2015]+{_DATE})+")
_ORDER: Final = (_EMAIL, _LONG, _MOBILE, _ABROAD, _LANDLINE)

# Full-width forms are one character each, as what they stand for: positions do not move.
_NARROW: Final = {0xFF01 + n: 0x21 + n for n in range(94)} | {0x3000: 0x20}
_ID_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS: Final = "10X98765432"


@dataclass(frozen=True)
class Masked:
    """A text in which every private place has become its kind in brackets. `spans`: how many there were."""

    text: str
    spans: int


@dataclass(frozen=True)
class Span:
    """Characters start .. stop-1 of a text. `certain`: the check digit agrees, or the kind has none."""

    start: int
    stop: int
    kind: Kind
    certain: bool


def mask(text: str) -> Masked:
    """The text without private data."""
    spans = find(text)
    parts, at = [], 0
    for span in spans:
        parts += [text[at : span.start], f"[{span.kind}]"]
        at = span.stop
    return Masked("".join((*parts, text[at:])), len(spans))


def find(text: str) -> list[Span]:
    """Private places, in order, none overlapping."""
    narrow = text.translate(_NARROW)
    spans: list[Span] = []
    taken = bytearray(len(narrow))
    for pattern in _ORDER:
        for found in pattern.finditer(narrow):
            if pattern is _LONG and is_dates(found.group()):
                continue
            if not any(taken[found.start() : found.end()]):
                span = _span(pattern, found)
                taken[span.start : span.stop] = b"\1" * (span.stop - span.start)
                spans.append(span)
    return sorted(spans, key=lambda span: span.start)


def _span(pattern: re.Pattern[str], found: re.Match[str]) -> Span:
    start, stop = found.span()
    if pattern is _EMAIL:
        return Span(start, stop, "EMAIL", True)
    if pattern is not _LONG:
        return Span(start, stop, "PHONE", True)
    digits = "".join(_digits(found.group()))
    if len(digits) == 18 and (is_id(digits) or digits[-1] == "X"):
        return Span(start, stop, "ID", is_id(digits))
    return Span(start, stop, "CARD" if is_card(digits) else "NUMBER", is_card(digits))


def is_dates(text: str) -> bool:
    """Whether a run of digits is nothing but dates, "2025.01.31-2027.01.31": a warranty's, not a card's."""
    return _DATES.fullmatch(text) is not None


def is_id(number: str) -> bool:
    """Whether the check digit of an 18-character identity number agrees (GB 11643, ISO 7064 MOD 11-2)."""
    if not re.fullmatch(r"[0-9]{17}[0-9X]", number):
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, number, strict=False))
    return _ID_CHECKS[total % 11] == number[-1]


def is_card(number: str) -> bool:
    """Whether the check digit of a bank card's number agrees (ISO/IEC 7812, Luhn)."""
    if not re.fullmatch(r"[0-9]{13,19}", number):
        return False
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(number))]
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0


def _digits(text: str) -> Iterator[str]:
    for character in text.upper():
        if character.isdecimal() or character == "X":
            yield character
