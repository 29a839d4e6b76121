"""From the facts of a checkpoint to the configuration of TensorRT-LLM's Qwen classes (QWenConfig).

`model_config` is pure, so it is tested without TensorRT-LLM. QWenConfig.from_hugging_face is not used: it knows no Qwen3-VL,
would take 80 for the rotary dimension of the 4B model (hidden_size / heads) where the heads have 128, and under transformers
5 misses the rotary base, which moved into `rope_parameters`.
"""

from __future__ import annotations

from typing import Any

from build_engine.checkpoint import Checkpoint
from build_engine.facts import ARCHITECTURE, Architecture
from build_engine.manifest import TextFacts
from build_engine.trtllm.options import EngineOptions, quantization


class ConfigError(ValueError):
    """TensorRT-LLM's Qwen classes cannot express this checkpoint."""


def model_config(checkpoint: Checkpoint, options: EngineOptions, max_seq_len: int) -> dict[str, Any]:
    """Keyword arguments of QWenConfig, all of them plain JSON values.

    Args:
        max_seq_len: positions the engine is built for. The input `mrope_rotary_cos_sin` is that long for every request, so
            it is not the checkpoint's max_position_embeddings (262144: 134 MB a request).
    """
    return text_config(
        checkpoint.text, checkpoint.architecture, checkpoint.vision.deepstack_levels, options, max_seq_len
    )


def text_config(
    text: TextFacts,
    architecture: Architecture,
    deepstack_levels: int,
    options: EngineOptions,
    max_seq_len: int,
) -> dict[str, Any]:
    """`model_config` from the facts alone; ConfigError if the Qwen classes have no place for one of them."""
    if architecture.attention_bias:
        raise ConfigError(
            "text_config: attention_bias is true; TensorRT-LLM's QWenDecoderLayer gives the output projection no bias. "
            "All published Qwen3-VL have none"
        )
    if max_seq_len > text.max_position_embeddings:
        raise ConfigError(
            f"max_seq_len {max_seq_len} is above the checkpoint's max_position_embeddings {text.max_position_embeddings}"
        )
    return {
        # The runtime takes any name; one that TensorRT-LLM does not know keeps its own rules for other models off.
        "architecture": ARCHITECTURE,
        "qwen_type": "qwen3",  # turns on the q/k norms
        "dtype": options.dtype,
        "logits_dtype": "float32",
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "intermediate_size": architecture.text_intermediate_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads,
        "head_size": text.head_dim,
        "hidden_act": "silu",
        "norm_epsilon": architecture.rms_norm_eps,
        "attn_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": architecture.tie_word_embeddings,
        "position_embedding_type": "mrope",
        # Not the checkpoint's rope_scaling: its type "default" is unknown to RotaryScalingType. The sections are not needed:
        # the caller sends cos and sin of the prompt, and generated tokens have three equal positions.
        "rotary_scaling": {"type": "mrope"},
        "rotary_base": text.rope_theta,
        "rotary_embedding_dim": text.head_dim,
        "max_position_embeddings": max_seq_len,
        "seq_length": max_seq_len,  # only read for logn attention, which Qwen3 does not use, but it must exist
        "mapping": {"world_size": options.tp_size, "tp_size": options.tp_size, "pp_size": 1, "cp_size": 1},
        "quantization": quantization(options),
        "deepstack_levels": deepstack_levels,  # ours; QWenConfig keeps unknown keys and writes them to config.json
    }


def qwen_config(config: dict[str, Any], rank: int) -> Any:
    """The QWenConfig of one rank. Not yet run on hardware."""
    from tensorrt_llm.models.qwen.config import QWenConfig

    made = QWenConfig(**config)
    made.set_rank(rank)
    return made
