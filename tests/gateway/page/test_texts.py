"""The texts of the page: both languages complete, every named text there, none left over."""

from __future__ import annotations

import re

from gateway.page.routes import STATIC
from tests.gateway.page.browser import Page

AREAS = "app|pane|media|camera|dialog|chat|code|sources|rating|handoff|settings|error|agent"
NAMED = re.compile(rf"[\"'`]((?:{AREAS})\.[\w.]+)[\"'`]")
BUILT_FROM_VALUES = ("error.4", "error.5", "reason.", "agent.why.", "settings.", "confidence.")


def test_every_text_exists_in_both_languages(page: Page) -> None:
    page.driver.get(f"{page.url}/blank")
    texts: dict[str, list[str]] = page.module('return (await import("/static/i18n.js")).STRINGS')
    assert len(texts) > 100
    for key, (zh, en) in texts.items():
        assert zh, key
        assert en, key
        assert set(re.findall(r"{\w+}", zh)) == set(re.findall(r"{\w+}", en)), key
    files = [path for path in STATIC.iterdir() if path.suffix in {".js", ".html"} and path.name != "i18n.js"]
    named = {key for path in files for key in NAMED.findall(path.read_text())}
    assert named <= set(texts)
    assert {key for key in set(texts) - named if not key.startswith(BUILT_FROM_VALUES)} == set()


def test_no_script_style_or_address_of_another_host_in_the_files() -> None:
    for path in STATIC.iterdir():
        text = path.read_text()
        foreign = set(re.findall(r"https?://[\w.-]+", text)) - {"http://www.w3.org"}
        assert foreign == set(), path.name
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function",
            text.replace("no innerHTML", ""),
        ), path.name
        if path.suffix == ".html":
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text), path.name
