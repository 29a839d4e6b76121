"""What a TensorRT-LLM engine is built with, and the combinations that cannot work.

It knows TensorRT-LLM's rules. It imports none of it, so the planner and the command line answer anywhere. The rules
come from 1.2's own sources (builder.py, quantization/mode.py, quantization/layers.py, the context attention plugin):
where those only warn and switch a feature off, the build is refused, because a served engine would lack that feature.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from build_engine.facts import Architecture
from build_engine.manifest import Limits, TextFacts

WEIGHTS = ("bf16", "fp16", "int8", "int4", "fp8", "int8_sq", "int4_awq", "w4a8_awq", "gptq")
KV_CACHE_DTYPES = ("auto", "fp8", "int8")
GROUP_SIZE = 128
"""Values of a weight row that share one scale, for AWQ and GPTQ."""

CALIBRATED = ("fp8", "int8_sq", "int4_awq", "w4a8_awq")
"""Weights that ModelOpt makes from sample prompts."""
_GROUPED = ("int4_awq", "w4a8_awq", "gptq")
_QUANT_ALGO = {
    "bf16": None,
    "fp16": None,
    "int8": "W8A16",
    "int4": "W4A16",
    "fp8": "FP8",
    "int8_sq": "W8A8_SQ_PER_CHANNEL",
    "int4_awq": "W4A16_AWQ",
    "w4a8_awq": "W4A8_AWQ",
    "gptq": "W4A16_GPTQ",
}
_KV_CACHE_QUANT_ALGO = {"auto": None, "fp8": "FP8", "int8": "INT8"}
# TensorRT-LLM's own defaults; patterns over module names. Embeddings and the output head keep the engine's dtype.
_EXCLUDED_MODULES = ("*lm_head", "*vocab_embedding", "*position_embedding", "*block_embedding", "*router")
# The only weights whose context attention can read an FP8 cache through pages (builder.py).
_FP8_CONTEXT_FMHA = ("fp8", "w4a8_awq")
_INTEGER_WEIGHTS = ("int8", "int4", "int8_sq", "int4_awq", "w4a8_awq", "gptq")
_MAX_LORA_RANK = 512


class OptionsError(ValueError):
    """Options that TensorRT-LLM cannot build or serve together: which, why, and what to do."""


@dataclass(frozen=True)
class EngineOptions:
    """Options of a build beside `manifest.Limits`.

    Attributes:
        weights: "bf16", "fp16": as they are. "int8", "int4": weight-only, no calibration. "fp8", "int8_sq", "int4_awq",
            "w4a8_awq": calibrated by ModelOpt. "gptq": taken from a checkpoint that is already GPTQ-quantised.
        kv_cache_dtype: "auto" (the engine's dtype), "fp8" or "int8".
        tp_size: GPUs that share one engine (tensor parallelism).
        use_paged_context_fmha: needed for KV reuse and chunked context.
        chunked_context: prompts longer than max_num_tokens are prefilled in chunks.
        max_lora_rank: largest rank of adapters chosen at run time; 0 builds without the LoRA plugin.
    """

    weights: str = "bf16"
    kv_cache_dtype: str = "auto"
    tp_size: int = 1
    use_paged_context_fmha: bool = True
    chunked_context: bool = True
    max_lora_rank: int = 0

    @property
    def dtype(self) -> str:
        """Activations, embeddings and the prompt table: "float16" for fp16 weights, else "bfloat16"."""
        return "float16" if self.weights == "fp16" else "bfloat16"

    @property
    def needs_calibration(self) -> bool:
        """Whether ModelOpt must run over sample prompts, for the weights or for the scales of the KV cache."""
        return self.weights in CALIBRATED or self.kv_cache_dtype != "auto"


def quantization(options: EngineOptions) -> dict[str, object]:
    """Fields of TensorRT-LLM's QuantConfig: `QuantConfig(**quantization(options))`.

    quant_algo and kv_cache_quant_algo are names of QuantAlgo or None.
    """
    fields: dict[str, object] = {
        "quant_algo": _QUANT_ALGO[options.weights],
        "kv_cache_quant_algo": _KV_CACHE_QUANT_ALGO[options.kv_cache_dtype],
    }
    if options.weights in _GROUPED:
        # A GPTQ checkpoint always stores zero points; symmetric ones come out as zero and do no harm.
        is_gptq = options.weights == "gptq"
        fields |= {"group_size": GROUP_SIZE, "has_zero_point": is_gptq, "pre_quant_scale": not is_gptq}
    if fields["quant_algo"] is not None:
        fields["exclude_modules"] = list(_EXCLUDED_MODULES)
    return fields


def check(
    text: TextFacts, architecture: Architecture, limits: Limits, options: EngineOptions, sm: int | None = None
) -> None:
    """OptionsError names the first rule that is broken.

    Args:
        text: facts of the language model.
        architecture: what the build knows beside them.
        limits: what the engine shall hold.
        options: how it shall be built.
        sm: compute capability of the GPU, 89 for 8.9; None checks only what holds on every GPU.
    """
    for rules in (
        _check_values(options),
        _check_limits(text, architecture, limits, options),
        _check_kv_cache(options),
        _check_split(text, architecture, options),
        _check_gpu(options, sm) if sm is not None else iter(()),
    ):
        for holds, message in rules:
            if not holds:
                raise OptionsError(message)


# Each rule: whether it holds, and what to say when it does not.
_Rules = Iterator[tuple[bool, str]]


def _check_values(o: EngineOptions) -> _Rules:
    yield o.weights in WEIGHTS, f"--weights {o.weights!r} is unknown; allowed: {', '.join(WEIGHTS)}"
    yield (
        o.kv_cache_dtype in KV_CACHE_DTYPES,
        f"--kv-cache-dtype {o.kv_cache_dtype!r} is unknown; allowed: {', '.join(KV_CACHE_DTYPES)}",
    )
    yield o.tp_size >= 1, f"--tp-size {o.tp_size}: at least one GPU is needed"
    yield (
        0 <= o.max_lora_rank <= _MAX_LORA_RANK,
        f"--max-lora-rank {o.max_lora_rank}: allowed is 0 (no adapters at run time) to {_MAX_LORA_RANK}; merge a larger "
        "adapter at build time with --merge-lora",
    )


def _check_limits(t: TextFacts, a: Architecture, limits: Limits, o: EngineOptions) -> _Rules:
    # The C++ backend kills every running request when a step breaks one of these, so none may be left to it.
    for name, value in vars(limits).items():
        yield value >= 1, f"--{name.replace('_', '-')} {value}: at least 1 is needed"
    # A longer sequence would make the attention plugin ignore the caller's MRoPE table without a word.
    yield (
        limits.max_seq_len <= t.max_position_embeddings,
        f"--max-seq-len {limits.max_seq_len} is above max_position_embeddings {t.max_position_embeddings} of the "
        f"checkpoint; give at most {t.max_position_embeddings}",
    )
    yield (
        limits.max_input_len < limits.max_seq_len,
        f"--max-input-len {limits.max_input_len} leaves no room for an answer within --max-seq-len "
        f"{limits.max_seq_len}; give at most {limits.max_seq_len - 1}",
    )
    yield (
        limits.max_visual_tokens <= limits.max_input_len,
        f"--max-visual-tokens {limits.max_visual_tokens} is above --max-input-len {limits.max_input_len}: visual tokens "
        f"are part of the prompt; give at most {limits.max_input_len}",
    )
    yield (
        limits.max_num_tokens >= limits.max_batch_size,
        f"--max-num-tokens {limits.max_num_tokens} is below --max-batch-size {limits.max_batch_size}: every running "
        "sequence takes one token of a step; raise the first or lower the second",
    )
    yield (
        limits.max_num_tokens <= limits.max_batch_size * limits.max_seq_len,
        f"--max-num-tokens {limits.max_num_tokens} is more than all sequences together can have; TensorRT-LLM would cut it "
        f"to {limits.max_batch_size * limits.max_seq_len}, give at most that",
    )
    yield (
        not o.chunked_context or o.use_paged_context_fmha,
        "chunked context needs paged context attention; keep use_paged_context_fmha on, or switch chunked_context off",
    )
    yield (
        o.chunked_context or limits.max_num_tokens >= limits.max_input_len,
        f"--max-num-tokens {limits.max_num_tokens} is below the longest prompt ({limits.max_input_len} tokens) and chunked "
        f"context is off; give at least {limits.max_input_len}, or switch chunked_context on",
    )
    rows = limits.max_batch_size * (1 + len(a.deepstack)) * limits.max_visual_tokens
    yield (
        rows * t.hidden_size < 2**31,
        f"the prompt table would have {rows} rows of {t.hidden_size} values, more than a tensor's 2^31 - 1; lower "
        "--max-batch-size or --max-visual-tokens",
    )


def _check_kv_cache(o: EngineOptions) -> _Rules:
    yield (
        o.kv_cache_dtype != "fp8" or o.weights in _FP8_CONTEXT_FMHA or not o.use_paged_context_fmha,
        f"--kv-cache-dtype fp8 with --weights {o.weights}: TensorRT-LLM reads an FP8 cache through pages only with "
        f"{' or '.join(_FP8_CONTEXT_FMHA)} weights, and would switch paged context attention off: no KV reuse and no "
        "chunked context. Use --kv-cache-dtype auto, or --weights fp8",
    )
    yield (
        o.kv_cache_dtype != "int8" or not o.use_paged_context_fmha,
        "--kv-cache-dtype int8: paged context attention cannot read it, so KV reuse and chunked context would be off. Use "
        "--kv-cache-dtype auto, or fp8 with --weights fp8",
    )
    yield (
        o.kv_cache_dtype == "auto" or o.weights in (*CALIBRATED, "bf16", "fp16"),
        f"--kv-cache-dtype {o.kv_cache_dtype} needs scales from a calibration, and --weights {o.weights} has none. Use "
        f"--kv-cache-dtype auto, or one of {', '.join(CALIBRATED)}",
    )


def _check_split(t: TextFacts, a: Architecture, o: EngineOptions) -> _Rules:
    shared = {
        "num_attention_heads": t.num_attention_heads,
        "num_key_value_heads": t.num_key_value_heads,
        "intermediate_size": a.text_intermediate_size,
        "vocab_size": t.vocab_size,
    }
    for name, value in shared.items():
        yield (
            value % o.tp_size == 0,
            f"--tp-size {o.tp_size} does not divide {name} {value}; {_divisors(*shared.values())} do",
        )
    if o.weights in _GROUPED:
        # hidden_size too, although only its rows are split: ModelOpt checks it so, and TensorRT-LLM would pad it.
        widths = {
            "hidden_size": t.hidden_size // o.tp_size,
            "num_attention_heads * head_dim": t.num_attention_heads * t.head_dim // o.tp_size,
            "intermediate_size": a.text_intermediate_size // o.tp_size,
        }
        for name, value in widths.items():
            yield (
                value % GROUP_SIZE == 0,
                f"--weights {o.weights} with --tp-size {o.tp_size}: a GPU's share of {name} is {value}, no multiple of the "
                f"{GROUP_SIZE} values that share a scale; use a smaller --tp-size, or --weights fp8 or int8",
            )


def _check_gpu(o: EngineOptions, sm: int) -> _Rules:
    yield sm >= 80, f"SM{sm} is too old: bfloat16 engines need SM80 (A100) or newer"
    needs_fp8 = [
        name
        for name, asked in (
            ("--weights fp8", o.weights == "fp8"),
            ("--weights w4a8_awq", o.weights == "w4a8_awq"),
            ("--kv-cache-dtype fp8", o.kv_cache_dtype == "fp8"),
        )
        if asked
    ]
    yield (
        sm >= 89 or not needs_fp8,
        f"{' and '.join(needs_fp8)}: SM{sm} has no FP8 arithmetic, SM89 (L4, L40S), SM90 (H100) and newer do. Use "
        "--weights int8, int8_sq or int4_awq with --kv-cache-dtype auto",
    )
    yield (
        not 100 <= sm < 120 or o.weights not in _INTEGER_WEIGHTS,
        f"--weights {o.weights}: TensorRT-LLM 1.2 refuses integer weights and SmoothQuant on SM100 to SM119 (B200); use "
        "bf16 or fp8",
    )
    yield (
        not 100 <= sm < 120 or o.kv_cache_dtype != "int8",
        "--kv-cache-dtype int8: TensorRT-LLM 1.2 refuses it on SM100 to SM119 (B200); use auto or fp8",
    )


def _divisors(*values: int) -> str:
    found = [size for size in (1, 2, 4, 8) if all(value % size == 0 for value in values)]
    return ", ".join(str(size) for size in found)
