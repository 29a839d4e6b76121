"""transformers' Qwen3-VL decoder on packed tokens of several sequences, as the engine's graph computes it: float32, the
checkpoint's own layers, and the cos/sin, table rows and caches that it is given.

It knows no positions: those are in the rotary rows.
"""

from __future__ import annotations

from typing import Any

import torch

from tests import prompt_slots
from tests.inflight_batch import Step
from tests.prompt_slots import Floats


class PackedDecoder:
    """A Decoder with the weights of a Qwen3VLForConditionalGeneration and `levels` DeepStack levels."""

    def __init__(self, model: Any, levels: int) -> None:
        self._text, self._head, self._levels = model.model.language_model, model.lm_head, levels
        self._words: Floats = self._text.embed_tokens.weight.detach().numpy()

    def new_cache(self, positions: int) -> Floats:
        """See Decoder."""
        config = self._text.config
        # A position that is read before it is written must show.
        shape = (len(self._text.layers), 2, config.num_key_value_heads, positions, config.head_dim)
        return torch.full(shape, torch.nan).numpy()

    @torch.no_grad()
    def forward(self, step: Step) -> Floats:
        """See Decoder."""
        ids, table, vocab_size = step.input_ids, step.prompt_embedding_table, len(self._words)
        rows = prompt_slots.prompt_rows(ids, step.tasks, step.prompt_vocab_size, vocab_size)
        hidden = torch.from_numpy(prompt_slots.embed(ids, self._words, table, rows))
        rotary = torch.from_numpy(step.rotary)
        for at, layer in enumerate(self._text.layers):
            hidden = hidden + self._attend(layer.self_attn, layer.input_layernorm(hidden), rotary, step, at)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
            if at < self._levels:
                hidden = hidden + torch.from_numpy(prompt_slots.deepstack(ids, table, rows, at, vocab_size))
        last = torch.tensor([count for _, count, _ in step.parts]).cumsum(0) - 1
        logits: Floats = self._head(self._text.norm(hidden[last])).numpy()
        return logits

    def _attend(
        self, layer: Any, hidden: torch.Tensor, rotary: torch.Tensor, step: Step, at: int
    ) -> torch.Tensor:
        heads = (len(hidden), -1, layer.head_dim)
        queries = _rotate(layer.q_norm(layer.q_proj(hidden).view(heads)), rotary)
        keys = _rotate(layer.k_norm(layer.k_proj(hidden).view(heads)), rotary)
        values = layer.v_proj(hidden).view(heads)
        out, first = [], 0
        for past, count, cache in step.parts:
            own, end = slice(first, first + count), past + count
            held = torch.from_numpy(cache)[at]  # [2, heads, positions, head_dim], shared with the cache
            held[0, :, past:end] = keys[own].transpose(0, 1)
            held[1, :, past:end] = values[own].transpose(0, 1)
            seen = torch.arange(end) <= torch.arange(past, end)[:, None]
            out.append(
                torch.nn.functional.scaled_dot_product_attention(
                    queries[own].transpose(0, 1)[None],
                    held[None, 0, :, :end],
                    held[None, 1, :, :end],
                    attn_mask=seen,
                    scale=layer.scaling,
                    enable_gqa=True,
                )[0].transpose(0, 1)
            )
            first += count
        attended: torch.Tensor = layer.o_proj(torch.cat(out).flatten(1))
        return attended


def _rotate(states: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Rotate [tokens, heads, R]; the pairs are (j, j + R/2)."""
    cos, sin = rotary[:, None, :, 0], rotary[:, None, :, 1]
    first, second = states.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
