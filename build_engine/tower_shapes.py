"""The vision towers of the public Qwen3-VL sizes, with random weights, to compile without downloading one.

It knows shapes, from the config.json files of Qwen/Qwen3-VL-{2B,4B,8B,32B}-Instruct. Random weights compile to the
same kernels as trained ones; they say nothing about answers.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from build_engine.checkpoint import Checkpoint
from build_engine.facts import Architecture, Deepstack
from build_engine.manifest import TextFacts, TokenIds, VisionFacts
from build_engine.shards import Shards, StoredTensor, widen_bfloat16

# depth, hidden_size, num_heads, intermediate_size, out_hidden_size, deepstack_visual_indexes
SHAPES: Final = {
    "2b": (24, 1024, 16, 4096, 2048, (5, 11, 17)),
    "4b": (24, 1024, 16, 4096, 2560, (5, 11, 17)),
    "8b": (27, 1152, 16, 4304, 4096, (8, 16, 24)),
    "32b": (27, 1152, 16, 4304, 5120, (8, 16, 24)),
    "demo": (5, 128, 4, 384, 224, (2, 3)),
}
_POSITIONS: Final = {"demo": 256}
_DEFAULT_POSITIONS: Final = 2304


class RandomShards(Shards):
    """Tensors of given shapes, drawn when they are asked for; equal for equal names."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.files = ()
        self._tensors = {name: StoredTensor(Path(), "BF16", shape, 0) for name, shape in shapes.items()}

    def bits(self, name: str) -> npt.NDArray[np.uint16]:
        """See `Shards`; values of standard deviation 0.02, as a new model has them."""
        dice = np.random.default_rng(zlib.crc32(name.encode()))
        values = dice.standard_normal(self.stored(name).shape, np.float32) * np.float32(0.02)
        return (values.view(np.uint32) >> 16).astype(np.uint16)

    def float32(self, name: str) -> npt.NDArray[np.float32]:
        """See `Shards`."""
        return widen_bfloat16(self.bits(name))


def random_tower(shape: str) -> Checkpoint:
    """A checkpoint of which only the vision tower exists.

    Args:
        shape: a key of SHAPES.
    """
    depth, hidden, heads, intermediate, out, blocks = SHAPES[shape]
    vision = VisionFacts(
        patch_size=16, temporal_patch_size=2, spatial_merge_size=2, in_channels=3, hidden_size=hidden, num_heads=heads,
        depth=depth, num_position_embeddings=_POSITIONS.get(shape, _DEFAULT_POSITIONS), out_hidden_size=out,
        deepstack_levels=len(blocks), image_mean=(0.5,) * 3, image_std=(0.5,) * 3, rescale_factor=1 / 255,
    )  # fmt: skip
    architecture = Architecture(
        vision_act="gelu_pytorch_tanh",
        vision_intermediate_size=intermediate,
        deepstack=tuple(Deepstack(block, merger) for merger, block in enumerate(blocks)),
        text_intermediate_size=0,
        rms_norm_eps=1e-6,
        attention_bias=False,
        tie_word_embeddings=True,
    )
    text = TextFacts(0, out, 0, 1, 1, 128, 5e6, (24, 20, 20), 262144)
    tokens = TokenIds((0,), 0, 0, 0, 0, 0)
    named = Checkpoint(Path(shape), vision, text, tokens, architecture, RandomShards({}))
    return Checkpoint(Path(shape), vision, text, tokens, architecture, RandomShards(named.vision_tensors()))
