"""An emulation in plain numpy of what TensorRT-LLM's C++ runtime does with the visual tensors of a request.

It follows NVIDIA's sources near 1.2 as they were read: utils.cc of the Triton backend (`Request.read`), llmRequest.cpp
(`validate`), promptTuningBuffers.cpp and promptTuningParams.cpp (`PromptTable`), runtimeBuffers.cpp (`check_rotary`), the
attention plugin's rotary kernels (`context_rotary`, `generation_rotary`), the Python PromptTuningEmbedding and our engine's
DeepStack lookup (`embed`, `deepstack`). Their traps are kept: what they do not check is not checked here.

It is none of that code and was never compared with it on hardware. It does not know a decoder or a schedule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engine.manifest import Manifest

_DTYPES = {"FP32": np.float32, "FP16": np.float16}  # numpy has no BF16

Ids = NDArray[np.int32]
Floats = NDArray[np.float32]


class RequestFailed(Exception):
    """LlmRequest::validate refused a request: it fails alone."""


class StepFailed(Exception):
    """A check inside a step threw: the executor ends every request in flight."""


class OutOfBounds(IndexError):
    """A GPU would read memory that is not the tensor's, without a word."""


@dataclass(frozen=True)
class EngineConfig:
    """What the runtime takes from the engine's config.json; `rotary_base` is baked into the engine."""

    vocab_size: int
    hidden_size: int
    dtype: np.dtype[Any]
    max_position_embeddings: int
    rotary_embedding_dim: int
    rotary_base: float
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    max_prompt_embedding_table_size: int

    @classmethod
    def of(cls, manifest: Manifest) -> EngineConfig:
        """The engine that a manifest's facts and limits stand for: P = max_seq_len, and a slot of (1+D) * V rows."""
        text, limits = manifest.text, manifest.limits
        return cls(
            vocab_size=text.vocab_size,
            hidden_size=text.hidden_size,
            dtype=np.dtype(_DTYPES[manifest.table_dtype]),
            max_position_embeddings=limits.max_seq_len,
            rotary_embedding_dim=text.head_dim,
            rotary_base=text.rope_theta,
            max_batch_size=limits.max_batch_size,
            max_input_len=limits.max_input_len,
            max_seq_len=limits.max_seq_len,
            max_num_tokens=limits.max_num_tokens,
            max_prompt_embedding_table_size=limits.max_batch_size
            * manifest.rows_per_visual_token
            * limits.max_visual_tokens,
        )


@dataclass(frozen=True, eq=False)
class Request:
    """A request as the Triton backend hands it to the executor."""

    input_ids: Ids  # [L]
    max_new_tokens: int
    end_id: int
    table: NDArray[Any] | None = None  # [rows, H]
    extra_ids: NDArray[np.uint64] | None = None  # [L]
    rotary: Floats | None = None  # [P*R]
    delta: int | None = None
    lora_task_id: int | None = None

    @classmethod
    def read(cls, tensors: Mapping[str, NDArray[Any]]) -> Request:
        """Read the inputs of one Triton request, batch dimension of 1 included."""
        input_ids = tensors["input_ids"].reshape(-1)
        table = extra_ids = rotary = delta = None
        if "prompt_embedding_table" in tensors:
            table = tensors["prompt_embedding_table"]
            table = table.reshape(table.shape[-2:])
            extra_ids = tensors.get("prompt_table_extra_ids")
            # Extra ids of another count are dropped in silence, and so are those without a table.
            extra_ids = (
                extra_ids.reshape(-1) if extra_ids is not None and extra_ids.size == input_ids.size else None
            )
        if "mrope_rotary_cos_sin" in tensors and "mrope_position_deltas" in tensors:
            rotary = tensors["mrope_rotary_cos_sin"].reshape(-1)
            # Declared INT64, read as one int32: the low four bytes.
            delta = int.from_bytes(tensors["mrope_position_deltas"].tobytes()[:4], "little", signed=True)
        task = tensors.get("lora_task_id")
        return cls(
            input_ids=input_ids,
            max_new_tokens=int(tensors["request_output_len"].item()),
            end_id=int(tensors["end_id"].item()),
            table=table,
            extra_ids=extra_ids,
            rotary=rotary,
            delta=delta,
            lora_task_id=None if task is None else int(task.item()),
        )


def validate(request: Request, engine: EngineConfig, reuse: bool) -> None:
    """What is checked when a request arrives; it never looks at the ids. RequestFailed."""
    length = len(request.input_ids)
    if length > engine.max_input_len:
        raise RequestFailed(f"prompt length {length} exceeds max_input_len {engine.max_input_len}")
    if length >= engine.max_seq_len:
        raise RequestFailed(f"prompt length {length} leaves nothing of max_seq_len {engine.max_seq_len}")
    if reuse and request.table is not None and request.extra_ids is None:
        raise RequestFailed("extra ids, one a token, must come with a prompt table when KV reuse is on")


class PromptTable:
    """The buffer of prompt rows: one slot of `stride` rows for each place in the batch.

    Attributes:
        stride: the engine's input prompt_vocab_size, constant for its life.
        rows: [max_prompt_embedding_table_size, H] in the engine's dtype.
    """

    def __init__(self, engine: EngineConfig) -> None:
        self.stride = engine.max_prompt_embedding_table_size // engine.max_batch_size
        self.rows = np.zeros((engine.max_prompt_embedding_table_size, engine.hidden_size), engine.dtype)

    def fill(self, context: Sequence[tuple[Request, int]], generation: Sequence[Request]) -> Ids:
        """Fill the table for a step, and give `tasks` [tokens]: the slot of each token's request.

        `context` has the requests that prefill, with the tokens of their chunks; they come first. A request without
        a table has tasks 0, whoever holds that slot. StepFailed for a table that does not fit.
        """
        self.rows[:] = 0
        batch = [*context, *((request, 1) for request in generation)]
        tasks = np.zeros(len(batch), np.int32)
        for slot, (request, _) in enumerate(batch):
            if request.table is None:
                continue
            if slot < len(context):
                self._check(request.table)
            self._copy(request.table, slot)
            tasks[slot] = slot
        return np.repeat(tasks, [tokens for _, tokens in batch])

    def _check(self, table: NDArray[Any]) -> None:
        if len(table) > self.stride:
            raise StepFailed(f"{len(table)} rows are more than the {self.stride} of a slot")
        if table.dtype != self.rows.dtype:
            raise StepFailed(f"a table of {table.dtype} for an engine of {self.rows.dtype}")

    def _copy(self, table: NDArray[Any], slot: int) -> None:
        if table.shape[1] != self.rows.shape[1]:
            raise StepFailed(f"rows of {table.shape[1]} values for a hidden size of {self.rows.shape[1]}")
        self.rows[slot * self.stride : slot * self.stride + len(table)] = table


def check_rotary(request: Request, engine: EngineConfig, in_context: bool) -> None:
    """Every request of a step must have its MRoPE inputs, text-only ones too. StepFailed."""
    if request.rotary is None or request.delta is None:
        raise StepFailed("a request has no mrope_rotary_cos_sin or no mrope_position_deltas")
    size = engine.max_position_embeddings * engine.rotary_embedding_dim
    if in_context and request.rotary.size != size:
        raise StepFailed(
            f"mrope_rotary_cos_sin has {request.rotary.size} values, the engine wants P*R = {size}"
        )


def constant_rotary(engine: EngineConfig) -> Floats:
    """The engine's own cos/sin of plain positions, float32 [P, R/2, 2]."""
    exponents = np.arange(0, engine.rotary_embedding_dim, 2) / engine.rotary_embedding_dim
    frequencies = 1 / (engine.rotary_base**exponents).astype(np.float32)
    angles = np.arange(engine.max_position_embeddings, dtype=np.float32)[:, None] * frequencies
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def context_rotary(request: Request, constants: Floats, first: int, count: int, longest: int) -> Floats:
    """cos/sin [count, R/2, 2] of the tokens from index `first` of a request that prefills.

    They are the caller's, by absolute index. The trap: when the `longest` context of the step is above P, the kernel
    takes plain positions for all of its requests, and says nothing.
    """
    index = np.arange(first, first + count)
    if longest > len(constants):
        return _take(constants, index)
    assert request.rotary is not None
    return _take(request.rotary.reshape(constants.shape), index)


def generation_rotary(request: Request, constants: Floats, index: int) -> Floats:
    """cos/sin [1, R/2, 2] of a generated token at `index`: the engine's own, at index + delta."""
    assert request.delta is not None
    return _take(constants, np.array([index + request.delta]))


def prompt_rows(ids: Ids, tasks: Ids, stride: int, vocab_size: int) -> NDArray[np.int64]:
    """The table row behind each token [tokens]; a text token gets the first of its slot."""
    rows: NDArray[np.int64] = (
        np.where(ids >= vocab_size, ids - vocab_size, 0) + tasks.astype(np.int64) * stride
    )
    return rows


def embed(ids: Ids, words: Floats, table: NDArray[Any], rows: NDArray[np.int64]) -> Floats:
    """PromptTuningEmbedding: the table's rows for ids from vocab_size on, else words; [tokens, H]."""
    vocab_size = len(words)
    visual = (ids >= vocab_size)[:, None]
    return np.where(visual, _take(table, rows), _take(words, np.minimum(ids, vocab_size - 1)))


def deepstack(ids: Ids, table: NDArray[Any], rows: NDArray[np.int64], level: int, vocab_size: int) -> Floats:
    """What is added to the hidden states after decoder layer `level`: [tokens, H], zero for text."""
    gathered = _take(table, rows + level + 1)
    return np.where((ids >= vocab_size)[:, None], gathered, np.zeros_like(gathered))


def _take(table: NDArray[Any], index: NDArray[Any]) -> NDArray[Any]:
    if index.min() < 0 or index.max() >= len(table):
        raise OutOfBounds(f"rows {index.min()} to {index.max()} of {len(table)}")
    taken: NDArray[Any] = table[index]
    return taken
