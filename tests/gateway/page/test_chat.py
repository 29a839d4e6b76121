"""A customer asks: pictures in, streamed answer out, second turn, sources, rating, stop, again."""

from __future__ import annotations

from pathlib import Path

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.gateway.page.api import PNG, Gateway, Scripted
from tests.gateway.page.browser import Page

BLACK_SCREEN = Scripted(
    pieces=(
        "从图片看，手机**黑屏",
        "**，屏幕没有外伤[1]。请按顺序试：\n\n",
        "1. 长按电源键 10 秒强制重启[1]\n",
        "2. 充电 30 分钟后再开机[2]\n",
        "3. 仍然黑屏请联系售后检测\n\n",
        "```text\nhold power 10 s\n```\n仅供参考[9]。",
    ),
    extension={
        "confidence": 0.86,
        "citations": [
            {"number": 1, "article_id": "black-screen", "title": "手机黑屏怎么办", "support": 0.75},
            {"number": 2, "article_id": "charging", "title": "充电问题排查", "support": 0.25},
        ],
    },
    pause_s=0.05,
)


def test_picture_question_streamed_answer_second_turn(page: Page, gateway: Gateway, picture: Path) -> None:
    gateway.articles["black-screen"] = "# 手机黑屏\n长按电源键 **10 秒**。"
    gateway.answers.extend([BLACK_SCREEN, Scripted(pieces=("可以。",))])
    page.open()
    page.upload(picture)
    assert page.visible("#previews img")
    page.ask("手机这样了，怎么办？")
    page.until(lambda: "从图片看" in page.text(".turn.assistant .text"))
    assert "streaming" in str(page.one(".turn.assistant").get_attribute("class")), "shown only when complete"
    answer = page.answered()
    assert [item.text for item in answer.find_elements(By.CSS_SELECTOR, ".text ol li")] == [
        "长按电源键 10 秒强制重启1",
        "充电 30 分钟后再开机2",
        "仍然黑屏请联系售后检测",
    ]
    assert answer.find_element(By.CSS_SELECTOR, ".text strong").text == "黑屏"
    assert "仅供参考[9]。" in answer.text, "a number without a source stays text"
    assert answer.find_element(By.CSS_SELECTOR, ".confidence strong").text == "较高"
    assert [each.text for each in answer.find_elements(By.CSS_SELECTOR, ".source")] == [
        "手机黑屏怎么办",
        "充电问题排查",
    ]
    assert page.all("#tray li") == []
    sent = gateway.chats[0]
    assert sent["stream"] is True
    assert [part["type"] for part in sent["messages"][0]["content"]] == ["image_url", "text"]
    assert sent["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert sent["customer_service"]["scene"] == "after_sales"
    assert "language" not in sent["customer_service"], "the words tell it"

    answer.find_element(By.CSS_SELECTOR, ".text .citation").click()
    page.until(lambda: "10 秒" in page.text("dialog .article"))
    assert "手机黑屏怎么办" in page.text("dialog h2")
    page.one("dialog").send_keys(Keys.ESCAPE)
    page.until(lambda: not page.all("dialog"))

    page.ask("能自己换屏吗？")
    assert "可以。" in page.answered(2).text
    turn = gateway.chats[1]
    assert [message["role"] for message in turn["messages"]] == ["user", "assistant", "user"]
    assert turn["messages"][0] == sent["messages"][0], "earlier pictures stay in the conversation"
    assert turn["messages"][1]["content"].startswith("从图片看，手机**黑屏**")
    assert turn["customer_service"]["conversation_id"] == sent["customer_service"]["conversation_id"]


def test_a_source_that_is_gone_is_said(page: Page, gateway: Gateway) -> None:
    gateway.answers.append(BLACK_SCREEN)
    page.open()
    page.ask("黑屏")
    page.answered()
    page.click(".source")
    page.until(lambda: page.all("dialog .problem"))
    assert "没有找到" in page.text("dialog .problem")


def test_rating(page: Page, gateway: Gateway) -> None:
    page.open()
    page.ask("你好")
    page.answered()
    assert not page.visible(".rating textarea")
    page.all(".star input")[3].click()
    page.one(".rating textarea").send_keys("很清楚 <b>")
    page.click(".rating .primary")
    page.until(lambda: page.all(".thanks"))
    assert gateway.ratings == [{"request_id": "r-1", "rating": 4, "comment": "很清楚 <b>"}]
    assert "4" in page.text(".thanks")


def test_stop_keeps_what_came_and_ends_the_request(page: Page, gateway: Gateway) -> None:
    gateway.answers.append(Scripted(pieces=tuple(f"第{n}句。" for n in range(200)), pause_s=0.05))
    page.open()
    page.ask("讲个长的")
    page.until(lambda: "第2句" in page.text(".turn.assistant"))
    assert page.visible("#stop")
    assert not page.visible("#send")
    page.click("#stop")
    answer = page.answered()
    assert "已停止" in answer.text
    assert "第2句" in answer.text
    assert page.visible("#send")
    page.until(lambda: gateway.disconnects == 1, "the gateway never saw the end of the request")
    assert page.script("return document.activeElement.id") == "question"


def test_regenerate_and_new_conversation(page: Page, gateway: Gateway) -> None:
    gateway.answers.extend([Scripted(pieces=("甲",)), Scripted(pieces=("乙",)), Scripted(pieces=("丙",))])
    page.open()
    page.ask("问")
    page.answered()
    page.click(".regenerate")
    page.until(
        lambda: page.all(".turn.assistant:not(.streaming)") and "乙" in page.text(".turn.assistant .text")
    )
    assert len(page.all(".turn.assistant")) == 1
    assert gateway.chats[1]["messages"] == gateway.chats[0]["messages"]
    assert "seed" in gateway.chats[1]
    assert "seed" not in gateway.chats[0]
    page.click("#new")
    assert page.all(".turn") == []
    assert page.visible("#welcome")
    page.ask("再问")
    page.answered()
    assert len(gateway.chats[2]["messages"]) == 1
    ids = [chat["customer_service"]["conversation_id"] for chat in gateway.chats]
    assert ids[0] == ids[1] != ids[2]


def test_drag_paste_camera_and_remove(page: Page, gateway: Gateway) -> None:
    page.open()
    page.hand_over("drop", PNG, "dropped.png", "image/png")
    page.until(lambda: len(page.all("#tray li")) == 1)
    page.hand_over("paste", PNG, "pasted.png", "image/png")
    page.until(lambda: len(page.all("#tray li")) == 2)
    page.click("#camera")
    page.until(lambda: page.one("dialog.camera .primary").is_enabled())
    page.click("dialog.camera .primary")
    page.until(lambda: len(page.all("#tray li")) == 3)
    page.until(lambda: not page.all("dialog"))
    names = [each.text for each in page.all("#previews .name")]
    assert [name.split(" ")[0] for name in names[:2]] == ["dropped.png", "pasted.png"]
    page.all("#previews li .icon")[0].click()
    assert len(page.all("#previews li")) == 2
    page.ask("看这两张")
    page.answered()
    urls = [part["image_url"]["url"][:15] for part in gateway.chats[0]["messages"][0]["content"][:2]]
    assert urls == ["data:image/png;", "data:image/jpeg"]


def test_limits_are_told_and_kept(page: Page, gateway: Gateway, tmp_path: Path) -> None:
    gateway.limits = {"max_files": 2, "max_image_bytes": 1 << 20, "max_body_bytes": 300}
    page.open()
    page.until(lambda: "最多 2 个文件；图片不超过 1 MB" in page.text("#limits"))
    page.hand_over("drop", b"x" * (2 << 20), "big.png", "image/png")
    page.until(lambda: "big.png" in page.text("#media-problems"))
    assert "2 MB" in page.text("#media-problems")
    page.hand_over("drop", b"%PDF", "bill.pdf", "application/pdf")
    page.until(lambda: "bill.pdf" in page.text("#media-problems"))
    assert page.all("#tray li") == []
    for name in ("a.png", "b.png", "c.png"):
        page.hand_over("paste", PNG * 2, name, "image/png")
        page.until(lambda name=name: name == "c.png" or len(page.all("#tray li")) == "ab".index(name[0]) + 1)
    page.until(lambda: "最多 2 个文件" in page.text("#media-problems"))
    assert len(page.all("#tray li")) == 2
    page.ask("问")
    assert "超过单次" in page.text("#composer-problem")
    assert gateway.chats == []
    assert page.one("#question").get_property("value") == "问", "nothing typed is lost"


def test_a_video_goes_as_a_video(page: Page, gateway: Gateway) -> None:
    page.open()
    page.hand_over("drop", b"\0\0\0\x18ftypmp42", "fault.mp4", "video/mp4")
    page.until(lambda: page.all("#previews video"))
    page.ask("第几秒出现报错？")
    page.answered()
    part = gateway.chats[0]["messages"][0]["content"][0]
    assert part["type"] == "video_url"
    assert part["video_url"]["url"].startswith("data:video/mp4;base64,AAAAGGZ0eXBtcDQy")


def test_parameters_presets_scene_and_samples(page: Page, gateway: Gateway) -> None:
    page.open()
    assert [option.text for option in page.all("#scene option")] == ["售后", "技术支持"], (
        "a scene that is off is not offered"
    )
    page.ask("默认")
    page.answered()
    assert not {"temperature", "top_p", "max_tokens"} & set(gateway.chats[0]), "the scene decides"
    page.all(".sample")[0].click()
    assert page.one("#question").get_property("value") == "这张图片里有什么问题？"
    page.script("document.querySelector('#presets [value=tutorial]').click()")
    page.one("#question").send_keys(Keys.ENTER)
    page.answered(2)
    sent = gateway.chats[1]
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"]) == (0.9, 0.95, 1024)
    page.script("document.querySelector('#presets [value=qwen]').click()")
    field = page.one("#field-max_tokens")
    field.clear()
    field.send_keys("77")
    page.ask("再来")
    page.answered(3)
    sent = gateway.chats[2]
    assert (
        sent["temperature"],
        sent["top_p"],
        sent["top_k"],
        sent["presence_penalty"],
        sent["max_tokens"],
    ) == (0.7, 0.8, 20, 1.5, 77)
    assert page.script("return document.querySelector('#presets :checked')") is None, (
        "changed by hand: no preset"
    )
    field.clear()
    field.send_keys("99999")
    page.ask("不发")
    assert len(gateway.chats) == 3, "a value that is not allowed is not sent"


def test_hostile_answer_and_sources_stay_text(page: Page, gateway: Gateway) -> None:
    evil = (
        "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>[点](javascript:window.hacked=1)"
    )
    gateway.articles["evil"] = evil
    gateway.answers.append(
        Scripted(
            pieces=("<scr", "ipt>window.hacked=1</scr", f"ipt>{evil}[1]"),
            extension={
                "citations": [{"number": 1, "article_id": "evil", "title": evil, "support": 1}],
                "handoff": gateway.add_handoff(
                    "h-evil", summary=evil, replies=[{"created_s": 1, "agent": evil, "text": evil}]
                ),
            },
        )
    )
    page.open()
    page.ask(evil)
    page.answered()
    page.until(lambda: page.all(".replies li"))
    page.click(".source")
    page.until(lambda: "onerror" in page.text("dialog .article"))
    assert page.script("return window.hacked ?? null") is None
    assert page.all(".turn img, .turn script, dialog img, dialog script, .turn .text a, .turn.user a") == []
    assert "<script>window.hacked=1</script>" in page.text(".turn.assistant .text")
    gateway.handoffs["h-evil"]["state"] = "closed"
