"""One answer: generated tokens in, chunks of `contract.REPLY` out.

It knows when an answer is finished and what is counted. It does not know threads, callers or Triton.

- finish_reason is "stop" after an end-of-answer token (any id of `tokens.eos`) or a stop string, and "length"
  when as many tokens were generated as the request allows. A stream that ends earlier was ended by the
  language model itself: NVIDIA's C++ backend does not report the end token, so that is "stop" too.
- Every generated token is counted in completion_tokens and listed in token_ids, the end token included (as
  transformers' generate and vLLM count). Tokens after the one that completes a stop string are neither.
- The text has no special tokens, no stop string, and only whole characters.
- A piece of text goes out with all tokens since the last piece. Text that may become a stop string is kept
  back.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engine.manifest import Manifest
from ensemble.errors import EngineFailure
from ensemble.options import DEFAULT_MAX_TOKENS, Options
from ensemble.postprocessing.call import Tensors
from ensemble.postprocessing.confidence import Confidence
from ensemble.postprocessing.detokenizer import Detokenizer, Vocabulary
from ensemble.postprocessing.stop import StopStrings


@dataclass(frozen=True)
class Generated:
    """One response of the language model: the tokens that are new in it, with natural log-probabilities."""

    token_ids: list[int]
    log_probs: list[float]
    prompt_tokens: int
    reused_blocks: int

    @classmethod
    def read(cls, tensors: Tensors) -> Generated:
        """Read outputs of `contract.GENERATED`, with or without a leading batch dimension of 1.

        EngineFailure if a token has no log-probability (preprocessing always asks for them).
        """
        token_ids: list[int] = tensors["output_ids"].reshape(-1).tolist()
        del token_ids[int(tensors["sequence_length"].reshape(-1)[0]) :]
        log_probs: list[float] = tensors["output_log_probs"].reshape(-1).tolist()
        if len(log_probs) < len(token_ids):
            raise EngineFailure(f"{len(token_ids)} tokens came with {len(log_probs)} log-probabilities")
        return cls(
            token_ids,
            log_probs[len(log_probs) - len(token_ids) :],
            int(tensors["num_input_tokens"].reshape(-1)[0]),
            int(tensors["kv_cache_reused_blocks"].reshape(-1)[0]),
        )


class Answer:
    """State of one answer.

    Args:
        vocabulary: bytes of every token.
        manifest: facts of the engines (eos ids, longest sequence).
        options: the request's.
        started_s: when the request arrived, `time.monotonic()`.
        tokens_per_block: tokens of a KV block.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        manifest: Manifest,
        options: Options,
        started_s: float,
        tokens_per_block: int,
    ) -> None:
        self.finish_reason = ""
        self.cut = False  # ended by a stop string: the language model would go on
        self._eos = frozenset(manifest.tokens.eos)
        self._max_seq_len = manifest.limits.max_seq_len
        self._max_tokens = options.max_tokens or DEFAULT_MAX_TOKENS
        self._logprobs = options.logprobs
        self._started_s = started_s
        self._tokens_per_block = tokens_per_block
        self._detokenizer = Detokenizer(vocabulary)
        self._stop = StopStrings(options.stop)
        self._confidence = Confidence()
        self._first_token_s: float | None = None
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._completion_tokens = 0
        self._text: list[str] = []  # ready to go out, with the tokens since the last chunk
        self._token_ids: list[int] = []
        self._token_logprobs: list[float] = []

    def add(self, generated: Generated) -> None:
        """Take the tokens of one response, up to the one that finishes the answer."""
        if self._first_token_s is None and generated.token_ids:
            self._first_token_s = time.monotonic()
        self._prompt_tokens = generated.prompt_tokens
        reused = generated.reused_blocks * self._tokens_per_block
        self._cached_tokens = max(self._cached_tokens, min(reused, self._prompt_tokens))
        limit = min(self._max_tokens, self._max_seq_len - self._prompt_tokens)
        for token_id, log_prob in zip(generated.token_ids, generated.log_probs, strict=True):
            if self.finish_reason:
                return
            self._add_token(token_id, log_prob, limit)

    def _add_token(self, token_id: int, log_prob: float, limit: int) -> None:
        self._completion_tokens += 1
        self._confidence.add(log_prob)
        self._token_ids.append(token_id)
        if self._logprobs:
            self._token_logprobs.append(log_prob)
        if token_id in self._eos:
            self._end("stop")
            return
        self._text.append(self._stop.push(self._detokenizer.push(token_id)))
        if self._stop.found:
            self.cut = True
            self.finish_reason = "stop"
        elif self._completion_tokens >= limit:
            self._end("length")

    def end(self) -> None:
        """The stream ended before the answer was finished."""
        self._end("stop")

    def _end(self, finish_reason: str) -> None:
        self._text.append(self._stop.push(self._detokenizer.flush()))
        self._text.append(self._stop.flush())
        self.finish_reason = finish_reason

    def take(self) -> dict[str, npt.NDArray[Any]] | None:
        """The next chunk, with everything since the last one; None while no text is ready."""
        text = "".join(self._text)
        if not text:
            return None
        chunk: dict[str, npt.NDArray[Any]] = {
            "text": np.array([text.encode("utf-8")], dtype=np.object_),
            "token_ids": np.array(self._token_ids, dtype=np.int32),
        }
        if self._logprobs:
            chunk["token_logprobs"] = np.array(self._token_logprobs, dtype=np.float32)
        self._text.clear()
        self._token_ids.clear()
        self._token_logprobs.clear()
        return chunk

    def last(self) -> dict[str, npt.NDArray[Any]]:
        """The last chunk: whatever text and tokens are left, and all the facts of the answer."""
        now_s = time.monotonic()
        first_token_s = now_s if self._first_token_s is None else self._first_token_s
        chunk = {
            "text": np.array(["".join(self._text).encode("utf-8")], dtype=np.object_),
            "token_ids": np.array(self._token_ids, dtype=np.int32),
            "finish_reason": np.array([self.finish_reason.encode("ascii")], dtype=np.object_),
            "confidence": np.array([self._confidence.value], dtype=np.float32),
            "prompt_tokens": np.array([self._prompt_tokens], dtype=np.int32),
            "completion_tokens": np.array([self._completion_tokens], dtype=np.int32),
            "cached_tokens": np.array([self._cached_tokens], dtype=np.int32),
            "time_to_first_token_ms": np.array([(first_token_s - self._started_s) * 1e3], dtype=np.float32),
            "total_ms": np.array([(now_s - self._started_s) * 1e3], dtype=np.float32),
        }
        if self._logprobs:
            chunk["token_logprobs"] = np.array(self._token_logprobs, dtype=np.float32)
        return chunk
