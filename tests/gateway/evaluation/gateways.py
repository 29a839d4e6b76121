"""Gateways of two versions behind real sockets: uvicorn, answers from a table. What they were asked is kept."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse


@dataclass
class Version:
    """`answers` by the customer's last words. `busy`: requests refused with 503 before the first is answered."""

    answers: Mapping[str, str]
    busy: int = 0
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)


@contextmanager
def serving(version: Version) -> Iterator[Version]:
    """`version` with its URL, until the end of the block."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> JSONResponse:
        body = await request.json()
        version.asked.append(body)
        version.headers.append(dict(request.headers))
        if version.busy:
            version.busy -= 1
            return JSONResponse({"error": {}}, 503, headers={"Retry-After": "0.1"})
        words = body["messages"][-1]["content"][-1]["text"]
        if words not in version.answers:
            return JSONResponse({"error": {}}, 400)
        service = {"citations": [{"article_id": "black-screen"}], "confidence": 0.9, "handoff": None}
        choice = {"message": {"role": "assistant", "content": version.answers[words]}}
        return JSONResponse({"choices": [choice], "customer_service": service})

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        version.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield version
        finally:
            server.should_exit = True
            thread.join()
