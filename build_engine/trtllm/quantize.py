"""Quantises the language model with ModelOpt 0.37 and exports a TensorRT-LLM checkpoint.

The whole Qwen3-VL runs under transformers over sample prompts, so that pictures, DeepStack and MRoPE shape the activations
that are measured; only the decoder layers are quantised. ModelOpt exports them as a Qwen3, which has the same tensors.
What comes out is checked, and its config.json is rewritten with the facts that a Qwen3 does not have.

ModelOpt's part ran on a CPU with a random checkpoint (docs/gpu.md); the export asks TensorRT-LLM for its configuration
class, so all of it needs the container. Not yet run on hardware.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from build_engine.checkpoint import Checkpoint
from build_engine.shards import read_header
from build_engine.trtllm.calibration import SHIPPED, encode, read
from build_engine.trtllm.config import model_config
from build_engine.trtllm.options import GROUP_SIZE, EngineOptions, quantization

CONFIG: Final = "config.json"
_MODELOPT_CONFIG = {
    "fp8": "FP8_DEFAULT_CFG",
    "int8_sq": "INT8_SMOOTHQUANT_CFG",
    "int4_awq": "INT4_AWQ_CFG",
    "w4a8_awq": "W4A8_AWQ_BETA_CFG",
}
# Weights as they are, for a quantised KV cache alone.
_NO_WEIGHTS = {
    "quant_cfg": {
        "*weight_quantizer": {"enable": False},
        "*input_quantizer": {"enable": False},
        "default": {"enable": False},
    },
    "algorithm": "max",
}
# Measured where keys and values enter attention. Qwen3 normalises the keys after k_proj, so the output of k_proj, which
# TensorRT-LLM's own script measures for INT8, has another range.
_KV_CACHE = {"fp8": (4, 3), "int8": 8}


class QuantizeError(ValueError):
    """ModelOpt exported something else than the checkpoint and the options ask for."""


def needs_quantize(options: EngineOptions) -> bool:
    """Whether the language model goes through `quantize` before it is compiled."""
    return options.needs_calibration


def quantize(
    checkpoint: Checkpoint, options: EngineOptions, directory: Path, calibration: Path | None
) -> Path:
    """Write a TensorRT-LLM checkpoint of the language model: config.json and rank0.safetensors, ...

    Args:
        checkpoint: what to quantise; adapters merged into it are in.
        options: weights and KV cache; `needs_quantize` must hold.
        directory: where a new directory is made.
        calibration: JSONL of prompts, see `calibration.read`; None takes the ones we ship.

    Returns:
        The new directory.

    Raises:
        CalibrationError: the prompts cannot be used.
        QuantizeError: the export is not what was asked for.
    """
    import torch

    prompts = read(calibration or SHIPPED)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _load(checkpoint, getattr(torch, options.dtype), device)
    _calibrate(model, options, encode(prompts, checkpoint, device))
    exported = directory / "quantized"
    _export(model, checkpoint, options, exported)
    path = exported / CONFIG
    plain = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(patched(plain, checkpoint, options), indent=2) + "\n", encoding="utf-8")
    check_tensors(exported, checkpoint, options)
    return exported


def modelopt_config(known: Any, options: EngineOptions) -> dict[str, Any]:
    """ModelOpt's configuration: `known` is the module modelopt.torch.quantization."""
    name = _MODELOPT_CONFIG.get(options.weights)
    config: dict[str, Any] = copy.deepcopy(getattr(known, name) if name else _NO_WEIGHTS)
    if bits := _KV_CACHE.get(options.kv_cache_dtype):
        config["quant_cfg"]["*[kv]_bmm_quantizer"] = {"num_bits": bits, "axis": None, "enable": True}
    return config


def patched(exported: dict[str, Any], checkpoint: Checkpoint, options: EngineOptions) -> dict[str, Any]:
    """The config.json of Qwen3-VL from the one that ModelOpt exported for the text half as a Qwen3.

    Only what ModelOpt decided is taken over: the quantization, and that it split the embedding over the ranks. The rest
    comes from the checkpoint. QuantizeError if the two do not speak of the same network.
    """
    ours = model_config(checkpoint, options, checkpoint.text.max_position_embeddings)
    asked = quantization(options)
    found = exported.get("quantization") or {}
    facts = {
        **{f"quantization.{name}": (found.get(name), asked[name]) for name in ("quant_algo", "kv_cache_quant_algo")},
        **{
            name: (exported.get(name), ours[name])
            for name in (
                "dtype", "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_size",
                "intermediate_size", "vocab_size", "norm_epsilon",
            )
        },
        "mapping.tp_size": (exported.get("mapping", {}).get("tp_size"), options.tp_size),
    }  # fmt: skip
    if "group_size" in asked:
        facts["quantization.group_size"] = (found.get("group_size"), asked["group_size"])
    wrong = [f"{name} is {got!r}, not {wanted!r}" for name, (got, wanted) in facts.items() if got != wanted]
    if wrong:
        raise QuantizeError(
            f"ModelOpt exported another network than the checkpoint: {'; '.join(wrong)}. Is nvidia-modelopt 0.37 installed?"
        )
    return {
        **ours,
        "quantization": found,
        "use_parallel_embedding": exported.get("use_parallel_embedding", False),
        "embedding_sharding_dim": exported.get("embedding_sharding_dim", 0),
    }


def check_tensors(directory: Path, checkpoint: Checkpoint, options: EngineOptions) -> None:
    """QuantizeError unless every rank file holds every matrix and norm of the decoder, in the shapes of its share."""
    expected = _expected(checkpoint, options)
    for rank in range(options.tp_size):
        path = directory / f"rank{rank}.safetensors"
        if not path.is_file():
            raise QuantizeError(
                f"{path.name} is missing: ModelOpt exported fewer than {options.tp_size} ranks"
            )
        stored = read_header(path)
        for name, shape in expected.items():
            got = stored[name].shape if name in stored else None
            if got != shape:
                raise QuantizeError(
                    f"{path.name}: {name} is {'missing' if got is None else list(got)}, {list(shape)} is needed"
                )


def _expected(checkpoint: Checkpoint, options: EngineOptions) -> dict[str, tuple[int, ...]]:
    t, inner, shared = checkpoint.text, checkpoint.architecture.text_intermediate_size, options.tp_size
    queries = t.num_attention_heads * t.head_dim // shared
    keys = t.num_key_value_heads * t.head_dim // shared
    matrices = {
        "attention.qkv": (queries + 2 * keys, t.hidden_size),
        "attention.dense": (t.hidden_size, queries),
        "mlp.fc": (inner // shared, t.hidden_size),
        "mlp.gate": (inner // shared, t.hidden_size),
        "mlp.proj": (t.hidden_size, inner // shared),
    }
    norms = {
        "input_layernorm": t.hidden_size,
        "post_layernorm": t.hidden_size,
        "attention.q_layernorm": t.head_dim,
        "attention.k_layernorm": t.head_dim,
    }
    is_grouped = options.weights in ("int4_awq", "w4a8_awq")
    expected: dict[str, tuple[int, ...]] = {"transformer.ln_f.weight": (t.hidden_size,)}
    for layer in range(t.num_hidden_layers):
        prefix = f"transformer.layers.{layer}"
        for name, (rows, width) in matrices.items():
            # Two int4 values of neighbouring rows share a byte.
            expected[f"{prefix}.{name}.weight"] = (rows // 2 if is_grouped else rows, width)
            if is_grouped:
                expected[f"{prefix}.{name}.weights_scaling_factor"] = (rows, width // GROUP_SIZE)
        for name, width in norms.items():
            expected[f"{prefix}.{name}.weight"] = (width,)
        if options.kv_cache_dtype != "auto":
            expected[f"{prefix}.attention.kv_cache_scaling_factor"] = (1,)
    return expected


def hf_config(plain: dict[str, Any]) -> dict[str, Any]:
    """config.json in a spelling that transformers 4.57 and 5 both read: rope_theta and rope_scaling beside
    rope_parameters.
    """
    made = copy.deepcopy(plain)
    text = made["text_config"]
    if rope := text.get("rope_parameters"):
        text.setdefault("rope_theta", rope["rope_theta"])
        text.setdefault("rope_scaling", {name: value for name, value in rope.items() if name != "rope_theta"})
    return made


def _load(checkpoint: Checkpoint, dtype: Any, device: str) -> Any:
    """The checkpoint under transformers, with the weights that `shards` gives."""
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tensors = {}
    for name in checkpoint.vision_tensors() | checkpoint.text_tensors():
        tensors[name] = torch.from_numpy(checkpoint.shards.float32(name)).to(dtype)
    plain = json.loads((checkpoint.directory / CONFIG).read_text(encoding="utf-8"))
    config = Qwen3VLConfig.from_dict(hf_config(plain))
    made = Qwen3VLForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=tensors, dtype=dtype, attn_implementation="eager"
    )
    return made.to(device).eval()


def _calibrate(model: Any, options: EngineOptions, prompts: Iterable[dict[str, Any]]) -> None:
    import modelopt.torch.quantization as mtq
    import torch

    inputs = list(prompts)

    def run(_: Any) -> None:
        with torch.inference_mode():
            for given in inputs:
                model.model.rope_deltas = None  # transformers keeps those of the last pictures
                model(**given, use_cache=False)

    mtq.quantize(model.model.language_model, modelopt_config(mtq, options), forward_loop=run)


def _export(model: Any, checkpoint: Checkpoint, options: EngineOptions, directory: Path) -> None:
    import torch
    from modelopt.torch.export import export_tensorrt_llm_checkpoint

    with torch.inference_mode(), warnings.catch_warnings():
        # It says so whether or not lm_head is quantised; ours is not.
        warnings.filterwarnings("ignore", message="Enable lm_head quantization")
        export_tensorrt_llm_checkpoint(
            _as_qwen3(model, checkpoint),
            "qwen",
            getattr(torch, options.dtype),
            export_dir=directory,
            inference_tensor_parallel=options.tp_size,
        )


def _as_qwen3(model: Any, checkpoint: Checkpoint) -> Any:
    """A Qwen3ForCausalLM around the quantised layers, which keep their own classes: the same tensors and names."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    text, architecture = checkpoint.text, checkpoint.architecture
    config = Qwen3Config(
        architectures=["Qwen3ForCausalLM"],  # ModelOpt and TensorRT-LLM look the model up by it
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        intermediate_size=architecture.text_intermediate_size,
        num_hidden_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        max_position_embeddings=text.max_position_embeddings,
        rms_norm_eps=architecture.rms_norm_eps,
        rope_theta=text.rope_theta,
        tie_word_embeddings=architecture.tie_word_embeddings,
        attention_bias=architecture.attention_bias,
    )
    with torch.device("meta"):
        made: Any = Qwen3ForCausalLM(config)
    half = model.model.language_model
    made.model.embed_tokens, made.model.layers, made.model.norm = half.embed_tokens, half.layers, half.norm
    made.lm_head = model.lm_head
    return made
