"""A gateway for the page alone: the same routes and the same server-sent events, answers as a test has scripted them.

It serves the real static files through the real routes. Nothing here judges what the page does; it records it.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from gateway.page import routes

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415478da636068f80f0002830181"
    "8dc0d8b40000000049454e44ae426082"
)


@dataclass(frozen=True)
class Scripted:
    """One answer. `status` other than 200: an error instead; `cut`: the connection breaks after the pieces."""

    pieces: tuple[str, ...] = ("好的。",)
    extension: dict[str, Any] = field(default_factory=dict)
    pause_s: float = 0.0
    finish: str = "stop"
    status: int = 200
    message: str = ""
    retry_after_s: int | None = None
    cut: bool = False
    error_inside: str = ""


@dataclass
class Gateway:
    """What the page asked, and what it will be told."""

    url: str = ""
    answers: deque[Scripted] = field(default_factory=deque)
    chats: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    ratings: list[dict[str, Any]] = field(default_factory=list)
    handoffs: dict[str, dict[str, Any]] = field(default_factory=dict)
    disconnects: int = 0
    required_key: str = ""
    media_status: int = 200
    articles: dict[str, str] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    conversation: list[dict[str, Any]] = field(default_factory=list)

    def reset(self) -> None:
        url = self.url
        self.__init__(url=url)  # type: ignore[misc]

    def add_handoff(self, handoff_id: str, **values: Any) -> dict[str, Any]:
        self.handoffs[handoff_id] = {
            "handoff_id": handoff_id,
            "reason": "low_confidence",
            "state": "open",
            "agent": "",
            "summary": "客户的手机黑屏，助手把握不足。",
            "created_s": time.time(),
            "conversation_id": "c-1",
            "media": [],
            "replies": [],
            **values,
        }
        return self.handoffs[handoff_id]


SCENES = [
    {
        "name": "after_sales",
        "title": {"zh": "售后", "en": "After-sales"},
        "enabled": True,
        "sampling": {"temperature": 0.3, "top_p": 0.9, "max_tokens": 512},
        "presets": [
            {
                "title": {"zh": "看图找问题", "en": "What is wrong?"},
                "prompt": {"zh": "这张图片里有什么问题？", "en": "What is wrong in this picture?"},
            },
            {
                "title": {"zh": "维修建议", "en": "Repair suggestion"},
                "prompt": {"zh": "请写一份维修建议。", "en": "Please write a repair suggestion."},
            },
        ],
    },
    {
        "name": "support",
        "title": {"zh": "技术支持", "en": "Technical support"},
        "enabled": True,
        "presets": [],
    },
    {"name": "finance", "title": {"zh": "财务审核", "en": "Finance review"}, "enabled": False, "presets": []},
]


def create(gateway: Gateway) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def keys(request: Request, call_next: Any) -> Any:
        if request.url.path.startswith("/v1/"):
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            gateway.keys.append(given)
            if gateway.required_key and given != gateway.required_key:
                return _error(401, "no such key")
        return await call_next(request)

    @app.get("/v1/scenes")
    async def scenes() -> Any:
        return {"data": SCENES, "limits": gateway.limits}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        gateway.chats.append(await request.json())
        answer = gateway.answers.popleft() if gateway.answers else Scripted()
        request_id = f"r-{len(gateway.chats)}"
        if answer.status != 200:
            return _error(answer.status, answer.message, answer.retry_after_s)
        return StreamingResponse(
            _events(answer, request_id, gateway),
            media_type="text/event-stream",
            headers={"X-Request-Id": request_id},
        )

    @app.post("/v1/feedback")
    async def feedback(request: Request) -> Any:
        gateway.ratings.append(await request.json())
        return JSONResponse({}, status_code=201)

    @app.get("/v1/articles/{article_id}")
    async def article(article_id: str) -> Any:
        text = gateway.articles.get(article_id)
        return _error(404, "no such article") if text is None else {"article_id": article_id, "text": text}

    @app.get("/v1/handoffs")
    async def handoffs(state: str = "open") -> Any:
        return {"data": [each for each in gateway.handoffs.values() if each["state"] == state]}

    @app.post("/v1/handoffs")
    async def open_handoff(request: Request) -> Any:
        return gateway.add_handoff("h-asked", reason="asked_for_person", **(await request.json()))

    @app.post("/v1/handoffs/{handoff_id}/{action}")
    async def act(handoff_id: str, action: str, request: Request) -> Any:
        body, handoff = await request.json(), gateway.handoffs[handoff_id]
        if action == "claim" and handoff["state"] != "open":
            return _error(409, f"{handoff['agent']} has it already")
        if action == "claim":
            handoff |= {"state": "claimed", "agent": body["agent"]}
        elif action == "replies":
            reply = {"created_s": time.time(), "agent": body["agent"], "text": body["text"]}
            handoff["replies"] = [*handoff["replies"], reply]
        else:
            handoff["state"] = "closed"
        return handoff

    @app.get("/v1/handoffs/{handoff_id}/events")
    async def handoff_events(handoff_id: str) -> Any:
        async def follow() -> AsyncIterator[str]:
            last = ""
            while True:
                handoff = json.dumps(gateway.handoffs[handoff_id], ensure_ascii=False)
                if handoff != last:
                    yield f"event: handoff\ndata: {handoff}\n\n"
                    last = handoff
                if gateway.handoffs[handoff_id]["state"] == "closed":
                    return
                await asyncio.sleep(0.05)

        return StreamingResponse(follow(), media_type="text/event-stream")

    @app.get("/v1/conversations/{conversation_id}")
    async def conversation(conversation_id: str) -> Any:
        if gateway.conversation:
            return {"messages": gateway.conversation}
        question = [{"type": "image_url"}, {"type": "text", "text": "手机黑屏了怎么办？"}]
        return {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": "请**长按**电源键。"},
            ]
        }

    @app.get("/v1/media/{object_id}")
    async def media(object_id: str) -> Any:
        return Response(PNG, media_type="image/png") if gateway.media_status == 200 else _error(404, "gone")

    @app.get("/blank")
    async def blank() -> Any:
        return Response("<!doctype html><title>unit tests</title>", media_type="text/html")

    app.router.routes.extend(routes())
    return app


def _error(status: int, message: str, retry_after_s: int | None = None) -> JSONResponse:
    headers = {"X-Request-Id": "r-error"} | ({"Retry-After": str(retry_after_s)} if retry_after_s else {})
    return JSONResponse(
        {"error": {"message": message, "type": "", "code": ""}}, status_code=status, headers=headers
    )


async def _events(answer: Scripted, request_id: str, gateway: Gateway) -> AsyncIterator[str]:
    def chunk(delta: dict[str, str], **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": more.pop("finish", None)}
        return f"data: {json.dumps({'id': request_id, 'choices': [choice], **more}, ensure_ascii=False)}\n\n"

    done = False
    try:
        yield chunk({"role": "assistant", "content": ""})
        for piece in answer.pieces:
            await asyncio.sleep(answer.pause_s)
            yield chunk({"content": piece})
        if answer.cut:
            done = True
            return
        if answer.error_inside:
            yield f"data: {json.dumps({'error': {'message': answer.error_inside, 'status': 503}})}\n\n"
            done = True
            return
        extension = {
            "request_id": request_id,
            "confidence": 0.86,
            "citations": [],
            "handoff": None,
            **answer.extension,
        }
        yield chunk({}, finish=answer.finish, customer_service=extension)
        yield "data: [DONE]\n\n"
        done = True
    finally:
        gateway.disconnects += not done


@contextmanager
def running(gateway: Gateway) -> Iterator[Gateway]:
    server = uvicorn.Server(
        uvicorn.Config(
            create(gateway), host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1
        )
    )
    thread = threading.Thread(target=server.run, name="page api")
    thread.start()
    try:
        limit = time.monotonic() + 10
        while not server.started:
            if not thread.is_alive() or time.monotonic() > limit:
                raise RuntimeError("the page's test API did not start")
            time.sleep(0.02)
        gateway.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield gateway
    finally:
        server.should_exit = True
        thread.join(10)
