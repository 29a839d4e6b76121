"""A real Chromium, and what a person does with the page: looks, clicks, types, drops, reads."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

SCREENSHOTS = Path(__file__).parents[3] / ".run" / "screenshots"
INSTALL = "apt-get install --no-install-recommends chromium chromium-driver fonts-noto-cjk"


@contextmanager
def chromium() -> Iterator[Chrome]:
    """Headless, without network, with a camera that shows a test picture."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        raise RuntimeError(f"the page's tests need Chromium and its driver: {INSTALL}")
    options = ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--no-proxy-server",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        "--lang=zh-CN",
    ):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"intl.accept_languages": "zh-CN,zh"})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = Chrome(options=options, service=ChromeService(executable_path=driver))
    try:
        opened.set_page_load_timeout(20)
        opened.set_script_timeout(20)
        yield opened
    finally:
        opened.quit()


class Page:
    """One open page."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver, self.url = driver, url

    def open(self, path: str = "/", width: int = 1280, height: int = 800) -> Page:
        """Load it as a new visitor."""
        emulated = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", emulated)
        self.driver.get(f"{self.url}/blank")
        self.driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        self.driver.get_log("browser")  # what the page before said
        self.driver.get(self.url + path)
        if path == "/":
            self.until(lambda: self.all("#scene option") or self.all("#settings-problem .problem"))
        return self

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> WebElement:
        return self.until(lambda: self.all(css), f"no element {css}")[0]

    def visible(self, css: str) -> bool:
        found = self.all(css)
        return bool(found) and found[0].is_displayed()

    def text(self, css: str) -> str:
        return str(self.one(css).text)

    def click(self, css: str) -> None:
        self.one(css).click()

    def until(self, condition: Callable[[], Any], message: str = "", timeout_s: float = 10.0) -> Any:
        return WebDriverWait(self.driver, timeout_s, poll_frequency=0.03).until(
            lambda _: condition(), message
        )

    def script(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def module(self, code: str, *arguments: Any) -> Any:
        """Run code that may await and import the page's modules; gives what it returns, raises what it throws."""
        outcome = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1]; const given = [...arguments].slice(0, -1);"
            f"(async () => {{ {code} }})().then((value) => done({{value}}), (error) => done({{error: String(error)}}));",
            *arguments,
        )
        if "error" in outcome:
            raise AssertionError(outcome["error"])
        return outcome.get("value")

    def upload(self, *paths: Path) -> None:
        self.one("#files").send_keys("\n".join(map(str, paths)))
        self.until(lambda: len(self.all("#tray li")) >= len(paths))

    def hand_over(self, event: str, data: bytes, name: str, mime: str) -> None:
        """Drop or paste a file, as the browser tells a page of it."""
        self.script(
            """
            const [event, encoded, name, type] = arguments;
            const bytes = Uint8Array.from(atob(encoded), (sign) => sign.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], name, { type }));
            const options = { bubbles: true, cancelable: true };
            const made = event === "paste" ? new ClipboardEvent(event, { ...options, clipboardData: carried })
                                           : new DragEvent(event, { ...options, dataTransfer: carried });
            document.querySelector("#log").dispatchEvent(made);
            """,
            event,
            base64.b64encode(data).decode(),
            name,
            mime,
        )

    def ask(self, text: str) -> None:
        self.one("#question").send_keys(text, Keys.ENTER)

    def answered(self, count: int = 1) -> WebElement:
        """The count-th answer, complete."""
        self.until(
            lambda: len(self.all(".turn.assistant:not(.streaming)")) >= count, f"no answer number {count}"
        )
        return self.all(".turn.assistant")[count - 1]

    def keep(self, name: str) -> Path:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        path.write_bytes(base64.b64decode(self.driver.get_screenshot_as_base64()))
        return path

    def complaints(self) -> list[str]:
        """What the browser's console holds against the page; refused requests are its normal life."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE" and "Failed to load resource" not in entry["message"]
        ]
