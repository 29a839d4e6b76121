"""The config.json that TensorRT-LLM writes beside an engine, read back and checked for serving.

It knows the file's layout (tensorrt_llm/builder.py: EngineConfig.to_dict; read at run time by
cpp/tensorrt_llm/runtime/gptJsonConfig.cpp) and what Triton's `tensorrtllm` backend needs of a Qwen3-VL engine. It imports no
TensorRT-LLM: the server's config.pbtxt is rendered from it, so that no limit is typed twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_engine.manifest import TOKENS_PER_BLOCK

FILE_NAME = "config.json"
_DTYPES = ("bfloat16", "float16")
# Each of them changes what a decoder layer takes or returns, or what the context step reads, so that the DeepStack rows or
# the caller's rotary table would be skipped.
_FORBIDDEN_FEATURES = (
    "reduce_fusion",
    "norm_quant_fusion",
    "user_buffer",
    "pp_reduce_scatter",
    "streamingllm",
)


class EngineConfigError(ValueError):
    """config.json is unreadable, or describes an engine that cannot be served: field, value, what is needed."""


@dataclass(frozen=True)
class EngineConfig:
    """What an engine was really built with: TensorRT-LLM changes some options during a build, with only a warning.

    Attributes:
        dtype: activations, logits aside, and the prompt embedding table: "bfloat16" or "float16".
        max_position_embeddings: P, positions of `mrope_rotary_cos_sin`.
        rotary_embedding_dim: R; `mrope_rotary_cos_sin` has P * R values a request.
        tp_size: GPUs of one engine; there are as many rank*.engine files.
        quant_algo, kv_cache_quant_algo: as TensorRT-LLM's QuantAlgo spells them, or None.
        max_prompt_embedding_table_size: rows of the table that all requests of a step share, in equal slots.
        kv_cache_type: in capitals: "PAGED", "CONTINUOUS" or "DISABLED".
        use_paged_context_fmha: whether KV reuse and chunked context can be turned on.
        lora: whether requests may choose an adapter.
        max_lora_rank: largest rank of such an adapter; 0 without `lora`.
        deepstack_levels: D; a visual token owns 1 + D rows of the table.
    """

    dtype: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_size: int
    max_position_embeddings: int
    rotary_embedding_dim: int
    tp_size: int
    quant_algo: str | None
    kv_cache_quant_algo: str | None
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    max_beam_width: int
    max_prompt_embedding_table_size: int
    use_mrope: bool
    kv_cache_type: str
    use_paged_context_fmha: bool
    lora: bool
    max_lora_rank: int
    deepstack_levels: int

    @property
    def table_rows_per_request(self) -> int:
        """Rows of one request's slot; the backend kills every running request when one brings more."""
        return self.max_prompt_embedding_table_size // self.max_batch_size

    @property
    def max_visual_tokens(self) -> int:
        """Visual tokens whose rows fit into one request's slot."""
        return self.table_rows_per_request // (1 + self.deepstack_levels)

    @property
    def mrope_rotary_cos_sin_size(self) -> int:
        """P * R: float32 values of `mrope_rotary_cos_sin` that every request must send."""
        return self.max_position_embeddings * self.rotary_embedding_dim

    @classmethod
    def read(cls, path: Path) -> EngineConfig:
        """Read and check an engine's config.json; EngineConfigError names the field that is wrong."""
        root = _Object.load(path)
        model, build = root.child("pretrained_config"), root.child("build_config")
        plugins, mapping = build.child("plugin_config"), model.child("mapping")
        quantization, lora = model.child("quantization"), build.child("lora_config")
        has_lora = plugins.text_or_none("lora_plugin") is not None
        config = cls(
            dtype=model.text("dtype"),
            vocab_size=model.integer("vocab_size"),
            hidden_size=model.integer("hidden_size"),
            num_hidden_layers=model.integer("num_hidden_layers"),
            num_attention_heads=model.integer("num_attention_heads"),
            num_key_value_heads=model.integer("num_key_value_heads"),
            head_size=model.integer("head_size"),
            max_position_embeddings=model.integer("max_position_embeddings"),
            rotary_embedding_dim=model.integer("rotary_embedding_dim"),
            tp_size=mapping.integer("tp_size"),
            quant_algo=quantization.text_or_none("quant_algo"),
            kv_cache_quant_algo=quantization.text_or_none("kv_cache_quant_algo"),
            max_batch_size=build.integer("max_batch_size"),
            max_input_len=build.integer("max_input_len"),
            max_seq_len=build.integer("max_seq_len"),
            max_num_tokens=build.integer("max_num_tokens"),
            max_beam_width=build.integer("max_beam_width"),
            max_prompt_embedding_table_size=build.integer("max_prompt_embedding_table_size"),
            use_mrope=build.flag("use_mrope"),
            kv_cache_type=build.text("kv_cache_type").upper(),
            use_paged_context_fmha=plugins.flag("use_paged_context_fmha"),
            lora=has_lora,
            max_lora_rank=lora.integer("max_lora_rank") if has_lora else 0,
            deepstack_levels=model.integer("deepstack_levels"),
        )
        _check(config, root)
        return config


def _check(config: EngineConfig, root: _Object) -> None:
    model, build = root.child("pretrained_config"), root.child("build_config")
    plugins, mapping = build.child("plugin_config"), model.child("mapping")
    scaling = model.child("rotary_scaling")
    rules = (
        (config.dtype in _DTYPES, f"{model.at('dtype')}; {' and '.join(_DTYPES)} can be served"),
        (config.use_mrope, f"{build.at('use_mrope')}: the runtime would not bind mrope_rotary_cos_sin; it must be true"),
        (model.text("position_embedding_type") == "mrope", f"{model.at('position_embedding_type')}, it must be 'mrope'"),
        (scaling.text_or_none("type") == "mrope", f"{scaling.at('type')}, it must be 'mrope'"),
        (config.max_position_embeddings == config.max_seq_len,
         f"{model.at('max_position_embeddings')} but {build.at('max_seq_len')}: beyond the smaller one the attention kernel "
         "silently falls back to one-dimensional positions; they must be equal"),
        (config.rotary_embedding_dim == config.head_size,
         f"{model.at('rotary_embedding_dim')} but {model.at('head_size')}: Qwen3-VL rotates the whole head; they must be equal"),
        (config.max_batch_size > 0 and config.table_rows_per_request >= 1 + config.deepstack_levels,
         f"{build.at('max_prompt_embedding_table_size')} with {build.at('max_batch_size')}: each sequence needs at least the "
         f"{1 + config.deepstack_levels} rows of one visual token"),
        (config.max_beam_width == 1, f"{build.at('max_beam_width')}, it must be 1"),
        (config.kv_cache_type == "PAGED", f"{build.at('kv_cache_type')}; in-flight batching needs 'PAGED'"),
        (plugins.integer("tokens_per_block") == TOKENS_PER_BLOCK,
         f"{plugins.at('tokens_per_block')}, it must be {TOKENS_PER_BLOCK}: cached_tokens counts in such blocks"),
        (plugins.flag("remove_input_padding"), f"{plugins.at('remove_input_padding')}; in-flight batching needs true"),
        (config.max_input_len <= config.max_seq_len, f"{build.at('max_input_len')} is above {build.at('max_seq_len')}"),
        (config.max_num_tokens >= config.max_batch_size,
         f"{build.at('max_num_tokens')} is below {build.at('max_batch_size')}: a step could not hold one token a sequence"),
        (config.use_paged_context_fmha or config.max_num_tokens >= config.max_input_len,
         f"{build.at('max_num_tokens')} is below {build.at('max_input_len')} and {plugins.at('use_paged_context_fmha')}: long "
         "prompts could neither be prefilled at once nor in chunks"),
        (mapping.integer("pp_size") == mapping.integer("cp_size") == 1,
         f"{mapping.at('pp_size')}, {mapping.at('cp_size')}: only tensor parallel engines are served, both must be 1"),
    )  # fmt: skip
    for holds, message in rules:
        if not holds:
            raise EngineConfigError(f"{root.path}: {message}; rebuild the engine")
    for name in _FORBIDDEN_FEATURES:
        if plugins.flag(name, default=False):
            raise EngineConfigError(f"{root.path}: {plugins.at(name)}, it must be false; rebuild the engine")


@dataclass(frozen=True)
class _Object:
    """A JSON object whose missing or wrong fields are reported by their full name."""

    plain: dict[str, Any]
    path: Path
    name: str = ""

    @classmethod
    def load(cls, path: Path) -> _Object:
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise EngineConfigError(f"{path} is missing; is {path.parent} a TensorRT-LLM engine?") from None
        except ValueError as error:
            raise EngineConfigError(f"{path} is not JSON ({error})") from error
        if not isinstance(plain, dict):
            raise EngineConfigError(f"{path} holds no JSON object")
        return cls(plain, path)

    def child(self, name: str) -> _Object:
        value = self.plain.get(name)
        if not isinstance(value, dict):
            raise EngineConfigError(
                f"{self.path}: {self.at(name)}, an object is needed; was it written by TensorRT-LLM 1.2?"
            )
        return _Object(value, self.path, f"{self.name}{name}.")

    def at(self, name: str) -> str:
        return f"{self.name}{name} is {self.plain.get(name, 'missing')!r}"

    def integer(self, name: str) -> int:
        value = self.plain.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise EngineConfigError(f"{self.path}: {self.at(name)}, a whole number is needed")
        return value

    def flag(self, name: str, default: bool | None = None) -> bool:
        value = self.plain.get(name, default)
        if not isinstance(value, bool):
            raise EngineConfigError(f"{self.path}: {self.at(name)}, true or false is needed")
        return value

    def text(self, name: str) -> str:
        value = self.plain.get(name)
        if not isinstance(value, str):
            raise EngineConfigError(f"{self.path}: {self.at(name)}, a string is needed")
        return value

    def text_or_none(self, name: str) -> str | None:
        return None if self.plain.get(name) is None else self.text(name)
