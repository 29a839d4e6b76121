"""Keeps the rows of pictures that were encoded before, within a budget of bytes; the least recently used go.

It knows keys, rows and sizes. It does not know engines. Not thread-safe: one model instance owns it. The rows stay where
the engine left them: on a GPU the budget is GPU memory.

The key is the picture's full 256-bit digest with its grid and the engine's hash, so a hit is the same pixels,
cut the same way, encoded by the same engine.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from ensemble.vision_encoder.rows import Rows, freeze


@dataclass(frozen=True)
class MediaKey:
    """What decides the rows of one image or video."""

    digest: bytes  # 32 bytes
    grid_thw: tuple[int, int, int]
    engine_hash: str


class EmbeddingCache:
    """Rows by key. `hits`, `misses`, `evictions` count since the start; `size_bytes` is held now.

    Args:
        budget_bytes: most bytes of rows held; 0 turns the cache off. What alone is larger is not kept.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._rows: OrderedDict[MediaKey, Rows] = OrderedDict()
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: MediaKey) -> Rows | None:
        """The rows [v, 1+D, H], not to be written to, or None; counts a hit or a miss."""
        rows = self._rows.get(key)
        if rows is None:
            self.misses += 1
            return None
        self.hits += 1
        self._rows.move_to_end(key)
        return rows

    def put(self, key: MediaKey, rows: Rows) -> None:
        """Keep `rows`, which must own its memory (a view would hold more bytes than are counted)."""
        if rows.nbytes > self._budget_bytes or key in self._rows:
            return
        freeze(rows)
        self._rows[key] = rows
        self.size_bytes += rows.nbytes
        while self.size_bytes > self._budget_bytes:
            _, oldest = self._rows.popitem(last=False)
            self.size_bytes -= oldest.nbytes
            self.evictions += 1
