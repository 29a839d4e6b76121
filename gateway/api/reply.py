"""Answers, tickets and hand-offs as JSON. OpenAI's names, and what they have no word for under `customer_service`."""

from __future__ import annotations

import json
import time
from typing import Any

from gateway.records import Answer, Citation, Handoff, MediaRef, Message, Question, Ticket, Usage


def service(question: Question[Any], answer: Answer, handoff: Handoff | None) -> dict[str, Any]:
    """The extension object of an answer."""
    return {
        "request_id": answer.request_id,
        "conversation_id": question.conversation_id,
        "scene": answer.scene,
        "language": answer.language,
        "confidence": round(answer.confidence, 4),
        "citations": [citation(item) for item in answer.citations],
        "handoff": None
        if handoff is None
        else {"handoff_id": handoff.handoff_id, "reason": handoff.reason, "state": handoff.state},
        "cached": answer.cached,
        "masked": question.personal,
        "versions": vars(answer.versions),
    }


def citation(item: Citation) -> dict[str, Any]:
    """One article that an answer rests on."""
    return {**vars(item), "support": round(item.support, 4)}


def usage(used: Usage) -> dict[str, Any]:
    """OpenAI's counts."""
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
    }


def completion(
    model: str, question: Question[Any], answer: Answer, handoff: Handoff | None
) -> dict[str, Any]:
    """A whole chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.tool_calls:
        message["tool_calls"] = json.loads(answer.tool_calls)
        message["content"] = answer.text or None
    return {
        "id": f"chatcmpl-{answer.request_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {"index": 0, "message": message, "finish_reason": answer.finish_reason, "logprobs": None}
        ],
        "usage": usage(answer.usage),
        "customer_service": service(question, answer, handoff),
    }


def ticket(item: Ticket, handoff: Handoff | None = None) -> dict[str, Any]:
    """A ticket, with its answer when there is one."""
    answer = item.answer
    return {
        "ticket_id": item.ticket_id,
        "object": "ticket",
        "request_id": item.question.request_id,
        "conversation_id": item.question.conversation_id,
        "state": item.state,
        "created_s": item.created_s,
        "updated_s": item.updated_s,
        "attempts": item.attempts,
        "answer": None
        if answer is None
        else {
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "tool_calls": json.loads(answer.tool_calls) if answer.tool_calls else None,
            "usage": usage(answer.usage),
            "reason": answer.handoff or None,
            **service(item.question, answer, handoff),
        },
    }


def media(item: MediaRef) -> dict[str, Any]:
    """A stored medium; its bytes are at /v1/media/{object_id}."""
    return {
        "object_id": item.object_id,
        "kind": item.kind,
        "mime": item.mime,
        "width": item.width,
        "height": item.height,
        "masked": item.masked,
    }


def handoff(item: Handoff, agent: bool) -> dict[str, Any]:
    """A hand-off. A customer does not see what agents read about it."""
    public = {
        "handoff_id": item.handoff_id,
        "request_id": item.request_id,
        "conversation_id": item.conversation_id,
        "reason": item.reason,
        "state": item.state,
        "agent": item.agent,
        "created_s": item.created_s,
        "replies": [{"created_s": at, "agent": who, "text": text} for at, who, text in item.replies],
    }
    if not agent:
        return public
    return {**public, "summary": item.summary, "media": [media(one) for one in item.media]}


def message(item: Message[MediaRef]) -> dict[str, Any]:
    """A turn of a conversation, in OpenAI's form; a medium names its object."""
    return {
        "role": item.role,
        "content": [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {
                "type": f"{part.kind}_url",
                f"{part.kind}_url": {"url": f"/v1/media/{part.object_id}"},
                **media(part),
            }
            for part in item.content
        ],
    }
