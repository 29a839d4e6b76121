"""Paged KV blocks: who holds them, which can be shared, which may be overwritten.

It knows block numbers, reference counts and the hashes of full blocks. It does not know tokens or tensors.

A block is in one of three states: *in use* (one reference per sequence that reads it), *cached* (no
reference, but its hash is known, so a later sequence may take it up again; the least recently released one
is overwritten first), or *free*. A block is only published under its hash after its keys and values have
been computed, and only full blocks are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from build_engine.manifest import TOKENS_PER_BLOCK

BLOCK_SIZE: Final = TOKENS_PER_BLOCK
"""Tokens of a block; fixed by OpenVINO's paged attention."""

ROOT: Final = b""
"""What the hash of a sequence's first block is chained to."""


def hash_block(
    previous: bytes,
    token_ids: npt.NDArray[np.int32],
    extra_ids: npt.NDArray[np.uint64],
    cos_sin: npt.NDArray[np.float32],
) -> bytes:
    """Hash of a full block, given that of the one before it: 256 bits.

    Equal hashes mean equal keys and values: they depend on all tokens so far, on the embeddings behind
    virtual ids (named by the extra ids), and on the rotary rows. The rows are hashed too because one picture
    content may stand on different grids: two black pictures of 2x8 and 4x4 patches have equal bytes.
    """
    digest = blake3(previous)
    for array in (token_ids, extra_ids, cos_sin):
        digest.update(array.tobytes())
    return digest.digest()


class BlockManager:
    """The pool of `num_blocks` KV blocks. `reuse` turns the prefix cache on."""

    def __init__(self, num_blocks: int, reuse: bool = True) -> None:
        self.num_blocks = num_blocks
        self.reuse = reuse
        self._references = [0] * num_blocks
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` can give: free ones and cached ones."""
        return len(self._free) + len(self._cached)

    @property
    def num_in_use(self) -> int:
        """Blocks that some sequence holds."""
        return self.num_blocks - self.num_available

    @property
    def num_cached(self) -> int:
        """Blocks that nobody holds, but whose content can be reused."""
        return len(self._cached)

    def match(self, hashes: Iterable[bytes]) -> list[int]:
        """Blocks of the longest known prefix. They are not held before `acquire`."""
        blocks: list[int] = []
        for key in hashes:
            block = self._block_of.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def can_allocate(self, count: int, beside: Sequence[int] = ()) -> bool:
        """Whether `count` blocks could be given after the matched blocks `beside` were acquired."""
        held = sum(1 for block in beside if self._references[block] == 0)
        return count <= self.num_available - held

    def acquire(self, blocks: Sequence[int]) -> None:
        """Take a reference to each of these matched blocks."""
        for block in blocks:
            if self._references[block] == 0:
                del self._cached[block]
            self._references[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Give `count` blocks with undefined content and one reference each. Ask `can_allocate` before."""
        assert count <= self.num_available, f"{count} blocks asked, {self.num_available} available"
        blocks = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for block in blocks:
            self._references[block] = 1
        return blocks

    def publish(self, block: int, key: bytes) -> None:
        """Make a full, computed block known under its hash. The first of several equal blocks is kept."""
        if self.reuse and key not in self._block_of and self._hash_of[block] is None:
            self._block_of[key] = block
            self._hash_of[block] = key

    def withdraw(self, blocks: Iterable[int]) -> None:
        """Forget the hashes of blocks whose content is not to be trusted."""
        for block in blocks:
            self._forget(block)
            if block in self._cached:
                del self._cached[block]
                self._free.append(block)

    def held_once(self, blocks: Iterable[int]) -> list[int]:
        """Those of the blocks that only one sequence holds."""
        return [block for block in blocks if self._references[block] == 1]

    def release(self, blocks: Sequence[int]) -> None:
        """Give back one reference to each; `blocks` in the order of the sequence.

        The last ones go first, so that the tail of a prefix is overwritten before its head, without which
        the tail could not be found.
        """
        for block in reversed(blocks):
            assert self._references[block] > 0, f"block {block} is released but not held"
            self._references[block] -= 1
            if self._references[block] == 0:
                if self._hash_of[block] is None:
                    self._free.append(block)
                else:
                    self._cached[block] = None

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        self._forget(block)
        return block

    def _forget(self, block: int) -> None:
        key = self._hash_of[block]
        if key is not None:
            del self._block_of[key]
            self._hash_of[block] = None

    def check(self) -> None:
        """Raise AssertionError when the books do not add up."""
        free, cached = set(self._free), set(self._cached)
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & cached, "a block is both free and cached"
        for block in range(self.num_blocks):
            idle, known = block in free | cached, self._hash_of[block] is not None
            assert self._references[block] >= 0, f"block {block} has negative references"
            assert (self._references[block] == 0) == idle, f"block {block}: references and state differ"
            assert not (block in free and known), f"free block {block} has a hash"
            assert known or block not in cached, f"cached block {block} has no hash"
        published = {key: block for block, key in enumerate(self._hash_of) if key is not None}
        assert published == self._block_of, "hashes and blocks differ"
