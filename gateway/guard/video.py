"""A recording: opened within limits, looked at frame by frame, written again without sound and metadata.

It knows PyAV. What is private about a frame is told to it. Sound is dropped: the model does not hear, and voices are private.
Frames are upright, all as large as the first one, and stay at their times, which the first frame begins.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import av
import av.error
import cv2
import numpy as np

from gateway.errors import InvalidInput, TooLarge
from gateway.guard.picture import Pixels

SAMPLE_S: Final = 1.0
"""Private data is looked for once in so many seconds; what is found hides that place until the next look."""
_MAX_FRAMES: Final = 20_000
_CLOCK: Final = 90_000  # ticks of a second
_WHOLE: Final = "a whole MP4, MOV or WebM file"


@dataclass(frozen=True)
class Recording:
    """An opened recording: its file, the size of its upright frames, and the limits that hold while it is read."""

    data: bytes
    field: str
    width: int
    height: int
    max_s: float
    max_pixels: int


def inspect(data: bytes, field: str, max_s: float, max_pixels: int) -> Recording:
    """Read the header and one frame; TooLarge, or InvalidInput for a broken file."""
    try:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.video[0]
            seconds = float(container.duration or 0) / av.time_base
            coded = stream.codec_context.width, stream.codec_context.height
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise InvalidInput(field, "a broken recording", _WHOLE) from error
    if seconds > max_s:
        raise TooLarge(field, f"{seconds:.0f} s", f"recordings of at most {max_s:g} s; cut it")
    _check_pixels(field, *coded, max_pixels)
    first = next(_frames(Recording(data, field, 0, 0, max_s, max_pixels)), None)
    if first is None:
        raise InvalidInput(field, "a recording without a readable frame", _WHOLE)
    height, width, _ = first[1].shape
    if min(width, height) < 2:
        raise InvalidInput(field, f"{width} x {height} pixels", "at least 2 x 2")
    return Recording(data, field, width // 2 * 2, height // 2 * 2, max_s, max_pixels)


def samples(recording: Recording) -> Iterator[tuple[float, Pixels]]:
    """(second, RGB frame) once in SAMPLE_S; InvalidInput when the file breaks off."""
    due_s = 0.0
    for at_s, pixels in _frames(recording):
        if at_s >= due_s:
            due_s = at_s + SAMPLE_S
            yield at_s, pixels


def rewritten(recording: Recording, change: Callable[[float, Pixels], Pixels] | None) -> bytes:
    """The recording as an MP4 of H.264 without sound; every frame is changed when there is a change."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as target:
        stream: Any = target.add_stream("libx264", rate=Fraction(30))
        stream.width, stream.height, stream.pix_fmt = recording.width, recording.height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "20"}
        stream.codec_context.time_base = Fraction(1, _CLOCK)  # recordings of a screen have no steady rate
        last = -1
        for at_s, pixels in _frames(recording):
            if change is not None:
                pixels = change(at_s, pixels)
            made = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            last = made.pts = max(last + 1, round(at_s * _CLOCK))
            made.time_base = Fraction(1, _CLOCK)
            target.mux(stream.encode(made))
        target.mux(stream.encode())
    return file.getvalue()


def _frames(recording: Recording) -> Iterator[tuple[float, Pixels]]:
    """Every frame with its second. A header may say anything: the limits are checked on what is really there."""
    field, begin_s, last_s = recording.field, 0.0, 0.0
    try:
        with av.open(io.BytesIO(recording.data)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                time_s = frame.time
                if number == 0:
                    begin_s = time_s or 0.0
                last_s = max(last_s, last_s if time_s is None else time_s - begin_s)
                if last_s > recording.max_s:
                    raise TooLarge(
                        field, f"over {recording.max_s:g} s", f"recordings of at most {recording.max_s:g} s"
                    )
                if number >= _MAX_FRAMES:
                    raise TooLarge(field, f"over {_MAX_FRAMES} frames", "a shorter recording")
                _check_pixels(field, frame.width, frame.height, recording.max_pixels)
                yield last_s, _upright(frame, recording)
    except av.error.FFmpegError as error:
        raise InvalidInput(field, "a recording that breaks off", _WHOLE) from error


def _upright(frame: Any, recording: Recording) -> Pixels:
    """A telephone held upright records lying frames, and says so beside them."""
    pixels: Pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    if not recording.width:
        return pixels
    height, width, _ = pixels.shape
    if (width // 2 * 2, height // 2 * 2) == (recording.width, recording.height):
        return pixels[: recording.height, : recording.width]
    return np.asarray(cv2.resize(pixels, (recording.width, recording.height)), np.uint8)


def _check_pixels(field: str, width: int, height: int, most: int) -> None:
    if width * height > most:
        raise TooLarge(field, f"{width} x {height} pixels", f"at most {most} pixels a frame")
