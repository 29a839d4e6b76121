"""The configuration that TensorRT-LLM's Qwen classes get, from the checkpoints of every published size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from build_engine.checkpoint import Checkpoint
from build_engine.trtllm.config import ConfigError, model_config, text_config
from build_engine.trtllm.options import EngineOptions
from tests.trtllm.engine_json import facts


@pytest.mark.parametrize("transformers", ["4.57", "5"])
@pytest.mark.parametrize(
    ("size", "hidden_size", "intermediate_size", "layers", "heads", "tied"),
    [
        ("2B", 2048, 6144, 28, 16, True),
        ("4B", 2560, 9728, 36, 32, True),
        ("8B", 4096, 12288, 36, 32, False),
        ("32B", 5120, 25600, 64, 64, False),
    ],
)
def test_published_sizes(
    size: str,
    hidden_size: int,
    intermediate_size: int,
    layers: int,
    heads: int,
    tied: bool,
    transformers: str,
) -> None:
    text, architecture = facts(size, transformers)
    config = text_config(text, architecture, 3, EngineOptions(), max_seq_len=8192)
    assert config == {
        "architecture": "Qwen3VLForConditionalGeneration",
        "qwen_type": "qwen3",
        "dtype": "bfloat16",
        "logits_dtype": "float32",
        "vocab_size": 151936,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_size": 128,  # not hidden_size / heads, which is 80 for 4B and 32B
        "hidden_act": "silu",
        "norm_epsilon": 1e-6,
        "attn_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "position_embedding_type": "mrope",
        "rotary_scaling": {"type": "mrope"},
        "rotary_base": 5e6,
        "rotary_embedding_dim": 128,
        "max_position_embeddings": 8192,
        "seq_length": 8192,
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1, "cp_size": 1},
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
        "deepstack_levels": 3,
    }


def test_options_change_dtype_mapping_and_quantisation() -> None:
    text, architecture = facts("8B")
    halves = text_config(text, architecture, 3, EngineOptions(weights="fp16", tp_size=2), 4096)
    assert halves["dtype"] == "float16"
    assert halves["mapping"] == {"world_size": 2, "tp_size": 2, "pp_size": 1, "cp_size": 1}
    small = text_config(text, architecture, 3, EngineOptions(weights="fp8", kv_cache_dtype="fp8"), 4096)
    assert small["dtype"] == "bfloat16"
    assert small["quantization"]["quant_algo"] == small["quantization"]["kv_cache_quant_algo"] == "FP8"


def test_the_demo_checkpoint(demo_checkpoint: Path) -> None:
    config = model_config(Checkpoint.read(demo_checkpoint), EngineOptions(), 1024)
    assert (config["deepstack_levels"], config["head_size"], config["rotary_base"]) == (2, 64, 1e5)


def test_what_the_qwen_classes_cannot_express_is_refused() -> None:
    text, architecture = facts("4B")
    with pytest.raises(ConfigError, match="attention_bias is true"):
        text_config(text, replace(architecture, attention_bias=True), 3, EngineOptions(), 8192)
    with pytest.raises(ConfigError, match=r"max_seq_len 262145 is above .* 262144"):
        text_config(text, architecture, 3, EngineOptions(), 262145)
