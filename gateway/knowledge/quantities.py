"""Amounts that a text states: "十秒", "10 s", "ten seconds" are one. Knows units, not what is measured.

Common characters cannot tell "one year of warranty" from "three years": an answer must have its amounts from the article.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.knowledge.folding import fold

_DIGITS: Final = {c: n for n, c in enumerate("零一二三四五六七八九")} | {"两": 2}
_COUNTED: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
)
_TENS: Final = {"half": 0.5, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "ninety": 90}
_WORDS: Final[dict[str, float]] = {word: n for n, word in enumerate(_COUNTED.split())} | _TENS
_UNITS: Final = {
    "工作日": "wd", "working day": "wd", "business day": "wd",
    "秒": "s", "分钟": "min", "小时": "h", "天": "d", "日": "d", "周": "w", "星期": "w", "个月": "m", "年": "y",
    "元": "cny", "块钱": "cny", "度": "c", "兆": "mb", "倍": "x", "次": "x", "%": "%", "百分点": "%",
    "s": "s", "sec": "s", "second": "s", "min": "min", "minute": "min", "h": "h", "hour": "h", "day": "d", "week": "w",
    "month": "m", "year": "y", "yuan": "cny", "cny": "cny", "rmb": "cny", "gb": "gb", "mb": "mb", "percent": "%",
    "degree": "c", "time": "x",
}  # fmt: skip
_LATIN: Final = "|".join(
    sorted((unit for unit in _UNITS if unit.isascii() and unit != "%"), key=len, reverse=True)
)
_CHINESE: Final = "|".join(sorted((unit for unit in _UNITS if not unit.isascii()), key=len, reverse=True))
_AMOUNT: Final = re.compile(
    rf"(?P<zh>\d+(?:\.\d+)?|[零一二两三四五六七八九十百]+|半)\s*(?:个(?=小时|星期|半|工作日))?(?P<zhunit>{_CHINESE}|%)"
    rf"|(?<![a-z])(?P<en>\d+(?:\.\d+)?|{'|'.join(_WORDS)})[\s-]*(?:an?\s+)?(?P<enunit>{_LATIN})s?(?![a-z])"
)


def quantities(text: str) -> frozenset[tuple[float, str]]:
    """(value, unit) of every amount with a known unit; half a year and six months stay different."""
    found = set()
    for match in _AMOUNT.finditer(fold(text)):
        if match["zh"]:
            if match["zhunit"] in ("年", "日", "次") and match["zh"].isdigit() and len(match["zh"]) == 4:
                continue  # a date
            found.add((_chinese(match["zh"]), _UNITS[match["zhunit"]]))
        else:
            found.add(
                (
                    _WORDS[match["en"]] if match["en"] in _WORDS else float(match["en"]),
                    _UNITS[match["enunit"]],
                )
            )
    return frozenset(found)


def _chinese(number: str) -> float:
    if number == "半":
        return 0.5
    if number[0].isdigit():
        return float(number)
    total, digit = 0, 0
    for character in number:
        if character in "十百":
            total += (digit or 1) * (10 if character == "十" else 100)
            digit = 0
        else:
            digit = _DIGITS[character]
    return float(total + digit)
