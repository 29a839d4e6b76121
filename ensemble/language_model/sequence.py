"""The state of one request between steps.

It knows its tokens, its blocks and how far their keys and values are computed. It knows no other sequence.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ensemble.language_model.block_manager import BLOCK_SIZE, ROOT, hash_block
from ensemble.language_model.request import FinishReason, Request


def blocks_for(tokens: int) -> int:
    """Blocks that hold this many tokens."""
    return -(-tokens // BLOCK_SIZE)


class Sequence:
    """A request under way.

    Attributes:
        token_ids: int32 [L + max_new_tokens], the first `num_tokens` of which are known.
        num_computed: tokens whose keys and values are in the blocks; the others are fed to the next steps.
        block_table: int32, the first `num_blocks` of which are held; block i holds tokens 32*i .. 32*i+31.
        num_reused: prompt blocks found in the cache when it was first admitted.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.num_prompt = len(request.input_ids)
        self.num_tokens = self.num_prompt
        self.num_computed = 0
        self.num_blocks = 0
        self.num_reused = 0
        self.num_preempted = 0
        capacity = self.num_prompt + request.max_new_tokens
        self.token_ids = np.empty(capacity, np.int32)
        self.token_ids[: self.num_prompt] = request.input_ids
        self.block_table = np.empty(blocks_for(capacity), np.int32)
        self._hashes: list[bytes] = []

    @property
    def num_remaining(self) -> int:
        """Tokens to feed before the next one can be sampled. 1 while decoding, never 0."""
        return self.num_tokens - self.num_computed

    @property
    def num_generated(self) -> int:
        """Tokens sampled so far."""
        return self.num_tokens - self.num_prompt

    @property
    def generated(self) -> npt.NDArray[np.int32]:
        """The sampled tokens, a view."""
        return self.token_ids[self.num_prompt : self.num_tokens]

    @property
    def blocks(self) -> list[int]:
        """The blocks held, in order."""
        held: list[int] = self.block_table[: self.num_blocks].tolist()
        return held

    @property
    def most_blocks(self) -> int:
        """Blocks held at the very end; the last token is sampled, but its keys are never computed."""
        return blocks_for(len(self.token_ids) - 1)

    def take(self, blocks: list[int]) -> None:
        """Append blocks to the block table."""
        self.block_table[self.num_blocks : self.num_blocks + len(blocks)] = blocks
        self.num_blocks += len(blocks)

    def forget_blocks(self) -> list[int]:
        """Start over: no blocks, nothing computed. Returns the blocks that were held."""
        blocks = self.blocks
        self.num_blocks = self.num_computed = 0
        return blocks

    def reusable_hashes(self) -> list[bytes]:
        """Hashes of the blocks that need not be computed: all full ones before the last token.

        The last token is always fed again, for without it there are no logits.
        """
        count = (self.num_tokens - 1) // BLOCK_SIZE
        return [self.block_hash(i) for i in range(count)]

    def block_hash(self, index: int) -> bytes:
        """Hash of full block `index`, computed once."""
        request = self.request
        while len(self._hashes) <= index:
            start = len(self._hashes) * BLOCK_SIZE
            stop = start + BLOCK_SIZE
            extra_ids = request.extra_ids[start:stop]
            if len(extra_ids) < BLOCK_SIZE:  # generated tokens are text: extra id 0
                extra_ids = np.pad(extra_ids, (0, BLOCK_SIZE - len(extra_ids)))
            previous = self._hashes[-1] if self._hashes else ROOT
            cos_sin = request.mrope_cos_sin[start:stop]
            self._hashes.append(hash_block(previous, self.token_ids[start:stop], extra_ids, cos_sin))
        return self._hashes[index]

    def append(self, token_id: int) -> FinishReason:
        """Add a sampled token. Returns why the sequence ends with it, or ""."""
        self.token_ids[self.num_tokens] = token_id
        self.num_tokens += 1
        if token_id in self.request.end_ids:
            return "stop"
        return "length" if self.num_tokens == len(self.token_ids) else ""
