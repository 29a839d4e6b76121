"""Reads the body of a chat or a ticket: JSON, or a form with the JSON in `request` and files beside it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from gateway.api.failures import refused
from gateway.api.schema import ChatIn
from gateway.errors import InvalidInput
from gateway.records import Received
from gateway.settings import Settings

_REQUEST: Final = "request"
_LARGE_BYTES: Final = 1 << 20


class _InMemory(MultiPartParser):
    """Never writes a part to disk: what it holds is not masked yet. The body's own limit is its limit."""

    spool_max_size = 0  # of SpooledTemporaryFile: no limit
    _whole = False

    async def parse(self) -> FormData:
        """The form."""
        form = await super().parse()
        self._whole = True
        return form

    def release(self) -> None:
        """Close the parts of a form that did not become whole."""
        if not self._whole:
            for file in self._files_to_close_on_error:
                file.close()


async def read_chat(request: Request, settings: Settings) -> tuple[ChatIn, dict[str, Received]]:
    """The request, and the files of a form by name. InvalidInput, without a word of what was sent."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return await _parsed(await request.body()), {}
    if kind != "multipart/form-data":
        raise InvalidInput("Content-Type", "another type", "application/json or multipart/form-data")
    text, files = await _form(request, settings.media.max_files)
    return await _parsed(text), files


async def _parsed(body: bytes) -> ChatIn:
    try:
        if len(body) < _LARGE_BYTES:
            return ChatIn.model_validate_json(body)
        return await asyncio.to_thread(ChatIn.model_validate_json, body)
    except ValidationError as error:
        raise refused(error) from None


async def _form(request: Request, most: int) -> tuple[bytes, dict[str, Received]]:
    parser = _InMemory(
        request.headers, request.stream(), max_files=most + 1, max_fields=8, max_part_size=_LARGE_BYTES
    )
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError, KeyError, UnicodeError):
        raise InvalidInput(
            "body", "a malformed form", f"a field {_REQUEST!r} and up to {most} files"
        ) from None
    finally:
        parser.release()
    text, files = b"", dict[str, Received]()
    try:
        for number, (field, value) in enumerate(form.multi_items()):
            data = await value.read() if isinstance(value, UploadFile) else value.encode("utf-8", "replace")
            if field == _REQUEST:
                text = data
            elif isinstance(value, UploadFile):
                name = (value.filename or field)[:128]
                name = f"{number}-{name}" if name in files else name
                files[name] = Received(data, name)
    finally:
        await form.close()
    if not text:
        raise InvalidInput(_REQUEST, "nothing", "the JSON of the request in this field")
    return text, files


def documented(schema: str) -> dict[str, Any]:
    """The OpenAPI of such a body."""
    reference = {"$ref": f"#/components/schemas/{schema}"}
    form = {
        "type": "object",
        "required": [_REQUEST],
        "properties": {_REQUEST: {"type": "string", "contentMediaType": "application/json"}},
        "additionalProperties": {"type": "string", "format": "binary"},
    }
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": reference}, "multipart/form-data": {"schema": form}},
        }
    }
