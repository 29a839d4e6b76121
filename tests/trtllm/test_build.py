"""The order of a build, its options, and the check of what came out, with TensorRT-LLM's builder replaced by a recorder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from build_engine.checkpoint import Checkpoint
from build_engine.manifest import Limits
from build_engine.trtllm import build
from build_engine.trtllm.engine_config import EngineConfig, EngineConfigError
from build_engine.trtllm.lora import TARGET_MODULES
from build_engine.trtllm.options import EngineOptions
from tests.trtllm.engine_json import written

LIMITS = Limits(
    max_batch_size=4, max_input_len=200, max_seq_len=256, max_num_tokens=128, max_visual_tokens=100
)


@dataclass
class Recorder:
    """Stands for tensorrt_llm.builder: keeps what it is given, and writes config.json as TensorRT-LLM would."""

    models: list[Any] = field(default_factory=list)
    given: list[dict[str, Any]] = field(default_factory=list)
    change: Callable[[dict[str, Any]], None] = lambda plain: None

    def build(self, model: Any, build_config: SimpleNamespace) -> Any:
        given = vars(build_config)
        self.models.append(model)
        self.given.append(given)
        plugins, lora = vars(given["plugin_config"]), vars(given["lora_config"])
        limits = {name: value for name, value in given.items() if isinstance(value, int)}
        pretrained = {**vars(model.config), "mapping": vars(model.config.mapping)}
        plain = written(pretrained, limits, plugins, lora)
        self.change(plain)
        return SimpleNamespace(save=lambda directory: self._save(Path(directory), model, plain))

    def _save(self, directory: Path, model: Any, plain: dict[str, Any]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        rank = model.config.mapping.rank
        (directory / f"rank{rank}.engine").write_bytes(b"engine")
        if rank == 0:
            (directory / "config.json").write_text(json.dumps(plain), encoding="utf-8")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, model_module: ModuleType) -> Recorder:
    made = Recorder()
    contents: dict[str, dict[str, Any]] = {
        "builder": {
            "BuildConfig": SimpleNamespace,
            "build": made.build,
            "KVCacheType": SimpleNamespace(PAGED="PAGED"),
        },
        "lora_helper": {"LoraConfig": SimpleNamespace},
        "plugin": {"PluginConfig": SimpleNamespace},
    }
    for name, members in contents.items():
        module = ModuleType(f"tensorrt_llm.{name}")
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(build, "_use_device", lambda rank: None)
    quantize = ModuleType("build_engine.trtllm.quantize")
    vars(quantize).update(needs_quantize=lambda options: options.needs_calibration, quantize=_exported)
    monkeypatch.setitem(sys.modules, quantize.__name__, quantize)
    return made


def _exported(
    checkpoint: Checkpoint, options: EngineOptions, directory: Path, calibration: Path | None
) -> Path:
    quantization = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    plain = {
        "quantization": quantization,
        "use_parallel_embedding": True,
        "embedding_sharding_dim": 0,
        "seq_length": 8192,
    }
    (directory / "config.json").write_text(json.dumps(plain), encoding="utf-8")
    return directory


@pytest.fixture
def demo(demo_checkpoint: Path) -> Checkpoint:
    return Checkpoint.read(demo_checkpoint)


def write(checkpoint: Checkpoint, directory: Path, options: EngineOptions, limits: Limits = LIMITS) -> int:
    """Build; returns how often progress was called."""
    calls: list[None] = []
    build.write_language_model(checkpoint, options, limits, directory, lambda: calls.append(None))
    return len(calls)


def test_one_engine_with_every_option_set_by_hand(
    demo: Checkpoint, tmp_path: Path, recorder: Recorder
) -> None:
    assert write(demo, tmp_path, EngineOptions()) == demo.text.num_hidden_layers
    assert sorted(path.name for path in tmp_path.iterdir()) == ["language_model"]
    names = sorted(path.name for path in (tmp_path / "language_model").iterdir())
    assert names == ["config.json", "rank0.engine"]
    (given,) = recorder.given
    assert {name: value for name, value in given.items() if not name.endswith(("config", "cache"))} == {
        "max_batch_size": 4, "max_input_len": 200, "max_seq_len": 256, "max_num_tokens": 128, "max_beam_width": 1,
        "max_prompt_embedding_table_size": 4 * 3 * 100, "use_mrope": True, "kv_cache_type": "PAGED",
        "strongly_typed": True,
    }  # fmt: skip
    assert vars(given["plugin_config"]) == {
        "gpt_attention_plugin": "auto", "gemm_plugin": "auto", "lora_plugin": None, "context_fmha": True,
        "paged_kv_cache": True, "remove_input_padding": True, "use_paged_context_fmha": True, "reduce_fusion": False,
        "norm_quant_fusion": False, "user_buffer": False, "pp_reduce_scatter": False, "gemm_allreduce_plugin": None,
        "streamingllm": False,
        "tokens_per_block": 32,
    }  # fmt: skip
    assert Path(given["output_timing_cache"]).parent.parent == tmp_path, (
        "it would stay in the working directory"
    )
    config = EngineConfig.read(tmp_path / "language_model" / "config.json")
    assert (config.max_visual_tokens, config.deepstack_levels) == (100, 2)


def test_each_rank_is_built_from_a_fresh_model(demo: Checkpoint, tmp_path: Path, recorder: Recorder) -> None:
    assert write(demo, tmp_path, EngineOptions(tp_size=2)) == demo.text.num_hidden_layers
    assert [model.config.mapping.rank for model in recorder.models] == [0, 1]
    assert recorder.models[0].transformer is not recorder.models[1].transformer
    assert (tmp_path / "language_model" / "rank1.engine").is_file()


def test_adapters_bring_the_lora_plugin(demo: Checkpoint, tmp_path: Path, recorder: Recorder) -> None:
    write(demo, tmp_path, EngineOptions(max_lora_rank=16))
    (given,) = recorder.given
    assert given["plugin_config"].lora_plugin == "auto"
    assert vars(given["lora_config"]) == {"lora_target_modules": list(TARGET_MODULES), "max_lora_rank": 16}
    assert EngineConfig.read(tmp_path / "language_model" / "config.json").max_lora_rank == 16


def test_quantised_weights_come_from_the_exported_checkpoint(
    demo: Checkpoint, tmp_path: Path, recorder: Recorder, model_module: ModuleType
) -> None:
    loaded: list[tuple[str, int, Any]] = []

    def from_checkpoint(directory: str, rank: int, config: Any) -> Any:
        loaded.append((Path(directory).parent.name, rank, config))
        return SimpleNamespace(config=config)

    model_module.Qwen3VLForCausalLM.from_checkpoint = from_checkpoint
    write(demo, tmp_path, EngineOptions(weights="fp8", kv_cache_dtype="fp8"))
    ((parent, rank, config),) = loaded
    assert (parent, rank) == (tmp_path.name, 0)
    assert config.quantization["exclude_modules"] == ["lm_head"]
    assert config.use_parallel_embedding is True
    assert config.seq_length == 256, "the exporter does not know the engine's length"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["language_model"], "the export must not stay"


def test_ranks_take_turns_on_the_gpus_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank in range(4):
        build._use_device(rank)
    assert used == [0, 1, 0, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(build.NoGpuError, match="no GPU is visible"):
        build._use_device(0)


def _paged_attention_off(plain: dict[str, Any]) -> None:
    plain["build_config"]["plugin_config"]["use_paged_context_fmha"] = False


def _fewer_tokens(plain: dict[str, Any]) -> None:
    plain["build_config"]["max_num_tokens"] = 127


def _lost_key(plain: dict[str, Any]) -> None:
    del plain["pretrained_config"]["deepstack_levels"]


def _no_mrope(plain: dict[str, Any]) -> None:
    plain["build_config"]["use_mrope"] = False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _paged_attention_off,
            "use_paged_context_fmha is False, True was asked for.*'Overriding' and 'disabled'",
        ),
        (_fewer_tokens, "max_num_tokens is 127, 128 was asked for"),
        (_lost_key, "deepstack_levels is 'missing'"),
        (_no_mrope, "use_mrope is False"),
    ],
)
def test_an_option_that_the_builder_changed_fails_the_build(
    change: Callable[[dict[str, Any]], None],
    message: str,
    demo: Checkpoint,
    tmp_path: Path,
    recorder: Recorder,
) -> None:
    recorder.change = change
    limits = replace(LIMITS, max_num_tokens=128, max_input_len=120, max_visual_tokens=60)
    with pytest.raises(EngineConfigError, match=message):
        write(demo, tmp_path, EngineOptions(), limits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_keep_their_values(dtype: torch.dtype, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from tests.checkpoints import make_checkpoint

    directory = make_checkpoint(tmp_path / "checkpoint", dtype=dtype)
    checkpoint = Checkpoint.read(directory)
    tensors, stored = build.weights(checkpoint, EngineOptions()), load_file(directory / "model.safetensors")
    assert set(tensors) == set(checkpoint.text_tensors())
    for name, tensor in tensors.items():
        assert tensor.dtype == (torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
        assert torch.equal(tensor.float(), stored[name].float()), name
    if dtype == torch.bfloat16:
        name = "model.language_model.norm.weight"
        bits = checkpoint.shards.bits(name)
        assert bits is not None
        assert np.array_equal(tensors[name].view(torch.int16).numpy().view(np.uint16), bits)
