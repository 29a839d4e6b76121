"""What was said, and the media in it: to read and to forget."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import APIRouter
from fastapi.responses import Response

from gateway.api import reply
from gateway.api.path import IdPath
from gateway.api.state import CallerOf, StateOf
from gateway.errors import NotFound

router = APIRouter(tags=["conversations"])

_MIMES: Final = frozenset({"image/jpeg", "image/png", "image/webp", "video/mp4", "video/webm"})


@router.get("/v1/conversations/{conversation_id}", summary="What was asked and answered")
async def show(conversation_id: IdPath, state: StateOf, caller: CallerOf) -> dict[str, Any]:
    """Masked, oldest first, with the objects of its media."""
    messages = await asyncio.to_thread(state.parts.store.conversation, caller.tenant, conversation_id)
    return {
        "object": "conversation",
        "conversation_id": conversation_id,
        "messages": [reply.message(message) for message in messages],
    }


@router.delete("/v1/conversations/{conversation_id}", status_code=204, summary="Forget a conversation")
async def forget(conversation_id: IdPath, state: StateOf, caller: CallerOf) -> Response:
    """Deletes its turns, tickets, ratings, hand-offs and media."""
    gone = await asyncio.to_thread(state.parts.store.forget, caller.tenant, conversation_id)
    for tenant, ref in gone:
        await state.parts.objects.delete(tenant, ref.object_id)
    return Response(status_code=204)


@router.get(
    "/v1/media/{object_id}",
    summary="A stored picture or video, masked",
    response_class=Response,
    responses={200: {"content": {mime: {} for mime in sorted(_MIMES)}}},
)
async def medium(object_id: IdPath, state: StateOf, caller: CallerOf) -> Response:
    """404 also for an object of another tenant."""
    ref = await asyncio.to_thread(state.parts.store.media, caller.tenant, object_id)
    if ref is None or ref.mime not in _MIMES:
        raise NotFound("there is no such object")
    media = await state.parts.objects.media(caller.tenant, ref)
    return Response(
        media.data,
        media_type=media.mime,
        headers={"Cache-Control": "private, max-age=3600", "Content-Disposition": "inline"},
    )
