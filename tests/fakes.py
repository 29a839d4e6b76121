"""Fakes that behave: a language model that is all memory and no mathematics, and requests for it.

`FakeLanguageModel` reads the same arrays as the real graph. What it leaves in a KV slot depends on the token,
its table rows, its rotary row and on the slot before it, found through the block table; its logits depend on
all slots of the context. So a wrong block, row, position, order or prefix gives another answer than
`answer_alone`, which computes the same function without blocks, chunks and batches.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from build_engine.manifest import Limits, Manifest, TextFacts, TokenIds, VisionFacts
from ensemble.language_model.batch import Batch
from ensemble.language_model.block_manager import BLOCK_SIZE
from ensemble.language_model.forward import Scores
from ensemble.language_model.request import Request, Sampling
from ensemble.language_model.sampler import sample

VOCAB_SIZE, HIDDEN_SIZE, HEAD_DIM, LEVELS = 97, 4, 4, 2
END_ID = 96
NAN = 0xFFFFFFFF
"""What a slot holds whose key or value is not a number."""


def manifest(
    max_batch_size: int = 8, max_num_tokens: int = 64, max_seq_len: int = 320, max_input_len: int = 256
) -> Manifest:
    """A manifest of nothing, with small shapes and these limits."""
    vision = VisionFacts(16, 2, 2, 3, 8, 2, 2, 16, HIDDEN_SIZE, LEVELS, (0.5,) * 3, (0.5,) * 3, 1 / 255)
    text = TextFacts(VOCAB_SIZE, HIDDEN_SIZE, 2, 2, 1, HEAD_DIM, 1e4, (1, 1, 0), max_seq_len)
    return Manifest(
        target="openvino",
        weights="f32",
        checkpoint_hash="",
        engine_hash="",
        vision=vision,
        text=text,
        tokens=TokenIds(eos=(END_ID, 95), pad=94, image=93, video=92, vision_start=91, vision_end=90),
        limits=Limits(max_batch_size, max_input_len, max_seq_len, max_num_tokens, 64),
        versions={},
        files={},
    )


def _slot(previous: int, embedding: bytes, cos: npt.NDArray[np.float32], sin: npt.NDArray[np.float32]) -> int:
    return zlib.crc32(embedding + cos.tobytes() + sin.tobytes(), previous)


def _embedding(token_id: int, table: npt.NDArray[np.float32]) -> bytes:
    if token_id < VOCAB_SIZE:
        return token_id.to_bytes(4, "little")
    row = token_id - VOCAB_SIZE
    assert row + 1 + LEVELS <= len(table), "a virtual id points outside the table"
    return table[row : row + 1 + LEVELS].tobytes()


def _logits(slots: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    noise = np.random.Generator(np.random.Philox(key=zlib.crc32(slots.tobytes())))
    return noise.standard_normal(VOCAB_SIZE, np.float32) * 3


class FakeLanguageModel:
    """A LanguageModel over `num_blocks` blocks. `fail_next` makes the next step raise it."""

    def __init__(self, num_blocks: int, max_num_tokens: int = 0) -> None:
        self.num_blocks, self.max_num_tokens = num_blocks, max_num_tokens
        # garbage, not zeros: a slot that is read before it is written must show
        self.slots = np.random.default_rng(0).integers(0, 1 << 32, (num_blocks, BLOCK_SIZE), np.uint32)
        self.fail_next: Exception | None = None
        self.cleared: list[int] = []
        self.steps: list[list[int]] = []

    def forward(self, batch: Batch) -> Scores:
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        begins = batch.subsequence_begins.tolist()
        self.steps.append(np.diff(begins).tolist())
        last: dict[int, npt.NDArray[np.float32]] = {}
        for s, past in enumerate(batch.past_lens.tolist()):
            table = batch.block_indices[batch.block_indices_begins[s] : batch.block_indices_begins[s + 1]]
            context = past + begins[s + 1] - begins[s]
            assert context <= batch.max_context_len
            whole = self.slots[table].reshape(-1)
            slots = whole[:context]
            for t in range(begins[s], begins[s + 1]):
                at = past + t - begins[s]
                embedding = _embedding(int(batch.input_ids[t]), batch.prompt_embedding_table)
                cos, sin = batch.rotary_cos[t, 0], batch.rotary_sin[t, 0]
                slots[at] = _slot(int(slots[at - 1]) if at else 0, embedding, cos, sin)
                if np.isnan(cos).any():
                    slots[at] = NAN
                self.slots[table[at // BLOCK_SIZE], at % BLOCK_SIZE] = slots[at]
            last[begins[s + 1] - 1] = _logits(slots)
            if (
                whole == NAN
            ).any():  # as in real kernels, a NaN beyond the context is multiplied by zero: NaN
                last[begins[s + 1] - 1][3] = np.nan
        logits = np.array([last[i] for i in batch.logits_index.tolist()]).reshape(-1, VOCAB_SIZE)
        return Scores(logits, np.log(np.exp(logits).sum(axis=1)))

    def clear(self, blocks: Sequence[int]) -> None:
        self.slots[list(blocks)] = 0
        self.cleared += blocks


def answer_alone(request: Request) -> list[int]:
    """The tokens that FakeLanguageModel generates for a request on its own."""
    token_ids = request.input_ids.tolist()
    slots: list[int] = []
    while True:
        for at in range(len(slots), len(token_ids)):
            cos, sin = (np.tile(request.mrope_cos_sin[at, :, i], 2) for i in (0, 1))
            embedding = _embedding(token_ids[at], request.prompt_embedding_table)
            slots.append(_slot(slots[-1] if slots else 0, embedding, cos, sin))
        generated = np.array(token_ids[len(request.input_ids) :], np.int32)
        logits = _logits(np.array(slots, np.uint32))
        token_ids.append(sample(logits, request.sampling, request.input_ids, generated))
        if token_ids[-1] in request.end_ids or len(generated) + 1 == request.max_new_tokens:
            return token_ids[len(request.input_ids) :]


def rotary(positions: int) -> npt.NDArray[np.float32]:
    """cos and sin of plain positions: float32 [positions, R/2, 2]."""
    angles = np.arange(positions)[:, None] * 0.5 ** np.arange(HEAD_DIM // 2)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


def request(
    request_id: str,
    parts: Sequence[int | tuple[int, int]],
    max_new_tokens: int = 16,
    sampling: Sampling | None = None,
    end_ids: tuple[int, ...] = (END_ID,),
) -> Request:
    """A request whose prompt is made of `parts`.

    An integer n is text of n tokens, the same for the same n and place; a pair (content, n) is a picture of n
    visual tokens whose table rows, and extra id, depend on its content and n.
    """
    ids: list[int] = []
    extra_ids: list[int] = []
    rows: list[npt.NDArray[np.float32]] = []
    owned = 1 + LEVELS
    for place, part in enumerate(parts):
        if isinstance(part, int):
            ids += np.random.default_rng((place, part)).integers(0, VOCAB_SIZE - 1, part).tolist()
            extra_ids += [0] * part
            continue
        content, tokens = part
        first = VOCAB_SIZE + owned * sum(len(r) // owned for r in rows)
        ids += range(first, first + owned * tokens, owned)
        extra_ids += [1 + content + 1000 * tokens] * tokens
        noise = np.random.default_rng((content, tokens, 7))
        rows.append(noise.standard_normal((owned * tokens, HIDDEN_SIZE)).astype(np.float32))
    return Request(
        request_id=request_id,
        input_ids=np.array(ids, np.int32),
        prompt_embedding_table=np.concatenate(rows) if rows else np.zeros((owned, HIDDEN_SIZE), np.float32),
        extra_ids=np.array(extra_ids, np.uint64),
        mrope_cos_sin=rotary(len(ids) + max_new_tokens),
        max_new_tokens=max_new_tokens,
        end_ids=end_ids,
        sampling=sampling or Sampling(),
    )
