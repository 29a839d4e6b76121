"""Compiles the language model into TensorRT-LLM engines, one per tensor-parallel rank, and checks what came out.

It knows the order of work and every build option; the graph is model.py's, its numbers config.py's, quantised weights
quantize.py's. Not yet run on hardware: `python -m build_engine.trtllm.doctor` compares every name used here with an installed
TensorRT-LLM.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

from build_engine.checkpoint import Checkpoint
from build_engine.gptq import require_packed
from build_engine.manifest import TOKENS_PER_BLOCK, Limits
from build_engine.target import Progress
from build_engine.trtllm.config import model_config, qwen_config
from build_engine.trtllm.engine_config import FILE_NAME, EngineConfig, EngineConfigError
from build_engine.trtllm.options import EngineOptions

LANGUAGE_MODEL = "language_model"
# What ModelWeightsLoader's own table (written for Llama) calls otherwise.
KEYS = {"transformer": "model.language_model", "q_layernorm": "q_norm", "k_layernorm": "k_norm"}


class NoGpuError(ValueError):
    """TensorRT has no device to time kernels on."""


def write_language_model(
    checkpoint: Checkpoint,
    options: EngineOptions,
    limits: Limits,
    directory: Path,
    progress: Progress,
    calibration: Path | None = None,
) -> None:
    """Write `directory`/language_model/config.json and rank0.engine, rank1.engine, ...; one rank after the other.

    Args:
        progress: called once per decoder layer, those of a rank when it is done.
        calibration: prompts for `options.weights` that need calibration; None takes the samples we ship.

    Raises:
        EngineConfigError: TensorRT-LLM built something else than was asked for.
    """
    destination = directory / LANGUAGE_MODEL
    config = model_config(checkpoint, options, limits.max_seq_len)
    with tempfile.TemporaryDirectory(dir=directory, prefix="build-") as scratch:
        quantized = _quantize(checkpoint, options, Path(scratch), calibration)
        if quantized is not None:
            config |= _as_exported(quantized)
        done = 0
        for rank in range(options.tp_size):
            _use_device(rank)
            model = (
                _load_quantized(quantized, config, rank)
                if quantized
                else _load(weights(checkpoint, options), config, rank)
            )
            _compile(model, checkpoint, options, limits, destination, Path(scratch))
            until = checkpoint.text.num_hidden_layers * (rank + 1) // options.tp_size
            for _ in range(done, until):
                progress()
            done = until
    check_built(EngineConfig.read(destination / FILE_NAME), checkpoint, options, limits)


def table_rows(limits: Limits, deepstack_levels: int) -> int:
    """max_prompt_embedding_table_size: the backend divides it into max_batch_size equal slots."""
    return limits.max_batch_size * (1 + deepstack_levels) * limits.max_visual_tokens


def check_built(built: EngineConfig, checkpoint: Checkpoint, options: EngineOptions, limits: Limits) -> None:
    """EngineConfigError if a build option was changed on the way: TensorRT-LLM does that with only a warning."""
    text, config = checkpoint.text, model_config(checkpoint, options, limits.max_seq_len)
    asked = {
        "dtype": options.dtype,
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads,
        "head_size": text.head_dim,
        "max_position_embeddings": limits.max_seq_len,
        "tp_size": options.tp_size,
        "quant_algo": config["quantization"]["quant_algo"],
        "kv_cache_quant_algo": config["quantization"]["kv_cache_quant_algo"],
        "max_batch_size": limits.max_batch_size,
        "max_input_len": limits.max_input_len,
        "max_seq_len": limits.max_seq_len,
        "max_num_tokens": limits.max_num_tokens,
        "max_prompt_embedding_table_size": table_rows(limits, checkpoint.vision.deepstack_levels),
        "use_paged_context_fmha": options.use_paged_context_fmha,
        "max_lora_rank": options.max_lora_rank,
        "deepstack_levels": checkpoint.vision.deepstack_levels,
    }
    changed = [
        f"{name} is {getattr(built, name)!r}, {value!r} was asked for"
        for name, value in asked.items()
        if getattr(built, name) != value
    ]
    if changed:
        raise EngineConfigError(
            f"TensorRT-LLM built another engine than was asked for: {'; '.join(changed)}. Its log says why (search for "
            "'Overriding' and 'disabled')"
        )


def weights(checkpoint: Checkpoint, options: EngineOptions) -> dict[str, Any]:
    """The language model's tensors under their names in the checkpoint, as torch tensors on the CPU.

    bfloat16 tensors share memory with the files. Others are float32 here; the loader rounds once, to the engine's dtype.
    With `options.weights` "gptq" each packed matrix comes as the tensors it is stored as.
    """
    import torch

    packed = require_packed(checkpoint) if options.weights == "gptq" else None
    tensors: dict[str, Any] = {}
    for name in checkpoint.text_tensors():
        if packed and packed.is_packed(name):
            tensors |= {part: torch.from_numpy(values.copy()) for part, values in packed.parts(name).items()}
            continue
        bits = checkpoint.shards.bits(name)
        with warnings.catch_warnings():
            # Mapped files are read-only, which torch cannot express; nothing writes to a weight.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            if bits is None:
                tensors[name] = torch.from_numpy(checkpoint.shards.float32(name))
            else:
                tensors[name] = torch.from_numpy(bits).view(torch.bfloat16)
    return tensors


def _quantize(
    checkpoint: Checkpoint, options: EngineOptions, scratch: Path, calibration: Path | None
) -> Path | None:
    from build_engine.trtllm.quantize import needs_quantize, quantize

    return quantize(checkpoint, options, scratch, calibration) if needs_quantize(options) else None


def _as_exported(directory: Path) -> dict[str, Any]:
    """What the exporter decided: which modules are quantised, and whether the embedding is split over the ranks."""
    plain = json.loads((directory / FILE_NAME).read_text(encoding="utf-8"))
    keys = ("quantization", "use_parallel_embedding", "embedding_sharding_dim")
    return {key: plain[key] for key in keys if key in plain}


def _use_device(rank: int) -> None:
    import torch

    if not torch.cuda.device_count():
        raise NoGpuError(
            "no GPU is visible: an engine is built on the kind of GPU that serves it (docs/gpu.md)"
        )
    # With fewer GPUs than ranks the ranks take turns: TensorRT only times kernels on the device, all must be of one kind.
    torch.cuda.set_device(rank % torch.cuda.device_count())


def _load(tensors: dict[str, Any], config: dict[str, Any], rank: int) -> Any:
    from tensorrt_llm.models.model_weights_loader import ModelWeightsLoader

    from build_engine.trtllm.model import Qwen3VLForCausalLM

    model = Qwen3VLForCausalLM(qwen_config(config, rank))
    # A missing lm_head.weight makes the loader take the embedding: tied weights need no key of their own.
    ModelWeightsLoader(tensors, KEYS).generate_tllm_weights(model)
    return model


def _load_quantized(directory: Path, config: dict[str, Any], rank: int) -> Any:
    from build_engine.trtllm.model import Qwen3VLForCausalLM

    return Qwen3VLForCausalLM.from_checkpoint(str(directory), rank=rank, config=qwen_config(config, rank))


def _compile(
    model: Any,
    checkpoint: Checkpoint,
    options: EngineOptions,
    limits: Limits,
    destination: Path,
    scratch: Path,
) -> None:
    from tensorrt_llm.builder import BuildConfig, KVCacheType, build
    from tensorrt_llm.lora_helper import LoraConfig
    from tensorrt_llm.plugin import PluginConfig

    lora = LoraConfig()
    if options.max_lora_rank:
        from build_engine.trtllm.lora import TARGET_MODULES

        lora = LoraConfig(lora_target_modules=list(TARGET_MODULES), max_lora_rank=options.max_lora_rank)
    plugins = PluginConfig(
        gpt_attention_plugin="auto",
        gemm_plugin="auto",
        lora_plugin="auto" if options.max_lora_rank else None,
        context_fmha=True,
        paged_kv_cache=True,
        remove_input_padding=True,
        use_paged_context_fmha=options.use_paged_context_fmha,
        # Each of these would change what a layer takes or returns, past the DeepStack add.
        reduce_fusion=False,
        norm_quant_fusion=False,
        user_buffer=False,
        pp_reduce_scatter=False,
        gemm_allreduce_plugin=None,
        streamingllm=False,
        tokens_per_block=TOKENS_PER_BLOCK,
    )
    engine = build(
        model,
        BuildConfig(
            max_batch_size=limits.max_batch_size,
            max_input_len=limits.max_input_len,
            max_seq_len=limits.max_seq_len,
            max_num_tokens=limits.max_num_tokens,
            max_beam_width=1,
            max_prompt_embedding_table_size=table_rows(limits, checkpoint.vision.deepstack_levels),
            use_mrope=True,  # the only switch the runtime looks at; the command line sets it for Qwen2-VL alone
            kv_cache_type=KVCacheType.PAGED,
            strongly_typed=True,
            plugin_config=plugins,
            lora_config=lora,
            # The default is a file in the working directory.
            output_timing_cache=str(scratch / "timing.cache"),
        ),
    )
    engine.save(str(destination))
