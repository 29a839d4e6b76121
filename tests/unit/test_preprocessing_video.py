"""Videos: containers, bounds, which frames are taken, and at which seconds."""

from __future__ import annotations

import io
import struct

import av
import numpy as np
import pytest

from ensemble.config import MediaLimits
from ensemble.errors import InvalidVideo
from ensemble.preprocessing.patches import PatchLayout
from ensemble.preprocessing.video import open_video
from ensemble.preprocessing.video_processor import VideoProcessor

LIMITS = MediaLimits()
LAYOUT = PatchLayout(16, 2, 2)


def encode(frames: int = 10, fps: int = 5, form: str = "mp4", size: tuple[int, int] = (48, 64)) -> bytes:
    """Frame i is grey 20*i, with a bright upper left corner."""
    codec = {"mp4": "libx264", "webm": "libvpx-vp9"}[form]
    height, width = size
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=fps, width=width, height=height, pix_fmt="yuv420p")
        for index in range(frames):
            pixels = np.full((height, width, 3), 20 * index, dtype=np.uint8)
            pixels[: height // 2, : width // 2] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return out.getvalue()


@pytest.mark.parametrize("form", ["mp4", "webm"])
def test_frames_are_counted_and_taken_by_index(form: str) -> None:
    video = open_video(encode(form=form), 0, LIMITS)
    assert (video.frames, video.fps, video.height, video.width) == (10, 5.0, 48, 64)
    shades = [int(frame[40, 60, 0]) for frame in video.decode([0, 3, 9])]
    assert shades == pytest.approx([0, 60, 180], abs=4)


def test_display_rotation_turns_frames_upright() -> None:
    data = encode()
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # a quarter to the right
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    track = data.index(b"tkhd")
    data = data[:track] + data[track:].replace(upright, turned, 1)
    video = open_video(data, 0, LIMITS)
    assert (video.height, video.width) == (64, 48)
    frame = next(iter(video.decode([0])))
    assert frame.shape == (64, 48, 3)
    assert frame[5, 40].min() > 230
    assert frame[60, 5].max() < 25


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "zero bytes"),
        (b"no video at all, really not", "no video"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "no video"),
        (b"\x00\x00\x00\x20ftypisom" + b"\x00" * 40, "broken video"),
        (b"\x1a\x45\xdf\xa3" + b"\x00" * 40, "broken video"),
        (encode()[:700], "broken video"),
    ],
)
def test_what_is_no_whole_video_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(InvalidVideo, match=said) as caught:
        list(open_video(data, 2, LIMITS).decode([0]))
    assert caught.value.field == "videos[2]"


def test_frames_that_cannot_be_decoded_are_reported() -> None:
    data = bytearray(encode(frames=30, form="webm"))
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    with pytest.raises(InvalidVideo, match=r"broken|cannot all be decoded"):
        list(open_video(bytes(data), 0, LIMITS).decode([0, 29]))


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (MediaLimits(max_video_bytes=100), "at most 100 bytes"),
        (MediaLimits(max_video_seconds=1.5), "at most 1.5 seconds"),
        (MediaLimits(max_video_frame_pixels=48 * 64 - 1), "at most 3071 pixels a frame"),
    ],
)
def test_bounds_of_the_deployment_hold(limits: MediaLimits, said: str) -> None:
    with pytest.raises(InvalidVideo, match=said):
        open_video(encode(), 0, limits)


def test_frames_are_sampled_evenly_between_the_bounds() -> None:
    processor = VideoProcessor(LAYOUT, 4096, 1 << 24, fps=2.0, min_frames=4, max_frames=6)
    assert processor.sample(100, 10.0).tolist() == [0, 20, 40, 59, 79, 99]
    assert processor.sample(10, 10.0).tolist() == [0, 3, 6, 9]
    assert processor.sample(3, 10.0).tolist() == [0, 1, 2]


def test_time_of_a_group_is_the_middle_of_its_frames() -> None:
    processor = VideoProcessor(LAYOUT, 4096, 1 << 24)
    assert processor.timestamps([0, 5, 10], 10.0) == (0.25, 1.0)


def test_a_single_frame_is_no_video() -> None:
    with pytest.raises(InvalidVideo, match="at least 2 frames"):
        VideoProcessor(LAYOUT, 4096, 1 << 24).resized(1, 48, 64, "videos[0]")


def test_patches_of_a_video_hold_two_frames_and_the_last_one_repeats() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 3, 64, 96), dtype=np.uint8)
    groups, rows, columns = LAYOUT.grid(3, 64, 96)
    assert (groups, rows, columns) == (2, 4, 6)
    patches = np.empty((groups * rows * columns, 3 * 2 * 16 * 16), dtype=np.uint8)
    LAYOUT.write_patches(frames, patches)
    row = 0
    for group in range(groups):
        for block_row in range(rows // 2):
            for block_column in range(columns // 2):
                for down in range(2):
                    for across in range(2):
                        y, x = 16 * (2 * block_row + down), 16 * (2 * block_column + across)
                        for time in range(2):
                            expected = frames[min(2 * group + time, 2), :, y : y + 16, x : x + 16]
                            np.testing.assert_array_equal(
                                patches[row].reshape(3, 2, 16, 16)[:, time], expected
                            )
                        row += 1
    assert row == len(patches)
