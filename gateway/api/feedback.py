"""POST /v1/feedback: what a customer thinks of an answer."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter

from gateway.api.schema import FeedbackIn
from gateway.api.state import Counted, StateOf
from gateway.records import Feedback

router = APIRouter(tags=["feedback"])


@router.post("/v1/feedback", status_code=201, summary="Rate an answer")
async def rate(judged: FeedbackIn, state: StateOf, caller: Counted) -> dict[str, Any]:
    """Rating 1 (bad) to 5 (good), and words. 404 unless the tenant has such an answer."""
    masked = state.parts.guard.text(judged.comment)
    feedback = Feedback(judged.request_id, caller.tenant, judged.rating, masked.text, time.time())
    await state.archive.judge(feedback)
    return {"object": "feedback", "request_id": feedback.request_id, "rating": feedback.rating}
