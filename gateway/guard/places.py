"""Lines of text in a picture -> places that hold private data, as polygons.

It knows shapes of numbers and geometry. It is more generous than the search in typed text: an OCR drops and confuses
characters, parts a number into several boxes, and joins it with its label.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from gateway.guard import private
from gateway.guard.ocr import Line

Polygon = npt.NDArray[np.float32]
"""Corners [4,2], x and y in pixels."""

_READ_AS: Final = str.maketrans({
    "O": "0", "o": "0", "D": "0", "Q": "0", "〇": "0", "I": "1", "l": "1", "|": "1", "i": "1", "!": "1",
    "Z": "2", "z": "2", "S": "5", "s": "5", "G": "6", "b": "6", "B": "8", "g": "9", "q": "9",
})  # fmt: skip
# Whatever an OCR makes of a gap, but not what stands in times and prices.
_RUN: Final = re.compile(r"[0-9](?:[^0-9A-Za-z一-鿿:：/%¥￥$€£]{0,3}[0-9Xx])*")
_DOTTED: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,5}){3}")  # an IP address, the version of a system
_LONG: Final = 12
"""So many digits are a card's or an identity number's, with some dropped by the OCR."""
_PHONE: Final = re.compile(r"1[3-9][0-9]{9}$")
_MARGIN: Final = 0.35  # of a line's height, around a masked place
_SLACK: Final = 2.0  # characters to either side: a character's width is a guess
_WHOLE: Final = 0.5  # a line that is private from here on is masked whole
_ROW: Final = 0.6  # of a line's height: boxes whose middles are no further apart stand in one row
_NEAR: Final = 2.5  # of a line's height: how far apart the parts of one number may stand


def find(lines: Sequence[Line]) -> list[Polygon]:
    """Polygons that hold private data, with a margin."""
    found = [polygon for line in lines for polygon in _of(line)]
    for row in _rows(lines):
        if len(row) > 1 and any(_private(run) for run in _runs("".join(line.text for line in row))):
            found += [_grown(line.box) for line in row if _mostly_digits(line.text)]
    return found


def _of(line: Line) -> Iterator[Polygon]:
    text = line.text
    spans = {(span.start, span.stop) for span in private.find(text)}
    spans |= {found.span() for found in _RUN.finditer(_guessed(text)) if _private(found.group())}
    if not spans:
        return
    covered = sum(stop - start for start, stop in spans) / len(text)
    if covered >= _WHOLE:
        yield _grown(line.box)
        return
    for start, stop in spans:
        yield _grown(_part(line.box, (start - _SLACK) / len(text), (stop + _SLACK) / len(text)))


def _guessed(text: str) -> str:
    """The text as digits, if it looks like a misread number; else as it is."""
    letters = sum(character.isalnum() for character in text)
    read = text.translate(_READ_AS)
    digits = sum(character.isdecimal() for character in text)
    return read if letters and digits >= 0.6 * letters else text


def _runs(text: str) -> Iterator[str]:
    return (found.group() for found in _RUN.finditer(_guessed(text)))


def _private(run: str) -> bool:
    digits = "".join(character for character in run if character.isdecimal() or character in "Xx")
    if (len(digits) <= _LONG and _DOTTED.fullmatch(run)) or private.is_dates(run):
        return False
    return len(digits) >= _LONG or bool(_PHONE.search(digits))


def _mostly_digits(text: str) -> bool:
    letters = [character for character in text.translate(_READ_AS) if character.isalnum()]
    return bool(letters) and sum(c.isdecimal() or c in "Xx" for c in letters) >= 0.6 * len(letters)


def _rows(lines: Sequence[Line]) -> list[list[Line]]:
    """Boxes side by side in one row, left to right; a wide gap begins another row."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: float(line.box[:, 0].min())):
        for row in rows:
            last = row[-1]
            height = max(_height(line.box), _height(last.box))
            level = abs(float(line.box[[0, 3], 1].mean() - last.box[[1, 2], 1].mean()))
            gap = float(line.box[[0, 3], 0].mean() - last.box[[1, 2], 0].mean())
            if level <= _ROW * height and gap <= _NEAR * height:
                row.append(line)
                break
        else:
            rows.append([line])
    return rows


def _height(box: Polygon) -> float:
    return float((np.linalg.norm(box[3] - box[0]) + np.linalg.norm(box[2] - box[1])) / 2)


def _part(box: Polygon, start: float, stop: float) -> Polygon:
    """The box between two shares of its length."""
    start, stop = max(0.0, start), min(1.0, stop)
    top, bottom = box[1] - box[0], box[2] - box[3]
    return np.stack(
        [box[0] + top * start, box[0] + top * stop, box[3] + bottom * stop, box[3] + bottom * start]
    )


def _grown(box: Polygon) -> Polygon:
    """The box with a margin to all sides, along its own directions."""
    margin = _MARGIN * _height(box)
    along = box[1] - box[0] + box[2] - box[3]
    across = box[3] - box[0] + box[2] - box[1]
    along, across = (
        direction / max(float(np.linalg.norm(direction)), 1e-6) * margin for direction in (along, across)
    )
    signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
    grown: Polygon = (box + signs[:, :1] * along + signs[:, 1:] * across).astype(np.float32)
    return grown
