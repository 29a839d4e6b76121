"""Makes places of a picture unreadable, for good. Knows polygons and pixels.

A blur alone can be undone for digits of a known font: so a place is first reduced to cells about as large as a
character, each its mean colour, and only the cells' edges are then smoothed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from gateway.guard.picture import Pixels
from gateway.guard.places import Polygon

_CELL: Final = 0.8  # of a place's height
_LEAST: Final = 12  # pixels


def hidden(pixels: Pixels, places: Sequence[Polygon]) -> Pixels:
    """A copy with these places hidden."""
    made = pixels.copy()
    for place in places:
        _hide(made, place)
    return made


def _hide(pixels: Pixels, place: Polygon) -> None:
    height, width, _ = pixels.shape
    left, top = np.maximum(np.floor(place.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(place.max(axis=0)).astype(int) + 1, (width, height))
    if right <= left or bottom <= top:
        return
    part = pixels[top:bottom, left:right]
    side = min(float(np.linalg.norm(place[3] - place[0])), float(np.linalg.norm(place[1] - place[0])))
    cell = max(_LEAST, round(side * _CELL))
    cells = (max(1, part.shape[1] // cell), max(1, part.shape[0] // cell))
    coarse = cv2.resize(
        cv2.resize(part, cells, interpolation=cv2.INTER_AREA),
        part.shape[1::-1],
        interpolation=cv2.INTER_LINEAR,
    )
    mask = np.zeros(part.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(place - (left, top)).astype(np.int32)], (255,))
    part[mask > 0] = coarse[mask > 0]
