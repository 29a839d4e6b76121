"""An engine directory of the target tensorrt-llm without TensorRT: manifest, config.json, OpenVINO engines."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from build_engine.manifest import Manifest
from ensemble.adapters import CONFIG_FILE, DIRECTORY, WEIGHTS_FILE
from ensemble.contract import TENSORRT_LLM
from tests.server.cpp_backend.serve import OPENVINO_ENGINES
from tests.trtllm.engine_json import written

ADAPTERS = {"phones": 65, "laptops": 66}
"""Adapters by name, with the token that the stand-in puts before each answer."""


def engine_config(manifest: Manifest) -> dict[str, Any]:
    """The config.json that TensorRT-LLM would write for these facts."""
    text, limits = manifest.text, manifest.limits
    pretrained = {
        "architecture": "Qwen3VLForConditionalGeneration",
        "dtype": "bfloat16",
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads,
        "head_size": text.head_dim,
        "max_position_embeddings": limits.max_seq_len,
        "rotary_embedding_dim": text.head_dim,
        "position_embedding_type": "mrope",
        "rotary_scaling": {"type": "mrope"},
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1, "cp_size": 1},
        "quantization": {},
        "deepstack_levels": manifest.vision.deepstack_levels,
    }
    build = {
        **asdict(limits),
        "max_prompt_embedding_table_size": limits.max_batch_size
        * manifest.rows_per_visual_token
        * limits.max_visual_tokens,
        "use_mrope": True,
    }
    del build["max_visual_tokens"]
    return written(pretrained, build, {"lora_plugin": "auto"}, {"max_lora_rank": 8})


def write_engines(directory: Path, openvino: Path) -> Path:
    """Write the directory over the OpenVINO engines of the same checkpoint."""
    manifest = replace(
        Manifest.read(openvino), target=TENSORRT_LLM, table_dtype="BF16", adapters=tuple(ADAPTERS), files={}
    )
    (directory / "language_model").mkdir(parents=True)
    for name in ("checkpoint", "vision_encoder"):
        (directory / name).symlink_to(openvino / name)
    (directory / OPENVINO_ENGINES).symlink_to(openvino)
    manifest.write(directory)
    config = json.dumps(engine_config(manifest))
    (directory / "language_model" / "config.json").write_text(config, encoding="utf-8")
    for name, token in ADAPTERS.items():
        folder = directory / DIRECTORY / name
        folder.mkdir(parents=True)
        np.save(folder / WEIGHTS_FILE, np.full((1, 4, 64), token, np.int16))
        np.save(folder / CONFIG_FILE, np.ones((1, 4, 3), np.int32))
    return directory
