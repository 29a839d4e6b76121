"""Two tenants who try to reach each other's things, and customers who try to be agents."""

from __future__ import annotations

import base64

import pytest

from tests.gateway.api.conftest import Running


@pytest.fixture
def things(gateway: Running, picture: bytes) -> dict[str, str]:
    """Acme's answer, ticket, object, hand-off and conversation."""
    uri = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    body = {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": uri}},
                    {"type": "text", "text": "黑屏"},
                ],
            }
        ],
        "customer_service": {"conversation_id": "conv-acme"},
    }
    gateway.assistant.handoff = "low_confidence"
    acme = gateway.http()
    said = acme.post("/v1/chat/completions", json=body).json()["customer_service"]
    ticket = acme.post("/v1/tickets", json=body).json()
    (ref,) = gateway.store.asked("acme", said["request_id"]).media
    return {
        "request": said["request_id"],
        "ticket": ticket["ticket_id"],
        "object": ref.object_id,
        "handoff": said["handoff"]["handoff_id"],
        "conversation": "conv-acme",
    }


PATHS = [
    ("GET", "/v1/tickets/{ticket}"),
    ("GET", "/v1/tickets/{ticket}/events"),
    ("GET", "/v1/media/{object}"),
    ("GET", "/v1/conversations/{conversation}"),
    ("DELETE", "/v1/conversations/{conversation}"),
    ("GET", "/v1/handoffs/{handoff}"),
    ("GET", "/v1/handoffs/{handoff}/events"),
    ("POST", "/v1/handoffs/{handoff}/claim"),
    ("POST", "/v1/handoffs/{handoff}/replies"),
    ("POST", "/v1/handoffs/{handoff}/close"),
    ("POST", "/v1/feedback"),
    ("POST", "/v1/handoffs"),
]


@pytest.mark.parametrize("key", ["globex-key", "globex-agent"])
def test_nothing_of_another_tenant(gateway: Running, things: dict[str, str], key: str) -> None:
    other = gateway.http(key)
    bodies = {
        "/v1/feedback": {"request_id": things["request"], "rating": 1},
        "/v1/handoffs": {"request_id": things["request"]},
    }
    for method, path in PATHS:
        url = path.format(**things)
        body = bodies.get(
            path, {"agent": "Eve", "text": "hello"} if path.endswith("replies") else {"agent": "Eve"}
        )
        reply = other.request(method, url, json=body if method == "POST" else None)
        allowed = {404} if key.endswith("agent") or "handoffs/" not in path or method == "GET" else {403}
        assert reply.status_code in allowed, (method, path, reply.status_code)
        # What does not exist at all looks the same.
        missing = other.request(
            method, path.format(**dict.fromkeys(things, "f" * 32)), json=body if method == "POST" else None
        )
        if reply.status_code == 404 and path not in bodies:
            assert _shape(missing.text, "f" * 32) == _shape(reply.text, *things.values())
    listed = gateway.http("globex-agent").get("/v1/handoffs").json()
    assert listed["data"] == []
    # nothing was changed by all that
    assert gateway.http("acme-agent").get(f"/v1/handoffs/{things['handoff']}").json()["state"] == "open"
    assert gateway.http().get(f"/v1/media/{things['object']}").status_code == 200
    assert gateway.store.feedback(None) == []


def _shape(text: str, *ids: str) -> str:
    for each in ids:
        text = text.replace(each, "ID")
    return text


def test_the_same_ids_of_two_tenants_are_two_things(gateway: Running) -> None:
    header = {"X-Request-Id": "request-0001"}
    body = {"messages": [{"role": "user", "content": "hello"}], "customer_service": {"conversation_id": "c"}}
    for key, piece in (("acme-key", "for acme"), ("globex-key", "for globex")):
        gateway.assistant.pieces = (piece,)
        reply = gateway.http(key).post("/v1/chat/completions", json=body, headers=header)
        assert reply.status_code == 200
        assert reply.headers["X-Request-Id"] == "request-0001"
    for key, piece in (("acme-key", "for acme"), ("globex-key", "for globex")):
        said = gateway.http(key).get("/v1/conversations/c").json()["messages"]
        assert [part["text"] for turn in said for part in turn["content"]] == ["hello", piece]
    again = gateway.http().post("/v1/chat/completions", json=body, headers=header)
    assert again.status_code == 409
    assert len(gateway.assistant.asked) == 2


def test_customers_are_no_agents(gateway: Running, things: dict[str, str]) -> None:
    customer, agent = gateway.http(), gateway.http("acme-agent")
    path = f"/v1/handoffs/{things['handoff']}"
    assert customer.get("/v1/handoffs").status_code == 403
    for action in ("claim", "replies", "close"):
        body = {"agent": "Eve"} | ({"text": "x"} if action == "replies" else {})
        assert customer.post(f"{path}/{action}", json=body).status_code == 403
    assert "summary" not in customer.get(path).json()
    assert "客户问题: 黑屏" in agent.get(path).json()["summary"]
    assert agent.post(f"{path}/replies", json={"agent": "李", "text": "早"}).status_code == 409
    assert agent.post(f"{path}/claim", json={"agent": "李"}).json()["state"] == "claimed"
    assert agent.post(f"{path}/claim", json={"agent": "王"}).status_code == 409
    assert agent.post(f"{path}/replies", json={"agent": "李", "text": "您好，我来帮您"}).status_code == 200
    assert agent.post(f"{path}/close", json={"agent": "李"}).json()["state"] == "closed"
    told = customer.get(f"{path}/events").text
    assert "您好，我来帮您" in told
    assert told.endswith("data: [DONE]\n\n")
    assert "summary" not in told


def test_a_conversation_is_forgotten_whole(gateway: Running, things: dict[str, str]) -> None:
    client = gateway.http()
    assert client.post("/v1/feedback", json={"request_id": things["request"], "rating": 5}).status_code == 201
    assert client.delete("/v1/conversations/conv-acme").status_code == 204
    for method, path in PATHS[:8]:
        reply = client.request(
            method, path.format(**things), json={"agent": "x"} if method == "POST" else None
        )
        assert reply.status_code in (403, 404), path
    assert list(gateway.objects.stored()) == []


def test_feedback(gateway: Running, things: dict[str, str]) -> None:
    client = gateway.http()
    comment = "有用，我的电话 13812345678"
    reply = client.post(
        "/v1/feedback", json={"request_id": things["request"], "rating": 4, "comment": comment}
    )
    assert reply.status_code == 201
    (kept,) = gateway.store.feedback("acme")
    assert (kept.rating, "13812345678" in kept.comment) == (4, False)
    assert gateway.queue.published[-1] == kept
    for rating in (0, 6, "5", 4.5, True, None):
        assert (
            client.post("/v1/feedback", json={"request_id": things["request"], "rating": rating}).status_code
            == 400
        )


def test_a_ticket_and_its_events(gateway: Running, things: dict[str, str]) -> None:
    client = gateway.http()
    path = f"/v1/tickets/{things['ticket']}"
    assert client.get(path).json()["state"] == "queued"
    states: list[str] = []
    with client.stream("GET", f"{path}/events") as events:
        for line in events.iter_lines():
            if line.startswith('data: {"ticket_id"'):
                states.append(line.split('"state":"')[1].split('"')[0])
                if len(states) == 1:
                    answer = gateway.store.answer("acme", things["request"])
                    gateway.store.finish_ticket(things["ticket"], answer, "handed_off")
    assert states == ["queued", "handed_off"]
    shown = client.get(path).json()
    assert shown["answer"]["text"] == "请长按电源键 10 秒[1]。"
    assert shown["answer"]["handoff"]["handoff_id"]


def test_the_same_ticket_twice_is_one(gateway: Running, picture: bytes) -> None:
    files = {"picture": ("screen.png", picture, "image/png")}
    data = {"request": '{"messages": [{"role": "user", "content": "黑屏"}]}'}
    replies = [
        gateway.http().post("/v1/tickets", data=data, files=files, headers={"X-Request-Id": "again-0001"})
        for _ in range(2)
    ]
    assert [reply.status_code for reply in replies] == [202, 202]
    assert replies[0].json()["ticket_id"] == replies[1].json()["ticket_id"]
    assert len(list(gateway.objects.stored())) == 1
