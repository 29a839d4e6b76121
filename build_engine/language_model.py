"""The decoder as an OpenVINO graph over paged attention, node by node.

It knows the network and the inputs that the in-flight batcher feeds; it knows nothing of scheduling or
sampling. A step is a ragged batch: the T tokens of S sequences one after the other, some prefilling a chunk,
some decoding one token.

Inputs (f32 unless said): input_ids i32 [T]; prompt_embedding_table [rows, H], the rows of this step's visual
tokens, 1 + D consecutive ones per token, at least 1 + D rows; rotary_cos, rotary_sin [T, 1, head_dim];
past_lens i32 [S]; subsequence_begins i32 [S + 1]; block_indices i32 [blocks]; block_indices_begins i32 [S +
1]; max_context_len i32 scalar; logits_index i32 [wanted], perhaps none; key_cache.{i}, value_cache.{i}.
Output: logits [wanted, vocab_size].

An id of vocab_size + r is virtual: its embedding is row r of the table, and row r + 1 + k is added after
decoder layer k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import openvino as ov
from openvino import PartialShape, Type
from openvino import opset13 as ops
from openvino._pyopenvino.op import _PagedAttentionExtension

from build_engine.checkpoint import Checkpoint
from build_engine.weights import Weights

INPUTS: Final[dict[str, tuple[Type, int]]] = {
    "past_lens": (Type.i32, 1),
    "subsequence_begins": (Type.i32, 1),
    "block_indices": (Type.i32, 1),
    "block_indices_begins": (Type.i32, 1),
    "max_context_len": (Type.i32, 0),
}
"""Inputs that go to every paged attention: name to type and rank."""


def build_decoder(
    checkpoint: Checkpoint, scheme: str, progress: Callable[[], None] = lambda: None
) -> Decoder:
    """Build the graph with weights stored in `scheme`; `progress` is called once per layer."""
    decoder = Decoder(checkpoint, scheme)
    decoder.build(progress)
    return decoder


class Decoder:
    """The graph, and the arrays that its constants share memory with (they must outlive `model`)."""

    model: ov.Model

    def __init__(self, checkpoint: Checkpoint, scheme: str) -> None:
        self.text, self.architecture = checkpoint.text, checkpoint.architecture
        self.levels = checkpoint.vision.deepstack_levels
        self.weights = Weights(checkpoint.shards)
        self.scheme = scheme
        # Embedding rows and the output head stay at int8: they decide the token, and are read once a step.
        self.vocabulary_scheme = "int8" if scheme == "int4" else scheme
        self.parameters: dict[str, ov.Node] = {}

    def build(self, progress: Callable[[], None]) -> None:
        """Make `model`."""
        text = self.text
        ids = self._input("input_ids", Type.i32, [-1])
        table = self._input("prompt_embedding_table", Type.f32, [-1, text.hidden_size])
        self.cos, self.sin = (
            ops.unsqueeze(self._input(name, Type.f32, [-1, 1, text.head_dim]), _int(1))
            for name in ("rotary_cos", "rotary_sin")
        )
        wanted = self._input("logits_index", Type.i32, [-1])
        self.paging = [self._input(name, kind, [-1] * rank) for name, (kind, rank) in INPUTS.items()]

        x, deepstack = self._embed(ids, table)
        for i in range(text.num_hidden_layers):
            # Behind the last layer's keys and values, nothing of the other tokens is needed any more.
            kept = wanted if i == text.num_hidden_layers - 1 else None
            x = self._layer(x, i, kept)
            if i < self.levels:
                x = ops.add(x, _only(deepstack(i), kept))
            progress()
        x = self._norm(x, "norm")
        name = "embed_tokens" if self.architecture.tie_word_embeddings else None
        head = f"{_PREFIX}.{name}.weight" if name else "lm_head.weight"
        logits = ops.result(ops.matmul(x, self.weights.matrix(head, self.vocabulary_scheme), False, True))
        logits.output(0).get_tensor().set_names({"logits"})
        self.model = ov.Model([logits], list(self.parameters.values()), "qwen3_vl_language_model")

    def _input(self, name: str, kind: Type, shape: list[int] | PartialShape) -> ov.Node:
        node = ops.parameter(PartialShape(shape), kind, name=name)
        node.output(0).get_tensor().set_names({name})
        self.parameters[name] = node
        return node

    def _embed(self, ids: ov.Node, table: ov.Node) -> tuple[ov.Node, Callable[[int], ov.Node]]:
        """Embeddings [T, H], and a function from the level to the DeepStack rows [T, H], zero for text
        tokens.
        """
        vocab_size = _int(self.text.vocab_size)
        virtual = ops.unsqueeze(ops.greater_equal(ids, vocab_size), _int(1))
        row = ops.maximum(ops.subtract(ids, vocab_size), _int(0))
        text_ids = ops.minimum(ids, _int(self.text.vocab_size - 1))
        words = self.weights.rows(f"{_PREFIX}.embed_tokens.weight", text_ids, self.vocabulary_scheme)
        x = ops.select(virtual, ops.gather(table, row, _int(0)), words)

        def deepstack(level: int) -> ov.Node:
            rows = ops.gather(table, ops.add(row, _int(1 + level)), _int(0))
            return ops.select(virtual, rows, ops.constant(np.float32(0)))

        return x, deepstack

    def _layer(self, x: ov.Node, i: int, kept: ov.Node | None) -> ov.Node:
        """Layer `i` of x [T, H]: [T, H], or [wanted, H] of the tokens `kept`."""
        layer = f"layers.{i}"
        attended = _only(self._attend(self._norm(x, f"{layer}.input_layernorm"), i), kept)
        name, biased = f"{layer}.self_attn.o_proj", self.architecture.attention_bias
        x = ops.add(_only(x, kept), self._linear(attended, name, biased))
        h = self._norm(x, f"{layer}.post_attention_layernorm")
        gate = ops.swish(self._linear(h, f"{layer}.mlp.gate_proj"))
        inner = ops.multiply(gate, self._linear(h, f"{layer}.mlp.up_proj"))
        return ops.add(x, self._linear(inner, f"{layer}.mlp.down_proj"))

    def _attend(self, h: ov.Node, i: int) -> ov.Output:
        """What the heads of layer `i` see, [T, heads * head_dim]."""
        text, name = self.text, f"layers.{i}.self_attn"
        q = self._heads(h, f"{name}.q", text.num_attention_heads)
        k = self._heads(h, f"{name}.k", text.num_key_value_heads)
        v = self._linear(h, f"{name}.v_proj", biased=self.architecture.attention_bias)
        caches = [
            self._input(f"{kind}_cache.{i}", Type.dynamic, PartialShape.dynamic(4))
            for kind in ("key", "value")
        ]
        past_lens, begins, blocks, blocks_begins, max_context_len = self.paging
        attended = _PagedAttentionExtension(
            [node.output(0) for node in (
                q, k, v, *caches, past_lens, begins, blocks, blocks_begins,
                ops.constant(np.float32(text.head_dim**-0.5)),
                _int(0),  # sliding_window: none
                _floats(),  # alibi_slopes: none
                max_context_len,
                *_unused_features(),
            )]
        )  # fmt: skip
        return attended.output(0)

    def _heads(self, h: ov.Node, name: str, heads: int) -> ov.Node:
        """Project, normalise each head, rotate; [T, heads * head_dim]."""
        size = self.text.head_dim
        x = self._linear(h, f"{name}_proj", biased=self.architecture.attention_bias)
        x = self._unscaled_norm(ops.reshape(x, _ints(0, heads, 1, size), True))
        halves = ops.variadic_split(x, _int(3), _ints(size // 2, -1))
        turned = ops.concat([ops.multiply(halves.output(1), np.float32(-1)), halves.output(0)], -1)
        # The norm's weights scale the table, which all heads share, instead of every head.
        weight = self.weights.shards.float32(f"{_PREFIX}.{name}_norm.weight")
        cos = ops.multiply(self.cos, ops.constant(weight))
        sin = ops.multiply(self.sin, ops.constant(np.roll(weight, size // 2)))
        rotated = ops.add(ops.multiply(x, cos), ops.multiply(turned, sin))
        return ops.reshape(rotated, _ints(0, heads * size), True)

    def _linear(self, x: ov.Node, name: str, biased: bool = False) -> ov.Node:
        full = f"{_PREFIX}.{name}"
        y = ops.matmul(x, self.weights.matrix(f"{full}.weight", self.scheme), False, True)
        return ops.add(y, self.weights.vector(f"{full}.bias")) if biased else y

    def _norm(self, x: ov.Node, name: str) -> ov.Node:
        """Root mean square norm over the last axis, in the form that OpenVINO fuses."""
        return ops.multiply(self._unscaled_norm(x), self.weights.vector(f"{_PREFIX}.{name}.weight"))

    def _unscaled_norm(self, x: ov.Node) -> ov.Node:
        mean = ops.reduce_mean(ops.power(x, ops.constant(np.float32(2))), _ints(-1), True)
        root = ops.sqrt(ops.add(mean, ops.constant(np.float32(self.architecture.rms_norm_eps))))
        return ops.multiply(x, ops.divide(ops.constant(np.float32(1)), root))


_PREFIX = "model.language_model"


def _only(x: ov.Node | ov.Output, rows: ov.Node | None) -> ov.Node | ov.Output:
    """These rows of x, or all."""
    return x if rows is None else ops.gather(x, rows, _int(0))


def _unused_features() -> list[ov.Node]:
    """Inputs 13 to 27 of the operation, all empty or zero.

    The operation has no public specification for this release; the order is that of OpenVINO 2026.4, which is
    why the version is pinned. score_aggregation_window must be empty: a scalar fails as soon as two sequences
    run.
    """
    return [
        _ints(),  # score_aggregation_window
        _ints(),  # rotated_block_indices
        _ints(),  # rotation_deltas
        _floats(),  # rotation_trig_lut
        _floats(),  # xattention_threshold
        _int(0),  # xattention_block_size
        _int(0),  # xattention_stride
        _floats(),  # sinks
        _int(0),  # adaptive_rkv_start_size
        _ints(),  # adaptive_rkv_evictable_sizes
        _ints(),  # adaptive_rkv_diversity_block_set_indices
        _ints(),  # adaptive_rkv_diversity_block_set_indices_begins
        _ints(),  # token_type_ids
        ops.constant(np.zeros(0, np.uint8)),  # qq_bias
        _ints(),  # qq_bias_begins
    ]


def _int(value: int) -> ov.Node:
    return ops.constant(np.int32(value))


def _ints(*values: int) -> ov.Node:
    return ops.constant(np.array(values, np.int32))


def _floats() -> ov.Node:
    return ops.constant(np.zeros(0, np.float32))
