"""Reads `messages`: OpenAI chat JSON in which media parts stand, in order, for the items of `images` and
`videos`.

It knows the JSON; it does not know templates, tokens or pixels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from ensemble.errors import InvalidMessages

ROLES: Final = ("system", "user", "assistant")
IMAGE: Final = "image"
VIDEO: Final = "video"
# Spellings of other APIs are welcome as bare placeholders. With an address inside they are refused: the
# server fetches nothing.
_MEDIA_TYPES: Final = {
    "image": IMAGE, "image_url": IMAGE, "input_image": IMAGE,
    "video": VIDEO, "video_url": VIDEO, "input_video": VIDEO,
}  # fmt: skip
_ALLOWED_PARTS: Final = '{"type": "text", "text": ...}, {"type": "image"} or {"type": "video"}'


@dataclass(frozen=True)
class Chat:
    """A checked conversation.

    Attributes:
        messages: what a chat template takes: role, and content as text or a list of parts with only the keys
            `type` and `text`.
        media: IMAGE or VIDEO for each media part, in the order of the prompt.
    """

    messages: tuple[dict[str, Any], ...]
    media: tuple[str, ...]

    @property
    def texts(self) -> list[str]:
        """Every piece of text that the customer wrote."""
        pieces = []
        for message in self.messages:
            content = message["content"]
            pieces += [content] if isinstance(content, str) else [p["text"] for p in content if "text" in p]
        return pieces


def parse_messages(text: bytes, max_bytes: int) -> Chat:
    """Read and check chat JSON; InvalidMessages names the place, as in ``messages[1].content[0].type``."""
    if len(text) > max_bytes:
        raise InvalidMessages("messages", f"{len(text)} bytes", f"at most {max_bytes} bytes")
    try:
        parsed = json.loads(text)
    except RecursionError:
        raise InvalidMessages("messages", "deeply nested JSON", "a JSON list of messages") from None
    except ValueError as error:  # bad JSON, bad UTF-8, or a number with thousands of digits
        raise InvalidMessages(
            "messages", f"text that is not JSON ({error})", "a JSON list of messages"
        ) from None
    if not isinstance(parsed, list):
        raise InvalidMessages("messages", _kind(parsed), "a JSON list of messages")
    if not parsed:
        raise InvalidMessages("messages", "an empty list", "at least one message")
    media: list[str] = []
    messages = tuple(_check_message(message, index, media) for index, message in enumerate(parsed))
    return Chat(messages, tuple(media))


def check_media_counts(chat: Chat, images: int, videos: int) -> None:
    """InvalidMessages unless the chat has exactly one part for each item of `images` and `videos`."""
    for kind, sent in ((IMAGE, images), (VIDEO, videos)):
        parts = chat.media.count(kind)
        if parts != sent:
            raise InvalidMessages(
                "messages",
                f"{parts} {kind} parts for {sent} items of {kind}s",
                f'one {{"type": "{kind}"}} part for each item of {kind}s, in the same order',
            )


def _check_message(message: Any, index: int, media: list[str]) -> dict[str, Any]:
    place = f"messages[{index}]"
    if not isinstance(message, dict):
        raise InvalidMessages(place, _kind(message), 'an object such as {"role": "user", "content": "..."}')
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidMessages(f"{place}.role", _shown(role), " or ".join(ROLES))
    if role == "system" and index > 0:
        # Qwen3-VL's template renders a system message in first place only and would drop this one in silence.
        raise InvalidMessages(f"{place}.role", "system", "a system message in first place only")
    for key, value in message.items():
        if key not in ("role", "content") and value is not None:
            raise InvalidMessages(f"{place}.{key}", _shown(value), "only role and content")
    content = message.get("content")
    if isinstance(content, str):
        return {"role": role, "content": _check_text(content, f"{place}.content")}
    if not isinstance(content, list):
        raise InvalidMessages(f"{place}.content", _kind(content), f"text, or a list of {_ALLOWED_PARTS}")
    parts = [_check_part(part, f"{place}.content[{at}]", media) for at, part in enumerate(content)]
    return {"role": role, "content": parts}


def _check_part(part: Any, place: str, media: list[str]) -> dict[str, str]:
    if not isinstance(part, dict):
        raise InvalidMessages(place, _kind(part), _ALLOWED_PARTS)
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise InvalidMessages(f"{place}.text", _kind(part.get("text")), "text")
        allowed_keys: tuple[str, ...] = ("type", "text")
    elif isinstance(kind, str) and kind in _MEDIA_TYPES:
        allowed_keys = ("type",)
    else:
        raise InvalidMessages(f"{place}.type", _shown(kind), _ALLOWED_PARTS)
    for key, value in part.items():
        if key not in allowed_keys and value:
            advice = "" if kind == "text" else "The file itself travels in `images` or `videos`."
            raise InvalidMessages(f"{place}.{key}", _shown(value), _ALLOWED_PARTS, advice)
    if kind == "text":
        return {"type": "text", "text": _check_text(part["text"], f"{place}.text")}
    media.append(_MEDIA_TYPES[kind])
    return {"type": _MEDIA_TYPES[kind]}


def _check_text(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # JSON can spell half of a surrogate pair; no tokenizer can encode it.
        raise InvalidMessages(
            place, f"a lone surrogate at character {error.start}", "valid Unicode"
        ) from None
    return text


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), "a number")


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=True)
