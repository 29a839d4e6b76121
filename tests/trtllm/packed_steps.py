"""Runs the graph code in packed steps, as in-flight batching would, and compares it with transformers at every layer.

The table has fixed slots, one per place in the step's batch, wider than any request needs; a request's place changes from step
to step. Prompts come whole or in chunks; later tokens one at a time. The tokens are given (teacher forcing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from build_engine.checkpoint import Checkpoint
from build_engine.samples import Sample, make_samples, virtual_ids
from build_engine.verify import Transformers
from tests.trtllm import strict_tensorrt_llm as strict

NEW_TOKENS = 3
POSITIONS = 256  # max_seq_len of the engine
EXACT = 1e-4  # of the standard deviation: float32 noise of two ways to add up


@dataclass
class Request:
    """A request with what transformers says about it.

    Attributes:
        ids: prompt and answer, visual tokens as virtual ids.
        table: float32 [N, H], its rows of the prompt embedding table.
        cos_sin: float32 [P * R].
        hidden: float32 [layers, tokens, H], after each layer and its DeepStack level.
        logits: float32 [tokens, vocab_size].
        caches: keys and values so far, by layer.
    """

    name: str
    ids: torch.Tensor
    prompt_len: int
    table: torch.Tensor
    cos_sin: torch.Tensor
    delta: int
    hidden: torch.Tensor
    logits: torch.Tensor
    past: int = 0
    caches: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Scene:
    """A checkpoint, and requests with unequal visual counts."""

    checkpoint: Checkpoint
    requests: dict[str, Request]

    @classmethod
    def make(cls, directory: Path) -> Scene:
        checkpoint = Checkpoint.read(directory)
        facts: Any = SimpleNamespace(
            vision=checkpoint.vision, text=checkpoint.text, tokens=checkpoint.tokens,
            rows_per_visual_token=1 + checkpoint.vision.deepstack_levels,
        )  # fmt: skip
        reference = Transformers(directory, checkpoint.vision)
        samples = {sample.name: sample for sample in make_samples(facts)}
        chosen = ("three images", "video and image", "text", "one image")
        return cls(checkpoint, {name: _request(samples[name], facts, reference) for name in chosen})

    def fresh(self) -> dict[str, Request]:
        """The requests before their first step."""
        layers = self.checkpoint.text.num_hidden_layers
        empty = torch.zeros(2, self.checkpoint.text.num_key_value_heads, 0, self.checkpoint.text.head_dim)
        return {name: replace(r, past=0, caches=[empty] * layers) for name, r in self.requests.items()}


def _request(sample: Sample, facts: Any, reference: Transformers) -> Request:
    random = np.random.default_rng(len(sample.ids))
    answer = random.integers(0, facts.tokens.image, NEW_TOKENS)
    whole = replace(sample, ids=np.concatenate([sample.ids, answer]))
    hidden, logits, delta = _transformers_says(whole, reference)
    hidden_size = facts.text.hidden_size
    table = np.zeros((facts.rows_per_visual_token, hidden_size), np.float32)
    if sample.items:
        pixels = np.concatenate([item.pixels for item in sample.items])
        grids = np.array([item.grid for item in sample.items], np.int32)
        table = reference.encode(pixels, grids).reshape(-1, hidden_size)
    cos, sin = reference.rotary(sample, POSITIONS - len(sample.ids))
    half = facts.text.head_dim // 2
    return Request(
        name=sample.name,
        ids=torch.from_numpy(virtual_ids(whole, facts)),
        prompt_len=len(sample.ids),
        table=torch.from_numpy(table),
        cos_sin=torch.from_numpy(np.stack([cos[:, :half], sin[:, :half]], axis=-1)).flatten(),
        delta=delta,
        hidden=hidden,
        logits=logits,
    )


@torch.no_grad()
def _transformers_says(sample: Sample, reference: Transformers) -> tuple[torch.Tensor, torch.Tensor, int]:
    text = reference.model.model.language_model
    seen: list[torch.Tensor] = []
    # What a layer is given is what the layer before it and its DeepStack level made.
    hooks = [
        module.register_forward_pre_hook(lambda _module, given: seen.append(given[0][0]))
        for module in (*text.layers[1:], text.norm)
    ]
    reference.model.model.rope_deltas = None
    logits = reference.model(**reference._inputs(sample)).logits[0]
    for hook in hooks:
        hook.remove()
    deltas = reference.model.model.rope_deltas
    return torch.stack(seen), logits, 0 if deltas is None else int(deltas)


@dataclass(frozen=True)
class Part:
    """`count` tokens of a request in one step."""

    name: str
    count: int
    in_context: bool = True


class Batch:
    """The requests of a scene on an engine of `dtype`; `step` compares."""

    def __init__(self, scene: Scene, model: Any, dtype: str, tolerance: float) -> None:
        self.model, self.dtype, self.tolerance = model, strict.DTYPES[dtype], tolerance
        self.levels = scene.checkpoint.vision.deepstack_levels
        self.requests = scene.fresh()
        # No multiple of 1 + D, and never full: rows must come from the slot's start, not from anything else.
        self.rows_per_slot = max(len(r.table) for r in self.requests.values()) + 4
        strict.use_prompt_tuning(model)
        self._outputs: list[torch.Tensor] = []
        for layer in model.transformer.layers:
            layer.forward = self._recorded(layer.forward)

    def run(self) -> None:
        """Whole prompts, chunks cut inside a picture, and generation, packed together."""
        video = self.requests["video and image"]
        visual = torch.nonzero(video.ids >= self.model.config.vocab_size)[:, 0]
        cut = int(visual[len(visual) // 2])
        assert video.ids[cut - 1] >= self.model.config.vocab_size, "the cut is not inside a picture"
        self.step(
            Part("three images", self._prompt("three images")),
            Part("video and image", cut),
            Part("text", self._prompt("text")),
        )
        self.step(
            Part("one image", self._prompt("one image")),
            Part("video and image", video.prompt_len - cut),
            Part("text", 1, in_context=False),
            Part("three images", 1, in_context=False),
        )
        for _ in range(2):
            names = ("video and image", "text", "one image", "three images")
            self.step(*(Part(name, 1, in_context=False) for name in names))

    @torch.no_grad()
    def step(self, *parts: Part, lora_params: Any = None) -> None:
        """One packed step; AssertionError where it differs from transformers."""
        requests = [self.requests[part.name] for part in parts]
        counts = [part.count for part in parts]
        context = [request for request, part in zip(requests, parts, strict=True) if part.in_context]
        generating = [request for request, part in zip(requests, parts, strict=True) if not part.in_context]
        ids = torch.cat([r.ids[r.past : r.past + count] for r, count in zip(requests, counts, strict=True)])
        table = torch.zeros((len(parts) + 1) * self.rows_per_slot, self.model.config.hidden_size)
        for slot, request in enumerate(requests):
            start = slot * self.rows_per_slot
            table[start : start + len(request.table)] = request.table
        layers = len(self.model.transformer.layers)
        caches = [[request.caches[layer].to(self.dtype) for request in requests] for layer in range(layers)]
        self._outputs.clear()
        logits = self.model(
            strict.Tensor(ids),
            use_cache=True,
            last_token_ids=strict.Tensor(torch.tensor(counts, dtype=torch.int32).cumsum(0)),
            kv_cache_params=strict.KeyValueCacheParams(caches),
            attention_params=strict.AttentionParams(
                [(request.past, count) for request, count in zip(requests, counts, strict=True)], len(context)
            ),
            mrope_params=strict.MropeParams(
                strict.Tensor(
                    _stack([request.cos_sin for request in context], POSITIONS * self.model.config.head_size)
                ),
                strict.Tensor(
                    torch.tensor([[request.delta] for request in generating], dtype=torch.int32).reshape(
                        -1, 1
                    )
                ),
            ),
            prompt_embedding_table=strict.Tensor(table.to(self.dtype)),
            prompt_tasks=strict.Tensor(
                torch.arange(len(parts)).repeat_interleave(torch.tensor(counts)).int()
            ),
            prompt_vocab_size=strict.Tensor(torch.tensor([self.rows_per_slot], dtype=torch.int32)),
            lora_params=lora_params,
        )
        assert logits.dtype == torch.float32
        hidden = torch.stack(self._outputs)
        assert hidden.dtype == self.dtype
        start = 0
        for place, (request, count) in enumerate(zip(requests, counts, strict=True)):
            end = request.past + count
            self._compare(request, hidden[:, start : start + count], request.hidden[:, request.past : end])
            self._compare(request, logits.value[place], request.logits[end - 1])
            request.caches = [caches[layer][place] for layer in range(layers)]
            request.past, start = end, start + count

    def _prompt(self, name: str) -> int:
        return self.requests[name].prompt_len

    def _recorded(self, forward: Any) -> Any:
        def record(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            self._outputs.append(output[0].value)
            return output

        return record

    def _compare(self, request: Request, got: torch.Tensor, expected: torch.Tensor) -> None:
        error, spread = (got.float() - expected).abs(), float(expected.std())
        # In float32 the largest error counts; in 16 bits single values go astray, so the mean does.
        worst = float(error.max() if self.dtype == torch.float32 else error.mean())
        assert worst < self.tolerance * spread, (
            f"{request.name}: off by {worst / spread:.2g} standard deviations"
        )


def _stack(rows: Sequence[torch.Tensor], width: int) -> torch.Tensor:
    return torch.stack(list(rows)) if rows else torch.zeros(0, width)
