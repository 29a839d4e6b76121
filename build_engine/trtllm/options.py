"""What a TensorRT-LLM engine is built with, and the combinations that cannot work.

It knows TensorRT-LLM's rules. It imports none of it, so the planner and the command line answer anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

WEIGHTS = ("bf16", "fp16", "int8", "int4", "fp8", "int8_sq", "int4_awq", "w4a8_awq", "gptq")


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
