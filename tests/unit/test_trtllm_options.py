"""Every choice that TensorRT-LLM cannot build or serve is refused with its name, its reason and a way out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from build_engine.manifest import Limits
from build_engine.trtllm.memory import public_checkpoint
from build_engine.trtllm.options import (
    KV_CACHE_DTYPES,
    WEIGHTS,
    EngineOptions,
    OptionsError,
    check,
    quantization,
)

LIMITS = Limits(
    max_batch_size=8, max_input_len=7168, max_seq_len=8192, max_num_tokens=2048, max_visual_tokens=4096
)


def _check(
    model: str = "4b", sm: int | None = None, limits: dict[str, int] | None = None, **options: Any
) -> None:
    checkpoint = public_checkpoint(model)
    check(
        checkpoint.text,
        checkpoint.architecture,
        replace(LIMITS, **(limits or {})),
        EngineOptions(**options),
        sm,
    )


NO_REUSE = {"use_paged_context_fmha": False, "chunked_context": False}
WIDE = {"max_num_tokens": 7168}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": "int3"}, "--weights 'int3' is unknown; allowed: bf16"),
        ({"kv_cache_dtype": "u8"}, "--kv-cache-dtype 'u8' is unknown; allowed: auto, fp8, int8"),
        ({"tp_size": 0}, "--tp-size 0"),
        ({"max_lora_rank": -1}, "--max-lora-rank -1: allowed is 0"),
        ({"max_lora_rank": 1024}, "merge a larger adapter at build time"),
        ({"limits": {"max_seq_len": 300000}}, "--max-seq-len 300000 is above max_position_embeddings 262144"),
        ({"limits": {"max_input_len": 8192}}, "--max-input-len 8192 leaves no room .* give at most 8191"),
        ({"limits": {"max_visual_tokens": 7169}}, "--max-visual-tokens 7169 is above --max-input-len 7168"),
        ({"limits": {"max_visual_tokens": 0}}, "--max-visual-tokens 0: at least 1"),
        ({"limits": {"max_batch_size": 4096}}, "--max-num-tokens 2048 is below --max-batch-size 4096"),
        (
            {"limits": {"max_batch_size": 1, "max_num_tokens": 8193}},
            "would cut it to 8192, give at most that",
        ),
        ({"limits": {"max_batch_size": 1024, "max_num_tokens": 4096}}, r"more than a tensor's 2\^31"),
        ({"use_paged_context_fmha": False}, "chunked context needs paged context attention"),
        (
            {"chunked_context": False},
            "--max-num-tokens 2048 is below the longest prompt .* give at least 7168",
        ),
        ({"kv_cache_dtype": "fp8"}, "--kv-cache-dtype fp8 with --weights bf16: .* no KV reuse"),
        ({"kv_cache_dtype": "fp8", "weights": "int4_awq"}, "fp8 with --weights int4_awq: .* no KV reuse"),
        ({"kv_cache_dtype": "int8"}, "--kv-cache-dtype int8: paged context attention cannot read it"),
        (
            {"kv_cache_dtype": "fp8", "weights": "int8", "limits": WIDE, **NO_REUSE},
            "needs scales from a calibration",
        ),
        (
            {"kv_cache_dtype": "int8", "weights": "gptq", "limits": WIDE, **NO_REUSE},
            "needs scales from a calibration",
        ),
        ({"tp_size": 3}, "--tp-size 3 does not divide num_attention_heads 32; 1, 2, 4, 8 do"),
        ({"tp_size": 16}, "--tp-size 16 does not divide num_key_value_heads 8"),
        (
            {"tp_size": 8, "weights": "int4_awq"},
            "a GPU's share of hidden_size is 320, no multiple of the 128",
        ),
        ({"sm": 75}, "SM75 is too old"),
        ({"sm": 80, "weights": "fp8"}, "--weights fp8: SM80 has no FP8 arithmetic"),
        ({"sm": 86, "weights": "w4a8_awq"}, "--weights w4a8_awq: SM86 has no FP8"),
        (
            {"sm": 80, "weights": "fp8", "kv_cache_dtype": "fp8"},
            "--weights fp8 and --kv-cache-dtype fp8: SM80",
        ),
        *(
            ({"sm": 100, "weights": weights}, f"--weights {weights}: .* refuses integer weights")
            for weights in ("int8", "int4", "int8_sq", "int4_awq", "w4a8_awq", "gptq")
        ),
        (
            {"sm": 103, "kv_cache_dtype": "int8", "weights": "fp8", "limits": WIDE, **NO_REUSE},
            "refuses it on SM100",
        ),
    ],
)
def test_what_cannot_work_is_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        _check(**given)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"sm": 80},
        {"weights": "fp8", "kv_cache_dtype": "fp8", "sm": 89},
        {"weights": "w4a8_awq", "kv_cache_dtype": "fp8", "sm": 90},
        {"weights": "int4_awq", "sm": 80, "tp_size": 4},
        {"weights": "int8_sq", "sm": 80},
        {"weights": "fp8", "sm": 100},
        {"weights": "int8", "sm": 120},
        {"weights": "gptq", "sm": 86},
        {"kv_cache_dtype": "fp8", "limits": WIDE, **NO_REUSE},
        {"weights": "int8_sq", "kv_cache_dtype": "int8", "limits": WIDE, **NO_REUSE},
        {"chunked_context": False, "limits": WIDE},
        {"tp_size": 8, "max_lora_rank": 64},
        {"limits": {"max_seq_len": 262144}},
    ],
)
def test_what_can_work_passes(given: dict[str, Any]) -> None:
    _check(**given)


@pytest.mark.parametrize("model", ["2b", "4b", "8b", "32b"])
@pytest.mark.parametrize("tp_size", [1, 2, 4, 8])
def test_every_public_size_can_be_split(model: str, tp_size: int) -> None:
    _check(model, tp_size=tp_size)


def test_quantization_has_the_names_of_the_runtime_for_every_choice() -> None:
    made = {weights: quantization(EngineOptions(weights)) for weights in WEIGHTS}
    assert {weights: fields["quant_algo"] for weights, fields in made.items()} == {
        "bf16": None, "fp16": None, "int8": "W8A16", "int4": "W4A16", "fp8": "FP8",
        "int8_sq": "W8A8_SQ_PER_CHANNEL", "int4_awq": "W4A16_AWQ", "w4a8_awq": "W4A8_AWQ", "gptq": "W4A16_GPTQ",
    }  # fmt: skip
    for kv_cache_dtype, name in zip(KV_CACHE_DTYPES, (None, "FP8", "INT8"), strict=True):
        assert quantization(EngineOptions("fp8", kv_cache_dtype))["kv_cache_quant_algo"] == name
    assert made["int4_awq"] | {"exclude_modules": 0} == {
        "quant_algo": "W4A16_AWQ", "kv_cache_quant_algo": None, "group_size": 128, "has_zero_point": False,
        "pre_quant_scale": True, "exclude_modules": 0,
    }  # fmt: skip
    assert (made["gptq"]["has_zero_point"], made["gptq"]["pre_quant_scale"]) == (True, False)
    for weights, fields in made.items():
        excluded = fields.get("exclude_modules", [])
        assert isinstance(excluded, list)
        assert ("*lm_head" in excluded and "*vocab_embedding" in excluded) == (
            fields["quant_algo"] is not None
        ), weights


def test_calibration_is_needed_for_activations_and_for_the_scales_of_a_cache() -> None:
    needing = [weights for weights in WEIGHTS if EngineOptions(weights).needs_calibration]
    assert needing == ["fp8", "int8_sq", "int4_awq", "w4a8_awq"]
    assert EngineOptions("bf16", "fp8").needs_calibration
