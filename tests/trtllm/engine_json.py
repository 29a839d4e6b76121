"""config.json of engines as TensorRT-LLM 1.2 writes it, made from the configurations of the published checkpoints.

The keys and defaults are those of PretrainedConfig.to_dict, QWenConfig.to_dict, BuildConfig.to_dict, PluginConfig and QuantConfig
as read in its sources (tensorrt_llm/builder.py, models/modeling_utils.py, models/qwen/config.py, plugin/plugin.py); no file of
a real engine was at hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from build_engine.facts import Architecture, Deepstack, read_text
from build_engine.manifest import Limits, TextFacts
from build_engine.section import Section
from build_engine.trtllm.config import text_config
from build_engine.trtllm.options import EngineOptions

# (hidden_size, intermediate_size, layers, heads, tied embeddings, DeepStack blocks) of Qwen3-VL-*-Instruct.
_SIZES: Mapping[str, tuple[int, int, int, int, bool, tuple[int, ...]]] = {
    "2B": (2048, 6144, 28, 16, True, (5, 11, 17)),
    "4B": (2560, 9728, 36, 32, True, (5, 11, 17)),
    "8B": (4096, 12288, 36, 32, False, (8, 16, 24)),
    "32B": (5120, 25600, 64, 64, False, (8, 16, 24)),
}
LIMITS = Limits(
    max_batch_size=8, max_input_len=7168, max_seq_len=8192, max_num_tokens=2048, max_visual_tokens=4096
)


def hf_text_config(size: str, transformers: str = "4.57") -> dict[str, Any]:
    """text_config of a published checkpoint, in the spelling of transformers "4.57" or "5"."""
    hidden, intermediate, layers, heads, tied, _ = _SIZES[size]
    rope = {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"}
    spelled = (
        {"rope_parameters": {**rope, "rope_theta": 5000000}}
        if transformers == "5"
        else {"rope_scaling": rope, "rope_theta": 5000000}
    )
    return {
        "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643, "dtype": "bfloat16",
        "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": hidden,
        "initializer_range": 0.02, "intermediate_size": intermediate, "max_position_embeddings": 262144,
        "model_type": "qwen3_vl_text", "num_attention_heads": heads, "num_hidden_layers": layers,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "tie_word_embeddings": tied, "use_cache": True,
        "vocab_size": 151936, **spelled,
    }  # fmt: skip


def facts(size: str, transformers: str = "4.57") -> tuple[TextFacts, Architecture]:
    """What the build reads from such a checkpoint."""
    text = hf_text_config(size, transformers)
    blocks = _SIZES[size][5]
    architecture = Architecture(
        vision_act="gelu_pytorch_tanh",
        vision_intermediate_size=4096,
        deepstack=tuple(Deepstack(block, merger) for merger, block in enumerate(blocks)),
        text_intermediate_size=text["intermediate_size"],
        rms_norm_eps=text["rms_norm_eps"],
        attention_bias=False,
        tie_word_embeddings=text["tie_word_embeddings"],
    )
    return read_text(Section(text, "text_config")), architecture


def engine_json(
    size: str, options: EngineOptions | None = None, limits: Limits | None = None
) -> dict[str, Any]:
    """The config.json of an engine of a published checkpoint."""
    options, limits = options or EngineOptions(), limits or LIMITS
    text, architecture = facts(size)
    levels = len(architecture.deepstack)
    build = {
        "max_batch_size": limits.max_batch_size,
        "max_input_len": limits.max_input_len,
        "max_seq_len": limits.max_seq_len,
        "max_num_tokens": limits.max_num_tokens,
        "max_prompt_embedding_table_size": limits.max_batch_size * (1 + levels) * limits.max_visual_tokens,
        "use_mrope": True,
    }
    plugins = {
        "use_paged_context_fmha": options.use_paged_context_fmha,
        "lora_plugin": "auto" if options.max_lora_rank else None,
        "gemm_plugin": "auto",
    }
    lora = {"max_lora_rank": options.max_lora_rank} if options.max_lora_rank else {}
    return written(text_config(text, architecture, levels, options, limits.max_seq_len), build, plugins, lora)


def tp2(size: str) -> dict[str, Any]:
    """The same for two GPUs."""
    return engine_json(size, replace(EngineOptions(), tp_size=2))


def write(directory: Path, plain: dict[str, Any]) -> Path:
    """Write it where an engine has it; returns its path."""
    path = directory / "language_model" / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain, indent=4), encoding="utf-8")
    return path


def written(
    pretrained: dict[str, Any], build: dict[str, Any], plugins: dict[str, Any], lora: dict[str, Any]
) -> dict[str, Any]:
    """EngineConfig.to_dict for what QWenConfig, BuildConfig, PluginConfig and LoraConfig were given."""
    mapping = {
        "gpus_per_node": 8, "cp_config": {}, "moe_tp_size": pretrained["mapping"]["tp_size"],
        "moe_cluster_size": 1, "moe_ep_size": 1, "attn_tp_size": pretrained["mapping"]["tp_size"], "attn_cp_size": 1,
        "enable_attention_dp": False, **pretrained["mapping"],
    }  # fmt: skip
    quantization = {
        "quant_algo": None, "kv_cache_quant_algo": None, "group_size": 128, "smoothquant_val": 0.5,
        "clamp_val": None, "use_meta_recipe": False, "has_zero_point": False, "pre_quant_scale": False,
        "exclude_modules": None, **pretrained["quantization"],
    }  # fmt: skip
    return {
        "version": "1.2.1",
        "pretrained_config": {
            "disable_weight_only_quant_plugin": False, "num_labels": 1, "use_logn_attn": False,
            "moe": {"num_experts": 0, "top_k": 0, "normalization_mode": 0}, "runtime_defaults": None,
            "use_parallel_embedding": False, "embedding_sharding_dim": 0, "qk_layernorm": False,
            **pretrained, "mapping": mapping, "quantization": quantization,
        },
        "build_config": {
            "opt_batch_size": 8, "max_beam_width": 1, "opt_num_tokens": 8, "kv_cache_type": "PAGED",
            "gather_context_logits": False, "gather_generation_logits": False, "strongly_typed": True,
            "force_num_profiles": None, "profiling_verbosity": "layer_names_only", "enable_debug_output": False,
            "max_draft_len": 0, "speculative_decoding_mode": 1, "use_refit": False, "input_timing_cache": None,
            "output_timing_cache": "model.cache", "weight_sparsity": False, "weight_streaming": False,
            "use_strip_plan": False, "max_encoder_input_len": 1024, "monitor_memory": False, "use_mrope": False,
            **build,
            "lora_config": {
                "lora_dir": [], "lora_ckpt_source": "hf", "max_lora_rank": 64, "lora_target_modules": [],
                "trtllm_modules_to_hf_modules": {}, **lora,
            },
            "plugin_config": {
                "dtype": pretrained["dtype"], "bert_attention_plugin": "auto", "gpt_attention_plugin": "auto",
                "gemm_plugin": None, "nccl_plugin": "auto", "lora_plugin": None, "dora_plugin": False,
                "context_fmha": True, "paged_kv_cache": True, "remove_input_padding": True,
                "norm_quant_fusion": False, "reduce_fusion": False, "user_buffer": False, "tokens_per_block": 32,
                "use_paged_context_fmha": True, "use_fp8_context_fmha": False, "multiple_profiles": False,
                "paged_state": False, "streamingllm": False, "use_fused_mlp": True, "pp_reduce_scatter": False,
                "gemm_allreduce_plugin": None, **plugins,
            },
        },
    }  # fmt: skip
