"""config.json of an engine, read back: what serving takes from it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from build_engine.trtllm.engine_config import EngineConfig, EngineConfigError
from build_engine.trtllm.options import EngineOptions
from tests.trtllm.engine_json import engine_json, tp2, write


@pytest.mark.parametrize(
    ("size", "hidden_size", "layers", "heads"),
    [("2B", 2048, 28, 16), ("4B", 2560, 36, 32), ("8B", 4096, 36, 32), ("32B", 5120, 64, 64)],
)
def test_published_sizes_are_read(
    size: str, hidden_size: int, layers: int, heads: int, tmp_path: Path
) -> None:
    config = EngineConfig.read(write(tmp_path, engine_json(size)))
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (
        hidden_size,
        layers,
        heads,
    )
    assert (config.vocab_size, config.num_key_value_heads, config.head_size) == (151936, 8, 128)
    assert (config.dtype, config.quant_algo, config.kv_cache_quant_algo) == ("bfloat16", None, None)
    assert (config.tp_size, config.max_beam_width, config.kv_cache_type) == (1, 1, "PAGED")
    assert config.max_prompt_embedding_table_size == 8 * 4 * 4096
    assert config.table_rows_per_request == 4 * 4096
    assert config.max_visual_tokens == 4096
    assert config.mrope_rotary_cos_sin_size == 8192 * 128
    assert (config.lora, config.max_lora_rank) == (False, 0)


def test_two_gpus_quantised_with_adapters_are_read(tmp_path: Path) -> None:
    assert EngineConfig.read(write(tmp_path, tp2("8B"))).tp_size == 2
    options = EngineOptions(weights="fp8", kv_cache_dtype="fp8", max_lora_rank=32)
    config = EngineConfig.read(write(tmp_path, engine_json("4B", options)))
    assert (config.quant_algo, config.kv_cache_quant_algo) == ("FP8", "FP8")
    assert (config.lora, config.max_lora_rank) == (True, 32)


def test_the_enum_of_either_layout_is_read(tmp_path: Path) -> None:
    plain = engine_json("4B")
    plain["build_config"]["kv_cache_type"] = "paged"
    assert EngineConfig.read(write(tmp_path, plain)).kv_cache_type == "PAGED"


def test_a_table_that_does_not_divide_gives_each_request_the_whole_part(tmp_path: Path) -> None:
    plain = engine_json("4B")
    plain["build_config"]["max_prompt_embedding_table_size"] = 8 * 4096 + 7
    config = EngineConfig.read(write(tmp_path, plain))
    assert (config.table_rows_per_request, config.max_visual_tokens) == (4096, 1024)


WRONG: list[tuple[str, Any, str]] = [
    ("pretrained_config.dtype", "float32", "dtype is 'float32'; bfloat16 and float16"),
    ("pretrained_config.vocab_size", "many", "vocab_size is 'many', a whole number"),
    ("pretrained_config.deepstack_levels", None, "deepstack_levels is None, a whole number"),
    ("pretrained_config.max_position_embeddings", 262144, "262144 but build_config.max_seq_len is 8192"),
    ("pretrained_config.rotary_embedding_dim", 80, "rotary_embedding_dim is 80 but .*head_size is 128"),
    ("pretrained_config.position_embedding_type", "rope_gpt_neox", "it must be 'mrope'"),
    ("pretrained_config.rotary_scaling.type", "default", "type is 'default', it must be 'mrope'"),
    ("pretrained_config.rotary_scaling", None, "rotary_scaling is None, an object"),
    ("pretrained_config.mapping.pp_size", 2, "pp_size is 2.*both must be 1"),
    ("pretrained_config.mapping.cp_size", 2, "cp_size is 2.*both must be 1"),
    ("build_config.use_mrope", False, "use_mrope is False: the runtime would not bind"),
    ("build_config.max_batch_size", 0, "max_batch_size is 0"),
    ("build_config.max_prompt_embedding_table_size", 0, "table_size is 0 .*at least the 4 rows"),
    ("build_config.max_prompt_embedding_table_size", 31, "table_size is 31 .*at least the 4 rows"),
    ("build_config.max_beam_width", 4, "max_beam_width is 4, it must be 1"),
    ("build_config.kv_cache_type", "CONTINUOUS", "'CONTINUOUS'; in-flight batching needs 'PAGED'"),
    ("build_config.max_input_len", 9000, "max_input_len is 9000 is above .*max_seq_len is 8192"),
    ("build_config.max_num_tokens", 4, "max_num_tokens is 4 is below .*max_batch_size is 8"),
    ("build_config.max_num_tokens", -1, "max_num_tokens is -1, a whole number"),
    (
        "build_config.plugin_config.use_paged_context_fmha",
        False,
        "neither be prefilled at once nor in chunks",
    ),
    ("build_config.plugin_config.use_paged_context_fmha", "enable", "true or false is needed"),
    ("build_config.plugin_config.remove_input_padding", False, "in-flight batching needs true"),
    ("build_config.plugin_config.reduce_fusion", True, "reduce_fusion is True, it must be false"),
    ("build_config.plugin_config.tokens_per_block", 64, "tokens_per_block is 64, it must be 32"),
    ("build_config.plugin_config.streamingllm", True, "streamingllm is True, it must be false"),
    ("build_config.plugin_config", None, "plugin_config is None, an object .*TensorRT-LLM 1.2"),
]


@pytest.mark.parametrize(("field", "value", "message"), WRONG, ids=[f"{f}={v}" for f, v, _ in WRONG])
def test_what_cannot_be_served_is_refused(field: str, value: Any, message: str, tmp_path: Path) -> None:
    plain = engine_json("4B")
    *parents, last = field.split(".")
    place = plain
    for parent in parents:
        place = place[parent]
    assert last in place, "the fixture has no such field"
    place[last] = value
    with pytest.raises(EngineConfigError, match=message):
        EngineConfig.read(write(tmp_path, plain))


def _nothing(path: Path) -> None:
    path.unlink()


def _no_json(path: Path) -> None:
    path.write_text("{", encoding="utf-8")


def _a_list(path: Path) -> None:
    path.write_text("[]", encoding="utf-8")


def _another_file(path: Path) -> None:
    path.write_text(json.dumps({"architectures": ["Qwen3VLForConditionalGeneration"]}), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_nothing, "is missing; is .* a TensorRT-LLM engine"),
        (_no_json, "is not JSON"),
        (_a_list, "holds no JSON object"),
        (_another_file, "pretrained_config is 'missing', an object"),
    ],
)
def test_another_file_is_refused(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, engine_json("2B"))
    spoil(path)
    with pytest.raises(EngineConfigError, match=message):
        EngineConfig.read(path)
