"""Deployments with a name: what suits one machine with a CPU, or one GPU of a kind.

It knows sizes of machines. What the engines hold is in their own files, and is compared when a profile is rendered. The GPU
profiles are reckoned from memory sizes (docs/gpu.md) for engines of 2B to 8B; they were not yet run on hardware.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ensemble.config import BackendOptions, DeploymentConfig, LlmApiOptions

CPU: Final = "cpu"
GPU: Final = "gpu"
GPU_PYTORCH: Final = "gpu-pytorch"

_GPU = DeploymentConfig(
    preprocessing_instances=4,
    vision_batch_window_us=2000,
    vision_cache_bytes=256 << 20,
    tensorrt_llm=BackendOptions(),
)


def _gpu(
    kv_fraction: float, max_inflight: int, preprocessing_instances: int, cache_mib: int
) -> DeploymentConfig:
    """The part of the free memory that is not KV cache has to hold the vision encoder (1 to 2 GB with its activations), the
    embedding cache and the prompt tables in flight, so it is larger on small GPUs.
    """
    return replace(
        _GPU,
        max_inflight=max_inflight,
        preprocessing_instances=preprocessing_instances,
        vision_cache_bytes=cache_mib << 20,
        tensorrt_llm=BackendOptions(kv_cache_free_gpu_mem_fraction=kv_fraction),
    )


PROFILES: Final = {
    CPU: DeploymentConfig(),
    GPU: _GPU,
    "gpu-l4": _gpu(0.65, 32, 4, 128),
    "gpu-l40s": _gpu(0.80, 64, 6, 512),
    "gpu-a100": _gpu(0.85, 96, 8, 1024),
    "gpu-h100": _gpu(0.85, 128, 8, 1024),
    "gpu-h200": _gpu(0.90, 192, 8, 2048),
    GPU_PYTORCH: DeploymentConfig(llm_api=LlmApiOptions()),
}
"""Deployments by name. `cpu` is the committed model repository; `gpu-pytorch` runs no engines of ours."""
