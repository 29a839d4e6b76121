"""What the routes of one application share, and how a route gets it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from gateway.api.archive import Archive
from gateway.api.fetch import Fetcher
from gateway.api.identity import Caller, Keys
from gateway.api.intake import Intake
from gateway.api.limits import Limits
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.parts import Parts


@dataclass(frozen=True)
class State:
    """One application. `draining`: set when it is told to end; streams without an end of their own end then."""

    parts: Parts
    keys: Keys
    limits: Limits
    intake: Intake
    archive: Archive
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def of(cls, parts: Parts, fetcher: Fetcher | None = None) -> State:
        """Made from the parts."""
        settings: Settings = parts.settings
        largest = max(settings.media.max_image_bytes, settings.media.max_video_bytes)
        return cls(
            parts=parts,
            keys=Keys(settings.tenants),
            limits=Limits(settings.tenants, settings.cache.url.get_secret_value()),
            intake=Intake(parts, fetcher or Fetcher(settings.http, largest)),
            archive=Archive(parts),
        )


def _state(request: Request) -> State:
    state: State = request.app.state.gateway
    return state


_BEARER = HTTPBearer(auto_error=False, description="API key of a tenant; an agent key where agents act")


def _caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
) -> Caller:
    return _state(request).keys.caller(request.headers.get("authorization"))


async def _counted(request: Request, caller: Annotated[Caller, Depends(_caller)]) -> Caller:
    await _state(request).limits.take(caller.tenant)
    return caller


def request_id(request: Request) -> str:
    """Of this request, as every reply and log line has it."""
    given: str = request.scope["state"]["request_id"]
    return given


StateOf = Annotated[State, Depends(_state)]
CallerOf = Annotated[Caller, Depends(_caller)]
Counted = Annotated[Caller, Depends(_counted)]
"""The caller, after the request was counted against the tenant's rate."""
