"""Probes, metrics, the description of the API, the page, headers for browsers, the catalogue."""

from __future__ import annotations

import re
from typing import Any

import httpx

from tests.gateway.api.conftest import Running


def test_readiness_says_what_is_missing(gateway: Running) -> None:
    assert httpx.get(f"{gateway.url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{gateway.url}/readyz").json() == {"status": "ready", "missing": []}
    gateway.model.up = False
    reply = httpx.get(f"{gateway.url}/readyz")
    assert (reply.status_code, reply.json()["missing"]) == (503, ["triton"])
    assert reply.headers["Retry-After"]
    assert httpx.get(f"{gateway.url}/healthz").status_code == 200


def test_metrics_have_no_content(gateway: Running) -> None:
    gateway.http().get("/v1/conversations/geheim-17")
    gateway.http().get("/geheim-18")
    text = httpx.get(f"{gateway.url}/metrics").text
    assert (
        'cs_http_requests_total{method="GET",route="/v1/conversations/{conversation_id}",status="404"}'
        in text
    )
    assert "geheim" not in text
    assert "acme" not in text


def test_the_description_needs_no_other_host(gateway: Running) -> None:
    page = httpx.get(f"{gateway.url}/docs")
    assert "/v1/chat/completions" in page.text
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page.text)
    schema = httpx.get(f"{gateway.url}/openapi.json").json()
    assert "/api/predict" in schema["paths"]
    assert "HTTPValidationError" not in str(schema)


def test_the_page(gateway: Running) -> None:
    for path in ("/", "/agent"):
        reply = httpx.get(gateway.url + path)
        assert reply.status_code == 200
        assert "default-src 'self'" in reply.headers["Content-Security-Policy"]
    assert httpx.get(f"{gateway.url}/static/../routes.py").status_code == 404
    assert httpx.get(f"{gateway.url}/static/%2e%2e/routes.py").status_code == 404


def test_headers_of_every_reply(gateway: Running) -> None:
    for path in ("/healthz", "/v1/models", "/nowhere"):
        headers = gateway.http().get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["Cache-Control"] == "no-store"


def test_browsers_of_other_sites(start: Any, gateway: Running) -> None:
    asked = {"Origin": "https://shop.example.com", "Access-Control-Request-Method": "POST"}
    assert (
        "access-control-allow-origin"
        not in httpx.options(f"{gateway.url}/v1/feedback", headers=asked).headers
    )


def test_browsers_of_allowed_sites(start: Any) -> None:
    with start(http={"cors_origins": ["https://shop.example.com"]}) as gateway:
        for origin, allowed in (("https://shop.example.com", True), ("https://evil.example.com", False)):
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            headers = httpx.options(f"{gateway.url}/v1/feedback", headers=asked).headers
            assert (headers.get("access-control-allow-origin") == origin) is allowed


def test_scenes(gateway: Running) -> None:
    said = gateway.http().get("/v1/scenes").json()
    (sales,) = [scene for scene in said["data"] if scene["name"] == "after_sales"]
    assert set(sales["title"]) == {"zh", "en"}
    assert sales["presets"][0]["prompt"]["zh"]
    assert said["limits"]["max_files"] == 16


def test_keys_are_asked_everywhere(gateway: Running) -> None:
    schema = httpx.get(f"{gateway.url}/openapi.json").json()
    for path, operations in schema["paths"].items():
        for method in operations:
            if path in ("/healthz", "/readyz", "/metrics"):
                continue
            url = gateway.url + re.sub(r"\{[^}]+\}", "a" * 32, path)
            for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic acme-key"}):
                reply = httpx.request(method, url, headers=header, json={} if method == "post" else None)
                assert reply.status_code == 401, (method, path)
                assert reply.headers["WWW-Authenticate"] == "Bearer"


def test_development_without_tenants(start: Any) -> None:
    with start(tenants={}) as gateway:
        body = {"messages": [{"role": "user", "content": "x"}]}
        assert gateway.http("").post("/v1/chat/completions", json=body).status_code == 200
        assert gateway.assistant.asked[0].tenant == "default"
        assert gateway.http("").get("/v1/handoffs").status_code == 200
