"""A strict, eager stand-in for the part of TensorRT-LLM's Python API that build_engine/trtllm/model.py stands on.

It computes with torch where TensorRT-LLM would add a layer to a network, and refuses what a strongly typed TensorRT network
refuses: operands of different types, conditions that are not bool, indices that are not int32. Where TensorRT-LLM turns Python
numbers into constants it does the same: an elementwise operation takes the other operand's type, `where` makes int32 or
float32. It is stricter in one thing: a gather out of bounds raises, where a GPU would read nonsense.

Requests are packed, as in-flight batching packs them. The classes have TensorRT-LLM's names, parameters and defaults (eps of
the q/k norms 1e-5!) as its sources near 1.2 show them; the code is not theirs. Missing: tensor parallelism, quantised
layers, LoRA (their parameters are only passed on, and recorded). It was never compared with the real thing; what it stands
for is listed in build_engine/trtllm/names.py.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int32": torch.int32,
}
_INTEGERS = (torch.int32, torch.int64)


class StrictTypeError(TypeError):
    """A strongly typed network would refuse to be built."""


# --- tensorrt_llm.functional -----------------------------------------------------------------------------------------


class Tensor:
    """functional.Tensor: only what the graph code uses, so that anything else raises AttributeError."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    @property
    def dtype(self) -> torch.dtype:
        return self.value.dtype

    def __add__(self, other: Any) -> Tensor:
        return elementwise(self, other, operator.add)

    def __sub__(self, other: Any) -> Tensor:
        return elementwise(self, other, operator.sub)

    def __mul__(self, other: Any) -> Tensor:
        return elementwise(self, other, operator.mul)

    def __gt__(self, other: Any) -> Tensor:
        return elementwise(self, other, operator.gt)


def constant(value: Any, dtype: torch.dtype | None = None) -> Tensor:
    """constant_to_tensor_: a Python int becomes int32 [1], a float float32 [1], unless a type is given."""
    if isinstance(value, Tensor):
        return value
    if dtype is None:
        dtype = (
            torch.bool
            if isinstance(value, bool)
            else torch.int32
            if isinstance(value, int)
            else torch.float32
        )
    return Tensor(torch.tensor([value], dtype=dtype))


def elementwise(left: Any, right: Any, operation: Callable[[Any, Any], Any]) -> Tensor:
    left = constant(left, right.dtype if isinstance(right, Tensor) else None)
    right = constant(right, left.dtype)
    if left.dtype in _INTEGERS and right.dtype in _INTEGERS and left.dtype != right.dtype:
        left, right = (Tensor(side.value.to(torch.int64)) for side in (left, right))
    _same_type(left, right)
    return Tensor(operation(left.value, right.value))


def where(condition: Any, left: Any, right: Any) -> Tensor:
    condition, left, right = constant(condition), constant(left), constant(right)
    if condition.dtype != torch.bool:
        raise StrictTypeError(f"where: the condition is {condition.dtype}")
    _same_type(left, right)
    return Tensor(torch.where(condition.value, left.value, right.value))


def cast(input: Tensor, dtype: Any) -> Tensor:
    return Tensor(input.value.to(DTYPES[dtype] if isinstance(dtype, str) else dtype))


def shape(input: Tensor) -> Tensor:
    return Tensor(torch.tensor(input.value.shape, dtype=torch.int64))


def expand(input: Tensor, expand_shape: Tensor) -> Tensor:
    wanted = expand_shape.value.tolist()
    if len(wanted) != input.value.ndim or any(
        have not in (1, want) for have, want in zip(input.value.shape, wanted, strict=True)
    ):
        raise StrictTypeError(f"expand: {list(input.value.shape)} to {wanted}")
    return Tensor(input.value.expand(wanted))


def unsqueeze(input: Tensor, axis: int) -> Tensor:
    return Tensor(input.value.unsqueeze(axis))


def embedding(input: Tensor, weight: Tensor) -> Tensor:
    if input.dtype != torch.int32:
        raise StrictTypeError(f"embedding: indices are {input.dtype}")
    if input.value.min() < 0 or input.value.max() >= len(weight.value):
        raise IndexError(f"rows {input.value.min()} to {input.value.max()} of {len(weight.value)}")
    return Tensor(weight.value[input.value.long()])


def matmul(input: Tensor, weight: Tensor) -> Tensor:
    _same_type(input, weight)
    return Tensor(input.value @ weight.value.T)


def _same_type(left: Tensor, right: Tensor) -> None:
    if left.dtype != right.dtype:
        raise StrictTypeError(f"operands are {left.dtype} and {right.dtype}")


# --- tensorrt_llm.module, tensorrt_llm.layers ------------------------------------------------------------------------


class Module:
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)  # type: ignore[attr-defined]

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        children = enumerate(self) if isinstance(self, list) else vars(self).items()
        for name, child in children:
            if isinstance(child, Module):
                yield f"{prefix}{name}", child
                yield from child.named_modules(f"{prefix}{name}.")

    def named_parameters(self) -> dict[str, Parameter]:
        return {
            f"{path}.{name}": value
            for path, module in self.named_modules()
            for name, value in vars(module).items()
            if isinstance(value, Parameter)
        }


@dataclass(eq=False)
class Parameter:
    shape: tuple[int, ...]
    dtype: str
    value: Tensor | None = None

    def set(self, value: torch.Tensor) -> None:
        assert tuple(value.shape) == self.shape, (value.shape, self.shape)
        self.value = Tensor(value.to(DTYPES[self.dtype]))

    @property
    def tensor(self) -> Tensor:
        assert self.value is not None, "a weight was not loaded"
        return self.value


class Linear(Module):
    def __init__(self, in_features: int, out_features: int, dtype: str) -> None:
        self.weight = Parameter((out_features, in_features), dtype)

    def forward(self, x: Tensor) -> Tensor:
        return matmul(x, self.weight.tensor)


class RmsNorm(Module):
    def __init__(self, normalized_shape: int, eps: float = 1e-06, dtype: str = "float32") -> None:
        self.weight = Parameter((normalized_shape,), dtype)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.value.float()
        normal = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return Tensor(normal.to(x.dtype)) * self.weight.tensor


class Embedding(Module):
    def __init__(self, num_embeddings: int, embedding_dim: int, dtype: str) -> None:
        self.num_embeddings, self.embedding_dim, self.dtype = num_embeddings, embedding_dim, dtype
        self.weight = Parameter((num_embeddings, embedding_dim), dtype)

    def forward(self, x: Tensor) -> Tensor:
        return embedding(x, self.weight.tensor)


class PromptTuningEmbedding(Embedding):
    def forward(  # type: ignore[override]
        self, tokens: Tensor, prompt_embedding_table: Tensor, tasks: Tensor, task_vocab_size: Tensor
    ) -> Tensor:
        virtual = tokens > self.num_embeddings - 1
        words = super().forward(where(virtual, self.num_embeddings - 1, tokens))
        rows = where(virtual, tokens - self.num_embeddings, 0) + tasks * task_vocab_size
        return where(unsqueeze(virtual, -1), embedding(rows, prompt_embedding_table), words)


@dataclass
class MropeParams:
    """mrope_rotary_cos_sin float32 [sequences in context, P * R]; mrope_position_deltas int32 [generating, 1]."""

    mrope_rotary_cos_sin: Tensor
    mrope_position_deltas: Tensor


@dataclass
class AttentionParams:
    """(tokens before this step, tokens in it) of each sequence of the packed step, those in context first."""

    sequences: list[tuple[int, int]]
    in_context: int


@dataclass
class KeyValueCacheParams:
    """Keys and values of each sequence, by layer: [2, kv heads, tokens, head_size]; extended in place."""

    past_key_value: list[list[torch.Tensor]]


@dataclass
class LoraParams:
    lora_ranks: list[int]

    def get_layer_params(self, layer_idx: int) -> str:
        return f"LoRA parameters of layer {layer_idx}"


class Attention(Module):
    def __init__(
        self,
        *,
        local_layer_idx: int,
        hidden_size: int,
        num_attention_heads: int,
        num_kv_heads: int,
        attention_head_size: int,
        max_position_embeddings: int,
        rotary_embedding_base: float,
        rotary_embedding_scaling: dict[str, Any],
        position_embedding_type: str,
        dtype: str,
        qk_layernorm: bool = False,
        eps: float = 1e-05,
    ) -> None:
        assert position_embedding_type == rotary_embedding_scaling["type"] == "mrope"
        self.layer, self.heads, self.kv_heads, self.size = (
            local_layer_idx,
            num_attention_heads,
            num_kv_heads,
            attention_head_size,
        )
        self.positions, self.base = max_position_embeddings, rotary_embedding_base
        self.qkv = Linear(hidden_size, (num_attention_heads + 2 * num_kv_heads) * self.size, dtype)
        self.dense = Linear(num_attention_heads * self.size, hidden_size, dtype)
        if qk_layernorm:
            self.q_layernorm = RmsNorm(self.size, eps=eps, dtype=dtype)
            self.k_layernorm = RmsNorm(self.size, eps=eps, dtype=dtype)
        self.lora_layer_params: Any = None

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        use_cache: bool = False,
        spec_decoding_params: Any = None,
        mrope_params: MropeParams | None = None,
        kv_cache_params: KeyValueCacheParams | None = None,
        attention_params: AttentionParams | None = None,
        lora_layer_params: Any = None,
    ) -> Any:
        assert mrope_params is not None
        assert kv_cache_params is not None
        assert attention_params is not None
        self.lora_layer_params = lora_layer_params
        shaped = self.qkv(hidden_states).value.unflatten(-1, (-1, self.size))
        q, k, v = shaped.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        q, k = self.q_layernorm(Tensor(q)).value, self.k_layernorm(Tensor(k)).value
        (caches,) = kv_cache_params.past_key_value
        rotary = self._rotary(mrope_params, attention_params)
        outputs, start = [], 0
        for i, (past, count) in enumerate(attention_params.sequences):
            part = slice(start, start + count)
            cos, sin = rotary[i]
            keys = torch.stack([_rotate(k[part].float(), cos, sin), v[part].float()]).transpose(1, 2)
            # An 8 or 16 bit cache would round here as the model's type does.
            caches[i] = torch.cat([caches[i], keys.to(hidden_states.dtype)], dim=2)
            assert caches[i].shape[2] == past + count, "the cache and the lengths disagree"
            outputs.append(_attend(_rotate(q[part].float(), cos, sin), caches[i].float(), past))
            start += count
        output = self.dense(Tensor(torch.cat(outputs).to(hidden_states.dtype)))
        return (output, "presents") if use_cache else output

    def _rotary(self, mrope: MropeParams, step: AttentionParams) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """cos and sin [tokens, 1, head_size / 2] of each sequence.

        In context the caller's, [position][half][cos, sin], by absolute index; generating, the engine's own at index + delta.
        """
        half = self.size // 2
        callers = mrope.mrope_rotary_cos_sin.value
        deltas = mrope.mrope_position_deltas.value
        assert callers.dtype == torch.float32
        assert callers.shape == (step.in_context, self.positions * self.size)
        assert deltas.dtype == torch.int32
        assert deltas.shape == (len(step.sequences) - step.in_context, 1)
        made = []
        for i, (past, count) in enumerate(step.sequences):
            if i < step.in_context:
                table = callers[i].reshape(self.positions, half, 2)[past : past + count]
                made.append((table[:, None, :, 0], table[:, None, :, 1]))
            else:
                assert count == 1
                position = past + int(deltas[i - step.in_context])
                angles = position / self.base ** (torch.arange(0, self.size, 2) / self.size)
                made.append((angles.cos()[None, None], angles.sin()[None, None]))
        return made


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _attend(q: torch.Tensor, cache: torch.Tensor, past: int) -> torch.Tensor:
    """Causal attention of the tokens after `past`; [tokens, heads * head_size]."""
    keys, values = (side.repeat_interleave(q.shape[1] // cache.shape[1], dim=0) for side in cache)
    scores = torch.einsum("thd,hpd->htp", q, keys) * q.shape[-1] ** -0.5
    visible = torch.arange(keys.shape[1]) <= past + torch.arange(len(q))[:, None]
    scores = scores.masked_fill(~visible, float("-inf"))
    return torch.einsum("htp,hpd->thd", scores.softmax(-1), values).flatten(1)


class GatedMLP(Module):
    def __init__(self, hidden_size: int, ffn_hidden_size: int, hidden_act: str, dtype: str) -> None:
        assert hidden_act == "silu"
        self.fc = Linear(hidden_size, ffn_hidden_size, dtype)
        self.gate = Linear(hidden_size, ffn_hidden_size, dtype)
        self.proj = Linear(ffn_hidden_size, hidden_size, dtype)
        self.lora_layer_params: Any = None

    def forward(self, hidden_states: Tensor, lora_layer_params: Any = None) -> Tensor:
        self.lora_layer_params = lora_layer_params
        activated = Tensor(torch.nn.functional.silu(self.fc(hidden_states).value))
        return self.proj(activated * self.gate(hidden_states))


# --- tensorrt_llm.models ---------------------------------------------------------------------------------------------


class QWenConfig:
    """Keeps every keyword, as TensorRT-LLM's does with those it does not know."""

    def __init__(self, **config: Any) -> None:
        vars(self).update(config)
        self.mapping = SimpleNamespace(**{"rank": 0, **config["mapping"]})

    def set_rank(self, rank: int) -> None:
        self.mapping.rank = rank


class DecoderLayerList(Module, list):  # type: ignore[type-arg]
    def __init__(self, cls: Any, config: QWenConfig) -> None:
        list.__init__(self, [cls(config, index) for index in range(config.num_hidden_layers)])

    def forward(
        self,
        hidden_states: Tensor,
        use_cache: bool = False,
        attention_mask: Any = None,
        kv_cache_params: KeyValueCacheParams | None = None,
        attention_params: Any = None,
        mrope_params: Any = None,
        position_ids: Any = None,
        lora_params: LoraParams | None = None,
        spec_decoding_params: Any = None,
    ) -> Any:
        assert kv_cache_params is not None
        presents = []
        for index, (layer, past) in enumerate(zip(self, kv_cache_params.past_key_value, strict=True)):
            more = {}
            if lora_params is not None:
                more["lora_layer_params"] = lora_params.get_layer_params(index)
            if mrope_params is not None:
                more["mrope_params"] = mrope_params
            output = layer(
                hidden_states,
                use_cache=use_cache,
                attention_mask=attention_mask,
                kv_cache_params=KeyValueCacheParams([past]),
                attention_params=attention_params,
                **more,
            )
            hidden_states, present = output if use_cache else (output, None)
            presents.append(present)
        return (hidden_states, presents) if use_cache else hidden_states


class QWenDecoderLayer(Module):
    def __init__(self, config: QWenConfig, layer_idx: int) -> None:
        self.layer_idx = layer_idx
        self.config = config
        self.input_layernorm = RmsNorm(config.hidden_size, eps=config.norm_epsilon, dtype=config.dtype)
        self.attention = Attention(  # no eps, as in TensorRT-LLM
            local_layer_idx=layer_idx,
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            attention_head_size=config.head_size,
            max_position_embeddings=config.max_position_embeddings,
            rotary_embedding_base=config.rotary_base,
            rotary_embedding_scaling=config.rotary_scaling,
            position_embedding_type=config.position_embedding_type,
            dtype=config.dtype,
            qk_layernorm=config.qwen_type in ("qwen3", "qwen3_moe"),
        )
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, config.hidden_act, config.dtype)
        self.post_layernorm = RmsNorm(config.hidden_size, eps=config.norm_epsilon, dtype=config.dtype)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        use_cache: bool = False,
        spec_decoding_params: Any = None,
        kv_cache_params: Any = None,
        attention_params: Any = None,
        lora_layer_params: Any = None,
        mrope_params: Any = None,
    ) -> Any:
        attended = self.attention(
            self.input_layernorm(hidden_states),
            use_cache=use_cache,
            kv_cache_params=kv_cache_params,
            attention_params=attention_params,
            lora_layer_params=lora_layer_params,
            mrope_params=mrope_params,
        )
        attended, presents = attended if use_cache else (attended, None)
        hidden_states = hidden_states + attended
        inner = self.mlp(self.post_layernorm(hidden_states), lora_layer_params=lora_layer_params)
        hidden_states = hidden_states + inner
        return (hidden_states, presents) if use_cache else hidden_states


class QWenModel(Module):
    def __init__(self, config: QWenConfig) -> None:
        self.mapping = config.mapping
        self.vocab_embedding = Embedding(config.vocab_size, config.hidden_size, dtype=config.dtype)
        self.layers = DecoderLayerList(QWenDecoderLayer, config)
        self.ln_f = RmsNorm(config.hidden_size, eps=config.norm_epsilon, dtype=config.dtype)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Any = None,
        use_cache: bool = False,
        spec_decoding_params: Any = None,
        attention_mask: Any = None,
        kv_cache_params: Any = None,
        attention_params: Any = None,
        mrope_params: Any = None,
        hidden_states: Any = None,
        prompt_embedding_table: Tensor | None = None,
        prompt_tasks: Tensor | None = None,
        prompt_vocab_size: Tensor | None = None,
        lora_params: Any = None,
    ) -> Any:
        prompt = [prompt_embedding_table, prompt_tasks, prompt_vocab_size]
        hidden_states = self.vocab_embedding(
            input_ids, *(prompt if prompt_embedding_table is not None else [])
        )
        hidden_states = self.layers.forward(
            hidden_states,
            use_cache=use_cache,
            attention_mask=attention_mask,
            kv_cache_params=kv_cache_params,
            attention_params=attention_params,
            mrope_params=mrope_params,
            lora_params=lora_params,
        )
        hidden_states, presents = hidden_states if use_cache else (hidden_states, None)
        hidden_states = self.ln_f(hidden_states)
        return (hidden_states, presents) if use_cache else hidden_states


class QWenForCausalLM(Module):
    def __init__(self, config: QWenConfig) -> None:
        self.config = config
        self.transformer = QWenModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, config.dtype)
        self.prepared: dict[str, Any] = {}

    def forward(
        self, input_ids: Tensor, use_cache: bool = False, last_token_ids: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Logits [sequences, vocab_size] in float32; `last_token_ids` int32 [sequences] counts from 1."""
        output = self.transformer.forward(input_ids=input_ids, use_cache=use_cache, **kwargs)
        hidden_states = output[0] if use_cache else output
        if last_token_ids is not None:
            hidden_states = Tensor(hidden_states.value[(last_token_ids.value - 1).long()])
        return cast(self.lm_head(hidden_states), self.config.logits_dtype)

    def prepare_inputs(
        self,
        max_batch_size: int,
        max_input_len: int,
        max_seq_len: int,
        max_num_tokens: int,
        use_cache: bool,
        max_beam_width: int = 1,
        prompt_embedding_table_size: int = 0,
        mrope_rotary_cos_sin_size: int | None = None,
    ) -> dict[str, Any]:
        inputs = {
            "prompt_embedding_table": prompt_embedding_table_size,
            "mrope_params": mrope_rotary_cos_sin_size,
        }
        return {name: size for name, size in inputs.items() if size}


def use_prompt_tuning(model: QWenForCausalLM) -> None:
    """optimize_model: every Embedding of the name vocab_embedding makes place for a PromptTuningEmbedding."""
    for _, module in [("", model), *model.named_modules()]:
        old = vars(module).get("vocab_embedding")
        if old is not None:
            new = PromptTuningEmbedding(old.num_embeddings, old.embedding_dim, old.dtype)
            new.weight = old.weight
            module.vocab_embedding = new  # type: ignore[attr-defined]


@dataclass
class ModelWeightsLoader:
    """Translates names segment by segment, and joins what several names stand for."""

    model_dir: dict[str, torch.Tensor]
    customized_key_dict: dict[str, str] = field(default_factory=dict)

    def generate_tllm_weights(self, model: QWenForCausalLM) -> None:
        keys: dict[str, Any] = {
            "transformer": "model", "vocab_embedding": "embed_tokens", "ln_f": "norm", "attention": "self_attn",
            "qkv": ["q_proj", "k_proj", "v_proj"], "dense": "o_proj", "gate": "up_proj", "proj": "down_proj",
            "fc": "gate_proj", "post_layernorm": "post_attention_layernorm", **self.customized_key_dict,
        }  # fmt: skip
        if "lm_head.weight" not in self.model_dir:
            keys["lm_head"] = f"{keys['transformer']}.{keys['vocab_embedding']}"
        for name, parameter in model.named_parameters().items():
            names = [""]
            for segment in name.split("."):
                said = keys.get(segment, segment)
                choices = said if isinstance(said, list) else [said]
                names = [f"{start}.{choice}".lstrip(".") for start in names for choice in choices]
            parameter.set(torch.cat([self.model_dir[found] for found in names]))


def modules() -> dict[str, ModuleType]:
    """The stand-in as the modules that model.py, config.py and the weight loading import."""
    here = sys.modules[__name__]
    contents = {
        "functional": ("Tensor", "cast", "embedding", "expand", "shape", "unsqueeze", "where"),
        "models": (),
        "models.modeling_utils": ("DecoderLayerList",),
        "models.model_weights_loader": ("ModelWeightsLoader",),
        "models.qwen": (),
        "models.qwen.config": ("QWenConfig",),
        "models.qwen.model": ("QWenDecoderLayer", "QWenForCausalLM", "QWenModel"),
    }
    made = {"tensorrt_llm": ModuleType("tensorrt_llm")}
    for name, members in contents.items():
        module = ModuleType(f"tensorrt_llm.{name}")
        for member in members:
            setattr(module, member, getattr(here, member))
        made[module.__name__] = module
    return made
