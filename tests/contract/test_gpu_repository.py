"""Repositories rendered for GPUs fit the contract, the engine's config.json and what NVIDIA's C++ backend reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from build_engine.manifest import Limits, Manifest, TokenIds, VisionFacts
from build_engine.trtllm.options import EngineOptions
from ensemble import repository
from ensemble.__main__ import main
from ensemble.config import BackendOptions, DeploymentConfig
from ensemble.contract import (
    ENSEMBLE,
    LANGUAGE_MODEL,
    MODELS,
    PREPROCESSING,
    STOP,
    TENSORRT_LLM,
    VISION_ENCODER,
    contract,
)
from ensemble.profiles import PROFILES
from ensemble.tensorrtllm import SettingsError, TensorRtLlmBackend
from tests.trtllm.engine_json import LIMITS, engine_json, facts
from tests.trtllm.engine_json import write as write_config

GPU_PROFILES = [name for name, config in PROFILES.items() if config.tensorrt_llm is not None]
ENGINES = ["2B", "4B", "8B", "8B TP2"]


def manifest_of(name: str) -> Manifest:
    """What a build of a published checkpoint writes, as far as serving reads it."""
    text, architecture = facts(name.split()[0])
    levels = len(architecture.deepstack)
    return Manifest(
        target=TENSORRT_LLM,
        weights="bf16",
        checkpoint_hash="c",
        engine_hash="e",
        vision=VisionFacts(
            16, 2, 2, 3, 1024, 16, 24, 2304, text.hidden_size, levels, (0.5,) * 3, (0.5,) * 3, 1 / 255
        ),
        text=text,
        tokens=TokenIds((151645, 151643), 151643, 151655, 151656, 151652, 151653),
        limits=LIMITS,
        versions={},
        files={},
        table_dtype="BF16",
    )


def write(directory: Path, name: str, changes: dict[str, Any] | None = None, **said: Any) -> Path:
    """An engine directory of manifest and config.json; `changes` to config.json by "section.field"."""
    manifest = replace(manifest_of(name), **said)
    options = EngineOptions(
        tp_size=2 if name.endswith("TP2") else 1, max_lora_rank=8 if manifest.adapters else 0
    )
    config = engine_json(name.split()[0], options, manifest.limits)
    for field, value in (changes or {}).items():
        section: Any = config
        *path, last = field.split(".")
        for step in path:
            section = section[step]
        section[last] = value
    write_config(directory, config)
    manifest.write(directory)
    return directory


@pytest.fixture
def engines(tmp_path: Path) -> Callable[..., Path]:
    return lambda name="4B", changes=None, **said: write(tmp_path / "engines", name, changes, **said)


def rendered(engines: Path, profile: str = "gpu") -> dict[str, Any]:
    """Every model's configuration as Triton would read it."""
    output = engines.parent / profile
    files = repository.write_configs(output, replace(PROFILES[profile], engines=engines))
    return {
        file.parent.name: text_format.Parse(file.read_text(encoding="utf-8"), pb.ModelConfig())
        for file in files
    }


def parameters(config: Any) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


@pytest.mark.parametrize("profile", GPU_PROFILES)
@pytest.mark.parametrize("name", ENGINES)
def test_every_profile_renders_for_every_engine(
    name: str, profile: str, engines: Callable[..., Path]
) -> None:
    configs = rendered(engines(name), profile)
    manifest = manifest_of(name)
    assert set(configs) == set(MODELS)
    for model in contract(TENSORRT_LLM, "BF16").values():
        config = configs[model.name]
        batch = 1 if config.max_batch_size else 0
        for found, tensors in ((config.input, model.inputs), (config.output, model.outputs)):
            got = [(t.name, pb.DataType.Name(t.data_type), tuple(t.dims)) for t in found]
            assert got == [(t.name, f"TYPE_{t.dtype}", t.shape[batch:]) for t in tensors]
        assert [t.optional for t in config.input] == [t.optional for t in model.inputs]
    language = configs[LANGUAGE_MODEL]
    assert language.backend == "tensorrtllm"
    assert language.max_batch_size == manifest.limits.max_batch_size
    assert language.model_transaction_policy.decoupled
    assert [group.kind for group in language.instance_group] == [pb.ModelInstanceGroup.KIND_CPU]
    assert language.dynamic_batching.default_queue_policy.max_queue_size == PROFILES[profile].max_inflight
    devices = "0,1" if name.endswith("TP2") else "0"
    values = parameters(language)
    assert (values["gpu_device_ids"], values["participant_ids"]) == (
        devices,
        devices if "," in devices else "",
    )
    vision = configs[VISION_ENCODER].instance_group[0]
    assert (vision.kind, list(vision.gpus)) == (pb.ModelInstanceGroup.KIND_GPU, [0])


def test_the_cpp_backend_finds_every_parameter_that_it_needs(engines: Callable[..., Path]) -> None:
    directory = engines()
    values = parameters(rendered(directory)[LANGUAGE_MODEL])
    # model_instance_state.cc reads these without a default: a missing one stops the load.
    assert {
        "gpt_model_type",
        "tokenizer_dir",
        "xgrammar_tokenizer_info_path",
        "guided_decoding_backend",
    } <= set(values)
    assert values["gpt_model_type"] == "inflight_fused_batching"
    assert values["gpt_model_path"] == str(directory / "language_model")
    on = ("enable_kv_cache_reuse", "enable_chunked_context", "exclude_input_in_output")
    assert [values[name] for name in on] == ["true"] * 3
    # Else log-probabilities are among the top-k only: confidence would always be 1.
    assert values["normalize_log_probs"] == "false"
    assert values["executor_worker_path"].endswith("/trtllmExecutorWorker")
    assert 0 < float(values["kv_cache_free_gpu_mem_fraction"]) < 1
    assert not any("${" in value for value in values.values())


def test_every_parameter_is_explained_in_place(engines: Callable[..., Path]) -> None:
    directory = engines()
    rendered(directory)
    text = (directory.parent / "gpu" / LANGUAGE_MODEL / "config.pbtxt").read_text(encoding="utf-8")
    assert len(re.findall(r"^# .+\nparameters \{", text, re.MULTILINE)) == text.count("parameters {")


# NVIDIA's template (triton_backend/all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt): data type, dims, and whether a
# reshape takes the last dimension away.
TEMPLATE = {
    "input_ids": ("INT32", [-1], False), "input_lengths": ("INT32", [1], True), "request_output_len": ("INT32", [1], True),
    "end_id": ("INT32", [1], True), "pad_id": ("INT32", [1], True), "runtime_top_k": ("INT32", [1], True),
    "runtime_top_p": ("FP32", [1], True), "temperature": ("FP32", [1], True), "repetition_penalty": ("FP32", [1], True),
    "presence_penalty": ("FP32", [1], True), "frequency_penalty": ("FP32", [1], True), "seed": ("UINT64", [1], True),
    "return_log_probs": ("BOOL", [1], True), "return_perf_metrics": ("BOOL", [1], True),
    "return_num_input_tokens": ("BOOL", [1], True), "exclude_input_in_output": ("BOOL", [1], True),
    "stop": ("BOOL", [1], True), "streaming": ("BOOL", [1], True), "prompt_embedding_table": ("BF16", [-1, -1], False),
    "prompt_table_extra_ids": ("UINT64", [-1], False), "mrope_rotary_cos_sin": ("FP32", [-1], False),
    "mrope_position_deltas": ("INT64", [1], False), "lora_task_id": ("UINT64", [1], True),
    "lora_weights": ("BF16", [-1, -1], False), "lora_config": ("INT32", [-1, 3], False),
}  # fmt: skip


COUNTERS = {
    "kv_cache_alloc_new_blocks": "INT32", "kv_cache_reused_blocks": "INT32", "kv_cache_alloc_total_blocks": "INT32",
    "arrival_time_ns": "INT64", "first_scheduled_time_ns": "INT64", "first_token_time_ns": "INT64",
    "last_token_time_ns": "INT64", "acceptance_rate": "FP32", "total_accepted_draft_tokens": "INT32",
    "total_draft_tokens": "INT32",
}  # fmt: skip


def test_all_counters_that_come_together_are_outputs(engines: Callable[..., Path]) -> None:
    config = rendered(engines())[LANGUAGE_MODEL]
    got = {
        t.name: pb.DataType.Name(t.data_type).removeprefix("TYPE_")
        for t in config.output
        if list(t.dims) == [1]
    }
    assert got == {**COUNTERS, "num_input_tokens": "INT32"}


def test_inputs_are_those_of_nvidia_s_template(engines: Callable[..., Path]) -> None:
    config = rendered(engines())[LANGUAGE_MODEL]
    got = {
        tensor.name: (
            pb.DataType.Name(tensor.data_type).removeprefix("TYPE_"),
            list(tensor.dims),
            tensor.HasField("reshape") and not tensor.reshape.shape,
        )
        for tensor in config.input
    }
    assert got == TEMPLATE


def test_the_ensemble_maps_every_output_that_the_backend_may_send(engines: Callable[..., Path]) -> None:
    config = rendered(engines())[ENSEMBLE]
    steps = {step.model_name: step for step in config.ensemble_scheduling.step}
    models = contract(TENSORRT_LLM, "BF16")
    language = steps[LANGUAGE_MODEL]
    assert set(language.input_map) == {t.name for t in models[LANGUAGE_MODEL].inputs} - {STOP.name}
    assert (
        set(language.output_map)
        == {t.name for t in models[LANGUAGE_MODEL].outputs}
        == {t.name for t in config.output}
    )
    assert {"lora_task_id", "lora_weights", "lora_config"} <= {t.name for t in config.input if t.optional}
    assert "return_perf_metrics" in steps[PREPROCESSING].output_map


def test_the_cuda_pool_holds_the_table_of_every_running_sequence(engines: Callable[..., Path]) -> None:
    backend = TensorRtLlmBackend.read(replace(PROFILES["gpu"], engines=engines("4B")))
    assert backend.cuda_pool_bytes == 8 * (4 * 4096) * 2560 * 2


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "kv fraction of 1": ({"kv_cache_free_gpu_mem_fraction": 1.0}, "kv_cache_free_gpu_mem_fraction: got 1.0; allowed"),
    "kv fraction of 0": ({"kv_cache_free_gpu_mem_fraction": 0.0}, "kv_cache_free_gpu_mem_fraction: got 0.0; allowed"),
    "lora fraction": ({"lora_cache_gpu_memory_fraction": 1.5}, "lora_cache_gpu_memory_fraction: got 1.5"),
    "negative host memory": ({"kv_cache_host_memory_bytes": -1}, "must not be negative"),
    "unknown policy": ({"batch_scheduler_policy": "fifo"}, "got 'fifo'; allowed: guaranteed_no_evict or max_utilization"),
    "beam search": ({"decoding_mode": "beam_search"}, "got 'beam_search'; allowed: top_k_top_p"),
    "cuda graph": ({"cuda_graph_mode": True}, "new address at every step"),
    "overlap": ({"enable_trt_overlap": True}, "doubles the buffer"),
    "two gpus for one rank": ({"gpu_device_ids": "0,1"}, "got '0,1'; allowed: 1 different GPUs"),
    "words for gpus": ({"gpu_device_ids": "first"}, "got 'first'; allowed: numbers"),
    "adapters of a smaller rank": ({"lora_cache_max_adapter_size": 4}, "got 4; the engine takes adapters of rank 8"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_cannot_work_are_refused_with_the_reason(
    case: str, engines: Callable[..., Path]
) -> None:
    options, words = OPTIONS[case]
    config = DeploymentConfig(engines=engines(adapters=("one",)), tensorrt_llm=BackendOptions(**options))
    with pytest.raises(SettingsError, match=re.escape(words)):
        repository.write_configs(config.engines, config)


BUILD, MODEL = "build_config", "pretrained_config"
BUILT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "reuse without paged context FMHA": (
        {f"{BUILD}.plugin_config.use_paged_context_fmha": False},
        {"limits": Limits(8, 7168, 8192, 8192, 4096)}, "kv_cache_reuse: true",
    ),
    "another batch size": ({f"{BUILD}.max_batch_size": 4}, {}, "max_batch_size: the manifest says 8, the engine's config.json 4"),
    "another prompt length": ({f"{BUILD}.max_input_len": 6000}, {}, "max_input_len: the manifest says 7168"),
    "another vocabulary": ({f"{MODEL}.vocab_size": 152064}, {}, "vocab_size: the manifest says 151936"),
    "another width": ({f"{MODEL}.hidden_size": 2048}, {}, "hidden_size: the manifest says 2560"),
    "other DeepStack levels": ({f"{MODEL}.deepstack_levels": 2}, {}, "deepstack_levels: the manifest says 3"),
    "another data type": ({f"{MODEL}.dtype": "float16"}, {}, "table_dtype: the manifest says BF16, the engine's"),
    "float32": ({f"{MODEL}.dtype": "float32"}, {}, "bfloat16 and float16 can be served"),
    "a slot too small": (
        {f"{BUILD}.max_prompt_embedding_table_size": 8 * 4 * 4000}, {}, "max_visual_tokens 4096 needs 16384 rows",
    ),
    "no mrope": ({f"{BUILD}.use_mrope": False}, {}, "use_mrope"),
    "positions beyond the engine": ({f"{MODEL}.max_position_embeddings": 262144}, {}, "they must be equal"),
    "half of the head rotated": ({f"{MODEL}.rotary_embedding_dim": 80}, {}, "they must be equal"),
    "beams": ({f"{BUILD}.max_beam_width": 4}, {}, "max_beam_width"),
    "adapters without the plugin": (
        {f"{BUILD}.plugin_config.lora_plugin": None}, {"adapters": ("one",)}, "adapters one: the engine was built without",
    ),
    "openvino engines": ({}, {"target": "openvino"}, "holds openvino engines"),
}  # fmt: skip


@pytest.mark.parametrize("case", BUILT)
def test_engines_that_cannot_be_served_are_refused_with_the_reason(
    case: str, engines: Callable[..., Path]
) -> None:
    changes, said, words = BUILT[case]
    with pytest.raises(SettingsError, match=re.escape(words)):
        rendered(engines("4B", changes, **said))


def test_an_engine_without_paged_context_fmha_is_served_without_reuse_and_chunks(
    engines: Callable[..., Path],
) -> None:
    changes = {f"{BUILD}.plugin_config.use_paged_context_fmha": False}
    directory = engines("4B", changes, limits=Limits(8, 4096, 8192, 4096, 1024))
    config = replace(PROFILES["gpu"], engines=directory, kv_cache_reuse=False)
    with pytest.raises(SettingsError, match="enable_chunked_context: true"):
        repository.write_configs(directory, config)
    plain = replace(config, tensorrt_llm=BackendOptions(enable_chunked_context=False))
    repository.write_configs(directory, plain)


def test_long_prompts_need_chunked_context(engines: Callable[..., Path]) -> None:
    options = BackendOptions(enable_chunked_context=False)
    config = DeploymentConfig(engines=engines(), tensorrt_llm=options)
    with pytest.raises(SettingsError, match="max_num_tokens 2048; set it to true"):
        repository.write_configs(config.engines, config)


def test_render_writes_a_whole_repository(
    engines: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "models"
    command = [
        "render",
        "--profile",
        "gpu-h100",
        "--engines",
        str(engines("8B TP2")),
        "--output",
        str(output),
    ]
    assert main([*command, "--set", "tensorrt_llm.gpu_device_ids=3,2"]) == 0
    assert str(output / LANGUAGE_MODEL / "config.pbtxt") in capsys.readouterr().out
    shells = {file.parent.parent.name for file in output.rglob("model.py")}
    assert shells == set(MODELS) - {ENSEMBLE, LANGUAGE_MODEL}
    assert (output / LANGUAGE_MODEL / "1").is_dir()
    text = (output / LANGUAGE_MODEL / "config.pbtxt").read_text(encoding="utf-8")
    assert 'string_value: "3,2"' in text
    config = text_format.Parse((output / VISION_ENCODER / "config.pbtxt").read_text(), pb.ModelConfig())
    assert list(config.instance_group[0].gpus) == [3]


def test_render_says_what_is_wrong(
    engines: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", "--profile", "gpu", "--output", str(tmp_path / "x")]) == 2
    assert "name them with --engines" in capsys.readouterr().err
    command = ["render", "--profile", "gpu", "--engines", str(engines()), "--output", str(tmp_path / "x")]
    assert main([*command, "--set", "tensorrt_llm.cuda_graph_mode=true"]) == 2
    assert "cuda_graph_mode" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
