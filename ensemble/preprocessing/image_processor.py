"""Picture to resized pixels, equal to transformers' Qwen2VLImageProcessorPil bit for bit.

It knows sizes and resampling, not files. Rescaling and normalisation are folded into the vision encoder, so
pixels stay uint8: four times less to move, and nothing is lost, as they are uint8 after the resize in
transformers too. transformers' torchvision-backed processor resizes differently (on random noise 31 % of
the values, by up to 22 of 255).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ensemble.errors import InvalidImage, InvalidOption, RequestError
from ensemble.options import Options
from ensemble.preprocessing.patches import PatchLayout

MAX_ASPECT_RATIO = 200
_BICUBIC = 3
_STRIP_BYTES = 256 << 10


@dataclass(frozen=True)
class ImageProcessor:
    """Resizes pictures as preprocessor_config.json says. Bounds are in pixels of the resized picture."""

    layout: PatchLayout
    min_pixels: int
    max_pixels: int

    @classmethod
    def from_file(cls, path: Path) -> ImageProcessor:
        """Read preprocessor_config.json; ValueError for settings that this class cannot honour."""
        config = json.loads(path.read_text(encoding="utf-8"))
        if not config.get("do_resize", True) or config.get("resample", _BICUBIC) != _BICUBIC:
            raise ValueError(
                f"{path}: only do_resize with bicubic resampling (resample {_BICUBIC}) is supported"
            )
        size = config.get("size") or {}
        return cls(
            PatchLayout(config["patch_size"], config["temporal_patch_size"], config["merge_size"]),
            min_pixels=config.get("min_pixels") or size["shortest_edge"],
            max_pixels=config.get("max_pixels") or size["longest_edge"],
        )

    def with_options(self, options: Options) -> ImageProcessor:
        """The same with a request's own bounds; InvalidOption if they contradict those of the checkpoint."""
        low = self.min_pixels if options.min_pixels is None else options.min_pixels
        high = self.max_pixels if options.max_pixels is None else options.max_pixels
        if low > high and options.min_pixels is not None:
            raise InvalidOption(
                "min_pixels", low, f"at most the checkpoint's max_pixels = {high}", "Raise max_pixels."
            )
        if low > high:
            raise InvalidOption(
                "max_pixels", high, f"at least the checkpoint's min_pixels = {low}", "Lower min_pixels."
            )
        return ImageProcessor(self.layout, low, high)

    def resized(self, height: int, width: int, field: str) -> tuple[int, int]:
        """Height and width after the resize (`smart_resize` of transformers); InvalidImage beyond the
        aspect limit.

        Both are multiples of `layout.factor`, within the bounds where the aspect ratio allows it.
        """
        check_aspect_ratio(height, width, field, InvalidImage)
        factor = self.layout.factor
        new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
        if new_height * new_width > self.max_pixels:
            shrink = math.sqrt((height * width) / self.max_pixels)
            new_height = max(factor, math.floor(height / shrink / factor) * factor)
            new_width = max(factor, math.floor(width / shrink / factor) * factor)
        elif new_height * new_width < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            new_height = math.ceil(height * grow / factor) * factor
            new_width = math.ceil(width * grow / factor) * factor
        return new_height, new_width

    def resize(self, image: Image.Image, height: int, width: int) -> Image.Image:
        """An RGB picture of that size; the same object if it has it already."""
        if image.size == (width, height):
            return image
        return image.resize((width, height), resample=Image.Resampling.BICUBIC)

    def strips(self, image: Image.Image) -> Iterator[NDArray[np.uint8]]:
        """A resized picture from top to bottom, as frames uint8 [1,3,h,W]; every h is a multiple of `layout.factor`.

        Strips, because what is copied then stays in the processor's cache, and no second copy of the whole picture is
        ever held.
        """
        width, height = image.size
        step = max(1, _STRIP_BYTES // (3 * width * self.layout.factor)) * self.layout.factor
        for top in range(0, height, step):
            strip = image.crop((0, top, width, min(top + step, height)))
            # "RGB;L" is a row of each colour in turn: the values of a patch then lie side by side.
            rows = np.frombuffer(strip.tobytes("raw", "RGB;L"), dtype=np.uint8)
            yield rows.reshape(1, strip.height, 3, width).swapaxes(1, 2)


def check_aspect_ratio(height: int, width: int, field: str, error: type[RequestError]) -> None:
    """Raise `error` where transformers refuses: one side more than 200 times the other."""
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise error(
            field,
            f"{width}x{height} pixels",
            f"sides of a ratio up to {MAX_ASPECT_RATIO}",
            "Crop the picture.",
        )
