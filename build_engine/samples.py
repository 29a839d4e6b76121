"""Sample requests at the level of token ids and patches: no tokenizer and no pictures are needed.

They hold what goes wrong first: odd grids, several images between text, frames of a video, a video before an
image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from build_engine.manifest import Manifest

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Item:
    """An image (t = 1) or a video; `grid` in patches, `pixels` uint8 [patches, K]."""

    kind: str
    grid: Grid
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """A prompt: ids in the checkpoint's own spelling (image and video placeholders), and its media in prompt
    order.
    """

    name: str
    ids: npt.NDArray[np.int64]
    items: tuple[Item, ...]


def make_samples(manifest: Manifest, seed: int = 0) -> tuple[Sample, ...]:
    """The standard set; sides are given in visual tokens."""
    shapes: dict[str, Sequence[tuple[str, int, int, int]]] = {
        "text": (),
        "one image": (("image", 1, 3, 5),),
        "thin image": (("image", 1, 1, 13),),
        "three images": (("image", 1, 4, 6), ("image", 1, 8, 2), ("image", 1, 3, 3)),
        "video": (("video", 3, 2, 3),),
        "video and image": (("video", 2, 3, 2), ("image", 1, 2, 5)),
    }
    random = np.random.default_rng(seed)
    return tuple(make_sample(manifest, name, media, random) for name, media in shapes.items())


def make_sample(
    manifest: Manifest, name: str, media: Sequence[tuple[str, int, int, int]], random: np.random.Generator
) -> Sample:
    """Random text around random media: (kind, temporal groups, rows, columns), rows and columns in visual
    tokens.
    """
    merge, tokens = manifest.vision.spatial_merge_size, manifest.tokens
    special = {tokens.image, tokens.video, tokens.vision_start, tokens.vision_end, tokens.pad, *tokens.eos}
    words = np.array([token for token in range(min(manifest.text.vocab_size, 4096)) if token not in special])
    ids: list[int] = []
    items = []

    def say(count: int) -> None:
        ids.extend(random.choice(words, count).tolist())

    say(11)
    for kind, frames, rows, columns in media:
        placeholder = tokens.image if kind == "image" else tokens.video
        for _ in range(frames):  # text (a time stamp) stands between the frames of a video
            ids.extend([tokens.vision_start, *[placeholder] * (rows * columns), tokens.vision_end])
            say(4)
        grid = (frames, rows * merge, columns * merge)
        shape = (grid[0] * grid[1] * grid[2], manifest.vision.patch_values)
        items.append(Item(kind, grid, random.integers(0, 256, shape, dtype=np.uint8)))
    say(23)
    return Sample(name, np.array(ids, np.int64), tuple(items))


def virtual_ids(sample: Sample, manifest: Manifest) -> npt.NDArray[np.int32]:
    """The ids as the language model takes them: visual token i becomes vocab_size + (1 + D) * i."""
    visual = np.isin(sample.ids, (manifest.tokens.image, manifest.tokens.video))
    order = np.cumsum(visual) - 1
    virtual = manifest.text.vocab_size + manifest.rows_per_visual_token * order
    return np.where(visual, virtual, sample.ids).astype(np.int32)
