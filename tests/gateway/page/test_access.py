"""For everybody: both languages, keyboard alone, screen readers, a phone's width, dark, little motion."""

from __future__ import annotations

from pathlib import Path

from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.gateway.page.api import PNG, Gateway, Scripted
from tests.gateway.page.browser import Page
from tests.gateway.page.test_chat import BLACK_SCREEN

FROM_THE_TOP = "document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')"

UNNAMED = """
return [...document.querySelectorAll("button, input, select, textarea, img, video, [role=tab], nav, section, article")]
  .filter((each) => each.checkVisibility())
  .filter((each) => !(each.getAttribute("aria-label") || each.textContent.trim() || each.labels?.length
    || each.hasAttribute("alt") || each.ariaHidden === "true"))
  .map((each) => each.outerHTML);
"""


def test_language_follows_the_browser_switches_and_is_remembered(page: Page, gateway: Gateway) -> None:
    gateway.answers.append(BLACK_SCREEN)
    page.open()
    assert page.script("return document.documentElement.lang") == "zh-CN"
    assert page.text("#send") == "发送"
    page.ask("黑屏")
    page.answered()
    page.click("#language")
    assert page.script("return document.documentElement.lang") == "en"
    assert page.driver.title == "Customer service"
    assert page.text("#send") == "Send"
    assert page.text(".confidence strong") == "high", "what is already there changes, too"
    assert page.text("#scene option") == "After-sales"
    assert "At most" in page.text("#limits")
    # What was announced before stays as it was said; nobody sees it.
    left = page.script(
        "document.getElementById('announcer').remove(); return document.body.innerText.match(/[\\u4e00-\\u9fff]+/g)"
    )
    own = {"从图片看", "手机", "黑屏", "手机黑屏怎么办", "充电问题排查", "中"}
    assert {
        word for word in left if word not in own and word not in "".join(BLACK_SCREEN.pieces).replace("*", "")
    } == set()
    page.driver.refresh()
    page.until(lambda: page.text("#send") == "Send")
    page.hand_over("paste", PNG, "a.png", "image/png")
    page.until(lambda: page.all("#tray li"))
    page.ask("")
    page.answered()
    assert gateway.chats[-1]["customer_service"]["language"] == "en", (
        "a picture alone has no language of its own"
    )


def test_keyboard_alone(page: Page, gateway: Gateway, picture: Path) -> None:
    gateway.answers.extend([BLACK_SCREEN, Scripted(pieces=("慢",) * 200, pause_s=0.05)])
    page.open()

    def press(*keys: str) -> None:
        ActionChains(page.driver).send_keys(*keys).perform()

    def focused() -> str:
        return str(page.script("const a = document.activeElement; return a.id || a.className || a.localName"))

    page.script(FROM_THE_TOP)
    press(Keys.TAB)
    assert focused() == "skip"
    assert page.script("return document.activeElement.getBoundingClientRect().top") >= 0, (
        "the skip link shows when focused"
    )
    press(Keys.ENTER)
    assert focused() == "question"
    press("第一行")
    ActionChains(page.driver).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
    press("第二行")
    assert gateway.chats == []
    press(Keys.ENTER)
    page.answered()
    assert gateway.chats[0]["messages"][0]["content"] == "第一行\n第二行"
    # backwards into the answer: rate it with the arrow keys
    for _ in range(30):
        ActionChains(page.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
        if page.script("return document.activeElement.type") == "radio":
            break
    press(Keys.SPACE, Keys.ARROW_RIGHT, Keys.TAB, "好", Keys.TAB, Keys.ENTER)
    page.until(lambda: page.all(".thanks"))
    assert gateway.ratings[0]["comment"] == "好"
    page.one("#question").send_keys("慢慢说", Keys.ENTER)
    page.until(lambda: "慢" in page.all(".turn.assistant")[-1].text)
    press(Keys.ESCAPE)
    assert "已停止" in page.answered(2).text


def test_every_stop_of_the_tab_key_is_visible_and_in_order(page: Page, gateway: Gateway) -> None:
    page.open()
    page.script(FROM_THE_TOP)
    order = []
    for _ in range(14):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        shown, name = page.script(
            "const a = document.activeElement, s = getComputedStyle(a);"
            "return [s.outlineStyle !== 'none' || !!a.closest('.row, label'), a.id || a.className];"
        )
        assert shown, f"nothing shows that {name} has the focus"
        order.append(name)
    wanted = [
        "skip",
        "new",
        "language",
        "theme",
        "choose",
        "camera",
        "log",
        "attach",
        "question",
        "send",
        "scene",
    ]
    assert [name for name in order if name in wanted] == wanted


def test_names_for_screen_readers_and_one_announcement_per_sentence(
    page: Page, gateway: Gateway, picture: Path
) -> None:
    gateway.answers.append(Scripted(pieces=("第一", "句。第", "二句。", "尾巴"), pause_s=0.05))
    page.open()
    page.upload(picture)
    page.ask("问")
    page.answered()
    said = page.script(
        "return [...document.querySelectorAll('#announcer p')].map((each) => each.textContent)"
    )
    assert said[-4:] == ["第一句。", "第二句。", "尾巴", "回答完毕。"]
    assert page.script(UNNAMED) == []


def test_phone(page: Page, gateway: Gateway, picture: Path) -> None:
    gateway.answers.append(BLACK_SCREEN)
    page.open(width=390, height=844)
    assert page.visible("#question")
    assert not page.visible("#choose")
    page.click('[data-pane="settings"]')
    assert page.visible("#scene")
    assert not page.visible("#question")
    page.keep("phone-settings")
    page.click('[data-pane="media"]')
    page.upload(picture)
    assert page.visible("#question"), "back at the conversation once a picture is there"
    page.ask("手机黑屏了怎么办？")
    page.answered()
    page.keep("phone")
    for pane in ("media", "chat", "settings"):
        page.click(f'[data-pane="{pane}"]')
        assert page.script("return document.documentElement.scrollWidth") <= 390
    page.click('[data-pane="chat"]')
    small = page.script(
        "return [...document.querySelectorAll('#composer button, #tabs button, header button')]"
        ".filter((b) => b.checkVisibility())"
        ".map((b) => [b.id || b.dataset.pane, b.getBoundingClientRect().height]).filter(([, height]) => height < 30)"
    )
    assert small == []


def test_dark_and_little_motion(page: Page, gateway: Gateway, picture: Path) -> None:
    gateway.answers.append(BLACK_SCREEN)
    features = [
        {"name": "prefers-color-scheme", "value": "dark"},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        page.open()
        page.upload(picture)
        page.ask("手机黑屏了怎么办？")
        page.until(lambda: page.all(".waiting") or page.all(".turn.assistant"))
        page.answered()
        light = "const c = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number); return c[0] + c[1] + c[2];"
        assert page.script(light) < 200
        page.keep("dark")
        page.click("#theme")
        assert page.script(light) > 600
        name = "getComputedStyle(each).animationName"
        assert (
            page.script(
                f"return [...document.querySelectorAll('*')].filter((each) => {name} !== 'none').length"
            )
            == 0
        )
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


CONTRAST = """
// WCAG 2: every text against the first opaque ground behind it.
const canvas = document.createElement("canvas").getContext("2d");
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const linear = (v) => v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
const ground = (each) => {
  for (; each; each = each.parentElement) {
    const colour = rgba(getComputedStyle(each).backgroundColor);
    if (colour[3] === 255) return colour;
  }
  return [255, 255, 255, 255];
};
const speaks = (each) => [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
const found = [];
for (const each of document.querySelectorAll("body *")) {
  if (!each.checkVisibility() || !speaks(each) || each.closest(".hidden-visually, :disabled")) continue;
  const [a, b] = [rgba(getComputedStyle(each).color), ground(each)].map(luminance).sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  const least = each.closest(".star") ? 3 : 4.5; // a sign, not a word
  if (ratio < least) found.push(`${each.localName}.${each.className} ${each.textContent.slice(0, 20)} ${ratio.toFixed(2)}`);
}
return found;
"""


def test_contrast_in_both_colour_schemes(page: Page, gateway: Gateway) -> None:
    gateway.answers.extend([BLACK_SCREEN, Scripted(status=503, message="busy", retry_after_s=3)])
    page.open()
    page.ask("一")
    page.answered()
    page.ask("二")
    page.answered(2)
    for theme in ("light", "dark"):
        page.script("document.documentElement.dataset.theme = arguments[0]", theme)
        page.module("await new Promise((resolve) => setTimeout(resolve, 250));")  # colours change over 150 ms
        assert page.script(CONTRAST) == [], theme
