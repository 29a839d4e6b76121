"""Writes a LoRA adapter in the form that TensorRT-LLM's runtime takes with a request.

Two files: `model.lora_weights.npy` [1, matrices, values], in the engine's dtype, one row per adapted matrix: A [rank, in]
and then scaling * B [out, rank], flattened, zeros behind; and `model.lora_config.npy` int32 [1, matrices, 3]: module id,
layer, rank. Tensor parallelism needs no other files: the runtime cuts the rows itself.

numpy has no bfloat16. As NVIDIA's own converter does, such weights are stored as two raw bytes a value ('|V2').
NVIDIA's C++ reader of npy files (`lora_prefetch_dir`) does not know that type, so adapters of a bfloat16 engine must travel
as request tensors, on the CPU. Not yet run on hardware.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from build_engine.checkpoint import Checkpoint
from build_engine.lora import Adapter, AdapterError, LowRank
from build_engine.shards import round_bfloat16
from build_engine.trtllm.options import EngineOptions

WEIGHTS: Final = "model.lora_weights.npy"
CONFIG: Final = "model.lora_config.npy"

MODULES: Final = {
    "self_attn.q_proj": ("attn_q", 1),
    "self_attn.k_proj": ("attn_k", 2),
    "self_attn.v_proj": ("attn_v", 3),
    "self_attn.o_proj": ("attn_dense", 4),
    "mlp.gate_proj": ("mlp_h_to_4h", 5),
    "mlp.down_proj": ("mlp_4h_to_h", 6),
    "mlp.up_proj": ("mlp_gate", 7),
}
"""Layers that an adapter may change at run time, with name and id in LoraManager.LORA_MODULE_IDS."""

TARGET_MODULES: Final = tuple(name for name, _ in MODULES.values())
"""What the engine is built to adapt (`lora_target_modules`): all of them, so that adapters may come later."""

_NAME = re.compile(r"model\.language_model\.layers\.(\d+)\.(.+)\.weight")


def convert(checkpoint: Checkpoint, adapter: Path, directory: Path, options: EngineOptions) -> None:
    """Write both files of the PEFT adapter in `adapter` into `directory`.

    AdapterError when it does not fit the checkpoint, changes layers that only a merge can change, or has a rank above
    `options.max_lora_rank`.
    """
    read = Adapter.read(adapter, checkpoint)
    rows, config = [], []
    for layer, module_id, name, matrix in sorted(_places(read)):
        if matrix.rank > options.max_lora_rank:
            raise AdapterError(
                f"{adapter}: {name!r} has rank {matrix.rank}, above --max-lora-rank {options.max_lora_rank}; raise it, or "
                "merge the adapter with --merge-lora"
            )
        down, up = read.factors(name)
        rows.append(np.concatenate([down.reshape(-1), up.reshape(-1)]))
        config.append((module_id, layer, matrix.rank))
    weights = np.zeros((1, len(rows), max(map(len, rows))), np.float32)
    for number, row in enumerate(rows):
        weights[0, number, : len(row)] = row
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / WEIGHTS, _in_dtype(weights, options.dtype))
    np.save(directory / CONFIG, np.array([config], np.int32))


def _places(adapter: Adapter) -> list[tuple[int, int, str, LowRank]]:
    places = []
    for name, matrix in adapter.matrices.items():
        match = _NAME.fullmatch(name)
        if match is None or match[2] not in MODULES:
            raise AdapterError(
                f"{adapter.directory} changes {name!r}; at run time an adapter may change {', '.join(MODULES)} of the "
                "language model only. Merge it with --merge-lora"
            )
        places.append((int(match[1]), MODULES[match[2]][1], name, matrix))
    return places


def _in_dtype(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.void] | npt.NDArray[np.float16]:
    if dtype == "bfloat16":
        return round_bfloat16(values).view(np.dtype("V2"))
    return values.astype(np.float16)
