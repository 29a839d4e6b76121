"""Chunks of sequences -> the flat arrays that the graph takes.

It knows the graph's inputs and the layout of the prompt embedding table. It does not know OpenVINO.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from build_engine.manifest import Manifest
from ensemble.language_model.scheduler import Chunk
from ensemble.language_model.sequence import blocks_for

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Batch:
    """The graph's inputs for one step, by the names of its inputs. Views that the next step overwrites: it is the same object
    then, if all shapes are the same.

    T tokens of S sequences lie one after the other; D is the number of DeepStack levels.

    Attributes:
        input_ids: [T]; vocab_size + row for a visual token, whose rows in *this* table are row .. row+D.
        prompt_embedding_table: [rows,H], the rows of this step's visual tokens; 1+D zero rows without any.
        rotary_cos, rotary_sin: [T,1,head_dim], both halves equal.
        past_lens: [S], tokens of each sequence that are in its blocks already.
        subsequence_begins: [S+1], where each sequence's tokens begin among the T.
        block_indices: the block tables, one after the other; block_indices_begins [S+1].
        max_context_len: scalar, the longest past + new.
        logits_index: [n], the tokens (of T) whose logits are wanted; none, if all are parts of prompts that go on.
    """

    input_ids: Int32
    prompt_embedding_table: Float32
    rotary_cos: Float32
    rotary_sin: Float32
    past_lens: Int32
    subsequence_begins: Int32
    block_indices: Int32
    block_indices_begins: Int32
    max_context_len: Int32
    logits_index: Int32


class Packer:
    """Fills arrays that are allocated once for the largest step."""

    def __init__(self, manifest: Manifest) -> None:
        limits, text = manifest.limits, manifest.text
        tokens, sequences = limits.max_num_tokens, limits.max_batch_size
        self._vocab_size = text.vocab_size
        self._rows = np.arange(manifest.rows_per_visual_token, dtype=np.int32)
        self._input_ids = np.empty(tokens, np.int32)
        self._table = np.empty((tokens * len(self._rows), text.hidden_size), np.float32)
        self._no_table = np.zeros((len(self._rows), text.hidden_size), np.float32)
        self._cos = np.empty((tokens, 1, text.head_dim), np.float32)
        self._sin = np.empty((tokens, 1, text.head_dim), np.float32)
        self._past_lens = np.empty(sequences, np.int32)
        self._begins = np.zeros(sequences + 1, np.int32)
        self._blocks = np.empty(sequences * blocks_for(limits.max_seq_len), np.int32)
        self._block_begins = np.zeros(sequences + 1, np.int32)
        self._context = np.zeros((), np.int32)
        self._logits_index = np.zeros(sequences, np.int32)
        halves = (tokens, 1, 2, text.head_dim // 2)
        self._cos_halves, self._sin_halves = self._cos.reshape(halves), self._sin.reshape(halves)
        self._sizes: tuple[int, ...] = ()
        self._batch: Batch

    def pack(self, chunks: Many[Chunk]) -> Batch:
        """The batch of at least one chunk. Logits come in the order of the chunks that want them."""
        token = block = row = wanted = context = 0
        for index, chunk in enumerate(chunks):
            sequence, start, stop = chunk.sequence, chunk.start, chunk.stop
            end = token + stop - start
            input_ids = self._input_ids[token:end]
            input_ids[:] = sequence.token_ids[start:stop]
            if start < sequence.num_prompt:
                row = self._copy_rows(input_ids, sequence.request.prompt_embedding_table, row)
            cos_sin = sequence.request.mrope_cos_sin[start:stop, None, None]  # [n,1,1,R/2,2]
            self._cos_halves[token:end] = cos_sin[..., 0]
            self._sin_halves[token:end] = cos_sin[..., 1]
            held = blocks_for(stop)
            self._blocks[block : block + held] = sequence.block_table[:held]
            token, block = end, block + held
            self._past_lens[index] = start
            self._begins[index + 1] = token
            self._block_begins[index + 1] = block
            context = max(context, stop)
            if chunk.wants_logits:
                self._logits_index[wanted] = token - 1
                wanted += 1
        self._context[...] = context
        sizes = token, row, len(chunks), block, wanted
        if sizes != self._sizes:  # of 32 steps of one answer, 31 are not
            self._sizes, self._batch = sizes, self._views(*sizes)
        return self._batch

    def _views(self, tokens: int, rows: int, sequences: int, blocks: int, wanted: int) -> Batch:
        return Batch(
            input_ids=self._input_ids[:tokens],
            prompt_embedding_table=self._table[:rows] if rows else self._no_table,
            rotary_cos=self._cos[:tokens],
            rotary_sin=self._sin[:tokens],
            past_lens=self._past_lens[:sequences],
            subsequence_begins=self._begins[: sequences + 1],
            block_indices=self._blocks[:blocks],
            block_indices_begins=self._block_begins[: sequences + 1],
            max_context_len=self._context,
            logits_index=self._logits_index[:wanted],
        )

    def _copy_rows(self, input_ids: Int32, table: Float32, row: int) -> int:
        """Copy the table rows of a chunk's visual tokens to `row` and after; point their ids there."""
        visual = np.flatnonzero(input_ids >= self._vocab_size)
        if not len(visual):
            return row
        source = input_ids[visual, None] - self._vocab_size + self._rows  # [visual tokens, 1+D]
        end = row + source.size
        self._table[row:end] = table[source.ravel()]
        input_ids[visual] = np.arange(self._vocab_size + row, self._vocab_size + end, len(self._rows))
        return end
