"""One browser and one scripted gateway for all tests of the page; each test begins as a new visitor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from selenium.webdriver import Chrome

from tests.gateway.page.api import Gateway, running
from tests.gateway.page.browser import Page, chromium


@pytest.fixture(scope="session")
def _gateway() -> Iterator[Gateway]:
    with running(Gateway()) as gateway:
        yield gateway


@pytest.fixture
def gateway(_gateway: Gateway) -> Gateway:
    _gateway.reset()
    return _gateway


@pytest.fixture(scope="session")
def driver() -> Iterator[Chrome]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(driver: Chrome, gateway: Gateway, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Not opened yet. Afterwards the console must be clean: no script error, no violation of the content policy."""
    page = Page(driver, gateway.url)
    yield page
    complaints = page.complaints()
    if not driver.current_url.endswith("/blank"):
        driver.get("about:blank")  # ends the page's open streams
    assert complaints == [], f"{request.node.name} left messages in the console"


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phone with a black screen."""
    path = tmp_path_factory.mktemp("media") / "手机黑屏.png"
    image = Image.new("RGB", (640, 480), "#c9d3de")
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((220, 30, 420, 450), 28, fill="#2a2d33")
    draw.rounded_rectangle((232, 60, 408, 420), 8, fill="#050505")
    image.save(path)
    return path
