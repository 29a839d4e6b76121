"""Photographed cards through the real OCR: every digit hidden, no number left to read; and the measure itself can fail."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from gateway.guard import Guard
from gateway.guard.ocr import Line
from gateway.guard.places import find
from gateway.records import Received
from gateway.settings import Media
from loadtests.benchmarks import masking
from loadtests.benchmarks.cards import card


def line(text: str, x: float = 0, y: float = 0, width: float = 300, height: float = 20) -> Line:
    box = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], np.float32)
    return Line(box, text, 0.9)


def test_a_dozen_bad_photos_lose_all_their_digits() -> None:
    figures = asyncio.run(masking.measure(seed=7, count=12))
    assert figures["digits"] >= 12 * 16
    assert figures["missed"] == []
    assert figures["numbers_read"] == 0


def test_without_masking_the_measure_says_so() -> None:
    drawn = card(1)
    plain = asyncio.run(Guard(Media(mask=False, enhance=False), None).media(Received(drawn.file), "card"))
    from gateway.guard.picture import open_picture

    after = open_picture(plain.data, "jpeg", "card", 1 << 30).pixels
    assert not masking._hidden(drawn, after).any()
    assert masking._readable(drawn, [line(drawn.number)])


@pytest.mark.parametrize(
    "texts",
    [
        ["6222021234567890123"],
        ["6222 0212 3456 7890"],
        ["622202I2345678O0"],
        ["62220212345678"],
        ["ID:11010519491231002X"],
        ["电话13812345678"],
        ["a.b@example.com"],
    ],
)
def test_a_line_with_a_private_number_is_found(texts: list[str]) -> None:
    assert find([line(text) for text in texts])


@pytest.mark.parametrize(
    "text",
    [
        "错误代码 4071",
        "BANK OF THE NORTH",
        "VALID 10/29",
        "2023-12-01",
        "17%",
        "",
        "iPhone 15 Pro",
        "2023-12-01 12:30:45",
        "10.0.19045.3693",
        "192.168.100.101",
        "¥1299.00 ¥1399.00",
        "2025.01.31-2027.01.31",
    ],
)
def test_other_lines_stay(text: str) -> None:
    assert find([line(text)]) == []


def test_a_number_in_several_boxes_of_a_row_is_found_and_its_neighbours_stay() -> None:
    parts = [line(text, x=n * 110, width=90) for n, text in enumerate(("6222", "0212", "3456", "7890"))]
    other = line("4071", y=200, width=90)
    found = find([*parts, other])
    assert len(found) == 4
    assert all(polygon[:, 1].max() < 100 for polygon in found)


def test_only_the_number_of_a_long_line_is_hidden() -> None:
    (polygon,) = find([line("please call me back at 13812345678 tomorrow morning if you can", width=1200)])
    assert polygon[:, 0].min() > 300
    assert polygon[:, 0].max() < 900


def test_a_turned_box_keeps_its_direction() -> None:
    turned: Any = line("6222021234567890123").box @ np.array([[0.98, 0.17], [-0.17, 0.98]], np.float32)
    (polygon,) = find([Line(turned, "6222021234567890123", 0.9)])
    top, old = polygon[1] - polygon[0], turned[1] - turned[0]
    assert abs(top[1] / top[0] - old[1] / old[0]) < 1e-3
