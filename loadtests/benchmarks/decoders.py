"""What can be measured: our engine as it serves, and transformers; both answer the same questions.

It knows how to drive them and read a clock. It knows no rounds, no ratios and no files of results.

Every decoder decodes greedily from prompts of CONTEXT random tokens, and never ends early.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from build_engine.manifest import Manifest, TextFacts
from build_engine.openvino_ir import load_language_model
from ensemble.config import DeploymentConfig
from ensemble.errors import ServingError
from ensemble.language_model.batch import Batch
from ensemble.language_model.engine import Engine, OnTokens
from ensemble.language_model.forward import LanguageModel, OpenVinoLanguageModel, Scores, bytes_per_block
from ensemble.language_model.kv_cache import kv_blocks
from ensemble.language_model.request import Output, Request, Sampling
from loadtests.benchmarks.machine import Calibration

CONTEXT: Final = 64
"""Tokens of the prompts that decoding starts from."""
SAMPLED: Final = Sampling(temperature=0.7, top_k=20, top_p=0.8, seed=1)
"""The sampling that Qwen recommends."""
_TIMEOUT_S: Final = 600


class Decoder(Protocol):
    """A language model under measurement."""

    def decode(self, sequences: int, steps: int) -> float:
        """Tokens per second of `sequences` that decode together, over `steps` steps, prefill not counted."""

    def prefill(self, lengths: Sequence[int]) -> float:
        """Prompt tokens per second until the first token of each of these prompts is there."""


@dataclass(frozen=True)
class Work:
    """What one token costs whatever runs it: the arithmetic behind the roofline.

    Attributes:
        weight_bytes: read once per step: all layers, and the output head.
        body_parameters: weights that every token is multiplied by; the head only for tokens that want logits.
        head_parameters: of the output head.
        kv_bytes_per_token: keys and values of one token, read once per later token of its sequence.
    """

    weight_bytes: float
    body_parameters: int
    head_parameters: int
    kv_bytes_per_token: float

    @classmethod
    def of(
        cls, text: TextFacts, intermediate_size: int, bits: float, head_bits: float, kv_bytes: float
    ) -> Work:
        """`bits` per weight of the layers, scales included; `kv_bytes` of one number in the KV cache."""
        queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
        layer = text.hidden_size * (2 * queries + 2 * keys + 3 * intermediate_size)
        body, head = layer * text.num_hidden_layers, text.vocab_size * text.hidden_size
        kv = 2 * keys * text.num_hidden_layers * kv_bytes
        return cls((body * bits + head * head_bits) / 8, body, head, kv)

    def decode_limit(self, sequences: int, given: Calibration) -> float:
        """Tokens/s at which the machine's memory or its matrix rate, as just measured, would be used up."""
        read = self.weight_bytes + sequences * CONTEXT * self.kv_bytes_per_token
        compute = given.flops / (2 * (self.body_parameters + self.head_parameters))
        return min(sequences * given.read_bytes_per_s / read, compute)

    def prefill_limit(self, given: Calibration) -> float:
        """Prompt tokens/s at which the matrix rate, as just measured, would be used up."""
        return given.flops / (2 * self.body_parameters)


@dataclass(frozen=True)
class Forward:
    """One forward: when it began, how many seconds it took, and how many sequences decoded; 0 if it had a prompt."""

    start: float
    seconds: float
    decoded: int


class Stopwatch:
    """A LanguageModel that notes its forwards."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.forwards: list[Forward] = []

    @property
    def num_blocks(self) -> int:
        """See LanguageModel."""
        return self._model.num_blocks

    @property
    def max_num_tokens(self) -> int:
        """See LanguageModel."""
        return self._model.max_num_tokens

    def forward(self, batch: Batch) -> Scores:
        """See LanguageModel."""
        start = time.perf_counter()
        scores = self._model.forward(batch)
        seconds = time.perf_counter() - start
        past = batch.past_lens
        decoded = len(past) if len(batch.input_ids) == len(past) and past.all() else 0
        self.forwards.append(Forward(start, seconds, decoded))
        return scores

    def clear(self, blocks: Sequence[int]) -> None:
        """See LanguageModel."""
        self._model.clear(blocks)


@dataclass(frozen=True)
class Steps:
    """Steps in which all sequences decoded: how many tokens came in how many seconds, and what part was forward.

    A step lasts from its forward to the next one's. Arrivals of tokens would not do: those of one step come one after the
    other, and between the arrivals of two sequences lie not the same steps.
    """

    tokens: int
    seconds: float
    forward_seconds: float
    count: int

    @property
    def overhead_us(self) -> float:
        """Microseconds of a step outside the forward: scheduler, packing, sampler, delivery to callbacks."""
        return (self.seconds - self.forward_seconds) / self.count * 1e6


class ServingEngine:
    """Our engine as the server runs it: Engine, scheduler, paged KV, sampler, callbacks."""

    def __init__(
        self,
        engines: Path,
        max_batch_size: int = 0,
        quantise_activations: bool = True,
        reuse: bool = False,
        matrix_tiles: str = "auto",
    ) -> None:
        """Load `engines`. `max_batch_size` 0: the engine's. Prefix reuse is off: every prompt is computed."""
        manifest = Manifest.read(engines)
        if max_batch_size:
            manifest = replace(manifest, limits=replace(manifest.limits, max_batch_size=max_batch_size))
        config = DeploymentConfig(engines=engines, matrix_tiles=matrix_tiles)
        self.manifest = manifest
        self.reuse = reuse
        self.model = Stopwatch(
            OpenVinoLanguageModel.load(config, manifest) if quantise_activations else _exact(config, manifest)
        )
        self.asked_s = 0.0
        self._random = np.random.default_rng(0)

    def decode(self, sequences: int, steps: int) -> float:
        """See Decoder."""
        measured = self.steps(sequences, steps)
        return measured.tokens / measured.seconds

    def steps(
        self, sequences: int, steps: int, sampling: Sampling | None = None, log_probs: bool = False
    ) -> Steps:
        """Decode, and look at `steps` steps in which every sequence got a token.

        Raises RuntimeError when fewer than two such steps followed each other, besides what `answer` raises.
        """
        most = self.model.max_num_tokens or self.manifest.limits.max_num_tokens
        late = -(-sequences * CONTEXT // most)  # steps that the prompts take
        self.model.forwards.clear()
        self.answer([self.request(CONTEXT, steps + late + 2, sampling, log_probs) for _ in range(sequences)])
        full = [done for done in self.model.forwards if done.decoded == sequences][: steps + 1]
        if len(full) < 2:
            raise RuntimeError(
                f"{sequences} sequences decoded together in {len(full)} steps; at least 2 are needed"
            )
        measured = full[:-1]
        return Steps(
            tokens=sequences * len(measured),
            seconds=full[-1].start - full[0].start,
            forward_seconds=sum(done.seconds for done in measured),
            count=len(measured),
        )

    def prefill(self, lengths: Sequence[int]) -> float:
        """See Decoder."""
        times = self.answer([self.request(length, 1) for length in lengths])
        return sum(lengths) / (max(arrivals[0] for arrivals in times) - self.asked_s)

    def request(
        self, length: int, new_tokens: int, sampling: Sampling | None = None, log_probs: bool = False
    ) -> Request:
        """A text request of random tokens."""
        text = self.manifest.text
        inverse = np.array(text.inv_freq, np.float32)
        angles = np.arange(length + new_tokens, dtype=np.float32)[:, None] * inverse
        return Request(
            request_id=self._random.bytes(8).hex(),
            input_ids=self._random.integers(0, text.vocab_size, length).astype(np.int32),
            prompt_embedding_table=np.zeros(
                (self.manifest.rows_per_visual_token, text.hidden_size), np.float32
            ),
            extra_ids=np.zeros(length, np.uint64),
            mrope_cos_sin=np.stack([np.cos(angles), np.sin(angles)], axis=-1),
            max_new_tokens=new_tokens,
            sampling=sampling or Sampling(),
            return_log_probs=log_probs,
        )

    def answer(self, requests: Sequence[Request]) -> list[list[float]]:
        """Answer all of them at once in a new Engine; the time of each token of each request.

        They are submitted between two steps, so that the next one sees all of them, as a peer's does: a step of the first
        prompt alone would cost almost as much as one of all. Sets `asked_s`, the time of that.

        Raises RuntimeError when a request fails, when it hangs, or when KV blocks stay held.
        """
        times: dict[str, list[float]] = {request.request_id: [] for request in requests}
        failed: list[str] = []
        left = threading.Semaphore(0)
        engine = Engine(self.model, self.manifest, self.reuse)

        def ask(first: Output) -> None:
            self.asked_s = time.perf_counter()
            try:
                if first.error is not None:
                    raise first.error
                for request in requests:
                    engine.submit(request, _note(times[request.request_id], failed, left))
            except ServingError as error:
                failed.append(str(error))
                left.release(len(requests))

        try:
            engine.submit(self.request(1, 1), ask)  # callbacks run on the engine's own thread
            for _ in requests:
                if not left.acquire(timeout=_TIMEOUT_S):
                    raise RuntimeError(f"no answer within {_TIMEOUT_S} s")
        finally:
            engine.close()
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(requests)} requests failed: {failed[0]}")
        if engine.counters.kv_blocks_in_use:
            raise RuntimeError(f"{engine.counters.kv_blocks_in_use} KV blocks are held after the last answer")
        return list(times.values())


class TransformersModel:
    """transformers, eager: a batch of equal prompts, its own KV cache, no scheduler and no sampler.

    Args:
        checkpoint: its directory.
        dtype: of weights and arithmetic, as torch names it.

    Attributes:
        dtype: the same.
        value_bytes: what a weight, key or value takes.
    """

    def __init__(self, checkpoint: Path, dtype: str) -> None:
        import torch
        from transformers import Qwen3VLForConditionalGeneration

        self._torch = torch
        self._model = Qwen3VLForConditionalGeneration.from_pretrained(
            checkpoint, dtype=getattr(torch, dtype)
        ).eval()
        for parameter in self._model.parameters():
            # Weights mapped from a file can be dropped from memory while another case runs, and be read again.
            parameter.data = parameter.data.clone()
        self.dtype, self.value_bytes = dtype, getattr(torch, dtype).itemsize
        self._vocab_size = self._model.config.text_config.vocab_size
        self._random = np.random.default_rng(0)

    def decode(self, sequences: int, steps: int) -> float:
        """See Decoder."""
        with self._torch.inference_mode():
            state = self._forward(self._tokens(sequences, CONTEXT), None)
            start = time.perf_counter()
            for _ in range(steps):
                state = self._forward(state.logits[:, -1:].argmax(-1), state.past_key_values)
            state.logits[:, -1:].argmax(-1)
            return sequences * steps / (time.perf_counter() - start)

    def prefill(self, lengths: Sequence[int]) -> float:
        """See Decoder. One prompt after the other: it has no ragged batch, and padding would cost more."""
        prompts = [self._tokens(1, length) for length in lengths]
        with self._torch.inference_mode():
            start = time.perf_counter()
            for prompt in prompts:
                self._forward(prompt, None).logits[:, -1:].argmax(-1)
            return sum(lengths) / (time.perf_counter() - start)

    def _tokens(self, sequences: int, length: int) -> Any:
        return self._torch.from_numpy(self._random.integers(0, self._vocab_size, (sequences, length)))

    def _forward(self, ids: Any, past: Any) -> Any:
        self._model.model.rope_deltas = None if past is None else self._model.model.rope_deltas
        return self._model(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)


def _exact(config: DeploymentConfig, manifest: Manifest) -> OpenVinoLanguageModel:
    """The engine without rounded activations, which no server runs."""
    compiled = load_language_model(config.engines, manifest, quantise_activations=False)
    return OpenVinoLanguageModel(compiled, kv_blocks(config, manifest, bytes_per_block(compiled)))


def _note(times: list[float], failed: list[str], left: threading.Semaphore) -> OnTokens:
    def on_tokens(output: Output) -> None:
        times.extend([time.perf_counter()] * len(output.token_ids))
        if output.error is not None:
            failed.append(str(output.error))
        if output.finished:
            left.release()

    return on_tokens
