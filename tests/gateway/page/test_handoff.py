"""A person takes over: the customer sees it live on the page, the agent does it at the desk."""

from __future__ import annotations

import time

from selenium.webdriver.common.by import By

from tests.gateway.page.api import Gateway, Scripted
from tests.gateway.page.browser import Page


def test_banner_and_replies_arrive_live(page: Page, gateway: Gateway) -> None:
    handoff = gateway.add_handoff("h-1")
    gateway.answers.append(
        Scripted(pieces=("我不太确定。",), extension={"confidence": 0.3, "handoff": handoff})
    )
    page.open()
    page.ask("手机黑屏了怎么办？")
    answer = page.answered()
    assert answer.find_element(By.CSS_SELECTOR, ".confidence strong").text == "较低"
    assert "已为您转接人工客服" in page.text(".handoff")
    assert "助手把握不足" in page.text(".handoff")
    handoff |= {"state": "claimed", "agent": "小王"}
    page.until(lambda: "小王 正在处理" in page.text(".handoff .status"))
    handoff["replies"] = [{"created_s": time.time(), "agent": "小王", "text": "您好，<b>请</b>长按电源键。"}]
    page.until(lambda: page.all(".handoff .replies li"))
    assert "您好，<b>请</b>长按电源键。" in page.text(".handoff .replies")
    handoff["replies"] = [
        *handoff["replies"],
        {"created_s": time.time(), "agent": "小王", "text": "好了吗？"},
    ]
    page.until(lambda: len(page.all(".handoff .replies li")) == 2)
    page.keep("handoff")
    handoff["state"] = "closed"
    page.until(lambda: "人工服务已结束" in page.text(".handoff .status"))
    assert len(page.all(".handoff .replies li")) == 2, "no reply shown twice"


def test_a_reload_loses_nothing(page: Page, gateway: Gateway) -> None:
    handoff = gateway.add_handoff("h-1", state="claimed", agent="小王")
    gateway.answers.append(Scripted(extension={"handoff": handoff}))
    page.open()
    page.ask("手机黑屏了怎么办？")
    page.answered()
    page.until(lambda: page.all(".handoff"))
    part = {"type": "image_url", "image_url": {"url": "/v1/media/o-1"}, "object_id": "o-1", "kind": "image"}
    gateway.conversation = [
        {"role": "user", "content": [part, {"type": "text", "text": "手机黑屏了怎么办？"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "**不确定**。"}]},
    ]
    page.driver.refresh()
    page.until(lambda: page.all(".handoff"))
    assert page.text(".turn.user .said") == "手机黑屏了怎么办？"
    assert page.all(".turn.user img") != []
    page.until(lambda: page.text(".turn.assistant .text strong") == "不确定")
    handoff["replies"] = [{"created_s": time.time(), "agent": "小王", "text": "我在。"}]
    page.until(lambda: "我在。" in page.text(".handoff .replies"))
    page.ask("还在吗？")
    page.answered(2)
    before, after = gateway.chats
    assert after["customer_service"]["conversation_id"] == before["customer_service"]["conversation_id"]
    assert after["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    handoff["state"] = "closed"
    page.click("#new")
    page.driver.refresh()
    page.until(lambda: page.all("#scene option"))
    assert page.all(".turn") == []


def test_the_customer_asks_for_a_person(page: Page, gateway: Gateway) -> None:
    page.open()
    page.ask("你好")
    page.answered()
    page.script(
        "[...document.querySelectorAll('.tools button')].find((each) => each.dataset.text === 'chat.person').click()"
    )
    page.until(lambda: page.all(".handoff"))
    assert gateway.handoffs["h-asked"]["request_id"] == "r-1"
    assert "您要求人工服务" in page.text(".handoff")
    gateway.handoffs["h-asked"]["state"] = "closed"


def test_agent_claims_reads_replies_and_closes(page: Page, gateway: Gateway) -> None:
    media = [{"object_id": "o-1", "kind": "image", "mime": "image/png"}]
    handoff = gateway.add_handoff("h-1", media=media)
    gateway.add_handoff("h-2", reason="new_reason", summary="other")
    page.open("/agent")
    page.until(lambda: len(page.all("#list button")) == 2)
    assert page.text("#list button strong") == "把握不足"
    assert page.all("#list button strong")[1].text == "new_reason"
    page.one("#name").send_keys("小王\t")
    page.all("#list button")[0].click()
    assert "助手把握不足" in page.text(".summary")
    page.until(lambda: page.all(".pictures img"))
    page.until(lambda: page.script("return document.querySelector('.pictures img').naturalWidth") == 1)
    page.until(lambda: len(page.all(".transcript li")) == 2)
    assert page.text(".transcript .assistant strong") == "长按"
    assert not page.visible("form.reply"), "claim first"
    page.click("#claim")
    page.until(lambda: page.visible("#reply"))
    assert handoff["agent"] == "小王"
    page.one("#reply").send_keys("请带到<门店>检测。")
    page.click("form.reply .primary")
    page.until(lambda: page.all(".replies li"))
    assert handoff["replies"][0]["text"] == "请带到<门店>检测。"
    assert page.one("#reply").get_property("value") == ""
    gateway.conversation = [{"role": "user", "content": "还是不亮，<i>急</i>"}]
    said = "return document.querySelector('.transcript .said').textContent"
    page.until(lambda: page.script(said) == "还是不亮，<i>急</i>", "what the customer wrote since")
    page.keep("agent")
    page.click("#close")
    page.until(lambda: handoff["state"] == "closed")
    page.until(lambda: not page.visible("form.reply"))


def test_nobody_waits(page: Page, gateway: Gateway) -> None:
    page.open("/agent")
    page.until(lambda: page.visible("#none"))
    gateway.add_handoff("h-1")
    page.until(lambda: page.all("#list button"), "a new case comes by itself")
    assert not page.visible("#none")


def test_two_agents_cannot_have_one_case(page: Page, gateway: Gateway) -> None:
    handoff = gateway.add_handoff("h-1")
    page.open("/agent")
    page.until(lambda: page.all("#list button"))
    page.click("#list button")
    page.until(lambda: page.all("#claim"))
    handoff |= {"state": "claimed", "agent": "小李"}
    page.click("#claim")
    page.until(lambda: page.all("#case .problem"))
    assert "已被处理" in page.text("#case .problem")
    assert "小李 has it already" in page.text("#case .problem")


def test_the_desk_needs_its_key(page: Page, gateway: Gateway) -> None:
    gateway.required_key = "agent-key"
    gateway.add_handoff("h-1")
    page.open("/agent")
    page.until(lambda: page.all("#list-problem .problem"))
    assert page.all("#list button") == []
    page.one("#key").send_keys("agent-key\t")
    page.until(lambda: page.all("#list button"))
    assert page.all("#list-problem .problem") == []
