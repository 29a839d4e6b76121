"""What the language model takes (`Request`) and gives (`Output`); tensors are checked here, once.

It knows the contract's tensors and the engine's limits. It does not know blocks, steps, or Triton.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from build_engine.manifest import Manifest
from ensemble.contract import PROMPT, PROMPT_EMBEDDING_TABLE, Tensor
from ensemble.errors import EngineFailure, PromptTooLong, RequestError, ServingError
from ensemble.options import Options

FinishReason = Literal["", "stop", "length", "cancelled"]

_NUMPY: Final[dict[str, npt.DTypeLike]] = {
    "INT32": np.int32, "INT64": np.int64, "UINT64": np.uint64, "FP32": np.float32, "BOOL": np.bool_,
}  # fmt: skip
_REQUIRED: Final = {
    "input_ids",
    "request_output_len",
    "prompt_table_extra_ids",
    "mrope_rotary_cos_sin",
    "prompt_embedding_table",
}


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 or `top_k` 1 is greedy; `top_k` 0 means all tokens."""

    temperature: float = 1.0
    top_k: int = 1
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        """Whether the most likely token (after penalties) is always taken."""
        return self.temperature == 0.0 or self.top_k == 1

    @property
    def penalised(self) -> bool:
        """Whether tokens already seen change the logits."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


@dataclass(frozen=True, eq=False)
class Request:
    """One prompt, and how to go on from it. The arrays are its own copies.

    Attributes:
        request_id: unique among the requests in flight; the name to cancel it by.
        input_ids: int32 [L]; vocab_size + row for a visual token that owns the table rows row .. row+D.
        prompt_embedding_table: float32 [rows,H].
        extra_ids: uint64 [L]; equal ids with equal extra ids have equal embeddings.
        mrope_cos_sin: float32 [at least L+max_new_tokens, R/2, 2]; row t belongs to the token at index t,
            generated ones included.
        sampling: how tokens are chosen.
        end_ids: tokens that end the answer; empty: only the length does.
        max_new_tokens: at least 1.
        return_log_probs: also compute the log-probability of each token.
    """

    request_id: str
    input_ids: npt.NDArray[np.int32]
    prompt_embedding_table: npt.NDArray[np.float32]
    extra_ids: npt.NDArray[np.uint64]
    mrope_cos_sin: npt.NDArray[np.float32]
    max_new_tokens: int
    end_ids: tuple[int, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    return_log_probs: bool = False

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, npt.NDArray[Any]],
        parameters: Mapping[str, Any],
        manifest: Manifest,
        request_id: str,
    ) -> Request:
        """Read the contract's tensors, leading batch dimension of 1 included.

        `min_p` is read from the request parameters. The arrays are copied, so the caller may free them.
        Raises RequestError for a missing tensor, a wrong dtype, shape or value; PromptTooLong beyond the
        engine's limits; EngineFailure for a table that is not finite: the encoder made it, not the caller.
        """
        for spec in (*PROMPT, PROMPT_EMBEDDING_TABLE):
            _check(spec, tensors.get(spec.name))
        input_ids = tensors["input_ids"][0].copy()
        max_new_tokens = _scalar(tensors, "request_output_len", 1)
        _check_lengths(len(input_ids), max_new_tokens, tensors, manifest)
        table = tensors["prompt_embedding_table"][0].copy()
        _check_table(input_ids, table, manifest)
        extra_ids = tensors["prompt_table_extra_ids"][0].copy()
        if len(extra_ids) != len(input_ids):
            raise RequestError("prompt_table_extra_ids", len(extra_ids), f"one per token, {len(input_ids)}")
        cos_sin = _rotary(tensors["mrope_rotary_cos_sin"][0], len(input_ids) + max_new_tokens, manifest)
        return cls(
            request_id=request_id,
            input_ids=input_ids,
            prompt_embedding_table=table,
            extra_ids=extra_ids,
            mrope_cos_sin=cos_sin,
            max_new_tokens=max_new_tokens,
            end_ids=_end_ids(tensors, manifest),
            sampling=_sampling(tensors, parameters),
            return_log_probs=bool(_scalar(tensors, "return_log_probs", False)),
        )


@dataclass(frozen=True)
class Output:
    """News of one request. The last one is `finished`; its `token_ids` hold the end token if there is one.

    Attributes:
        token_ids: tokens generated since the last Output.
        log_probs: natural log of their probabilities under the unmodified logits; empty if not asked for.
        finish_reason: "" until the end, and after an error.
        error: what went wrong; then `finished` is true.
        num_input_tokens: L.
        reused_blocks: KV blocks of the prompt that were not computed again.
    """

    token_ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    finished: bool = False
    finish_reason: FinishReason = ""
    error: ServingError | None = None
    num_input_tokens: int = 0
    reused_blocks: int = 0


def _check(spec: Tensor, array: npt.NDArray[Any] | None) -> None:
    if array is None:
        if spec.name in _REQUIRED:
            raise RequestError(spec.name, "no tensor", f"{spec.dtype} {list(spec.shape)}")
        return
    fits = len(array.shape) == len(spec.shape) and all(
        want in (-1, got) for want, got in zip(spec.shape, array.shape, strict=True)
    )
    if array.dtype != _NUMPY[spec.dtype] or not fits:
        got = f"{array.dtype} {list(array.shape)}"
        raise RequestError(spec.name, got, f"{spec.dtype} {list(spec.shape)}")


def _scalar(tensors: Mapping[str, npt.NDArray[Any]], name: str, default: Any) -> Any:
    return tensors[name].item() if name in tensors else default


def _check_lengths(
    length: int, max_new_tokens: int, tensors: Mapping[str, npt.NDArray[Any]], manifest: Manifest
) -> None:
    limits = manifest.limits
    if not 1 <= length <= limits.max_input_len:
        kind, advice = (PromptTooLong, "Shorten the prompt.") if length else (RequestError, "")
        raise kind("input_ids", f"{length} tokens", f"1 to {limits.max_input_len} tokens", advice)
    if (said := _scalar(tensors, "input_lengths", length)) != length:
        raise RequestError("input_lengths", said, f"the length of input_ids, {length}")
    if not 1 <= max_new_tokens <= limits.max_seq_len - length:
        raise RequestError(
            "request_output_len",
            max_new_tokens,
            f"1 to {limits.max_seq_len - length}: prompt and answer hold {limits.max_seq_len} together",
        )


def _check_table(
    input_ids: npt.NDArray[np.int32], table: npt.NDArray[np.float32], manifest: Manifest
) -> None:
    vocab_size, owned = manifest.text.vocab_size, manifest.rows_per_visual_token
    rows, hidden = table.shape
    if hidden != manifest.text.hidden_size:
        raise RequestError("prompt_embedding_table", f"width {hidden}", f"width {manifest.text.hidden_size}")
    lowest, highest = int(input_ids.min()), int(input_ids.max())
    if lowest < 0 or (highest >= vocab_size and highest - vocab_size + owned > rows):
        got = lowest if lowest < 0 else highest
        allowed = (
            f"0 to {vocab_size - 1}, or {vocab_size} + r with r to r+{owned - 1} among {rows} table rows"
        )
        raise RequestError("input_ids", got, allowed)
    # A sum is not finite when any item is not; it needs no array of booleans as large as the table.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = bool(np.isfinite(table.sum(dtype=np.float64)))
    if not finite:
        raise EngineFailure("the prompt embedding table is not finite: the vision encoder failed here")


def _rotary(flat: npt.NDArray[np.float32], positions: int, manifest: Manifest) -> npt.NDArray[np.float32]:
    head_dim = manifest.text.head_dim
    if len(flat) % head_dim or len(flat) < positions * head_dim:
        allowed = (
            f"head_dim = {head_dim} values for each token of prompt and answer, {positions}, or for more"
        )
        raise RequestError("mrope_rotary_cos_sin", f"{len(flat)} values", allowed)
    return flat.reshape(-1, head_dim // 2, 2)[:positions].copy()


def _end_ids(tensors: Mapping[str, npt.NDArray[Any]], manifest: Manifest) -> tuple[int, ...]:
    """All ids of the manifest, unless the request names another one; -1 (as in TensorRT-LLM): none."""
    end_id = int(_scalar(tensors, "end_id", manifest.tokens.eos[0]))
    if not -1 <= end_id < manifest.text.vocab_size:
        raise RequestError("end_id", end_id, f"-1 to {manifest.text.vocab_size - 1}")
    if end_id == -1:
        return ()
    return manifest.tokens.eos if end_id in manifest.tokens.eos else (end_id,)


def _sampling(tensors: Mapping[str, npt.NDArray[Any]], parameters: Mapping[str, Any]) -> Sampling:
    min_p = {"min_p": parameters["min_p"]} if "min_p" in parameters else {}

    def number(name: str, default: float, low: float, high: float) -> float:
        value = float(_scalar(tensors, name, default))
        if not (math.isfinite(value) and low <= value <= high):
            raise RequestError(name, value, f"a number from {low:g} to {high:g}")
        return value

    top_k = int(_scalar(tensors, "runtime_top_k", 1))
    if top_k < 0:
        raise RequestError("runtime_top_k", top_k, "0 (all) or more")
    largest = float(np.finfo(np.float32).max)
    return Sampling(
        temperature=number("temperature", 1.0, 0.0, largest),
        top_k=top_k,
        top_p=number("runtime_top_p", 1.0, 0.0, 1.0),
        min_p=Options.from_parameters(min_p).min_p,
        repetition_penalty=number("repetition_penalty", 1.0, float(np.finfo(np.float32).tiny), largest),
        presence_penalty=number("presence_penalty", 0.0, -largest, largest),
        frequency_penalty=number("frequency_penalty", 0.0, -largest, largest),
        seed=int(_scalar(tensors, "seed", secrets.randbits(64))),
    )
