"""Bytes of a video to frames, through PyAV, with every bound checked before a frame is decoded.

It knows containers and limits, not what the model wants to see. A display rotation, as phones write it, is
applied (transformers' PyAV reader leaves such videos lying on their side). Frames are counted by walking
through the packets, as a header may lack the count (WebM) or lie.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray

from ensemble.config import MediaLimits
from ensemble.errors import InvalidVideo
from ensemble.preprocessing.images import decode_text

_ALLOWED: Final = "an MP4 or WebM file"
_EBML: Final = b"\x1a\x45\xdf\xa3"
_DEFAULT_FPS: Final = 24.0  # what transformers assumes for a video that does not say
_MAX_FPS: Final = 240.0


@dataclass(frozen=True)
class Video:
    """An opened video. `height` and `width` are in pixels and of upright frames; `fps` is the average
    rate.
    """

    data: bytes
    format: str
    field: str
    frames: int
    fps: float
    height: int
    width: int
    max_frame_pixels: int

    def decode(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Decode the frames at rising `indices` to RGB [H,W,3]; InvalidVideo if one cannot be decoded."""
        wanted, taken = set(indices), 0
        try:
            with _open(self.data, self.format) as container:
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                for at, frame in enumerate(container.decode(stream)):
                    if at in wanted:
                        taken += 1
                        yield self._to_rgb(frame)
                    if taken == len(wanted):
                        return
        except av.FFmpegError as error:
            raise InvalidVideo(self.field, f"a broken video ({error})", "a complete video") from error
        if taken < len(wanted):
            shown = f"a video of {self.frames} frames that cannot all be decoded"
            raise InvalidVideo(self.field, shown, "a complete video")

    def _to_rgb(self, frame: Any) -> NDArray[np.uint8]:
        # The sizes inside the stream may differ from the container's; the limit holds for each frame.
        if frame.width * frame.height > self.max_frame_pixels:
            raise InvalidVideo(self.field, f"frames of {frame.width}x{frame.height}", "frames of one size")
        pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
        if frame.rotation % 90 == 0:  # phones store portrait videos lying down, with a note
            pixels = np.rot90(pixels, k=frame.rotation // 90)
        if pixels.shape[:2] != (self.height, self.width):
            shown = f"frames of {self.width}x{self.height} and {pixels.shape[1]}x{pixels.shape[0]} pixels"
            raise InvalidVideo(self.field, shown, "frames of one size")
        return pixels


def open_video(item: bytes, index: int, limits: MediaLimits) -> Video:
    """Read the headers and packets of an item of `videos`; frames stay undecoded, but for the first one."""
    field = f"videos[{index}]"
    data = decode_text(item, field, limits.max_video_bytes, (_EBML,), InvalidVideo)
    if not data:
        raise InvalidVideo(field, "zero bytes", _ALLOWED)
    # The format is fixed by its signature: FFmpeg's own guess would also open playlists, which name other
    # files.
    if data[4:8] == b"ftyp":
        name = "mp4"
    elif data.startswith(_EBML):
        name = "matroska"
    else:
        raise InvalidVideo(field, f"{len(data)} bytes that are no video", _ALLOWED)
    try:
        with _open(data, name) as container:
            if not container.streams.video:
                raise InvalidVideo(field, "a file without a video stream", _ALLOWED)
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise InvalidVideo(field, "an unknown codec", "H.264, H.265, VP8, VP9 or AV1")
            _check_frame_size(stream.width, stream.height, field, limits)
            fps = float(stream.average_rate or _DEFAULT_FPS)
            frames = _count_frames(container, fps, field, limits)
        with _open(data, name) as container:
            first = next(container.decode(video=0), None)
    except av.FFmpegError as error:
        raise InvalidVideo(field, f"a broken video ({error})", _ALLOWED) from error
    if first is None or frames == 0:
        raise InvalidVideo(field, "a video without frames", _ALLOWED)
    _check_frame_size(first.width, first.height, field, limits)
    lying = first.rotation % 180 == 90
    height, width = (first.width, first.height) if lying else (first.height, first.width)
    return Video(data, name, field, frames, fps, height, width, limits.max_video_frame_pixels)


def _open(data: bytes, name: str) -> Any:
    # Titles and brands that are not UTF-8 do not make a video unusable.
    return av.open(io.BytesIO(data), format=name, metadata_errors="replace")


def _check_frame_size(width: int, height: int, field: str, limits: MediaLimits) -> None:
    if not 0 < width * height <= limits.max_video_frame_pixels:
        shown = f"frames of {width}x{height} pixels"
        raise InvalidVideo(field, shown, f"at most {limits.max_video_frame_pixels} pixels a frame")


def _count_frames(container: Any, fps: float, field: str, limits: MediaLimits) -> int:
    most = int(limits.max_video_seconds * min(fps, _MAX_FPS)) + 1
    frames = 0
    for packet in container.demux(video=0):
        frames += bool(packet.size) and not packet.is_discard
        if frames > most:
            shown = f"more than {most} frames at {fps:g} a second"
            raise InvalidVideo(
                field, shown, f"at most {limits.max_video_seconds:g} seconds", "Send a shorter clip."
            )
    return frames
