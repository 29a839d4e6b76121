"""Every name, keyword and configuration key of TensorRT-LLM that this package uses or relies on, with the file it comes from.

TensorRT-LLM cannot be installed where this was written; its sources near 1.2 were read instead. So this list is what could
be wrong, in one place: `python -m build_engine.trtllm.doctor` compares it with an installed TensorRT-LLM, and a test proves
that no module of this package uses a name that is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Name:
    """Something importable, and what is used of it.

    Attributes:
        path: dotted, e.g. "tensorrt_llm.builder.BuildConfig" or "tensorrt_llm.builder.Engine.save".
        source: file in the repository of TensorRT-LLM.
        positional: leading parameters in this order, `self` aside, because they are passed by position.
        keywords: parameters (of a class: of its constructor, its bases' constructors, or its pydantic or dataclass fields).
        takes_any: the constructor keeps keywords that it does not know.
        attributes: members, or attributes that the class or a base assigns to `self`.
    """

    path: str
    source: str
    positional: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    takes_any: bool = False
    attributes: tuple[str, ...] = ()


VERSION: Final = "1.2"
"""The series that the list was made for; Triton containers 26.04 to 26.07 hold 1.2.1."""

_FUNCTIONAL = "tensorrt_llm/functional.py"
_BUILDER = "tensorrt_llm/builder.py"
_QWEN = "tensorrt_llm/models/qwen/model.py"
_MODELING = "tensorrt_llm/models/modeling_utils.py"

OUR_KEYS: Final = ("qwen_type", "seq_length", "tie_word_embeddings", "deepstack_levels")
"""Keys of the model's configuration that no constructor names: QWenConfig keeps them as attributes (the first three are read by
its own classes) and writes them to config.json."""

NAMES: Final = (
    # The graph: model.py.
    Name("tensorrt_llm.functional.Tensor", _FUNCTIONAL,
         attributes=("dtype", "__gt__", "__add__", "__sub__", "__mul__")),
    Name("tensorrt_llm.functional.cast", _FUNCTIONAL, positional=("input", "dtype")),
    Name("tensorrt_llm.functional.embedding", _FUNCTIONAL, positional=("input", "weight")),
    Name("tensorrt_llm.functional.expand", _FUNCTIONAL, positional=("input", "expand_shape")),
    Name("tensorrt_llm.functional.shape", _FUNCTIONAL, positional=("input",)),
    Name("tensorrt_llm.functional.unsqueeze", _FUNCTIONAL, positional=("input", "axis")),
    Name("tensorrt_llm.functional.where", _FUNCTIONAL, positional=("condition", "left", "right")),
    Name("tensorrt_llm.functional.RotaryScalingType", _FUNCTIONAL, attributes=("mrope",)),
    Name("tensorrt_llm.functional.PositionEmbeddingType", _FUNCTIONAL, attributes=("mrope",)),
    Name("tensorrt_llm.models.modeling_utils.DecoderLayerList", _MODELING, positional=("cls", "config")),
    Name("tensorrt_llm.models.modeling_utils.DecoderLayerList.forward", _MODELING,
         keywords=("use_cache", "kv_cache_params", "attention_params", "mrope_params", "lora_params")),
    Name("tensorrt_llm.models.qwen.model.QWenDecoderLayer", _QWEN,
         positional=("config", "layer_idx"), attributes=("attention", "layer_idx")),
    Name("tensorrt_llm.models.qwen.model.QWenDecoderLayer.forward", _QWEN,
         positional=("hidden_states",), keywords=("lora_layer_params", "mrope_params")),
    Name("tensorrt_llm.models.qwen.model.QWenModel", _QWEN,
         positional=("config",), attributes=("layers", "vocab_embedding")),
    Name("tensorrt_llm.models.qwen.model.QWenModel.forward", _QWEN,
         keywords=("input_ids", "prompt_embedding_table", "prompt_tasks", "prompt_vocab_size")),
    Name("tensorrt_llm.models.qwen.model.QWenForCausalLM", _QWEN,
         positional=("config",), attributes=("transformer", "config")),
    Name("tensorrt_llm.models.modeling_utils.PretrainedModel.prepare_inputs", _MODELING,
         keywords=("mrope_rotary_cos_sin_size", "prompt_embedding_table_size")),
    Name("tensorrt_llm.models.modeling_utils.PretrainedModel.from_checkpoint", _MODELING,
         positional=("ckpt_dir",), keywords=("rank", "config")),
    Name("tensorrt_llm.layers.attention.Attention", "tensorrt_llm/layers/attention.py",
         keywords=("eps", "qk_layernorm"), attributes=("q_layernorm", "k_layernorm")),
    Name("tensorrt_llm.layers.normalization.RmsNorm", "tensorrt_llm/layers/normalization.py", attributes=("eps",)),
    Name("tensorrt_llm.layers.embedding.PromptTuningEmbedding.forward", "tensorrt_llm/layers/embedding.py",
         positional=("tokens", "prompt_embedding_table", "tasks", "task_vocab_size")),
    # What puts PromptTuningEmbedding in the place of the module called vocab_embedding.
    Name("tensorrt_llm.models.modeling_utils.optimize_model", _MODELING,
         keywords=("use_prompt_tuning", "share_embedding_table")),
    # Its numbers: config.py, options.quantization. engine_config.py reads the same keys back from config.json.
    Name("tensorrt_llm.models.qwen.config.QWenConfig", "tensorrt_llm/models/qwen/config.py",
         keywords=("architecture", "dtype", "logits_dtype", "vocab_size", "hidden_size", "intermediate_size",
                   "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_size", "hidden_act",
                   "norm_epsilon", "attn_bias", "mlp_bias", "position_embedding_type", "rotary_scaling", "rotary_base",
                   "rotary_embedding_dim", "max_position_embeddings", "mapping", "quantization", "use_parallel_embedding",
                   "embedding_sharding_dim"),
         takes_any=True, attributes=("set_rank",)),
    Name("tensorrt_llm.models.modeling_utils.QuantConfig", _MODELING,
         keywords=("quant_algo", "kv_cache_quant_algo", "group_size", "has_zero_point", "pre_quant_scale",
                   "exclude_modules")),
    Name("tensorrt_llm.quantization.QuantAlgo", "tensorrt_llm/quantization/mode.py",
         attributes=("W8A16", "W4A16", "FP8", "INT8", "W8A8_SQ_PER_CHANNEL", "W4A16_AWQ", "W4A8_AWQ", "W4A16_GPTQ")),
    Name("tensorrt_llm.mapping.Mapping", "tensorrt_llm/mapping.py",
         keywords=("world_size", "tp_size", "pp_size", "cp_size")),
    # The build: build.py.
    Name("tensorrt_llm.models.model_weights_loader.ModelWeightsLoader",
         "tensorrt_llm/models/model_weights_loader.py", positional=("model_dir", "customized_key_dict")),
    Name("tensorrt_llm.models.model_weights_loader.ModelWeightsLoader.generate_tllm_weights",
         "tensorrt_llm/models/model_weights_loader.py", positional=("model",)),
    Name("tensorrt_llm.builder.BuildConfig", _BUILDER,
         keywords=("max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "max_beam_width",
                   "max_prompt_embedding_table_size", "use_mrope", "kv_cache_type", "strongly_typed", "plugin_config",
                   "lora_config", "output_timing_cache")),
    # The enum moved from tensorrt_llm.bindings to tensorrt_llm.llmapi.kv_cache_type during 1.2; builder.py imports whichever
    # its BuildConfig takes.
    Name("tensorrt_llm.builder.KVCacheType", _BUILDER, attributes=("PAGED",)),
    Name("tensorrt_llm.builder.build", _BUILDER, positional=("model", "build_config")),
    Name("tensorrt_llm.builder.Engine.save", _BUILDER, positional=("engine_dir",)),
    Name("tensorrt_llm.builder.EngineConfig", _BUILDER, attributes=("pretrained_config", "build_config")),
    Name("tensorrt_llm.plugin.PluginConfig", "tensorrt_llm/plugin/plugin.py",
         keywords=("gpt_attention_plugin", "gemm_plugin", "lora_plugin", "context_fmha", "paged_kv_cache",
                   "remove_input_padding", "use_paged_context_fmha", "reduce_fusion", "norm_quant_fusion",
                   "user_buffer", "pp_reduce_scatter", "gemm_allreduce_plugin", "streamingllm",
                   "tokens_per_block")),
    Name("tensorrt_llm.lora_helper.LoraConfig", "tensorrt_llm/lora_helper.py",
         keywords=("lora_target_modules", "max_lora_rank")),
)  # fmt: skip
