"""A conversation that is deleted while its last answer is still being put away is gone all the same."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from gateway.records import Handoff
from tests.gateway.api.conftest import Running

PHONE = Path(__file__).parents[3] / "build_engine/demo/pictures/black_phone.jpg"


def test_a_hand_off_that_came_too_late(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = gateway.store.open_handoff
    client = gateway.http()

    def late(handoff: Handoff) -> Handoff:
        assert client.delete("/v1/conversations/mine").status_code == 204
        return opened(handoff)

    monkeypatch.setattr(gateway.store, "open_handoff", late)
    gateway.assistant.handoff = "low_confidence"
    uri = f"data:image/jpeg;base64,{base64.b64encode(PHONE.read_bytes()).decode()}"
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "text", "text": "黑屏了"},
    ]
    reply = client.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": content}], "user": "mine"}
    )
    assert reply.status_code == 200
    assert gateway.store.handoffs("acme") == []
    assert list(gateway.objects.stored()) == []
    assert gateway.queue.published == []
