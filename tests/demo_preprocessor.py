"""A preprocessor on the demo checkpoint without built engines: facts come straight from the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from build_engine.checkpoint import Checkpoint
from build_engine.manifest import Limits, Manifest
from ensemble.config import MediaLimits
from ensemble.options import Options
from ensemble.preprocessing.preprocessor import Preprocessor, Prompt

DEMO = Path(__file__).parent.parent / "build_engine" / "demo" / "checkpoint"
LIMITS = Limits(
    max_batch_size=4, max_input_len=2048, max_seq_len=4096, max_num_tokens=2048, max_visual_tokens=1024
)


def manifest(checkpoint: Path = DEMO, limits: Limits = LIMITS, target: str = "openvino") -> Manifest:
    """What `build_engine` would write for a checkpoint, as far as preprocessing reads it."""
    facts = Checkpoint.read(checkpoint)
    return Manifest(target, "f32", "", "", facts.vision, facts.text, facts.tokens, limits, {}, {})


def preprocessor(
    folder: Path,
    media: MediaLimits | None = None,
    limits: Limits = LIMITS,
    checkpoint: Path = DEMO,
    target: str = "openvino",
    threads: int = 0,
) -> Preprocessor:
    """A preprocessor whose engine directory is `folder`."""
    link = folder / "checkpoint"
    if not link.exists():
        link.symlink_to(checkpoint.resolve(), target_is_directory=True)
    facts = manifest(checkpoint, limits, target)
    return Preprocessor(facts, folder, media or MediaLimits(), b"a key of the tests, of 32 bytes.", threads)


def prepare(
    made: Preprocessor,
    messages: Any,
    images: Sequence[bytes] = (),
    videos: Sequence[bytes] = (),
    **options: Any,
) -> Prompt:
    """Prepare messages given as Python data; options by their names."""
    return made.prepare(json.dumps(messages).encode(), images, videos, Options.from_parameters(options))
