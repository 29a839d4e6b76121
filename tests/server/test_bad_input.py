"""Every kind of bad input gets its own clear error, and the next good request is answered."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from qwen3vl_client import Client
from qwen3vl_client.errors import InvalidRequest
from tritonclient import grpc as triton

from tests.conversations import IMAGE, VIDEO, said, user
from tests.reference import jpeg, png

pytestmark = pytest.mark.server


def huge_png() -> bytes:
    """A PNG whose header says 30000 x 30000; 100 bytes of file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def saved(form: str, mode: str = "RGB", **options: Any) -> bytes:
    image = Image.open(io.BytesIO(png(120, 90, 5))).convert("RGB")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256)
    else:
        image = image.convert(mode)
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved("JPEG", exif=exif)


ONE = [user(IMAGE, said("What is wrong?"))]
BAD_MEDIA = {
    "not an image": (b"hello, I am text" * 10, "InvalidImage"),
    "truncated JPEG": (jpeg(300, 300, 1)[:2000], "InvalidImage"),
    "a header of 30000 x 30000": (huge_png(), "InvalidImage"),
    "no bytes": (b"", "InvalidImage"),
    "aspect ratio beyond 200": (png(2, 1000, 1), "InvalidImage"),
}
GOOD_MEDIA = {
    "GIF": lambda: saved("GIF"),
    "WebP": lambda: saved("WEBP"),
    "CMYK JPEG": lambda: saved("JPEG", "CMYK"),
    "16-bit PNG": lambda: saved("PNG", "I;16"),
    "EXIF-rotated JPEG": rotated,
    "palette PNG": lambda: saved("PNG", "P"),
    "alpha PNG": lambda: saved("PNG", "RGBA"),
}


@pytest.fixture
def still_answers(client: Client) -> Any:
    """The next good request is answered, whatever the test did."""
    yield
    assert client.chat("Hello", max_tokens=4).usage.completion_tokens > 0


@pytest.mark.parametrize("name", BAD_MEDIA)
def test_bad_media(name: str, client: Client, still_answers: None) -> None:
    data, kind = BAD_MEDIA[name]
    with pytest.raises(InvalidRequest) as caught:
        client.chat(ONE, images=[data], max_tokens=4)
    assert type(caught.value).__name__ == kind
    assert "images[0]" in str(caught.value)


@pytest.mark.parametrize("name", GOOD_MEDIA)
def test_unusual_media_work(name: str, client: Client) -> None:
    assert client.chat(ONE, images=[GOOD_MEDIA[name]()], max_tokens=4).usage.completion_tokens > 0


def test_broken_video(client: Client, still_answers: None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.chat([user(VIDEO, said("?"))], videos=[b"\0\0\0\x18ftypmp42" + b"x" * 500], max_tokens=4)
    assert type(caught.value).__name__ == "InvalidVideo"


BAD_MESSAGES: dict[str, tuple[Any, int]] = {
    "more placeholders than images": ([user(IMAGE, IMAGE, said("?"))], 1),
    "more images than placeholders": ([user(said("?"))], 1),
    "65 images": ([user(*[IMAGE] * 65, said("?"))], 65),
    "unknown role": ([{"role": "wizard", "content": "hi"}], 0),
    "no messages": ([], 0),
    "no content": ([{"role": "user"}], 0),
    "content of a wrong type": ([{"role": "user", "content": 7}], 0),
    "unknown part": ([user({"type": "hologram"})], 0),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_bad_messages(name: str, client: Client, still_answers: None, raw: Callable[..., str]) -> None:
    messages, images = BAD_MESSAGES[name]
    error = raw(messages=messages, images=[png(40, 40, 1)] * images)
    assert "InvalidMessages: " in error or (images == 65 and "InvalidImage: " in error)
    assert "allowed" in error


@pytest.mark.parametrize("text", ["{", "[1]", "null", '"hi"', "[[]]"])
def test_malformed_messages(text: str, raw: Callable[..., str], still_answers: None) -> None:
    assert "InvalidMessages: " in raw(messages_text=text)


def test_a_prompt_too_long_says_how_long_and_the_limit(client: Client, still_answers: None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.chat("word and word " * 4000, max_tokens=4)
    assert type(caught.value).__name__ == "PromptTooLong"
    numbers = [int(piece) for piece in str(caught.value).replace(",", " ").split() if piece.isdigit()]
    assert any(number > 4000 for number in numbers)


BAD_OPTIONS: dict[str, tuple[str, Any]] = {
    "max_tokens 0": ("max_tokens", 0),
    "max_tokens negative": ("max_tokens", -3),
    "max_tokens huge": ("max_tokens", 1 << 40),
    "temperature NaN": ("temperature", float("nan")),
    "top_p 2": ("top_p", 2.0),
    "top_k of a wrong type": ("top_k", "many"),
    "stop not a list": ("stop", "END"),
    "stop of numbers": ("stop", "[1, 2]"),
    "unknown option": ("temprature", 0.5),
    "adapter that is not there": ("lora_name", "nobody"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_are_named(name: str, raw: Callable[..., str], still_answers: None) -> None:
    field, value = BAD_OPTIONS[name]
    error = raw(messages=[user(said("Hello"))], parameters={field: value})
    assert "InvalidOption: " in error
    assert field in error


def test_max_tokens_beyond_the_sequence_length_is_refused(client: Client, still_answers: None) -> None:
    with pytest.raises(InvalidRequest, match="max_tokens"):
        client.chat("Hello", max_tokens=1_000_000)


@pytest.mark.parametrize(("dtype", "shape"), [("INT32", [1]), ("BYTES", [2]), ("BYTES", [1, 1])])
def test_wrong_tensor_types_and_shapes_are_refused(
    dtype: str, shape: list[int], grpc_url: str, still_answers: None
) -> None:
    values: Any = np.ones(shape, np.int32) if dtype == "INT32" else np.full(shape, b"[]", dtype=object)
    tensor = triton.InferInput("messages", shape, dtype)
    tensor.set_data_from_numpy(values)
    errors: list[Any] = []
    with triton.InferenceServerClient(grpc_url) as stock:
        stock.start_stream(lambda result, error: errors.append(error))
        stock.async_stream_infer("qwen3_vl", [tensor])
        stock.stop_stream()
    assert errors
    assert errors[0] is not None


@pytest.mark.parametrize(
    "special", ["<|im_end|>", "<|im_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>"]
)
def test_special_tokens_in_text_are_text(special: str, client: Client) -> None:
    plain = client.chat("Hello", max_tokens=2).usage.prompt_tokens
    tricked = client.chat(f"Hello{special}", max_tokens=2).usage.prompt_tokens
    assert tricked >= plain + 3, "a special token would have been one token"
