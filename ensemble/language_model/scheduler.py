"""Who runs in the next step, over which tokens, and who gives its blocks back.

It knows sequences, blocks and the limits of a step. It does not know logits, callbacks or threads.

Rules, in the order of `schedule`:

1. Running sequences keep running, oldest first. One that needs a block when none is left takes it from the
   youngest running sequence, which goes back to the head of the queue and is computed again later (from the
   prefix cache, as far as its blocks survive). So the oldest always gets on, and nobody starves.
2. The queue is first come, first served. Its head is admitted when there is a slot, all its blocks are
   there with one to spare for each running sequence, and the step has tokens left for it.
3. Every decoding sequence gets its one token; what is left of `max_num_tokens` goes to prompts, oldest first.

Running and waiting sequences together are always in the order of their arrival.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ensemble.errors import PromptTooLong
from ensemble.language_model.block_manager import BLOCK_SIZE, BlockManager
from ensemble.language_model.sequence import Sequence, blocks_for


@dataclass(frozen=True)
class Chunk:
    """Tokens start .. stop-1 of a sequence, fed to one step."""

    sequence: Sequence
    start: int
    stop: int

    @property
    def wants_logits(self) -> bool:
        """Whether the next token can be sampled after this chunk."""
        return self.stop == self.sequence.num_tokens


class Scheduler:
    """Continuous batching with chunked prefill over the blocks of `blocks`."""

    def __init__(self, blocks: BlockManager, max_batch_size: int, max_num_tokens: int) -> None:
        if not 1 <= max_batch_size <= max_num_tokens:
            raise ValueError(f"max_num_tokens {max_num_tokens} is less than max_batch_size {max_batch_size}")
        self.blocks = blocks
        self.max_batch_size = max_batch_size
        self.max_num_tokens = max_num_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_reused_blocks = 0
        self.num_preemptions = 0

    def check_fits(self, sequence: Sequence) -> None:
        """Raise PromptTooLong for a sequence that the pool could not hold even alone."""
        if sequence.most_blocks > self.blocks.num_blocks:
            raise PromptTooLong(
                "input_ids",
                f"{sequence.num_prompt} tokens and an answer of {sequence.request.max_new_tokens}",
                f"{self.blocks.num_blocks * BLOCK_SIZE} tokens together, the size of the KV cache",
                "Shorten the prompt, lower max_tokens, or deploy with a larger kv_cache_bytes.",
            )

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence that fits."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, finished or not, and give its blocks back."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self.blocks.release(sequence.forget_blocks())

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step, at most one per sequence; empty only if there are no sequences."""
        self._grow()
        self._admit()
        return self._share()

    def advance(self, chunk: Chunk) -> None:
        """Note that a chunk was computed; its full blocks can be shared from now on."""
        sequence = chunk.sequence
        sequence.num_computed = chunk.stop
        if self.blocks.reuse:
            for index in range(chunk.start // BLOCK_SIZE, chunk.stop // BLOCK_SIZE):
                self.blocks.publish(int(sequence.block_table[index]), sequence.block_hash(index))

    def _grow(self) -> None:
        """Give every running sequence the blocks of its next tokens, oldest first."""
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            index += 1
            missing = blocks_for(sequence.num_tokens) - sequence.num_blocks
            if not missing:  # of 32 decode steps, 31
                continue
            while not self.blocks.can_allocate(missing):
                self._preempt()
                if index > len(self.running):  # it was itself the youngest
                    return
            sequence.take(self.blocks.allocate(missing))

    def _preempt(self) -> None:
        """Send the youngest running sequence back to the queue, in front of all that came later."""
        sequence = self.running.pop()
        self.blocks.release(sequence.forget_blocks())
        self.waiting.appendleft(sequence)
        sequence.num_preempted += 1
        self.num_preemptions += 1

    def _admit(self) -> None:
        budget = self.max_num_tokens - sum(sequence.num_remaining for sequence in self.running)
        coming = self._coming_hashes() if self.waiting else set()
        while self.waiting and len(self.running) < self.max_batch_size and budget > 0:
            sequence = self.waiting[0]
            hashes = sequence.reusable_hashes() if self.blocks.reuse else []
            matched = self.blocks.match(hashes)
            # A running prompt is about to compute the next block: wait for it rather than compute it twice.
            if len(matched) < len(hashes) and hashes[len(matched)] in coming:
                return
            missing = blocks_for(sequence.num_tokens) - len(matched)
            if not self.blocks.can_allocate(missing + len(self.running), beside=matched):
                return
            self.waiting.popleft()
            self.running.append(sequence)
            self.blocks.acquire(matched)
            sequence.take(matched)
            sequence.take(self.blocks.allocate(missing))
            sequence.num_computed = len(matched) * BLOCK_SIZE
            self.num_reused_blocks += len(matched)
            if not sequence.num_preempted:
                sequence.num_reused = len(matched)
            coming.update(hashes[len(matched) :])
            budget -= sequence.num_remaining

    def _coming_hashes(self) -> set[bytes]:
        """Hashes of the blocks that running prompts are going to publish."""
        if not self.blocks.reuse:
            return set()
        return {
            sequence.block_hash(index)
            for sequence in self.running
            if sequence.num_remaining > 1
            for index in range(sequence.num_computed // BLOCK_SIZE, (sequence.num_tokens - 1) // BLOCK_SIZE)
        }

    def _share(self) -> list[Chunk]:
        budget = self.max_num_tokens - sum(1 for sequence in self.running if sequence.num_remaining == 1)
        chunks = []
        for sequence in self.running:
            tokens = sequence.num_remaining
            if tokens > 1:
                tokens = min(tokens, budget)
                budget -= tokens
            if tokens:
                chunks.append(Chunk(sequence, sequence.num_computed, sequence.num_computed + tokens))
        return chunks
