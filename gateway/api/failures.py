"""Errors as OpenAI writes them: status, {"error": {message, type, param, code}}, Retry-After. Never a customer's words."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException

from gateway.errors import GatewayError, InvalidInput

_log = logging.getLogger(__name__)


class ClientGone(Exception):
    """The client closed the connection; nobody reads what is answered."""


class ErrorBody(BaseModel):
    """What went wrong. `param`: the field; `code`: stable, for programs."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(BaseModel):
    """OpenAI's error envelope."""

    error: ErrorBody


class _Refused(InvalidInput):
    """A body that does not fit its schema; the text is pydantic's, without the value."""

    def __init__(self, field: str, message: str) -> None:
        Exception.__init__(self, f"{field}: {message}")
        self.field = field


def body(error: GatewayError) -> dict[str, Any]:
    """The JSON of an error."""
    return {
        "error": {"message": str(error), "type": error.kind, "param": error.field, "code": error.code},
    }


def reply(error: GatewayError) -> JSONResponse:
    """The response of an error."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body(error), error.status, headers)


def refused(error: ValidationError | RequestValidationError, within: str = "") -> InvalidInput:
    """A schema's complaint, without what was sent."""
    first: Any = (list(error.errors()) or [{"loc": (), "msg": "is not valid"}])[0]
    return _Refused(_place(first, within), str(first["msg"]))


def _place(error: ErrorDetails, within: str) -> str:
    parts = [str(part) for part in error["loc"] if part not in ("body", "query", "path", "header")]
    return ".".join([within, *parts] if within else parts) or "body"


def install(app: FastAPI) -> None:
    """Make the application answer every error this way."""

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, GatewayError)
        if error.status >= 500:
            _log.warning("%s: %s", error.code, error)
        return reply(error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return reply(refused(error))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_value")
        said = HTTPStatus(error.status_code).phrase
        content = {"error": {"message": said, "type": "invalid_request_error", "param": None, "code": code}}
        return JSONResponse(content, error.status_code, error.headers)

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    app.add_exception_handler(GatewayError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ClientGone, gone)
