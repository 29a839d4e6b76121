"""What becomes of a file: form, limits, metadata, broken bytes; pictures that are fine are not touched."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from gateway.errors import InvalidInput, TooLarge, Unavailable
from gateway.guard import Guard, quality
from gateway.guard.kind import VIDEOS, sniff
from gateway.guard.letterbox import Letterbox
from gateway.guard.ocr import Line, Ocr
from gateway.guard.picture import open_picture
from gateway.records import Media, Received
from gateway.settings import Media as Limits

PICTURES = Path(__file__).parents[3] / "build_engine" / "demo" / "pictures"
PLAIN = Limits(mask=False)


def taken(data: bytes, limits: Limits = PLAIN, ocr: Any = None, name: str = "") -> Media:
    return asyncio.run(Guard(limits, ocr).media(Received(data, name), "image"))


def encoded(form: str, size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    random = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(random).save(file, form, **options)
    return file.getvalue()


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("file", sorted(PICTURES.glob("*.jpg")), ids=lambda file: file.stem)
def test_a_good_picture_is_not_touched(file: Path) -> None:
    data = file.read_bytes()
    media = taken(data)
    assert media.data == data
    assert (media.mime, media.masked, media.quality) == ("image/jpeg", 0, 1.0)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_the_content_decides_the_form(form: str) -> None:
    media = taken(encoded(form), name="movie.mp4")
    assert media.kind == "image"
    assert media.mime == ("image/jpeg" if form == "JPEG" else "image/png")
    assert (media.width, media.height) == (64, 48)


def test_place_time_camera_and_comments_are_gone_and_no_pixel_changed() -> None:
    exif = Image.Exif()
    exif[0x010F] = "SECRET-CAMERA"
    exif.get_ifd(0x8825)[2] = (IFDRational(39), IFDRational(54), IFDRational(20))
    data = encoded("JPEG", exif=exif, comment=b"SECRET-COMMENT") + b"SECRET-TRAILER"
    media = taken(data)
    assert b"SECRET" not in media.data
    assert not Image.open(io.BytesIO(media.data)).getexif()
    np.testing.assert_array_equal(pixels(media.data), pixels(data))


def test_texts_of_a_png_are_gone_and_no_pixel_changed() -> None:
    data = encoded("PNG")
    text = b"tEXt" + b"Author\x00SECRET"
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    media = taken(data[:33] + chunk + data[33:])
    assert b"SECRET" not in media.data
    np.testing.assert_array_equal(pixels(media.data), pixels(data))


def test_a_picture_on_its_side_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    media = taken(encoded("JPEG", exif=exif))
    assert (media.width, media.height) == (48, 64)
    assert not Image.open(io.BytesIO(media.data)).getexif()


def test_equal_pixels_have_equal_digests_whatever_the_file() -> None:
    assert taken(encoded("PNG")).digest == taken(encoded("BMP")).digest
    assert taken(encoded("PNG")).digest != taken(encoded("PNG", (48, 64))).digest


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"hello", b"<svg onload=alert(1)>", b"%PDF-1.7", b"GIF89a", b"RIFF1234WEBP",
     encoded("JPEG")[:200], encoded("PNG")[:100], b"\x00\x00\x00\x18ftypmp42", b"\x1a\x45\xdf\xa3" + bytes(50)],
)  # fmt: skip
def test_bad_bytes_are_the_callers_fault(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="allowed"):
        taken(data)


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    with pytest.raises(TooLarge, match="pixels"):
        taken(bomb + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND")))


def test_bytes_and_shapes_have_limits() -> None:
    with pytest.raises(TooLarge, match="at most 100 bytes"):
        taken(encoded("JPEG"), Limits(mask=False, max_image_bytes=100))
    with pytest.raises(InvalidInput, match="ratio"):
        taken(encoded("PNG", (2000, 2)))


class Blind:
    """An OCR that is away."""

    async def read(self, image: Any) -> list[Line]:
        raise Unavailable("away")


def test_a_picture_that_cannot_be_searched_is_not_taken() -> None:
    with pytest.raises(Unavailable):
        taken(encoded("PNG"), Limits(), Blind())


def test_nobody_there_is_unavailable() -> None:
    async def run() -> None:
        ocr = Ocr("127.0.0.1:9", "ocr", 2)
        try:
            await Guard(Limits(), ocr).media(Received(encoded("PNG")), "image")
        finally:
            await ocr.close()

    with pytest.raises(Unavailable, match="private data"):
        asyncio.run(run())


def test_a_dark_photo_is_helped_and_keeps_its_size() -> None:
    good = pixels((PICTURES / "crack.jpg").read_bytes())
    dark = (good * 0.15).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(dark).save(file, "PNG")
    helped = taken(file.getvalue())
    assert helped.quality < 0.9
    assert pixels(helped.data).std() > 1.3 * dark.std()
    assert taken(file.getvalue(), Limits(mask=False, enhance=False)).data == file.getvalue()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (37, 4000), (1024, 1024), (4000, 3000), (500, 499)])
def test_boxes_come_back_from_the_square(width: int, height: int) -> None:
    box = Letterbox.of(width, height, 1024)
    points = np.array([[0, 0], [width, height], [width / 3, height / 7]], np.float64)
    inside = box.inside(points)
    assert inside.min() >= -0.5
    assert inside.max() <= 1024.5
    np.testing.assert_allclose(box.outside(inside), points, atol=1e-9)


def test_a_letterboxed_picture_is_square_and_not_distorted() -> None:
    media = taken(encoded("PNG", (300, 100)), Limits(mask=False, letterbox=1024))
    assert (media.width, media.height) == (1024, 1024)
    made = pixels(media.data)
    assert (made[:300] == 128).all()
    assert made[400:600].std() > 20


def test_quality_falls_with_light_and_sharpness() -> None:
    good = pixels((PICTURES / "network.jpg").read_bytes())
    blurred = np.asarray(Image.fromarray(good).resize((30, 20)).resize(good.shape[1::-1]))
    assert quality.measure(good).score == 1.0
    assert quality.measure(blurred).score < 0.5
    assert quality.measure((good * 0.1).astype(np.uint8)).score < 0.5


def test_a_second_picture_behind_the_first_is_gone() -> None:
    exif = Image.Exif()
    exif[0x010F] = "SECRET-CAMERA"
    data = encoded("JPEG")
    assert taken(data + encoded("JPEG", exif=exif)).data == data


@pytest.mark.parametrize(
    "segment", [b"\xff\xe2%sMPF\0SECRET", b"\xff\xe0%sJFXX\0SECRET", b"\xff\xeb%sSECRET"]
)
def test_only_segments_that_draw_stay(segment: bytes) -> None:
    length = struct.pack(">H", len(segment) - 2)
    data = encoded("JPEG", progressive=True)
    assert taken(data[:20] + segment.replace(b"%s", length) + data[20:]).data == data


def test_what_a_transparent_colour_covers_is_gone() -> None:
    image = Image.new("RGB", (64, 48), "white")
    image.paste((1, 2, 3), (10, 10, 30, 20))
    file = io.BytesIO()
    image.save(file, "PNG", transparency=(1, 2, 3))
    assert (pixels(taken(file.getvalue()).data) == 255).all()


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"avif"])
def test_stills_in_a_film_container_are_refused_with_what_to_do(brand: bytes) -> None:
    with pytest.raises(InvalidInput, match="save as JPEG"):
        taken(b"\x00\x00\x00\x18ftyp" + brand + bytes(40))


def test_damaged_files_are_the_callers_fault_and_what_comes_out_is_what_was_looked_at() -> None:
    dice = Random(5)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    files = [
        encoded("JPEG", exif=exif),
        encoded("JPEG", progressive=True),
        *(encoded(form) for form in ("PNG", "WEBP", "GIF", "BMP")),
    ]
    opened = 0
    for _ in range(600):
        data = bytearray(dice.choice(files))
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(dice.choice((80, 400, len(data))))] = dice.choice(
                (0, 255, dice.randrange(256))
            )
        form = sniff(bytes(data))
        if form is None or form in VIDEOS:
            continue
        try:
            picture = open_picture(bytes(data), form, "image", 1_000_000)
        except InvalidInput:
            continue
        opened += 1
        np.testing.assert_array_equal(pixels(picture.data), picture.pixels)
    assert opened > 50


def recording(
    seconds: float = 2.0, size: tuple[int, int] = (160, 120), text: bool = False, steady: bool = True
) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        container.metadata["comment"] = "SECRET-PLACE"
        stream: Any = container.add_stream("libx264", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(int(seconds * 10)):
            frame = np.full((size[1], size[0], 3), 40 + number, np.uint8)
            frame[40:60, 20 : 140 : 7 if text else 200] = 250
            made = av.VideoFrame.from_ndarray(frame, format="rgb24")
            made.pts = number if steady else number * number
            made.time_base = Fraction(1, 10)
            container.mux(stream.encode(made))
        container.mux(stream.encode())
    return file.getvalue()


def test_a_recording_loses_its_metadata_and_keeps_its_length() -> None:
    media = taken(recording())
    assert (media.kind, media.mime, media.width, media.height) == ("video", "video/mp4", 160, 120)
    assert b"SECRET" not in media.data
    with av.open(io.BytesIO(media.data)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20


def times(data: bytes) -> list[float]:
    with av.open(io.BytesIO(data)) as container:
        return [round(float(frame.time), 2) for frame in container.decode(video=0)]


def test_frames_without_a_steady_rate_stay_at_their_times() -> None:
    data = recording(1.0, steady=False)
    assert times(data)[-1] == pytest.approx(8.1)
    assert times(taken(data).data) == times(data)


def test_a_recording_of_a_telephone_held_upright_is_turned() -> None:
    data = recording(text=True)
    as_is = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 0x40000000)
    turned = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 0x40000000)
    at = data.index(as_is, data.index(b"tkhd"))
    media = taken(data[:at] + turned + data[at + 36 :])
    assert (media.width, media.height) == (120, 160)
    with av.open(io.BytesIO(media.data)) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    # Light strokes in rows 40 to 60 of what lies: a quarter turn to the right, and they are columns 60 to 80.
    assert first.shape == (160, 120, 3)
    assert first[20:140, 70].std() > 20 > first[20:140, 30].std()


class Stream(io.RawIOBase):
    """Cannot go back, so that no length can be written into the header afterwards: what browsers record."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, more: Any) -> int:
        self.data += bytes(more)
        return len(more)


def test_a_header_without_a_length_hides_no_length() -> None:
    file = Stream()
    with av.open(file, "w", format="webm", options={"live": "1"}) as container:
        stream: Any = container.add_stream("libvpx", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for number in range(40):
            made = av.VideoFrame.from_ndarray(np.full((120, 160, 3), number, np.uint8), format="rgb24")
            made.pts, made.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(made))
        container.mux(stream.encode())
    with av.open(io.BytesIO(file.data)) as container:
        assert container.duration is None
    assert len(times(taken(file.data).data)) == 40
    with pytest.raises(TooLarge, match="at most 2 s"):
        taken(file.data, Limits(mask=False, max_video_s=2))


def test_a_long_or_large_recording_is_refused() -> None:
    with pytest.raises(TooLarge, match="at most 1 s"):
        taken(recording(), Limits(mask=False, max_video_s=1))
    with pytest.raises(TooLarge, match="a frame"):
        taken(recording(), Limits(mask=False, max_image_pixels=1000))


class Finds:
    """An OCR that reads a telephone number in one place, while it is there."""

    async def read(self, image: Any) -> list[Line]:
        box = np.array([[20, 40], [140, 40], [140, 60], [20, 60]], np.float32)
        seen = image[40:60, 20:140].std() > 20
        return [Line(box, "13812345678", 0.9)] if seen else []


def test_a_number_in_a_recording_is_hidden_in_every_frame() -> None:
    media = taken(recording(text=True), Limits(), Finds())
    assert media.masked >= 2
    with av.open(io.BytesIO(media.data)) as container:
        for frame in container.decode(video=0):
            assert frame.to_ndarray(format="rgb24")[44:56, 30:130].std() < 12
