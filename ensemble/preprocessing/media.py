"""The items of a request, opened but not decoded: how many patches each will give, and then its pixels.

It joins files (images.py, video.py) with what the checkpoint wants of them (image_processor.py,
video_processor.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ensemble.config import MediaLimits
from ensemble.errors import InvalidImage, InvalidVideo
from ensemble.preprocessing.enhance import enhance
from ensemble.preprocessing.image_processor import ImageProcessor
from ensemble.preprocessing.images import decode_image, open_image
from ensemble.preprocessing.messages import IMAGE, VIDEO
from ensemble.preprocessing.video import Video, open_video
from ensemble.preprocessing.video_processor import VideoProcessor

_FRAMES_HELD: Final = 16


@dataclass(frozen=True)
class Pixels:
    """The resized pixels of an item: `frames` of `height` x `width`.

    `strips` gives them once, in pieces uint8 [f,3,h,W] whose patches follow each other: rows of a picture, or temporal groups
    of a video. What is broken in a video is only found then.
    """

    frames: int
    height: int
    width: int
    strips: Iterator[NDArray[np.uint8]]


@dataclass(frozen=True)
class ImageItem:
    """An opened picture. `patches` is known from the header: an EXIF orientation turns the grid, not
    its area.
    """

    index: int
    image: Image.Image
    processor: ImageProcessor
    enhanced: bool
    patches: int
    kind: str = IMAGE
    timestamps: tuple[float, ...] = ()

    @property
    def pixels_held(self) -> int:
        """Pixels that are decoded at once."""
        return self.image.width * self.image.height

    def decode(self) -> Pixels:
        """Decode and resize, once: the memory of the decoded picture is given back as early as possible."""
        image = decode_image(self.image, self.index)
        if self.enhanced:
            image = enhance(image)
        height, width = self.processor.resized(image.height, image.width, f"images[{self.index}]")
        resized = self.processor.resize(image, height, width)
        del image
        if resized is not self.image:
            self.image.close()
        return Pixels(1, height, width, self._strips(resized))

    def frames(self) -> NDArray[np.uint8]:
        """Decoded and resized, in one piece: uint8 [1,3,H,W]."""
        return np.concatenate(list(self.decode().strips), axis=2)

    def _strips(self, resized: Image.Image) -> Iterator[NDArray[np.uint8]]:
        yield from self.processor.strips(resized)
        self.image.close()


@dataclass(frozen=True)
class VideoItem:
    """An opened video with the frames to look at, and the seconds of each temporal group."""

    index: int
    video: Video
    processor: VideoProcessor
    indices: tuple[int, ...]
    patches: int
    timestamps: tuple[float, ...]
    kind: str = VIDEO

    @property
    def pixels_held(self) -> int:
        """Pixels that are decoded at once: about as many frames as FFmpeg's threads have at hand."""
        return _FRAMES_HELD * self.video.width * self.video.height

    def decode(self) -> Pixels:
        """Decode and resize, once, one temporal group after the other."""
        video = self.video
        height, width = self.processor.resized(len(self.indices), video.height, video.width, video.field)
        return Pixels(len(self.indices), height, width, self._strips(height, width))

    def _strips(self, height: int, width: int) -> Iterator[NDArray[np.uint8]]:
        decoded = self.video.decode(self.indices)
        while group := list(islice(decoded, self.processor.layout.temporal_patch_size)):
            yield np.stack([self.processor.resize(frame, height, width) for frame in group])


Item = ImageItem | VideoItem


@dataclass(frozen=True)
class MediaOpener:
    """Opens the items of one request, within the limits of the deployment."""

    images: ImageProcessor
    videos: VideoProcessor | None
    limits: MediaLimits
    enhanced: bool

    def open(self, kinds: Sequence[str], images: Sequence[bytes], videos: Sequence[bytes]) -> list[Item]:
        """Items in prompt order; `kinds` has IMAGE or VIDEO for each of them. Reads headers only."""
        coming_images, coming_videos = enumerate(images), enumerate(videos)
        return [
            self._open_image(*next(coming_images))
            if kind == IMAGE
            else self._open_video(*next(coming_videos))
            for kind in kinds
        ]

    def check_counts(self, images: int, videos: int) -> None:
        """InvalidImage or InvalidVideo beyond the number of items that a request may have."""
        if images > self.limits.max_images:
            raise InvalidImage("images", f"{images} items", f"at most {self.limits.max_images}")
        if videos > self.limits.max_videos:
            raise InvalidVideo("videos", f"{videos} items", f"at most {self.limits.max_videos}")
        if videos and self.videos is None:
            allowed = "no videos: the checkpoint has no video_preprocessor_config.json"
            raise InvalidVideo("videos", f"{videos} items", allowed)

    def _open_image(self, index: int, data: bytes) -> ImageItem:
        image = open_image(data, index, self.limits)
        height, width = self.images.resized(image.height, image.width, f"images[{index}]")
        _, rows, columns = self.images.layout.grid(1, height, width)
        return ImageItem(index, image, self.images, self.enhanced, rows * columns)

    def _open_video(self, index: int, data: bytes) -> VideoItem:
        processor = self.videos
        assert processor is not None, "check_counts comes first"
        video = open_video(data, index, self.limits)
        indices = tuple(int(frame) for frame in processor.sample(video.frames, video.fps))
        height, width = processor.resized(len(indices), video.height, video.width, video.field)
        groups, rows, columns = processor.layout.grid(len(indices), height, width)
        timestamps = processor.timestamps(indices, video.fps)
        return VideoItem(index, video, processor, indices, groups * rows * columns, timestamps)
