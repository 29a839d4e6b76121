"""Qwen3-VL's language model on TensorRT-LLM 1.2.1's Python API: its Qwen3 decoder, MRoPE, and DeepStack.

Everything is TensorRT-LLM's own `QWenForCausalLM` (tensorrt_llm/models/qwen/model.py) but for six deviations, marked [1] to
[6] below. It knows the graph; where the numbers come from is config.py's matter, how it is compiled build.py's.

The visual contract. Visual token i of a request owns 1 + D consecutive rows of the request's slot in the prompt embedding
table: its merged feature, then DeepStack level 0 .. D-1. Its id is vocab_size + (1 + D) * i. The stock
`PromptTuningEmbedding` reads row (1 + D) * i as the embedding; the layers here add row (1 + D) * i + 1 + k after decoder
layer k. The backend moves rows verbatim and never looks at ids, so in-flight batching, chunked context, KV reuse, tensor
parallelism, LoRA and quantised layers need no change.

Not yet run on hardware. tests/trtllm/test_model.py runs this very code on an eager stand-in for the operations below, strict
about types like a strongly typed network, against transformers.
"""

from __future__ import annotations

from typing import Any

from tensorrt_llm.functional import Tensor, cast, embedding, expand, shape, unsqueeze, where
from tensorrt_llm.models.modeling_utils import DecoderLayerList
from tensorrt_llm.models.qwen.config import QWenConfig
from tensorrt_llm.models.qwen.model import QWenDecoderLayer, QWenForCausalLM, QWenModel


class DeepstackRows:
    """The DeepStack rows of the T tokens of one packed step, looked up level by level.

    Args:
        input_ids: int32 [T], word ids and virtual ids of all sequences, one after the other.
        table: [slots * rows_per_slot, hidden_size] in the model's dtype, the slots of all sequences.
        tasks: int32 [T], the slot of the sequence that a token belongs to.
        rows_per_slot: int32 [1], TensorRT-LLM's `prompt_vocab_size`: constant for the life of an engine.
        vocab_size: the first virtual id.
    """

    def __init__(
        self, input_ids: Tensor, table: Tensor, tasks: Tensor, rows_per_slot: Tensor, vocab_size: int
    ) -> None:
        is_visual = input_ids > (vocab_size - 1)
        row = where(is_visual, input_ids - vocab_size, 0)
        # As PromptTuningEmbedding does it, so that both lookups stay in step: `tasks` may be shorter than the ids.
        row = row + expand(tasks * rows_per_slot, shape(row))
        self._table = table
        self._row = row
        self._is_visual = unsqueeze(is_visual, -1)
        # where(mask, rows, 0) would make an int32 zero, which a strongly typed network refuses beside bfloat16 rows. This is
        # how functional.embedding makes a zero of the right type.
        typed = cast(self._is_visual, table.dtype)
        self._zero = typed - typed

    def add_to(self, hidden_states: Tensor, level: int) -> Tensor:
        """`hidden_states` [T, hidden_size] with the rows of `level` added at visual tokens.

        Text tokens read row slot + 1 + level, which exists (a slot holds at least 1 + D rows), and drop it. Gathering here,
        not once for all levels before the first layer, lets TensorRT reuse the memory of the gathered rows.
        """
        rows = embedding(self._row + (1 + level), self._table)
        return hidden_states + where(self._is_visual, rows, self._zero)


class Qwen3VLDecoderLayer(QWenDecoderLayer):  # type: ignore[misc]
    """A Qwen3 decoder layer that adds one DeepStack level to what it returns."""

    def __init__(self, config: QWenConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        # [1] QWenDecoderLayer gives Attention no eps, so its q/k norms use 1e-5; the checkpoint says 1e-6.
        self.attention.q_layernorm.eps = config.norm_epsilon
        self.attention.k_layernorm.eps = config.norm_epsilon
        self.deepstack: DeepstackRows | None = None

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        """See QWenDecoderLayer; takes what DecoderLayerList passes, LoRA and MRoPE parameters included."""
        output = super().forward(hidden_states, **kwargs)
        # [2] The residual stream is full-width and equal on all tensor-parallel ranks here (after the MLP's all-reduce), and
        # the table is whole on every rank: each rank adds the whole row, once.
        if self.deepstack is None:
            return output
        if not isinstance(output, tuple):
            return self.deepstack.add_to(output, self.layer_idx)
        added = self.deepstack.add_to(output[0], self.layer_idx)
        return (added, *output[1:])


class Qwen3VLModel(QWenModel):  # type: ignore[misc]
    """The decoder: hands the DeepStack rows of a step to layers 0 .. D-1 and runs as QWenModel does."""

    def __init__(self, config: QWenConfig) -> None:
        # [3] input_ids exist on the first pipeline rank only, and context parallelism splits them but not `tasks`.
        if config.mapping.pp_size != 1 or config.mapping.cp_size != 1:
            raise ValueError(
                f"pp_size {config.mapping.pp_size}, cp_size {config.mapping.cp_size}: Qwen3-VL is built with tensor "
                "parallelism only; both must be 1"
            )
        super().__init__(config)
        # [4] QWenModel names its layer class itself; replaced before any layer has weights.
        self.layers = DecoderLayerList(Qwen3VLDecoderLayer, config)
        self.vocab_size: int = config.vocab_size
        self.deepstack_levels: int = config.deepstack_levels

    def forward(
        self,
        input_ids: Tensor,
        prompt_embedding_table: Tensor | None = None,
        prompt_tasks: Tensor | None = None,
        prompt_vocab_size: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """See QWenModel; without a table (max_prompt_embedding_table_size 0) it is a plain text decoder."""
        rows = None
        if prompt_embedding_table is not None:
            rows = DeepstackRows(
                input_ids, prompt_embedding_table, prompt_tasks, prompt_vocab_size, self.vocab_size
            )
        for level in range(self.deepstack_levels):
            self.layers[level].deepstack = rows
        # `vocab_embedding` stays a plain Embedding: TensorRT-LLM replaces any module of that name by its own
        # PromptTuningEmbedding when the engine has a table.
        return super().forward(
            input_ids=input_ids,
            prompt_embedding_table=prompt_embedding_table,
            prompt_tasks=prompt_tasks,
            prompt_vocab_size=prompt_vocab_size,
            **kwargs,
        )


class Qwen3VLForCausalLM(QWenForCausalLM):  # type: ignore[misc]
    """The whole language model. `config` comes from `build_engine.trtllm.config`."""

    def __init__(self, config: QWenConfig) -> None:
        super().__init__(config)
        # [5] QWenForCausalLM names its decoder class itself; replaced before quantisation and weights, which follow __init__.
        self.transformer = Qwen3VLModel(config)

    def prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """See PretrainedModel."""
        # [6] tensorrt_llm.builder.build asks for the MRoPE inputs only when the architecture is Qwen2-VL's.
        kwargs["mrope_rotary_cos_sin_size"] = (
            self.config.max_position_embeddings * self.config.rotary_embedding_dim
        )
        return super().prepare_inputs(*args, **kwargs)
