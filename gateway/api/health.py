"""Whether the gateway lives, whether it can answer, and its metrics. No keys: probes have none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.api.state import StateOf

router = APIRouter(tags=["health"])

_PROBE_S: Final = 3.0


@router.get("/healthz", summary="Whether the process lives")
async def healthz() -> dict[str, str]:
    """Always, as long as there is somebody to answer."""
    return {"status": "ok"}


@router.get(
    "/readyz", summary="Whether questions can be answered now", responses={503: {"description": "Not now"}}
)
async def readyz(state: StateOf) -> Response:
    """503 with what is missing."""
    model, store = await asyncio.gather(
        _works(state.parts.model.ready()), _works(asyncio.to_thread(state.parts.store.ready))
    )
    missing = [name for name, works in (("triton", model), ("store", store)) if not works]
    if state.draining.is_set():
        missing.append("draining")
    if missing:
        return JSONResponse({"status": "not ready", "missing": missing}, 503, {"Retry-After": "5"})
    return JSONResponse({"status": "ready", "missing": []})


@router.get("/metrics", summary="Prometheus", response_class=Response)
async def metrics() -> Response:
    """Numbers only."""
    return Response(await asyncio.to_thread(generate_latest), media_type=CONTENT_TYPE_LATEST)


async def _works(probe: Awaitable[bool]) -> bool:
    try:
        return await asyncio.wait_for(probe, _PROBE_S)
    except Exception:  # whatever it is, the answer to a probe is "no"
        return False
