"""A way to a server that speaks OpenAI's chat completions over HTTP, streamed as server-sent events.

It knows the protocol and the standard library's HTTP, and reads line by line: a library that reads blocks would hold
chunks back. A key is taken from LOADTESTS_API_KEY, the model's name from LOADTESTS_MODEL.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from loadtests.scenarios import CANCEL_AFTER_CHUNKS, Question
from loadtests.targets import TIMEOUT_S, Failure
from loadtests.trace import Progress

_REJECTIONS: Final = {429: "Overloaded", 503: "Unavailable", 502: "Unreachable", 504: "Unreachable"}
"""HTTP status to the name that the same refusal has over gRPC."""


class OpenAIConnection:
    """See `targets.Connection`. One TCP connection per request, as a browser behind a balancer would have."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"target: got {address!r}; allowed: http://HOST:PORT or https://HOST:PORT")
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port = parts.hostname, parts.port
        self._path = f"{parts.path.rstrip('/')}/v1/chat/completions"
        self._headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if key := os.environ.get("LOADTESTS_API_KEY"):
            self._headers["Authorization"] = f"Bearer {key}"
        self._model = os.environ.get("LOADTESTS_MODEL", "qwen3_vl")

    def ask(self, question: Question, progress: Progress) -> None:
        """See `targets.Connection`."""
        connection = self._kind(self._host, self._port, timeout=TIMEOUT_S["connect"])
        connected = False
        try:
            connection.connect()
            connected = True
            self._read(connection, question, progress)
        except TimeoutError as error:
            which = "connect" if not connected else "idle" if progress.text else "first_token"
            raise Failure(f"TimedOut({which})", which == "connect") from error
        except ConnectionRefusedError as error:
            raise Failure("Unreachable", True) from error
        except (OSError, http.client.HTTPException, socket.gaierror) as error:
            raise Failure("Interrupted" if progress.text else "Unreachable", not progress.text) from error
        finally:
            connection.close()

    def close(self) -> None:
        """Nothing stays open between requests."""

    def _read(self, connection: http.client.HTTPConnection, question: Question, progress: Progress) -> None:
        wire = connection.sock  # http.client forgets it once the answer's end is the connection's
        wire.settimeout(TIMEOUT_S["first_token"])
        body = json.dumps({"model": self._model, **request_body(question)})
        connection.request("POST", self._path, body.encode(), self._headers)
        response = connection.getresponse()
        if response.status != 200:
            cause = _REJECTIONS.get(response.status)
            raise Failure(cause or f"HTTP {response.status}", cause is not None)
        chunks, finished = 0, False
        for event in events(response):
            if "error" in event:
                kind = event["error"].get("type") or "error"
                raise Failure(str(kind), False)
            if usage := event.get("usage"):
                progress.tokens, progress.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]
                details = usage.get("prompt_tokens_details") or {}
                progress.cached_tokens = details.get("cached_tokens") or 0
            for choice in event.get("choices", ()):
                finished = finished or choice.get("finish_reason") is not None
                if not (text := choice.get("delta", {}).get("content")):
                    continue
                progress.heard(text)
                wire.settimeout(TIMEOUT_S["idle"])
                chunks += 1
                if question.cancel and chunks == CANCEL_AFTER_CHUNKS:
                    progress.outcome = "cancelled"
                    return
                if question.pause_s:
                    time.sleep(question.pause_s)
                    progress.paused(question.pause_s)
        if not finished:
            raise Failure("Interrupted", False)
        progress.outcome = "complete"


def request_body(question: Question) -> dict[str, Any]:
    """The JSON of a request, but for `model`: media as data URIs at their places, usage asked for."""
    images, videos = iter(question.images), iter(question.videos)

    def part(value: Mapping[str, Any]) -> Mapping[str, Any]:
        if value["type"] == "image":
            return {"type": "image_url", "image_url": {"url": _uri("image/jpeg", next(images))}}
        if value["type"] == "video":
            return {"type": "video_url", "video_url": {"url": _uri("video/mp4", next(videos))}}
        return value

    return {
        "messages": [
            {
                **message,
                "content": message["content"]
                if isinstance(message["content"], str)
                else [part(value) for value in message["content"]],
            }
            for message in question.messages
        ],
        "max_tokens": question.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def events(lines: Iterator[bytes] | http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON of each event up to `[DONE]`; comments and other fields are passed over."""
    for line in lines:
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield json.loads(data)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
