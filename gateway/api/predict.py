"""POST /api/predict of the tutorial: its sample client runs with only the host changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import ValidationError

from gateway.api import reply
from gateway.api.chat import Exchange, answered, asker_of, unless_gone, unused
from gateway.api.failures import refused
from gateway.api.schema import ChatIn, PredictIn
from gateway.api.state import Counted, State, StateOf
from gateway.errors import InvalidInput

router = APIRouter(tags=["tutorial"])

_NAMES: Final = ("temperature", "top_p", "max_tokens")
_DEFAULTS: Final = (0.9, 0.95, 1024)
"""The tutorial's."""


@router.post("/api/predict", summary="The tutorial's request")
async def predict(request: Request, given: PredictIn, state: StateOf, caller: Counted) -> dict[str, Any]:
    """[{"image": data URI or null}, prompt, temperature, top_p, max_new_tokens] -> {"data": [answer]}."""
    chat = _chat(given)
    asker = asker_of(request, caller, chat)
    await unused(state, caller.tenant, asker.request_id)
    with state.limits.slot(caller.tenant):
        return await unless_gone(request, _answered(state, chat, asker))


async def _answered(state: State, chat: ChatIn, asker: Any) -> dict[str, Any]:
    exchange = Exchange(state, chat, await state.intake.question(chat, asker))
    answer, handoff = await answered(exchange)
    return {"data": [answer.text], "customer_service": reply.service(exchange.question, answer, handoff)}


def _chat(given: PredictIn) -> ChatIn:
    shown, prompt, *rest = given.data
    image = shown.get("image") if isinstance(shown, Mapping) else shown
    if not isinstance(prompt, str) or not (image is None or isinstance(image, str)):
        raise InvalidInput("data", "other types", '[{"image": data URI or null}, prompt, ...]')
    parts: list[dict[str, Any]] = [{"type": "image", "image": image}] if image else []
    parts.append({"type": "text", "text": prompt})
    options = dict(zip(_NAMES, (*rest, *_DEFAULTS[len(rest) :]), strict=True))
    try:
        return ChatIn.model_validate({"messages": [{"role": "user", "content": parts}], **options})
    except ValidationError as error:
        raise refused(error, "data") from None
