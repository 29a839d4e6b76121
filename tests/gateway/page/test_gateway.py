"""The page on the gateway's own API, with its real store, objects and articles: a customer and an agent, each in a tab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from gateway.knowledge.library import Library
from gateway.records import Citation
from tests.gateway.api.conftest import Running, running
from tests.gateway.page.browser import Page

ARTICLE = "# 手机黑屏\n\n长按电源键 **10 秒**强制重启；充电 30 分钟后再开机。\n"


@pytest.fixture
def real(tmp_path: Path, driver: Chrome) -> Iterator[Running]:
    (tmp_path / "black-screen.md").write_text(ARTICLE, encoding="utf-8")
    library = Library(tmp_path / "knowledge.db")
    article = library.add(tmp_path / "black-screen.md")[0]
    library.close()
    with running(tmp_path) as gateway:
        gateway.assistant.pieces = ("请**长按**", "电源键 10 秒[1]。", "<img src=x onerror=window.hacked=1>")
        gateway.assistant.pause_s = 0.05
        gateway.assistant.citations = (Citation(1, article.article_id, article.version, article.title, 0.9),)
        gateway.assistant.handoff = "low_confidence"
        yield gateway
        driver.get("about:blank")  # ends the page's open streams


def test_customer_and_agent(driver: Chrome, real: Running, picture: Path) -> None:
    page = Page(driver, real.url).open()
    page.until(lambda: page.all("#settings-problem .problem"), "a gateway with tenants asks for a key")
    page.one("#key").send_keys("acme-key\t")
    page.until(lambda: [option.text for option in page.all("#scene option")][:1] == ["售后服务"])
    page.upload(picture)
    page.ask("手机黑屏了，怎么办？")
    answer = page.answered()
    assert answer.find_element(By.CSS_SELECTOR, ".text strong").text == "长按"
    assert page.all(".turn .text img") == []
    asked = real.assistant.asked[0]
    assert asked.language == "zh"
    assert asked.messages[-1].media[0].width == 640
    page.click(".text .citation")
    page.until(lambda: "强制重启" in page.text("dialog .article"))
    page.click("dialog .icon")
    page.all(".star input")[4].click()
    page.one(".rating textarea").send_keys("清楚")
    page.click(".rating .primary")
    page.until(lambda: page.all(".thanks"))
    assert [(kept.rating, kept.comment) for kept in real.store.feedback("acme")] == [(5, "清楚")]
    page.until(lambda: "已为您转接人工客服" in page.text(".handoff"))

    customer = driver.current_window_handle
    driver.switch_to.new_window("tab")
    try:
        page.driver.get(f"{real.url}/agent")
        page.one("#name").send_keys("小王\t")
        page.one("#key").send_keys("globex-agent\t")
        page.until(lambda: page.visible("#none"), "another tenant's agents see nothing")
        page.one("#key").clear()
        page.one("#key").send_keys("acme-agent\t")
        page.until(lambda: page.all("#list button"))
        page.click("#list button")
        seen = "return document.querySelector('.pictures img')?.naturalWidth"
        page.until(lambda: page.script(seen) == 640, "the picture as it was stored")
        page.until(lambda: "手机黑屏了，怎么办？" in page.text(".transcript"))
        page.click("#claim")
        page.until(lambda: page.visible("#reply"))
        page.one("#reply").send_keys("我来帮您看。")
        page.click("form.reply .primary")
        page.until(lambda: "我来帮您看。" in page.text(".replies"))
        driver.switch_to.window(customer)
        page.until(lambda: "我来帮您看。" in page.text(".handoff .replies"))
        assert "小王 正在处理" in page.text(".handoff .status")
        page.driver.refresh()
        page.until(lambda: page.all(".handoff .replies li"), "a reload loses nothing")
        assert page.all(".turn.user img") != []
        driver.switch_to.window(next(handle for handle in driver.window_handles if handle != customer))
        page.click("#close")
        page.until(lambda: not page.visible("#reply"))
        driver.close()
    finally:
        driver.switch_to.window(customer)
    page.until(lambda: "人工服务已结束" in page.text(".handoff .status"))
    assert page.complaints() == []
