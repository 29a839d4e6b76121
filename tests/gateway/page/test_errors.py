"""Whatever goes wrong is said, with what to do, and the question can be sent again."""

from __future__ import annotations

import pytest

from tests.gateway.page.api import PNG, Gateway, Scripted
from tests.gateway.page.browser import Page


def test_busy_with_retry(page: Page, gateway: Gateway) -> None:
    gateway.answers.extend(
        [Scripted(status=503, message="Triton is starting", retry_after_s=7), Scripted(pieces=("好了",))]
    )
    page.open()
    page.hand_over("drop", PNG, "a.png", "image/png")
    page.until(lambda: page.all("#tray li"))
    page.ask("问")
    page.answered()
    said = page.text(".problem")
    assert "服务繁忙" in said
    assert "约 7 秒" in said
    assert "Triton is starting" in said
    assert "r-error" in said
    page.click(".problem .retry")
    page.until(lambda: "好了" in page.text(".turn.assistant"))
    assert page.all(".problem") == []
    assert gateway.chats[0]["messages"] == gateway.chats[1]["messages"], "the picture goes again, too"
    assert len(page.all(".turn.user")) == 1


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (500, "服务器出错"),
        (400, "请求有误"),
        (413, "内容过大"),
        (429, "过于频繁"),
        (502, "服务繁忙"),
        (422, "请求有误"),
    ],
)
def test_each_refusal_has_its_advice(page: Page, gateway: Gateway, status: int, says: str) -> None:
    gateway.answers.append(Scripted(status=status, message="max_tokens: got <b>0</b>, allowed: 1 to 8192"))
    page.open()
    page.ask("问")
    page.answered()
    assert says in page.text(".problem")
    assert "got <b>0</b>, allowed: 1 to 8192" in page.text(".problem")


def test_an_error_in_the_middle_keeps_what_came(page: Page, gateway: Gateway) -> None:
    gateway.answers.extend(
        [
            Scripted(pieces=("前半句",), error_inside="the model went away"),
            Scripted(pieces=("断在", "这里"), cut=True),
        ]
    )
    page.open()
    page.ask("一")
    page.answered()
    assert "前半句" in page.text(".turn.assistant .text")
    assert "the model went away" in page.text(".problem")
    page.ask("二")
    second = page.answered(2)
    assert "断在这里" in second.text
    assert "回答中途断开" in second.text


def test_no_server(page: Page, gateway: Gateway) -> None:
    page.open()
    page.driver.execute_cdp_cmd("Network.enable", {})
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **offline})
    try:
        page.ask("问")
        page.answered()
        assert "连接不上服务器" in page.text(".problem")
    finally:
        page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **offline})
    page.click(".problem .retry")
    page.until(lambda: "好的。" in page.text(".turn.assistant"))


def test_the_key_is_asked_for_and_stays_in_the_tab(page: Page, gateway: Gateway) -> None:
    gateway.required_key = "customer-key"
    page.open()
    assert "API 密钥" in page.text("#settings-problem")
    field = page.one("#key")
    field.send_keys("customer-key\t")
    page.until(lambda: page.all("#scene option"))
    assert page.all("#settings-problem .problem") == []
    page.ask("问")
    page.answered()
    assert gateway.keys[-1] == "customer-key"
    stored = page.script(
        "return [JSON.stringify(localStorage), sessionStorage.getItem('api-key'), location.href, document.cookie]"
    )
    assert "customer-key" not in stored[0] + stored[2] + stored[3]
    assert stored[1] == "customer-key"
