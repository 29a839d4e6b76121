"""Messages, media and options -> one `ModelInferRequest`. Knows the wire, sends nothing.

The chat travels as OpenAI chat JSON whose ``{"type": "image"}`` and ``{"type": "video"}`` parts stand, in
order, for the items of the tensors `images` and `videos`; options travel as request parameters. Whether a
value is allowed is for the server to say; only what the wire cannot carry is refused here.
"""

from __future__ import annotations

import json
import math
import secrets
import struct
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from tritonclient.grpc import service_pb2

from qwen3vl_client.errors import InvalidMessages, InvalidOption
from qwen3vl_client.media import Media, image_bytes, video_bytes

if TYPE_CHECKING:
    InferRequest: TypeAlias = Any

MODEL = "qwen3_vl"

Message: TypeAlias = Mapping[str, Any]
Messages: TypeAlias = "str | Sequence[Message]"
"""A question, or a chat: ``[{"role": "user", "content": "..." or [part, ...]}, ...]``.

Parts: ``{"type": "text", "text": ...}``; ``{"type": "image", "image": MEDIA}`` or, as OpenAI writes it,
``{"type": "image_url", "image_url": {"url": "data:..."}}``; ``video`` and ``video_url`` alike. A part without
its medium stands for the next item of the argument `images` or `videos`.
"""

_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


class Options(TypedDict, total=False):
    """Options of a request, by OpenAI's names; None and an absent option leave the server's default.

    The server checks names and ranges, so an option that only a newer server knows can be passed as well.
    """

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    stop: str | Sequence[str] | None
    min_pixels: int | None
    max_pixels: int | None
    fps: float | None
    enhance: str | None
    lora_name: str | None
    logprobs: bool | None


def build(
    messages: Messages,
    images: Media | Iterable[Media] = (),
    videos: Media | Iterable[Media] = (),
    options: Mapping[str, Any] | None = None,
    request_id: str | None = None,
) -> InferRequest:
    """The request of one answer.

    Raises OSError for an unreadable path, InvalidImage or InvalidVideo for an unusable URI, InvalidOption for
    a value that no parameter can hold, TypeError for an argument of a wrong type.
    """
    loose_images, loose_videos = _as_list(images), _as_list(videos)
    if isinstance(messages, str):
        messages = [_question(messages, len(loose_images), len(loose_videos))]
    chat, image_files, video_files = _split(messages, loose_images, loose_videos)
    request = service_pb2.ModelInferRequest(model_name=MODEL, id=request_id or uuid.uuid4().hex)
    try:
        _add_strings(request, "messages", [json.dumps(chat, ensure_ascii=False).encode()])
    except UnicodeEncodeError as error:
        raise InvalidMessages("field 'messages': got a lone surrogate; allowed: valid Unicode") from error
    if image_files:
        _add_strings(request, "images", image_files)
    if video_files:
        _add_strings(request, "videos", video_files)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for name, value in (options or {}).items():
        if value is not None:
            _set_option(request, name, value)
    return request


def goodbye(request: InferRequest) -> InferRequest:
    """The request that ends the answer of `request`, which gets a new secret key for it."""
    key = secrets.token_hex(16)
    request.parameters["cancel_key"].string_param = key
    farewell = service_pb2.ModelInferRequest(model_name=request.model_name, id=f"{request.id}-goodbye")
    _add_strings(farewell, "messages", [b""])
    farewell.parameters["cancel"].string_param = key
    farewell.parameters["triton_enable_empty_final_response"].bool_param = True
    return farewell


def _as_list(media: Any) -> list[Media]:
    """A lone medium is welcome. An open file can be iterated over too, but is one medium."""
    lone = isinstance(media, str | bytes | bytearray | memoryview) or hasattr(media, "read")
    return [media] if lone or not isinstance(media, Iterable) else list(media)


def _question(text: str, images: int, videos: int) -> Message:
    if not images and not videos:
        return {"role": "user", "content": text}
    media = [{"type": "image"}] * images + [{"type": "video"}] * videos
    return {"role": "user", "content": [*media, {"type": "text", "text": text}]}


def _split(
    messages: Sequence[Message], images: list[Media], videos: list[Media]
) -> tuple[list[Message], list[bytes], list[bytes]]:
    """Takes the media out of the parts. Media without a part go last, for the server to refuse."""
    loose = {"image": iter(images), "video": iter(videos)}
    files: dict[str, list[bytes]] = {"image": [], "video": []}
    read = {"image": image_bytes, "video": video_bytes}

    def take(part: Any) -> Any:
        medium, inline, rest = _medium(part)
        if medium is None:
            return part
        item = next(loose[medium], None) if inline is None else inline
        if item is not None:
            files[medium].append(read[medium](item, f"{medium}s[{len(files[medium])}]"))
        return rest

    chat: list[Message] = []
    for message in messages:
        if not isinstance(message, Mapping):
            raise TypeError(f"messages: got an item of type {type(message).__name__}; allowed: mappings")
        content = message.get("content")
        if isinstance(content, list | tuple):
            message = {**message, "content": [take(part) for part in content]}
        chat.append(dict(message))
    for medium, items in loose.items():
        files[medium] += [read[medium](item, f"{medium}s") for item in items]
    return chat, files["image"], files["video"]


def _medium(part: Any) -> tuple[str | None, Media | None, Any]:
    """(image | video | None, the medium inside the part if any, the part without it)."""
    if not isinstance(part, Mapping):
        return None, None, part
    kind = part.get("type")
    if kind in ("image", "video"):
        return kind, part.get(kind), {name: value for name, value in part.items() if name != kind}
    if kind in ("image_url", "video_url"):
        medium = str(kind).removesuffix("_url")
        link = part.get(kind)
        return medium, link.get("url") if isinstance(link, Mapping) else link, {"type": medium}
    return None, None, part


def _add_strings(request: InferRequest, name: str, items: list[bytes]) -> None:
    # Triton's BYTES layout: each item after its length, 4 bytes, little endian.
    request.inputs.add(name=name, datatype="BYTES", shape=[len(items)])
    request.raw_input_contents.append(b"".join(piece for item in items for piece in (_length(item), item)))


def _length(item: bytes) -> bytes:
    return struct.pack("<I", len(item))


def _set_option(request: InferRequest, name: str, value: Any) -> None:
    parameter = request.parameters[name]
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        if not _INT64_MIN <= value <= _INT64_MAX:
            raise InvalidOption(f"field '{name}': got {value}; allowed: an integer of 64 bits")
        parameter.int64_param = value
    elif isinstance(value, float):
        # The server receives parameters as JSON, which has no NaN and no infinity.
        if not math.isfinite(value):
            raise InvalidOption(f"field '{name}': got {value}; allowed: a finite number")
        parameter.double_param = value
    elif isinstance(value, str):
        parameter.string_param = json.dumps([value]) if name == "stop" else value
    elif isinstance(value, list | tuple):
        parameter.string_param = json.dumps(list(value))
    else:
        raise InvalidOption(
            f"field '{name}': got {value!r}; allowed: a number, true or false, a string, a list of strings"
        )
