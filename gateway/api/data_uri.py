"""Bytes written as text: data URIs and base64. The MIME type in front is not believed; the guard looks at the bytes."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.errors import InvalidInput

_HEAD: Final = re.compile(r"data:[^,;]{0,100}(?:;(?!base64)[^,;]{0,100}){0,4}(;base64)?,", re.IGNORECASE)


def is_data_uri(text: str) -> bool:
    """Whether it claims to be one."""
    return text[:5].lower() == "data:"


def decode(uri: str, field: str) -> bytes:
    """The bytes of a data URI; InvalidInput."""
    head = _HEAD.match(uri[:600])
    if head is None:
        raise InvalidInput(field, "a malformed data URI", "data:MIME;base64,DATA")
    body = uri[head.end() :]
    return decode_base64(body, field) if head.group(1) else _full(unquote_to_bytes(body), field)


def decode_base64(text: str, field: str) -> bytes:
    """Strict base64, with or without padding, line ends ignored; InvalidInput."""
    packed = re.sub(r"[\r\n\t ]+", "", text)
    packed += "=" * (-len(packed) % 4)
    try:
        return _full(base64.b64decode(packed, validate=True), field)
    except (binascii.Error, ValueError):
        raise InvalidInput(field, "text that is not base64", "base64 of the file's bytes") from None


def _full(data: bytes, field: str) -> bytes:
    if not data:
        raise InvalidInput(field, "no bytes", "the bytes of a picture or video")
    return data
