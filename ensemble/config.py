"""One typed configuration of a deployment; every rendered file and every model reads it from here.

It knows limits and sizes of the *deployment*. Facts of the engines (vocabulary, hidden size, sequence lengths)
are in their manifest, and are never configured a second time.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from ensemble.contract import TENSORRT_LLM_PYTORCH

PARAMETER = "deployment"
"""Name of the config.pbtxt parameter that carries `DeploymentConfig.to_json()` to each model."""


@dataclass(frozen=True)
class MediaLimits:
    """What a request may bring. Checked from file headers before any pixel is decoded."""

    max_images: int = 64
    max_videos: int = 8
    max_image_bytes: int = 20 << 20
    max_image_pixels: int = 64_000_000
    max_video_bytes: int = 200 << 20
    max_video_seconds: float = 600.0
    max_video_frame_pixels: int = 16_000_000
    max_messages_bytes: int = 1 << 20


@dataclass(frozen=True)
class BackendOptions:
    """How NVIDIA's C++ backend schedules and decodes, under the names of its own parameters.

    `tensorrtllm.TensorRtLlmBackend` refuses what cannot work, and takes every limit from the engine.

    Attributes:
        nodes: machines that the ranks are spread over, as many on each. `serve` sets it, see --nodes.
        gpu_device_ids: "0,1": the GPU of each tensor-parallel rank of a machine; "": 0 and up, as many as there are ranks.
        batch_scheduler_policy: "guaranteed_no_evict" starts a request when the KV cache can hold all of its answer;
            "max_utilization" starts more, and pauses some when the cache runs out.
        kv_cache_free_gpu_mem_fraction: part of the GPU memory that is free once the engine is loaded that the KV cache takes.
            The vision encoder, its cache and Triton's CUDA pool live in the rest, and may load later.
        kv_cache_host_memory_bytes: KV blocks that leave the GPU are kept in host memory, up to this; 0: dropped.
        enable_chunked_context: prefill long prompts in chunks beside running answers.
        decoding_mode: "top_k_top_p", "top_k" or "top_p". The first does all that requests may ask for.
        multi_block_mode: split the attention of few long sequences over more of the GPU.
        enable_context_fmha_fp32_acc: accumulate prefill attention in float32: slower, a little more exact.
        cuda_graph_mode, enable_trt_overlap: cannot be used with a prompt embedding table; named to be refused.
        lora_cache_max_adapter_size, lora_cache_optimal_adapter_size: largest and usual rank of the cached adapters. 0: the
            engine's largest rank.
        lora_cache_gpu_memory_fraction: part of the free GPU memory for adapters. It is taken before the KV cache.
        lora_cache_host_memory_bytes: host memory for adapters. One that fell out of it is sent again.
    """

    nodes: int = 1
    gpu_device_ids: str = ""
    batch_scheduler_policy: str = "guaranteed_no_evict"
    kv_cache_free_gpu_mem_fraction: float = 0.7
    kv_cache_host_memory_bytes: int = 0
    enable_chunked_context: bool = True
    decoding_mode: str = "top_k_top_p"
    multi_block_mode: bool = True
    enable_context_fmha_fp32_acc: bool = False
    cuda_graph_mode: bool = False
    enable_trt_overlap: bool = False
    lora_cache_max_adapter_size: int = 0
    lora_cache_optimal_adapter_size: int = 0
    lora_cache_gpu_memory_fraction: float = 0.05
    lora_cache_host_memory_bytes: int = 1 << 30


@dataclass(frozen=True)
class LlmApiOptions:
    """The second runtime for the language model, TensorRT-LLM's LLM API on its PyTorch backend.

    Attributes:
        model: Hugging Face directory with the weights.
        tensor_parallel_size: GPUs of the model.
        free_gpu_memory_fraction: part of the free GPU memory that the KV cache takes.
    """

    model: str = ""
    tensor_parallel_size: int = 1
    free_gpu_memory_fraction: float = 0.8


@dataclass(frozen=True)
class DeploymentConfig:
    """How the models are deployed.

    Attributes:
        engines: directory that `build_engine` wrote (engine_manifest.json inside).
        engine_hash: of these engines, filled in by `serve`: whoever keeps answers can tell from the model's configuration
            which engines gave them.
        max_inflight: requests admitted by the entry model at once; further ones are refused as Overloaded.
        preprocessing_instances: processes that decode and resize pictures.
        preprocessing_threads: of each of them, for the pictures of one request; 0: as many as there are processors, at most 4.
            Pictures decoded at once have no more than media.max_image_pixels together, so memory does not grow with threads.
        vision_max_batch: requests whose pictures the encoder takes in one call.
        vision_batch_window_us: how long the encoder waits for company, in microseconds.
        vision_cache_bytes: budget of the embedding cache, 0 turns it off.
        kv_cache_bytes: budget of the paged KV cache; 0 means: enough for max_batch_size sequences of max_seq_len,
            at most a quarter of the memory.
        kv_cache_dtype: "auto" (f32 for f32 weights, else u8), "f32", "bf16", "f16" or "u8".
        matrix_tiles: "on" keeps a second, int8 form of int8 or int4 weights, with which steps of 32 tokens and more (prompts)
            are computed on the matrix tiles of processors with AMX, 1.5 to 2 times as fast; "off" does not; "auto" does on
            such a processor for engines of 64 MB and more, if that takes at most a sixth of the memory: 1.25 times the size of
            the language model's file for int8, three times its size for int4. Feed-forward networks of bf16 weights are fused
            by "on" and, in at most an eighth of the memory, by "auto", for two thirds of the size of the file
            (docs/decisions/0014). Both keep a second form of them too, for prompts, and 1.6 times the size of the file;
            "auto" if that is at most a quarter of the memory and, tried as the engine is loaded, faster (docs/decisions/0013).
        kv_cache_reuse: share the blocks of equal prompt prefixes.
        stream_interval_ms: tokens that a stream gets within this time of its last message go out as one; the first token and
            the end never wait. Steps of a large model take longer than this, so each of its tokens goes out by itself.
        threads: threads of each engine, 0 leaves the choice to OpenVINO.
        ocr_instances: processes of the model `ocr`, which reads text in pictures for whoever masks private data; 0: not served.
        ocr_threads: of each of them.
        ocr_max_queue: pictures that wait for them; further ones are refused.
        exit_timeout_s: how long streams may go on after SIGTERM.
        tensorrt_llm: options of the C++ backend; None on the target openvino. kv_cache_bytes, kv_cache_dtype,
            matrix_tiles and threads are for the target openvino only.
        llm_api: options of the runtime tensorrt-llm-pytorch; None: engines are run.
    """

    engines: Path = Path("/engines")
    engine_hash: str = ""
    max_inflight: int = 64
    preprocessing_instances: int = 1
    preprocessing_threads: int = 0
    vision_max_batch: int = 8
    vision_batch_window_us: int = 0
    vision_cache_bytes: int = 256 << 20
    kv_cache_bytes: int = 0
    kv_cache_dtype: str = "auto"
    matrix_tiles: str = "auto"
    kv_cache_reuse: bool = True
    stream_interval_ms: int = 20
    threads: int = 0
    ocr_instances: int = 0
    ocr_threads: int = 1
    ocr_max_queue: int = 64
    exit_timeout_s: int = 60
    media: MediaLimits = field(default_factory=MediaLimits)
    tensorrt_llm: BackendOptions | None = None
    llm_api: LlmApiOptions | None = None

    def target(self, built: str) -> str:
        """Whose contract the models keep: that of the engines, or of the runtime that needs none."""
        return built if self.llm_api is None else TENSORRT_LLM_PYTORCH

    def to_json(self) -> str:
        """Text for a config.pbtxt parameter."""
        plain = dataclasses.asdict(self)
        plain["engines"] = str(self.engines)
        for name in ("tensorrt_llm", "llm_api"):
            if plain[name] is None:
                del plain[name]
        return json.dumps(plain, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DeploymentConfig:
        """Inverse of `to_json`; an unknown field is a ValueError that names it."""
        plain = json.loads(text)
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(plain) - known):
            raise ValueError(f"unknown deployment field {unknown[0]!r}; known: {', '.join(sorted(known))}")
        plain["engines"] = Path(plain["engines"])
        plain["media"] = MediaLimits(**plain["media"])
        if "tensorrt_llm" in plain:
            plain["tensorrt_llm"] = BackendOptions(**plain["tensorrt_llm"])
        if "llm_api" in plain:
            plain["llm_api"] = LlmApiOptions(**plain["llm_api"])
        return cls(**plain)
