"""One typed configuration of a deployment; every rendered file and every model reads it from here.

It knows limits and sizes of the *deployment*. Facts of the engines (vocabulary, hidden size, sequence lengths)
are in their manifest, and are never configured a second time.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

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
class DeploymentConfig:
    """How the models are deployed.

    Attributes:
        engines: directory that `build_engine` wrote (engine_manifest.json inside).
        max_inflight: requests admitted by the entry model at once; further ones are refused as Overloaded.
        preprocessing_instances: processes that decode and resize pictures.
        vision_max_batch: requests whose pictures the encoder takes in one call.
        vision_batch_window_us: how long the encoder waits for company, in microseconds.
        vision_cache_bytes: budget of the embedding cache, 0 turns it off.
        kv_cache_bytes: budget of the paged KV cache; 0 means: enough for max_batch_size sequences of max_seq_len,
            at most a quarter of the memory.
        kv_cache_dtype: "auto" (f32 for f32 weights, else u8), "f32", "bf16", "f16" or "u8".
        kv_cache_reuse: share the blocks of equal prompt prefixes.
        threads: threads of each engine, 0 leaves the choice to OpenVINO.
        exit_timeout_s: how long streams may go on after SIGTERM.
    """

    engines: Path = Path("/engines")
    max_inflight: int = 64
    preprocessing_instances: int = 1
    vision_max_batch: int = 8
    vision_batch_window_us: int = 2000
    vision_cache_bytes: int = 256 << 20
    kv_cache_bytes: int = 0
    kv_cache_dtype: str = "auto"
    kv_cache_reuse: bool = True
    threads: int = 0
    exit_timeout_s: int = 60
    media: MediaLimits = field(default_factory=MediaLimits)

    def to_json(self) -> str:
        """Text for a config.pbtxt parameter."""
        plain = dataclasses.asdict(self)
        plain["engines"] = str(self.engines)
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
        return cls(**plain)
