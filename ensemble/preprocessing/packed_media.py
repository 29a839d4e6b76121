"""Decoded items to what the vision encoder takes: packed patches, their grids, and digests that stand for the pixels.

It knows the order of values and how digests are keyed. It does not know requests, files or engines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from ensemble.preprocessing.crew import Crew
from ensemble.preprocessing.media import Item, Pixels
from ensemble.preprocessing.patches import PatchLayout

_DIGEST_WORDS = 4  # of 64 bits: a whole digest of BLAKE3


@dataclass(frozen=True)
class PackedMedia:
    """Packed uint8 patches [N,K], grids int32 [items,3] and digests [items,4] of all items, in prompt order."""

    patches: NDArray[np.uint8]
    grids: NDArray[np.int32]
    digests: NDArray[np.uint64]


@dataclass(frozen=True)
class MediaPacker:
    """Decodes and packs.

    Args:
        hash_key: 32 bytes; keys the digests, so that no one can prepare two pictures of one digest.
        crew: decodes the items of a request; costs are pixels that are held decoded.
    """

    layout: PatchLayout
    hash_key: bytes
    crew: Crew

    def pack(self, items: Sequence[Item]) -> PackedMedia:
        """Decode, resize and pack items; InvalidImage or InvalidVideo for the first broken one."""
        stops = list(accumulate(item.patches for item in items))
        patches = np.empty((stops[-1] if stops else 0, self.layout.values), dtype=np.uint8)
        grids = np.empty((len(items), 3), dtype=np.int32)
        digests = np.empty((len(items), _DIGEST_WORDS), dtype=np.uint64)

        def pack_one(at: int) -> None:
            pixels = items[at].decode()
            grids[at] = self.layout.grid(pixels.frames, pixels.height, pixels.width)
            digests[at] = self._write(pixels, patches[stops[at] - items[at].patches : stops[at]])

        self.crew.each(range(len(items)), lambda at: items[at].pixels_held, pack_one)
        return PackedMedia(patches, grids, digests)

    def _write(self, pixels: Pixels, out: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """Write the patches of an item to `out` [N,K].

        Returns:
            Four words that stand for its pixels and their size. The first is never 0, which means text to the language
            model.
        """
        size = np.array([pixels.frames, pixels.height, pixels.width], dtype="<i8").tobytes()
        digest = blake3(size, key=self.hash_key)
        start = 0
        for strip in pixels.strips:
            stop = start + math.prod(self.layout.grid(strip.shape[0], *strip.shape[2:]))
            self.layout.write_patches(strip, out[start:stop])
            digest.update(np.ascontiguousarray(strip.swapaxes(1, 2)).data)
            start = stop
        words = np.frombuffer(digest.digest(), dtype=np.uint64).copy()
        words[0] = words[0] or 1
        return words
