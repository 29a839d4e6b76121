"""The OpenAPI of all this, and a page that shows it without asking any other host."""

from __future__ import annotations

import html
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse

from gateway.api.failures import ErrorReply
from gateway.api.schema import ChatIn

router = APIRouter()

_OPEN: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_ERRORS: Final = {
    "400": "A field is wrong; `param` names it",
    "401": "No key, or an unknown one",
    "403": "Needs an agent key",
    "404": "There is none, or it is another tenant's",
    "409": "Done already, or somebody else has it",
    "413": "A body or file over a limit",
    "429": "More than the tenant may ask; see Retry-After",
    "500": "A fault of the gateway",
    "503": "Something behind it is down or full; see Retry-After",
}
_PAGE: Final = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>API</title>
<meta name="viewport" content="width=device-width"></head><body><h1>{title}</h1>
<p>The whole description, for tools: <a href="/openapi.json">/openapi.json</a></p>{rows}</body></html>"""


def install(app: FastAPI) -> None:
    """Make the application describe its errors as they are."""

    def described() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = _openapi(app)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _openapi(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes, description=app.description)
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    for model in (ErrorReply, ChatIn):
        known = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(known.pop("$defs", {}))
        schemas[model.__name__] = known
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorReply"}}}
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            replies = operation["responses"]
            replies.pop("422", None)
            if path in _OPEN:
                continue
            for status, description in _ERRORS.items():
                replies.setdefault(status, {"description": description, "content": content})
    return schema


@router.get("/docs", include_in_schema=False)
async def page(request: Request) -> HTMLResponse:
    """Methods, paths and what they are for."""
    schema = request.app.openapi()
    rows = "".join(
        f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(operation['summary'])}. "
        f"{html.escape(operation.get('description', ''))}</p>"
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    )
    return HTMLResponse(_PAGE.format(title=html.escape(schema["info"]["title"]), rows=rows))
