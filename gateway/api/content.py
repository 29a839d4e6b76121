"""The parts of a message, in every form that clients write them -> texts and files, in order.

OpenAI: text, image_url, video_url, input_image, input_video.  Anthropic: image and video with `source`.
Qwen: {"type": "image", "image": ...}.  A medium is a data URI, base64 where the form says so, an https address, or
"attachment:NAME", a file of the same multipart request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.api import data_uri
from gateway.api.fetch import Fetcher
from gateway.api.schema import Part
from gateway.errors import InvalidInput
from gateway.records import Received

_TEXT: Final = ("text", "input_text")
_MEDIA: Final = ("image_url", "video_url", "input_image", "input_video", "image", "video")
ATTACHMENT: Final = "attachment:"


@dataclass(frozen=True)
class File:
    """A medium and where in the request it stood."""

    received: Received
    field: str


class Reader:
    """Reads the parts of one request.

    Args:
        fetcher: for https addresses.
        attachments: files of a multipart request by name.
        most: media in one request.
    """

    def __init__(self, fetcher: Fetcher, attachments: Mapping[str, Received], most: int) -> None:
        self._fetcher, self._attachments, self._most = fetcher, attachments, most
        self._count = 0
        self.used: set[str] = set()

    def count(self, field: str) -> None:
        """One more medium; InvalidInput when it is one too many."""
        self._count += 1
        if self._count > self._most:
            raise InvalidInput(field, "one more medium", f"at most {self._most} in one request")

    async def read(self, content: str | Sequence[Part] | None, field: str, media: bool) -> list[str | File]:
        """Texts and files in order. `media`: whether this message may have any."""
        if content is None or isinstance(content, str):
            return [content] if content else []
        parts: list[str | File] = []
        for at, part in enumerate(content):
            where = f"{field}.{at}"
            fields: dict[str, Any] = part.model_extra or {}
            if part.type in _TEXT:
                text = fields.get("text")
                if not isinstance(text, str):
                    raise InvalidInput(f"{where}.text", type(text).__name__, "a string")
                parts += [text] if text else []
            elif part.type in _MEDIA and media:
                self.count(where)
                parts.append(await self._medium(part.type, fields, where))
            else:
                allowed = _TEXT + (_MEDIA if media else ())
                raise InvalidInput(f"{where}.type", "another type", ", ".join(allowed))
        return parts

    async def _medium(self, kind: str, fields: Mapping[str, Any], where: str) -> File:
        name = kind if kind in fields else ("image_url" if kind == "input_image" else "source")
        value, where = fields.get(name), f"{where}.{name}"
        if isinstance(value, Mapping):
            if value.get("type") == "base64" or ("url" not in value and "data" in value):
                return await self._given(value.get("data"), f"{where}.data", encoded=True)
            value, where = value.get("url"), f"{where}.url"
        return await self._given(value, where)

    async def _given(self, value: object, field: str, encoded: bool = False) -> File:
        if not isinstance(value, str) or not value:
            raise InvalidInput(field, type(value).__name__, "a data URI")
        if data_uri.is_data_uri(value):
            return File(Received(data_uri.decode(value, field)), field)
        if encoded:
            return File(Received(data_uri.decode_base64(value, field)), field)
        if value.startswith(ATTACHMENT):
            name = value.removeprefix(ATTACHMENT)
            if name not in self._attachments:
                raise InvalidInput(field, "a name without a file", "the name of a file in the same form")
            self.used.add(name)
            return File(self._attachments[name], field)
        return File(Received(await self._fetcher.fetch(value, field)), field)
