"""An emulation of TensorRT-LLM's in-flight batching around `prompt_slots`: requests join and leave a packed batch, prefill
in chunks, reuse KV blocks, are paused and resumed.

The block keys and what is stored under them follow blockKey.cpp and kvCacheManager.cpp near 1.2; the schedule is a simple
one (first come, first served). Blocks are never evicted. It does not know a decoder's mathematics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tests import prompt_slots
from tests.prompt_slots import EngineConfig, Floats, Ids, PromptTable, Request, StepFailed

TOKENS_PER_BLOCK = 32


@dataclass(frozen=True)
class Step:
    """The engine's inputs in one step, packed over requests; prefilling ones first.

    Attributes:
        input_ids, tasks: int32 [tokens].
        prompt_embedding_table: [size, H].
        prompt_vocab_size: the stride of the table's slots.
        rotary: float32 [tokens, R/2, 2], what the attention kernels take for each token.
        parts: of each request, the tokens before this step, its tokens in it, and its keys and values
            [layers, 2, heads, positions, head_dim], to be read and extended in place.
    """

    input_ids: Ids
    tasks: Ids
    prompt_embedding_table: NDArray[Any]
    prompt_vocab_size: int
    rotary: Floats
    parts: list[tuple[int, int, Floats]]


class Decoder(Protocol):
    """The engine."""

    def new_cache(self, positions: int) -> Floats:
        """Empty keys and values of one sequence."""
        ...

    def forward(self, step: Step) -> Floats:
        """Logits [requests, vocab_size] after the last token of each."""
        ...


@dataclass(frozen=True)
class BlockKey:
    """What two blocks after equal blocks must have in common to be one."""

    uses_extra_ids: bool
    lora_task_id: int | None
    unique_tokens: tuple[tuple[int, int], ...]  # (token id, extra id)

    def common(self, other: BlockKey) -> int:
        """Leading tokens that both share; 0 if they may share nothing."""
        if (self.uses_extra_ids, self.lora_task_id) != (other.uses_extra_ids, other.lora_task_id):
            return 0
        pairs = zip(self.unique_tokens, other.unique_tokens, strict=False)
        return next(
            (i for i, (a, b) in enumerate(pairs) if a != b),
            min(len(self.unique_tokens), len(other.unique_tokens)),
        )


@dataclass
class _Block:
    cache: Floats
    after: dict[BlockKey, _Block] = field(default_factory=dict)


class BlockTree:
    """The blocks that requests left behind."""

    def __init__(self) -> None:
        self._first: dict[BlockKey, _Block] = {}

    def load(self, keys: list[BlockKey], cache: Floats) -> int:
        """Copy the longest known prefix into `cache`; returns its tokens. The last block may fit in part."""
        known, tokens = self._first, 0
        for key in keys:
            found = max(known, key=key.common, default=None)
            common = key.common(found) if found is not None else 0
            if not common:
                break
            assert found is not None
            cache[..., tokens : tokens + common, :] = known[found].cache[..., :common, :]
            tokens += common
            if found != key:
                break
            known = known[found].after
        return tokens

    def store(self, keys: list[BlockKey], cache: Floats) -> None:
        """Keep the blocks of a sequence's first tokens."""
        known, tokens = self._first, 0
        for key in keys:
            end = tokens + len(key.unique_tokens)
            block = known.setdefault(key, _Block(cache[..., tokens:end, :].copy()))
            known, tokens = block.after, end


@dataclass(eq=False)
class Running:
    """A request in flight, and after it.

    Attributes:
        tokens: prompt and answer.
        prompt_len: tokens to compute before the next one is generated; a pause makes the answer so far part of it.
        past: tokens whose keys and values are in the cache.
        reused: tokens that came from another request's blocks.
        slots: places that it had in the batch.
        logits: of each generated token, [vocab_size].
    """

    request: Request
    cache: Floats
    tokens: list[int]
    prompt_len: int
    past: int = 0
    reused: int = 0
    slots: set[int] = field(default_factory=set)
    logits: list[Floats] = field(default_factory=list)
    failure: Exception | None = None

    @property
    def in_context(self) -> bool:
        return self.past < self.prompt_len

    @property
    def answer(self) -> list[int]:
        """Tokens generated so far."""
        return self.tokens[len(self.request.input_ids) :]

    def keys(self, length: int, partial: bool) -> list[BlockKey]:
        """Keys of the blocks that hold the first `length` tokens; `partial`: also of one that is not full."""
        extra = [] if self.request.extra_ids is None else self.request.extra_ids.tolist()
        extra += [0] * (length - len(extra))  # a generated token has extra id 0
        unique = list(zip(self.tokens[:length], extra, strict=False))
        last = length if partial else length // TOKENS_PER_BLOCK * TOKENS_PER_BLOCK
        return [
            BlockKey(
                self.request.extra_ids is not None,
                self.request.lora_task_id,
                tuple(unique[start : min(start + TOKENS_PER_BLOCK, last)]),
            )
            for start in range(0, last, TOKENS_PER_BLOCK)
        ]


class InflightBatch:
    """The runtime of one engine.

    Args:
        engine: its configuration.
        decoder: the engine.
        chunk: most prompt tokens of a request in one step; None: whole prompts.
        reuse: enable_kv_cache_reuse.
    """

    def __init__(
        self, engine: EngineConfig, decoder: Decoder, chunk: int | None = None, reuse: bool = False
    ) -> None:
        self.engine, self._decoder, self._chunk, self._reuse = engine, decoder, chunk, reuse
        self._constants = prompt_slots.constant_rotary(engine)
        self.table = PromptTable(engine)
        self._blocks = BlockTree()
        self.waiting: list[Running] = []
        self.active: list[Running] = []

    def submit(self, tensors: Mapping[str, NDArray[Any]]) -> Running:
        """Take a request with the inputs of the Triton model. RequestFailed."""
        request = Request.read(tensors)
        prompt_slots.validate(request, self.engine, self._reuse)
        tokens = request.input_ids.tolist()
        made = Running(request, self._decoder.new_cache(self.engine.max_seq_len), tokens, len(tokens))
        self.waiting.append(made)
        return made

    def pause(self, sequence: Running) -> None:
        """Take its blocks away; it comes back and computes its answer so far again, as prompt."""
        self.active.remove(sequence)
        sequence.prompt_len, sequence.past = len(sequence.tokens), 0
        sequence.cache[:] = np.nan
        self.waiting.insert(0, sequence)

    def step(self) -> None:
        """One forward pass. A StepFailed ends every request in flight."""
        while self.waiting and len(self.active) < self.engine.max_batch_size:
            self.active.append(self._admit(self.waiting.pop(0)))
        if not self.active:
            return
        try:
            batch = self._schedule()
            logits = self._decoder.forward(self._pack(batch))
        except StepFailed as failure:
            for sequence in self.active:
                sequence.failure = failure
            self.active.clear()
            return
        for (sequence, count), row in zip(batch, logits, strict=True):
            self._advance(sequence, count, row)

    def run(self) -> None:
        """Step until nothing is left."""
        while self.waiting or self.active:
            self.step()

    def _admit(self, sequence: Running) -> Running:
        if self._reuse:
            # The last token is always computed: its logits are wanted.
            sequence.past = self._blocks.load(
                sequence.keys(sequence.prompt_len - 1, partial=True), sequence.cache
            )
            sequence.reused = sequence.past
        return sequence

    def _schedule(self) -> list[tuple[Running, int]]:
        generation = [(sequence, 1) for sequence in self.active if not sequence.in_context]
        budget = self.engine.max_num_tokens - len(generation)
        context = []
        for sequence in self.active:
            if sequence.in_context and budget > 0:
                left = sequence.prompt_len - sequence.past
                context.append((sequence, min(left, self._chunk or left, budget)))
                budget -= context[-1][1]
        batch = [*context, *generation]
        for slot, (sequence, _) in enumerate(batch):
            sequence.slots.add(slot)
        return batch

    def _pack(self, batch: list[tuple[Running, int]]) -> Step:
        context = [(sequence, count) for sequence, count in batch if sequence.in_context]
        generation = [sequence for sequence, _ in batch if not sequence.in_context]
        tasks = self.table.fill(
            [(sequence.request, count) for sequence, count in context],
            [sequence.request for sequence in generation],
        )
        for sequence, _ in batch:
            prompt_slots.check_rotary(sequence.request, self.engine, sequence.in_context)
        longest = max((sequence.past + count for sequence, count in context), default=0)
        rotary = [
            prompt_slots.context_rotary(sequence.request, self._constants, sequence.past, count, longest)
            for sequence, count in context
        ]
        rotary += [
            prompt_slots.generation_rotary(sequence.request, self._constants, sequence.past)
            for sequence in generation
        ]
        ids = [sequence.tokens[sequence.past : sequence.past + count] for sequence, count in batch]
        return Step(
            input_ids=np.concatenate(ids).astype(np.int32),
            tasks=tasks,
            prompt_embedding_table=self.table.rows,
            prompt_vocab_size=self.table.stride,
            rotary=np.concatenate(rotary),
            parts=[(sequence.past, count, sequence.cache) for sequence, count in batch],
        )

    def _advance(self, sequence: Running, count: int, logits: Floats) -> None:
        was_in_context = sequence.in_context
        sequence.past += count
        if sequence.in_context:
            return
        if was_in_context and self._reuse:
            self._blocks.store(sequence.keys(sequence.prompt_len - 1, partial=False), sequence.cache)
        token = int(logits.argmax())
        sequence.logits.append(logits)
        sequence.tokens.append(token)
        full = len(sequence.tokens) >= self.engine.max_seq_len
        if (
            token == sequence.request.end_id
            or len(sequence.answer) >= sequence.request.max_new_tokens
            or full
        ):
            self.active.remove(sequence)
            if self._reuse:
                self._blocks.store(sequence.keys(len(sequence.tokens) - 1, partial=True), sequence.cache)
