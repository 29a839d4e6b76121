"""A recording: opened within limits, looked at frame by frame, written again without sound and metadata.

It knows PyAV. What is private about a frame is told to it. Sound is dropped: the model does not hear, and voices are private.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import av
import av.error

from gateway.errors import InvalidInput, TooLarge
from gateway.guard.picture import Pixels

SAMPLE_S: Final = 1.0
"""Private data is looked for once in so many seconds; what is found hides that place until the next look."""
_MAX_FRAMES: Final = 20_000


@dataclass(frozen=True)
class Recording:
    """What a file's header says."""

    width: int
    height: int
    duration_s: float


def inspect(data: bytes, field: str, max_seconds: float, max_pixels: int) -> Recording:
    """Read the header; TooLarge, or InvalidInput for a broken file."""
    try:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.video[0]
            seconds = float(container.duration or 0) / av.time_base
            if not seconds and stream.duration:
                seconds = float(stream.duration * (stream.time_base or 0))
            width, height = stream.codec_context.width, stream.codec_context.height
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise InvalidInput(field, "a broken recording", "a whole MP4, MOV or WebM file") from error
    if seconds > max_seconds:
        raise TooLarge(field, f"{seconds:.0f} s", f"recordings of at most {max_seconds:g} s; cut it")
    if width * height > max_pixels:
        raise TooLarge(field, f"{width} x {height} pixels", f"at most {max_pixels} pixels a frame")
    if not width or not height:
        raise InvalidInput(field, "a recording without pictures", "a file with a video stream")
    return Recording(width, height, seconds)


def samples(data: bytes) -> Iterator[tuple[float, Pixels]]:
    """(second, RGB frame) once in SAMPLE_S; InvalidInput when the file breaks off."""
    due_s = 0.0
    for at_s, frame in _frames(data):
        if at_s >= due_s:
            due_s = at_s + SAMPLE_S
            yield at_s, frame.to_ndarray(format="rgb24")


def rewritten(data: bytes, change: Callable[[float, Pixels], Pixels] | None) -> bytes:
    """The recording as an MP4 of H.264 without sound; every frame is changed when there is a change."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format="mp4") as target:
        given = source.streams.video[0]
        rate = given.average_rate or Fraction(25)
        stream: Any = target.add_stream("libx264", rate=rate)
        stream.width, stream.height = given.codec_context.width // 2 * 2, given.codec_context.height // 2 * 2
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "20"}
        for number, (at_s, frame) in enumerate(_frames(data)):
            pixels = frame.to_ndarray(format="rgb24")
            if change is not None:
                pixels = change(at_s, pixels)
            made = av.VideoFrame.from_ndarray(pixels[: stream.height, : stream.width], format="rgb24")
            made.pts = number
            made.time_base = Fraction(1) / rate
            target.mux(stream.encode(made))
        target.mux(stream.encode())
    return file.getvalue()


def _frames(data: bytes) -> Iterator[tuple[float, Any]]:
    try:
        with av.open(io.BytesIO(data)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number >= _MAX_FRAMES:
                    raise TooLarge("video", f"more than {_MAX_FRAMES} frames", "a shorter recording")
                yield float(frame.time or 0.0), frame
    except av.error.FFmpegError as error:
        raise InvalidInput("video", "a recording that breaks off", "a whole file") from error
