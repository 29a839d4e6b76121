"""NVIDIA's C++ backend `tensorrtllm`: the parameters that it reads, from an engine and a deployment that fit together.

It knows the backend's parameters and rules (TensorRT-LLM 1.2, triton_backend/inflight_batcher_llm/src/model_instance_state.cc
and model_state.cc) and takes every limit from the engine's own config.json. It does not know protobuf (`pbtxt`) or processes.
Not yet run on hardware.

Why the rules are checked here: most of what breaks them the backend accepts at load and answers with wrong tokens, or with an
error that ends every request in flight.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from build_engine.manifest import Manifest
from build_engine.trtllm.engine_config import FILE_NAME, EngineConfig, EngineConfigError
from ensemble.config import BackendOptions, DeploymentConfig
from ensemble.contract import TENSORRT_LLM

NAME: Final = "tensorrtllm"
"""Name of the backend, and of its directory under Triton's backends."""
WORKER: Final = "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker"
LANGUAGE_MODEL_DIRECTORY: Final = "language_model"

_TRITON_DTYPE = {"bfloat16": "BF16", "float16": "FP16"}
_POLICIES = ("guaranteed_no_evict", "max_utilization")
_DECODING_MODES = ("top_k_top_p", "top_k", "top_p")


class SettingsError(ValueError):
    """An engine and a deployment that cannot be served together: the field, what it is, what is allowed, what to do."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of config.pbtxt, with what it means."""

    name: str
    value: str
    comment: str


@dataclass(frozen=True)
class TensorRtLlmBackend:
    """The backend over one engine directory. `read` checks; whoever has one may render it.

    Attributes:
        directory: the engine directory, as the server sees it.
        manifest: its manifest.
        engine: what TensorRT-LLM says of the engine.
        options: of the deployment.
        kv_cache_reuse: share the blocks of equal prompt prefixes.
        max_inflight: requests that the entry admits; the backend's queue holds them all.
    """

    directory: Path
    manifest: Manifest
    engine: EngineConfig
    options: BackendOptions
    kv_cache_reuse: bool
    max_inflight: int

    @classmethod
    def read(cls, config: DeploymentConfig) -> TensorRtLlmBackend:
        """Read the engine directory of a deployment; SettingsError or ManifestError if it cannot be served."""
        if config.tensorrt_llm is None:
            raise SettingsError("this deployment is for openvino engines; take a gpu profile")
        manifest = Manifest.read(config.engines)
        if manifest.target != TENSORRT_LLM:
            raise SettingsError(
                f"{config.engines} holds {manifest.target} engines; a gpu profile serves {TENSORRT_LLM} engines"
            )
        try:
            engine = EngineConfig.read(config.engines / LANGUAGE_MODEL_DIRECTORY / FILE_NAME)
        except EngineConfigError as error:
            raise SettingsError(str(error)) from error
        _compare(manifest, engine)
        _check(config, config.tensorrt_llm, manifest, engine)
        return cls(
            config.engines, manifest, engine, config.tensorrt_llm, config.kv_cache_reuse, config.max_inflight
        )

    @property
    def ranks(self) -> int:
        """Ranks on each machine."""
        return self.engine.tp_size // self.options.nodes

    @property
    def gpu_device_ids(self) -> tuple[int, ...]:
        """The GPU of each rank of a machine: a rank takes the one at its number modulo their count."""
        return _device_ids(self.options) or tuple(range(self.ranks))

    @property
    def cuda_pool_bytes(self) -> int:
        """Triton's CUDA pool on the first GPU: room for the prompt tables between the vision encoder and the backend.

        The backend copies a table when it takes the request, but Triton keeps the first one until the request ends. So: one
        full slot for every sequence that can run. Tables beyond that fall back to host memory, which is slower, not wrong.
        cos/sin come from preprocessing in host memory and need none.
        """
        two_bytes = 2
        slot = self.manifest.rows_per_visual_token * self.manifest.limits.max_visual_tokens
        return self.engine.max_batch_size * slot * self.engine.hidden_size * two_bytes

    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter that is not left to the backend's default, and those it reads without a default."""
        options, engine = self.options, self.engine
        path = self.directory / LANGUAGE_MODEL_DIRECTORY
        devices = ",".join(map(str, self.gpu_device_ids))
        ranks = ",".join(map(str, range(engine.tp_size)))
        rank = engine.max_lora_rank
        adapters = (
            Parameter("lora_cache_max_adapter_size", str(options.lora_cache_max_adapter_size or rank),
                      "Largest rank of an adapter."),
            Parameter("lora_cache_optimal_adapter_size", str(options.lora_cache_optimal_adapter_size or rank),
                      "Usual rank of an adapter: the cache's pages are cut for it."),
            Parameter("lora_cache_gpu_memory_fraction", _number(options.lora_cache_gpu_memory_fraction),
                      "Part of the free GPU memory for adapters."),
            Parameter("lora_cache_host_memory_bytes", str(options.lora_cache_host_memory_bytes),
                      "Host memory for adapters; one that fell out is sent again."),
        ) if engine.lora else ()  # fmt: skip
        return (
            Parameter("gpt_model_path", str(path), "The engine; all limits are in its config.json."),
            Parameter("gpt_model_type", "inflight_fused_batching", "Requests join and leave the running batch at every step."),
            Parameter("executor_worker_path", WORKER, "Program of further ranks, when they are spawned."),
            Parameter("gpu_device_ids", devices, "GPU of each rank of a machine."),
            Parameter("participant_ids", ranks if engine.tp_size > 1 else "", "MPI ranks; empty with one GPU: no MPI."),
            Parameter("max_beam_width", str(engine.max_beam_width), "As built."),
            Parameter("batch_scheduler_policy", options.batch_scheduler_policy,
                      "guaranteed_no_evict: start a request when all of its answer fits; max_utilization: pause some."),
            Parameter("enable_chunked_context", _flag(options.enable_chunked_context),
                      "Prefill long prompts in chunks beside running answers. Needs use_paged_context_fmha in the engine."),
            Parameter("enable_kv_cache_reuse", _flag(self.kv_cache_reuse),
                      "Share equal prompt prefixes, pictures included (prompt_table_extra_ids). Needs use_paged_context_fmha."),
            Parameter("kv_cache_free_gpu_mem_fraction", _number(options.kv_cache_free_gpu_mem_fraction),
                      "Part of the GPU memory that is free after the engine is loaded."),
            Parameter("kv_cache_host_memory_bytes", str(options.kv_cache_host_memory_bytes),
                      "Host memory for KV blocks that leave the GPU; 0: they are dropped."),
            Parameter("decoding_mode", options.decoding_mode, "top_k_top_p does what requests may ask for."),
            Parameter("normalize_log_probs", "false",
                      "Of all tokens. true: among the top-k only, which is always 1 when greedy."),
            Parameter("exclude_input_in_output", "true", "The prompt has ids that no tokenizer knows."),
            Parameter("multi_block_mode", _flag(options.multi_block_mode), "Split the attention of few long sequences."),
            Parameter("enable_context_fmha_fp32_acc", _flag(options.enable_context_fmha_fp32_acc),
                      "Accumulate prefill attention in float32."),
            Parameter("cuda_graph_mode", "false", "A captured graph would keep the addresses of old prompt tables."),
            Parameter("enable_trt_overlap", "false", "Would double the table's buffer; not tried with mrope."),
            *adapters,
            Parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "no", "The prompt table may stay on the GPU."),
            # The backend reads the next three without a default. Empty: no guided decoding.
            Parameter("tokenizer_dir", "", "Must be there; not used by the C++ backend."),
            Parameter("guided_decoding_backend", "", "Must be there; empty: no guided decoding."),
            Parameter("xgrammar_tokenizer_info_path", "", "Must be there; empty: no guided decoding."),
        )  # fmt: skip


def _compare(manifest: Manifest, engine: EngineConfig) -> None:
    """Manifest and config.json were written by one build; if they differ, one of them is not of this engine."""
    limits, text = manifest.limits, manifest.text
    pairs = {
        "table_dtype": (manifest.table_dtype, _TRITON_DTYPE.get(engine.dtype)),
        "vocab_size": (text.vocab_size, engine.vocab_size),
        "hidden_size": (text.hidden_size, engine.hidden_size),
        "head_dim": (text.head_dim, engine.rotary_embedding_dim),
        "deepstack_levels": (manifest.vision.deepstack_levels, engine.deepstack_levels),
        "max_batch_size": (limits.max_batch_size, engine.max_batch_size),
        "max_input_len": (limits.max_input_len, engine.max_input_len),
        "max_seq_len": (limits.max_seq_len, engine.max_seq_len),
        "max_num_tokens": (limits.max_num_tokens, engine.max_num_tokens),
    }
    for name, (said, built) in pairs.items():
        if said != built:
            raise SettingsError(
                f"{name}: the manifest says {said}, the engine's {FILE_NAME} {built}; build the engines again"
            )
    wanted = manifest.rows_per_visual_token * limits.max_visual_tokens
    if engine.table_rows_per_request < wanted:
        raise SettingsError(
            f"max_visual_tokens {limits.max_visual_tokens} needs {wanted} rows of the prompt embedding table, a request's slot "
            f"has {engine.table_rows_per_request} (max_prompt_embedding_table_size / max_batch_size); a larger picture would end "
            "every request in flight. Build the engines again"
        )
    if manifest.adapters and not engine.lora:
        raise SettingsError(
            f"adapters {', '.join(manifest.adapters)}: the engine was built without the LoRA plugin; build it again with --lora"
        )


def _check(
    config: DeploymentConfig, options: BackendOptions, manifest: Manifest, engine: EngineConfig
) -> None:
    paged = engine.use_paged_context_fmha
    fraction, lora_fraction = options.kv_cache_free_gpu_mem_fraction, options.lora_cache_gpu_memory_fraction
    rank = options.lora_cache_max_adapter_size
    devices = _device_ids(options)
    rules = (
        (paged or not config.kv_cache_reuse,
         "kv_cache_reuse: true, but the engine was built without use_paged_context_fmha; set it to false, or build again"),
        (paged or not options.enable_chunked_context,
         "enable_chunked_context: true, but the engine was built without use_paged_context_fmha; set it to false"),
        (options.enable_chunked_context or engine.max_num_tokens >= engine.max_input_len,
         f"enable_chunked_context: false, but prompts of max_input_len {engine.max_input_len} do not fit into one step of "
         f"max_num_tokens {engine.max_num_tokens}; set it to true"),
        (0 < fraction < 1,
         f"kv_cache_free_gpu_mem_fraction: got {fraction}; allowed: between 0 and 1; the vision encoder needs the rest"),
        (0 < lora_fraction < 1, f"lora_cache_gpu_memory_fraction: got {lora_fraction}; allowed: more than 0 and less than 1"),
        (options.kv_cache_host_memory_bytes >= 0, "kv_cache_host_memory_bytes: must not be negative"),
        (options.batch_scheduler_policy in _POLICIES,
         f"batch_scheduler_policy: got {options.batch_scheduler_policy!r}; allowed: {' or '.join(_POLICIES)}"),
        (options.decoding_mode in _DECODING_MODES,
         f"decoding_mode: got {options.decoding_mode!r}; allowed: {', '.join(_DECODING_MODES)}"),
        (not options.cuda_graph_mode,
         "cuda_graph_mode: true, but the prompt embedding table is read through `tasks`, which has a new address at every step; "
         "set it to false"),
        (not options.enable_trt_overlap,
         "enable_trt_overlap: true, but it doubles the buffer of the prompt embedding table and is not tried with mrope; set it "
         "to false"),
        (options.nodes >= 1 and engine.tp_size % options.nodes == 0,
         f"nodes: got {options.nodes}; allowed: a divisor of {engine.tp_size}, the engine's tp_size"),
        (not devices or len(devices) == len(set(devices)) == engine.tp_size // max(options.nodes, 1),
         f"gpu_device_ids: got {options.gpu_device_ids!r}; allowed: {engine.tp_size // max(options.nodes, 1)} different GPUs, "
         "the engine's tp_size over the nodes"),
        (rank == 0 or rank >= engine.max_lora_rank,
         f"lora_cache_max_adapter_size: got {rank}; the engine takes adapters of rank {engine.max_lora_rank}"),
        (manifest.limits.max_visual_tokens > 0, "max_visual_tokens: 0; this server needs the prompt embedding table"),
    )  # fmt: skip
    for holds, message in rules:
        if not holds:
            raise SettingsError(message)


def _device_ids(options: BackendOptions) -> tuple[int, ...]:
    words = [word.strip() for word in options.gpu_device_ids.split(",") if word.strip()]
    if not all(word.isdigit() for word in words):
        raise SettingsError(
            f"gpu_device_ids: got {options.gpu_device_ids!r}; allowed: numbers with commas between, as in 0,1"
        )
    return tuple(map(int, words))


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _number(value: float) -> str:
    return f"{value:g}"
