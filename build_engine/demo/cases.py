"""Evaluation cases that training never sees: a question, the pictures or clip as a customer would send them, the key.

Pillow and NumPy only. Pictures are as large as they were drawn; resizing is the server's business. Training draws from
seeds below 10**6, cases from seeds above it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from PIL import Image

from build_engine.demo import dialogue
from build_engine.demo.clips import Clip, draw_clip
from build_engine.demo.screens import Screen, draw_screen

KINDS: tuple[str, ...] = ("fault", "code", "battery", "two", "turn2", "video", "text")
_IMAGE: dict[str, Any] = {"type": "image"}
_VIDEO: dict[str, Any] = {"type": "video"}
_FIRST_SEED = 10**6


@dataclass(frozen=True)
class Case:
    """One question. `images` and `videos` (frames, frames per second) stand, in order, for the parts of `messages`."""

    kind: str
    messages: tuple[dict[str, Any], ...]
    images: tuple[Image.Image, ...]
    videos: tuple[tuple[tuple[Image.Image, ...], float], ...]
    expected: str

    def is_right(self, answer: str) -> bool:
        """Whether the answer holds the expected words; a number must stand alone, not inside a longer one."""
        if self.expected[0].isdigit():
            return re.search(rf"(?<![\d.]){re.escape(self.expected)}(?!\d)", answer) is not None
        return self.expected.lower() in answer.lower()


def cases(seed: int, count: int, kinds: Sequence[str] | None = None) -> Iterator[Case]:
    """`count` cases, cycling evenly over `kinds` (default: all), languages and faults."""
    chosen = tuple(kinds or KINDS)
    for number in range(count):
        rng = Random((_FIRST_SEED + seed) * 100_003 + number)
        language = dialogue.LANGUAGES[number // len(chosen) % 2]
        yield _MAKERS[chosen[number % len(chosen)]](rng, language, number // len(chosen))


def demo_picture(seed: int = 4) -> Image.Image:
    """The photo of the mission's example: a phone whose screen stays black."""
    return draw_screen("black", Random(_FIRST_SEED + seed), scale=2.0).image


def _user(*parts: dict[str, Any] | str) -> dict[str, Any]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": content}


def _pick(rng: Random, options: Sequence[str]) -> str:
    return options[rng.randrange(len(options))]


def _fault(rng: Random, language: dialogue.Language, number: int) -> Case:
    kind = dialogue.KINDS[number % len(dialogue.KINDS)]
    question = dialogue.diagnosis_question(rng, language, kind)
    name = dialogue.FAULTS[kind].name[language]
    return Case("fault", (_user(_IMAGE, question),), (draw_screen(kind, rng).image,), (), name)


def _number(kind: str) -> Callable[[Random, dialogue.Language, int], Case]:
    def make(rng: Random, language: dialogue.Language, number: int) -> Case:
        screen = draw_screen("crash" if kind == "code" else "battery", rng)
        question = _pick(rng, (dialogue.ASK_CODE if kind == "code" else dialogue.ASK_BATTERY)[language])
        return Case(kind, (_user(_IMAGE, question),), (screen.image,), (), _shown(screen))

    return make


def _shown(screen: Screen) -> str:
    """The number on the screen, as answers write it."""
    return screen.code if screen.code is not None else f"{screen.percent}%"


def _two(rng: Random, language: dialogue.Language, number: int) -> Case:
    first, second = rng.sample(dialogue.KINDS, 2)
    images = (draw_screen(first, rng).image, draw_screen(second, rng).image)
    which = number % 2
    kind = (first, second)[which]
    if number % 4 < 2:
        question = _pick(rng, dialogue.ASK_WHICH[language]).format(dialogue.FAULTS[kind].name[language])
        expected = dialogue.ORDINALS[language][which]
    else:
        question = _pick(rng, dialogue.ASK_NTH[language]).format(dialogue.ORDINALS[language][which])
        expected = dialogue.FAULTS[kind].name[language]
    return Case("two", (_user(_IMAGE, _IMAGE, question),), images, (), expected)


def _second_turn(rng: Random, language: dialogue.Language, number: int) -> Case:
    what = ("diagnosis", "code", "battery", "hardware")[number % 4]
    kind = {"code": "crash", "battery": "battery"}.get(what) or rng.choice(dialogue.KINDS)
    screen = draw_screen(kind, rng)
    expected = dialogue.FAULTS[kind].name[language]
    if what == "diagnosis":
        question = _pick(rng, dialogue.DIAGNOSE[language])
    elif what == "hardware":
        question, answer = (
            _pick(rng, dialogue.ASK_HARDWARE[language]),
            dialogue.hardware_answer(language, kind),
        )
        expected = answer.keys[-1]
    else:
        question = _pick(rng, (dialogue.ASK_CODE if what == "code" else dialogue.ASK_BATTERY)[language])
        expected = _shown(screen)
    turns = (
        _user(_IMAGE, _pick(rng, dialogue.SHOW[language])),
        {"role": "assistant", "content": dialogue.RECEIVED[language]},
        {"role": "user", "content": question},
    )
    return Case("turn2", turns, (screen.image,), (), expected)


def _video(rng: Random, language: dialogue.Language, number: int) -> Case:
    clip: Clip = draw_clip(rng, dialogue.KINDS[number % len(dialogue.KINDS)])
    question = _pick(rng, dialogue.ASK_WHEN[language])
    answer = dialogue.when_answer(language, clip.second, clip.kind)
    return Case("video", (_user(_VIDEO, question),), (), ((clip.frames, clip.fps),), answer.keys[0])


def _text(rng: Random, language: dialogue.Language, number: int) -> Case:
    questions, answer = dialogue.TEXT_ONLY[language][number // 2 % len(dialogue.TEXT_ONLY[language])]
    return Case("text", ({"role": "user", "content": _pick(rng, questions)},), (), (), answer)


_MAKERS: dict[str, Callable[[Random, dialogue.Language, int], Case]] = {
    "fault": _fault,
    "code": _number("code"),
    "battery": _number("battery"),
    "two": _two,
    "turn2": _second_turn,
    "video": _video,
    "text": _text,
}
