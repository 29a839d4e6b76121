"""A case put to a running gateway, as a customer's program would. It knows HTTP and OpenAI's form; it judges nothing."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from gateway.evaluation.cases import Case, File, content

_ATTEMPTS: Final = 5
_BUSY: Final = (429, 503)
_LONGEST_WAIT_S: Final = 30.0


@dataclass(frozen=True)
class Target:
    """A running gateway. `key`: of the tenant, "" in the development mode."""

    url: str
    key: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came back. `error`: why nothing did, "" if something did."""

    text: str = ""
    citations: tuple[str, ...] = ()
    confidence: float = 0.0
    handoff: str = ""
    latency_s: float = 0.0
    error: str = ""


async def replay(
    cases: Sequence[Case], path: Path, target: Target, concurrency: int, timeout_s: float, temperature: float
) -> list[Outcome]:
    """All cases of the set at `path`, in order, at most so many at once."""
    gate = asyncio.Semaphore(concurrency)
    headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
    async with httpx.AsyncClient(
        base_url=target.url.rstrip("/"), headers=headers, timeout=timeout_s, trust_env=False
    ) as client:

        async def one(case: Case) -> Outcome:
            async with gate:
                return await _ask(client, _body(case, path, temperature))

        return list(await asyncio.gather(*map(one, cases)))


async def _ask(client: httpx.AsyncClient, body: dict[str, Any]) -> Outcome:
    error = ""
    for attempt in range(_ATTEMPTS):
        started_s = time.monotonic()
        try:
            reply = await client.post(
                "/v1/chat/completions", json=body, headers={"X-Request-Id": f"eval-{secrets.token_hex(8)}"}
            )
        except httpx.HTTPError as failure:
            return Outcome(error=type(failure).__name__)
        if reply.status_code == 200:
            return _outcome(reply, time.monotonic() - started_s)
        error = f"HTTP {reply.status_code}"
        if reply.status_code not in _BUSY or attempt == _ATTEMPTS - 1:
            break
        await asyncio.sleep(min(_seconds(reply.headers.get("Retry-After", "")), _LONGEST_WAIT_S))
    return Outcome(error=error)


def _outcome(reply: httpx.Response, latency_s: float) -> Outcome:
    try:
        values = reply.json()
        service = values["customer_service"]
        return Outcome(
            text=values["choices"][0]["message"]["content"] or "",
            citations=tuple(citation["article_id"] for citation in service["citations"]),
            confidence=float(service["confidence"]),
            handoff=service["handoff"]["reason"] if service["handoff"] else "",
            latency_s=latency_s,
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        return Outcome(error=f"a reply of another form: {error!r}")


def _body(case: Case, path: Path, temperature: float) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for turn in case.messages:
        parts: list[dict[str, Any]] = []
        for part in turn.content:
            if isinstance(part, File):
                uri = f"data:{part.mime};base64,{base64.b64encode(content(path, part)).decode()}"
                parts.append({"type": f"{part.type}_url", f"{part.type}_url": {"url": uri}})
            else:
                parts.append({"type": "text", "text": part.text})
        texts = [part["text"] for part in parts if part["type"] == "text"]
        messages.append({"role": turn.role, "content": parts if turn.role == "user" else "\n".join(texts)})
    return {
        "messages": messages,
        "temperature": temperature,
        "seed": 0,
        "customer_service": {"scene": case.scene, "language": case.language},
    }


def _seconds(header: str) -> float:
    try:
        return max(0.1, float(header))
    except ValueError:
        return 1.0
