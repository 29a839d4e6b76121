"""Folded text -> the terms that are counted: character bigrams of Chinese, stems and pairs of Latin words, and a coarse
field that survives typing errors. No dictionary, no model; knows nothing of documents.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from gateway.knowledge.folding import fold

_RUN: Final = re.compile(r"[\u3400-\u9fff]+|[a-z0-9]+")
_JOINED: Final = re.compile(r"(?<=[a-z0-9])['’\-](?=[a-z0-9])")
_ASKING: Final = re.compile(
    "怎么办|怎么回事|怎么弄|怎么处理|怎么解决|如何解决|怎么样|怎样|怎么|如何|请问|为什么|为啥|什么|你好|您好|帮我|帮忙|"
    "可以|能不能|能否|是不是|有没有|谢谢|一下|我的|我想|咋办|咋整|咋|吗|呢|啊|呀|吧|请"
)
_COMMON_TEXT: Final = (
    "a an the my your our its it i you we they he she is are am was were be been do does did done doing "
    "to of in on at for with and or but so if then than that this these those there here what which who "
    "how when why where can could should would will may might must please help hello hi thanks thank have "
    "has had get got me him her them not no cannot cant dont doesnt wont isnt im ive just any some as by "
    "from up out about into also too very s t "
)
_COMMON: Final = frozenset(_COMMON_TEXT.split())
_VOWEL: Final = re.compile(r"[aeiouy]")
_BESIDE: Final = re.compile(r"[a-z0-9]+(?:[ \t]+[a-z0-9]+)+")


def words(text: str) -> list[str]:
    """Exact terms: "手机黑屏 charging" -> 手机, 机黑, 黑屏, charg."""
    found: list[str] = []
    for run in _runs(text):
        if run[0] > "\u3000":
            found += [run[at : at + 2] for at in range(len(run) - 1)] or [run]
        elif run not in _COMMON:
            found.append(stem(run))
    return found


def pairs(text: str) -> list[str]:
    """Latin words side by side, for "turn on" is not "turn off", nor "log in" a "log": "turn it on" -> turn it.

    Two common words together say nothing: every question has them.
    """
    found: list[str] = []
    for run in _BESIDE.findall(_joined(text)):
        said = run.split()
        found += [
            f"{stem(first)} {stem(second)}"
            for first, second in pairwise(said)
            if not (first in _COMMON and second in _COMMON)
        ]
    return found


def pieces(text: str) -> list[str]:
    """Terms that one wrong character leaves mostly intact: single Chinese characters, trigrams of longer Latin words."""
    found: list[str] = []
    for run in _runs(text):
        if run[0] > "\u3000":
            found += run
        elif len(run) > 3 and run not in _COMMON and not run.isdigit():
            marked = f"^{stem(run)}$"
            found += [marked[at : at + 3] for at in range(len(marked) - 2)]
    return found


def asked(text: str) -> str:
    """A question without the words that every question has."""
    return _ASKING.sub(" ", fold(text))


def stem(word: str) -> str:
    """Light English stemming: charging, charged, charges, charge -> charg. Wrong now and then, but always the same way."""
    if len(word) < 4 or not word.isalpha():
        return word
    if word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for suffix in ("ing", "ed"):
        rest = word.removesuffix(suffix)
        if rest != word and len(rest) > 2 and _VOWEL.search(rest):
            word = rest[:-1] if rest[-1] == rest[-2] and rest[-1] not in "lsz" else rest
            break
    return word.removesuffix("e") if len(word) > 3 else word


def _runs(text: str) -> list[str]:
    return _RUN.findall(_joined(text))


def _joined(text: str) -> str:
    return _JOINED.sub("", fold(text))
