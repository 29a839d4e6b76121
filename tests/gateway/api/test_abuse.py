"""What no honest client sends: bad bytes, huge bodies, wrong types, slow readers, clients that leave."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import time
from typing import Any

import httpx
import pytest

from tests.gateway.api.conftest import Running, wait_for

CHAT = "/v1/chat/completions"


def _ask(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **more}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"messages": "x"}',
        b'{"messages": []}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b"[" * 200_000,
        b'{"a":' * 100_000,
        json.dumps(_ask("x", max_tokens=10**30)).encode(),
        json.dumps(_ask("x", stop=["a"] * 5)).encode(),
        json.dumps(_ask("x", tools=[{"type": "function", "function": {"name": "a b"}}])).encode(),
        json.dumps(_ask("x", customer_service={"scene": "nowhere"})).encode(),
        json.dumps(_ask("x", customer_service={"conversation_id": "../../etc"})).encode(),
        json.dumps(_ask(None)).encode(),
        json.dumps(_ask([{"type": "audio"}])).encode(),
        json.dumps(_ask([{"type": "text", "text": 5}])).encode(),
        json.dumps(_ask([{"type": "image_url"}])).encode(),
        json.dumps(_ask([{"type": "image_url", "image_url": {"url": 5}}])).encode(),
        json.dumps(_ask([{"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@"}}])).encode(),
        json.dumps(
            _ask([{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}])
        ).encode(),
        json.dumps(_ask([{"type": "image_url", "image_url": {"url": "attachment:x"}}])).encode(),
        json.dumps(_ask([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}])).encode(),
        json.dumps(
            _ask([{"type": "image", "source": {"type": "url", "url": "https://127.0.0.1/x"}}])
        ).encode(),
        json.dumps({"messages": [{"role": "assistant", "content": "x"}]}).encode(),
        json.dumps(
            {"messages": [{"role": "system", "content": [{"type": "image", "image": "data:,x"}]}]}
        ).encode(),
    ],
)
def test_wrong_bodies(gateway: Running, body: bytes) -> None:
    reply = gateway.http().post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] in ("invalid_value", "unsupported")
    assert gateway.assistant.asked == []


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "image/png"])
def test_wrong_content_types(gateway: Running, kind: str) -> None:
    reply = gateway.http().post(CHAT, content=json.dumps(_ask("x")), headers={"Content-Type": kind})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "Content-Type")


def test_an_error_does_not_repeat_what_was_sent(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "gateway")
    secret = "6222021234567890123"
    for body in (
        _ask([{"type": secret}]),
        _ask("x", temperature=secret),
        _ask("x", customer_service={secret: 1}),
    ):
        reply = gateway.http().post(CHAT, json=body)
        assert reply.status_code == 400
        assert secret not in reply.text.replace(f"customer_service.{secret}", "")
    assert secret not in caplog.text


def _too_large(start: Any) -> Any:
    return start(http={"max_body_bytes": 200_000})


def test_a_body_over_the_limit(start: Any) -> None:
    with _too_large(start) as gateway:
        large = json.dumps(_ask("x" * 300_000)).encode()
        announced = gateway.http().post(CHAT, content=large, headers={"Content-Type": "application/json"})
        assert (announced.status_code, announced.json()["error"]["code"]) == (413, "too_large")
        sent = 0

        def pieces() -> Any:
            nonlocal sent
            for at in range(0, len(large), 10_000):
                sent += 10_000
                yield large[at : at + 10_000]

        # Without a Content-Length, on every route that reads a body, whoever reads it.
        for path in (CHAT, "/v1/tickets", "/v1/feedback", "/api/predict"):
            reply = gateway.http().post(path, content=pieces(), headers={"Content-Type": "application/json"})
            assert (reply.status_code, reply.json()["error"]["code"]) == (413, "too_large"), path
        assert gateway.http().post(CHAT, json=_ask("small")).status_code == 200


def test_an_endless_body_is_not_read_to_its_end(start: Any) -> None:
    with _too_large(start) as gateway:
        host, port = gateway.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acme-key\r\n"
                b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            said, sent, chunk = b"", 0, b"2710\r\n" + b"x" * 10_000 + b"\r\n"
            connection.settimeout(0.02)
            while b"413" not in said and sent < 50_000_000:
                try:
                    connection.sendall(chunk)
                    sent += len(chunk)
                    said += connection.recv(1000)
                except TimeoutError:
                    continue
                except OSError:
                    break
            assert b" 413 " in said
            assert sent < 20_000_000


def test_a_form_with_files(gateway: Running, picture: bytes) -> None:
    named = {"type": "image_url", "image_url": {"url": "attachment:b.png"}}
    asked = json.dumps(_ask([{"type": "text", "text": "before"}, named, {"type": "text", "text": "after"}]))
    files = [("files", ("a.png", picture, "text/plain")), ("files", ("b.png", picture, "image/png"))]
    reply = gateway.http().post(CHAT, data={"request": asked}, files=files)
    assert reply.status_code == 200, reply.text
    content = gateway.assistant.asked[0].messages[0].content
    assert [part if isinstance(part, str) else part.kind for part in content] == [
        "image",
        "before",
        "image",
        "after",
    ]


@pytest.mark.parametrize(
    "form",
    [
        b"--x\r\n",
        b"no boundary at all",
        b'--x\r\nContent-Disposition: form-data; name="request"\r\n\r\n{}\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n--x--\r\n',
    ],
)
def test_wrong_forms(gateway: Running, form: bytes) -> None:
    for kind in ("multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data; boundary="):
        reply = gateway.http().post(CHAT, content=form, headers={"Content-Type": kind})
        assert reply.status_code == 400, (kind, reply.text)


def test_too_many_pictures(start: Any, picture: bytes) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    with start(media={"mask": False, "max_files": 2}) as gateway:
        reply = gateway.http().post(CHAT, json=_ask([{"type": "image", "image": uri}] * 3))
        assert reply.status_code == 400
        assert "at most 2" in reply.json()["error"]["message"]


def test_private_data_never_goes_on(gateway: Running) -> None:
    gateway.http().post(CHAT, json=_ask("我的电话是 13812345678，手机黑屏"))
    asked = gateway.assistant.asked[0]
    assert "13812345678" not in asked.text
    assert asked.personal


@pytest.mark.parametrize(
    "given", ["short", "a b c d e f g h", "x" * 65, "中文中文中文中文", "../../../../etc"]
)
def test_request_ids(gateway: Running, given: str) -> None:
    reply = gateway.http().get("/healthz", headers={"X-Request-Id": given.encode()})
    assert reply.headers["X-Request-Id"].startswith("req-")
    assert (
        gateway.http().get("/healthz", headers={"X-Request-Id": "abc-12345"}).headers["X-Request-Id"]
        == "abc-12345"
    )
    assert gateway.http().get("/nowhere").headers["X-Request-Id"]


def test_a_fault_of_ours_says_nothing_of_the_customer(
    gateway: Running, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.assistant.fault = RuntimeError("boom")
    reply = gateway.http().post(CHAT, json=_ask("我的秘密"))
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal")
    assert "boom" not in reply.text
    assert reply.headers["X-Request-Id"]
    assert "我的秘密" not in caplog.text
    assert "boom" in caplog.text


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_models_work(gateway: Running, stream: bool) -> None:
    gateway.assistant.pieces, gateway.assistant.pause_s = ("x",) * 1000, 0.01
    host, port = gateway.url.removeprefix("http://").split(":")
    body = json.dumps(_ask("x", stream=stream)).encode()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acme-key\r\n"
            + f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        wait_for(lambda: gateway.assistant.said > 3, "the answer did not begin")
    wait_for(lambda: gateway.assistant.running == 0, "the model works for nobody")
    assert gateway.assistant.cancelled == 1
    assert gateway.assistant.said < 900
    assert gateway.app.state.gateway.limits._running["acme"] == 0


def test_a_reader_who_stands_still_holds_the_model_back(gateway: Running) -> None:
    gateway.assistant.pieces = ("黑屏" * 5000,) * 2000  # 60 MB, nobody reads them
    host, port = gateway.url.removeprefix("http://").split(":")
    body = json.dumps(_ask("x", stream=True)).encode()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acme-key\r\n"
            + f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        wait_for(lambda: gateway.assistant.said > 3, "the answer did not begin")
        time.sleep(0.5)
        stood = gateway.assistant.said
        time.sleep(0.5)
        assert gateway.assistant.said == stood < 1500
    wait_for(lambda: gateway.assistant.running == 0, "the model works for nobody")


def test_a_hundred_streams_at_once(gateway: Running) -> None:
    gateway.assistant.pieces, gateway.assistant.pause_s = tuple(f"{n} " for n in range(10)), 0.05

    async def one(client: httpx.AsyncClient, number: int) -> str:
        said = ""
        async with client.stream("POST", CHAT, json=_ask(f"question {number}", stream=True)) as reply:
            assert reply.status_code == 200
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    choices = json.loads(line[6:])["choices"]
                    said += choices[0]["delta"].get("content") or ""
        return said

    async def all_of_them() -> list[str]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(
            base_url=gateway.url,
            headers={"Authorization": "Bearer acme-key"},
            timeout=30,
            limits=limits,
            trust_env=False,
        ) as client:
            return await asyncio.gather(*(one(client, number) for number in range(100)))

    answers = asyncio.run(all_of_them())
    assert answers == ["0 1 2 3 4 5 6 7 8 9 "] * 100
    assert len({question.text for question in gateway.assistant.asked}) == 100
    assert gateway.assistant.most_running > 50
    assert gateway.assistant.running == 0
