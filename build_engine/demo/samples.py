"""Training samples of the demo: pictures with questions, two pictures, clips, and text alone.

Pictures come from the cache and are changed a little each time they are used. NumPy and Pillow only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from build_engine.demo import dialogue
from build_engine.demo.architecture import CELL, VIDEO_PIXELS
from build_engine.demo.clips import NATIVE_FPS, Group, sampled_groups
from build_engine.demo.dialogue import Answer, Language
from build_engine.demo.picture_cache import Digit, Picture, PictureCache, Shape
from build_engine.demo.sequence import Sequence3, Vocabulary

NO_DIGIT, NO_PLACE, NOTHING = 10, 4, -100
BRANCHES = 3
CLIP_AREA = 83_000  # pixels of a raw frame in `clips.draw_clip`
T = TypeVar("T")
Pixels = NDArray[np.uint8]


class Shown(NamedTuple):
    """What a <|vision_end|> ends: kind of screen, and for a frame group the digits of its time and whether the fault
    begins there. `NOTHING` where it does not apply.
    """

    kind: int = NOTHING
    seconds: int = NOTHING
    tenths: int = NOTHING
    onset: int = NOTHING


@dataclass(frozen=True)
class Sample:
    """One sequence, its frame pairs [2, height, width, 3] in prompt order, and what the helper losses learn from them:
    the digit and place of each visual token (`cells`) and the kind of each picture. Clips have none of these.
    `shown` belongs to each <|vision_end|> in order; `named` are (token index, 0 or 1) of faults named in "which picture".
    """

    sequence: Sequence3
    frames: tuple[Pixels, ...]
    cells: tuple[NDArray[np.int64], ...] = ()
    kinds: tuple[int, ...] = ()
    shown: tuple[Shown, ...] = ()
    named: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Sampler:
    """Makes samples; `shorten` is the share of answers whose advice is left out."""

    cache: PictureCache
    vocabulary: Vocabulary
    rng: Random
    shorten: float

    def singles(self, count: int) -> list[Sample]:
        """One picture, three questions each."""
        shape = self.cache.shape(self.rng)
        return [self._single(shape) for _ in range(count)]

    def pairs(self, count: int) -> list[Sample]:
        """Two pictures of different kinds."""
        shape = self.cache.shape(self.rng)
        return [self._pair(shape) for _ in range(count)]

    def clips(self, count: int) -> list[Sample]:
        """Recordings with one number of sampled frames and one size."""
        from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

        frames = self.rng.choice((4, 4, 5, 6, 7, 8, 8))
        aspect = self.rng.uniform(0.74, 0.9) if self.rng.random() < 0.55 else self.rng.uniform(1.2, 1.5)
        height, width = smart_resize(
            num_frames=frames,
            height=round(math.sqrt(CLIP_AREA / aspect)),
            width=round(math.sqrt(CLIP_AREA * aspect)),
            temporal_factor=2,
            factor=CELL,
            min_pixels=VIDEO_PIXELS[0],
            max_pixels=VIDEO_PIXELS[1],
        )
        return [self._clip(frames, (height, width)) for _ in range(count)]

    def text(self) -> Sample:
        """Questions without a picture."""
        s = self._begin()
        start = s.position
        for branch in range(1, BRANCHES + 1):
            s.start_branch(branch, start)
            language = self._language()
            if self.rng.random() < 0.8:
                questions, answer = self._pick(dialogue.TEXT_ONLY[language])
                question = self._pick(questions)
            else:
                question, answer = self._pick(dialogue.DIAGNOSE[language]), dialogue.SEND_PICTURE[language]
                if self.rng.random() < 0.6:
                    question = dialogue.symptom(self.rng, language, self._pick(dialogue.KINDS))
            s.open_turn("user")
            self._ask(s, question, Answer(answer))
        return Sample(s, ())

    def _single(self, shape: Shape) -> Sample:
        picture = varied(self.cache.picture(self.rng, shape), self.rng)
        height, width = picture.pixels.shape[0] // CELL, picture.pixels.shape[1] // CELL
        s = self._begin()
        s.open_turn("user")
        if self.rng.random() < 0.12:  # the question before the picture
            question, answer = self._question(picture)
            s.say(question)
            s.visual(height, width, "image_pad")
            s.close_turn()
            s.answer(answer)
        else:
            s.visual(height, width, "image_pad")
            start = s.position
            for branch in range(1, BRANCHES + 1):
                s.start_branch(branch, start)
                self._branch(s, picture, first=branch == 1)
        kind = dialogue.KINDS.index(picture.kind)
        return Sample(s, (_pair(picture.pixels),), (cells(picture),), (kind,), (Shown(kind),))

    def _branch(self, s: Sequence3, picture: Picture, first: bool) -> None:
        language, draw = self._language(), self.rng.random()
        if not first and draw >= 0.5:
            if draw < 0.75:  # the picture in the first turn, the question in the second
                self._ask(s, self._pick(dialogue.SHOW[language]), Answer(dialogue.RECEIVED[language]))
            else:  # a question after the diagnosis
                s.say(dialogue.diagnosis_question(self.rng, language, picture.kind))
                s.close_turn()
                s.answer(
                    dialogue.diagnosis(language, picture.kind, picture.code, picture.percent), learned=False
                )
            s.say("\n")
            s.open_turn("user")
        self._ask(s, *self._question(picture))

    def _question(self, picture: Picture) -> tuple[str, Answer]:
        language, draw, kind = self._language(), self.rng.random(), picture.kind
        code = (self._pick(dialogue.ASK_CODE[language]), dialogue.code_answer(language, picture.code))
        battery = (
            self._pick(dialogue.ASK_BATTERY[language]),
            dialogue.battery_answer(language, picture.percent),
        )
        if draw < 0.42 and kind in ("crash", "battery"):
            return code if kind == "crash" else battery
        if draw < 0.55:
            return dialogue.diagnosis_question(self.rng, language, kind), dialogue.diagnosis(
                language, kind, picture.code, picture.percent
            )
        if draw < 0.69:
            return code if draw < 0.62 else battery
        if draw < 0.85:
            return self._pick(dialogue.ASK_HARDWARE[language]), dialogue.hardware_answer(language, kind)
        return self._pick(dialogue.ASK_REPAIR[language]), dialogue.repair_answer(language, kind)

    def _pair(self, shape: Shape) -> Sample:
        kinds = self.rng.sample(dialogue.KINDS, 2)
        pictures = [varied(self.cache.picture(self.rng, shape, kind), self.rng) for kind in kinds]
        if pictures[0].kind == pictures[1].kind:  # the cache has no such picture of this shape
            return self._pair(shape)
        s = self._begin()
        s.open_turn("user")
        for picture in pictures:
            s.visual(picture.pixels.shape[0] // CELL, picture.pixels.shape[1] // CELL, "image_pad")
        start, named = s.position, []
        for branch in range(1, BRANCHES + 1):
            s.start_branch(branch, start)
            language, index = self._language(), self.rng.randint(0, 1)
            shown = pictures[index]
            if self.rng.random() < 0.6:
                name = dialogue.FAULTS[shown.kind].name[language]
                question = self._pick(dialogue.ASK_WHICH[language]).format(name)
                answer = dialogue.which_answer(language, index, shown.kind)
                named.append((len(s.ids) + self.vocabulary.last_token(question, name), index))
            else:
                question = self._pick(dialogue.ASK_NTH[language]).format(dialogue.ORDINALS[language][index])
                answer = dialogue.diagnosis(language, shown.kind, shown.code, shown.percent)
            self._ask(s, question, answer)
        indexes = tuple(dialogue.KINDS.index(picture.kind) for picture in pictures)
        return Sample(
            s,
            tuple(_pair(picture.pixels) for picture in pictures),
            tuple(cells(picture) for picture in pictures),
            indexes,
            tuple(Shown(index) for index in indexes),
            tuple(named),
        )

    def _clip(self, frames: int, shape: Shape) -> Sample:
        groups = self._groups(frames)
        kind = self.rng.choice([kind for kind in dialogue.KINDS if kind != "normal"])
        start_kind = "normal" if kind == "black" or self.rng.random() < 0.75 else "black"
        onset = self.rng.randrange(1, len(groups))
        if self.rng.random() < 0.08:
            onset, start_kind = len(groups), "normal"
        before, after = self._frame(start_kind, shape), self._frame(kind, shape)
        s = self._begin()
        s.open_turn("user")
        s.clip([group.time for group in groups], shape[0] // CELL, shape[1] // CELL)
        start = s.position
        second = groups[onset].time if onset < len(groups) else None
        for branch in range(1, BRANCHES + 1):
            s.start_branch(branch, start)
            language = self._language()
            ask = dialogue.ASK_WHEN if self.rng.random() < 0.65 else dialogue.ASK_CLIP
            self._ask(s, self._pick(ask[language]), dialogue.when_answer(language, second, kind))
        offset = (self.rng.randint(-6, 6), self.rng.randint(-6, 6))
        gain, shift = self.rng.uniform(0.85, 1.12), self.rng.uniform(-15, 15)
        noise = np.random.default_rng(self.rng.getrandbits(32))

        def shot(pixels: Pixels) -> Pixels:
            moved = np.roll(pixels, offset, (0, 1)).astype(np.float32) * gain + shift
            return np.clip(moved + noise.integers(-3, 4, moved.shape), 0, 255).astype(np.uint8)

        order = [group < onset for group in range(len(groups))]
        frames_shown = tuple(
            np.stack([shot(before if early else after) for _ in range(2)]) for early in order
        )
        ends = []
        for index, (early, group) in enumerate(zip(order, groups, strict=True)):
            time = f"{group.time:.1f}"
            known = dialogue.KINDS.index(start_kind if early else kind)
            ends.append(Shown(known, int(time[0]), int(time[2]), int(index == onset)))
        return Sample(s, frames_shown, shown=(*ends, Shown()))

    def _groups(self, frames: int) -> list[Group]:
        """Groups of a recording from which the processor takes this many frames."""
        while True:
            fps = self.rng.choice(NATIVE_FPS)
            groups = sampled_groups(round(fps * self.rng.uniform(2.0, 5.6)), fps)
            if len(groups) == -(-frames // 2) and (groups[-1].frames[0] == groups[-1].frames[1]) == (
                frames % 2 == 1
            ):
                return groups

    def _frame(self, kind: str, shape: Shape) -> Pixels:
        picture = self.cache.picture(self.rng, self.cache.shape(self.rng), kind)
        return np.asarray(
            Image.fromarray(picture.pixels).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
        )

    def _begin(self) -> Sequence3:
        s = Sequence3(self.vocabulary, self.shorten, self.rng)
        s.system()
        return s

    def _ask(self, s: Sequence3, question: str, answer: Answer) -> None:
        s.say(question)
        s.close_turn()
        s.answer(answer)

    def _language(self) -> Language:
        return self._pick(dialogue.LANGUAGES)

    def _pick(self, options: Sequence[T]) -> T:
        return options[self.rng.randrange(len(options))]


def _pair(pixels: Pixels) -> Pixels:
    """A picture as the two equal frames of one temporal patch."""
    return np.stack([pixels, pixels])


def cells(picture: Picture) -> NDArray[np.int64]:
    """[tokens, 2]: the digit whose centre each visual token holds, and its place; `NO_DIGIT`, `NO_PLACE` for none."""
    height, width = picture.pixels.shape[0] // CELL, picture.pixels.shape[1] // CELL
    held = np.tile(np.array([NO_DIGIT, NO_PLACE]), (height * width, 1))
    for digit in picture.digits:
        row, column = int(digit.y // CELL), int(digit.x // CELL)
        if 0 <= row < height and 0 <= column < width:
            held[row * width + column] = digit.value, digit.place
    return held


def varied(picture: Picture, rng: Random, shift: int = 12) -> Picture:
    """Moved by up to `shift` pixels, sometimes brighter or darker, softer or noisier."""
    dx, dy = rng.randint(-shift, shift), rng.randint(-shift, shift)
    height, width = picture.pixels.shape[:2]
    rows, columns = (
        np.clip(np.arange(height) - dy, 0, height - 1),
        np.clip(np.arange(width) - dx, 0, width - 1),
    )
    pixels, draw = picture.pixels[rows][:, columns], rng.random()
    if draw < 0.4:
        changed = pixels.astype(np.float32) * rng.uniform(0.85, 1.15) + rng.uniform(-16, 16)
        pixels = np.clip(changed, 0, 255).astype(np.uint8)
    elif draw < 0.5:
        small = Image.fromarray(pixels).resize((width * 3 // 4, height * 3 // 4), Image.Resampling.BICUBIC)
        pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    elif draw < 0.6:
        noise = np.random.default_rng(rng.getrandbits(32)).integers(-6, 7, pixels.shape)
        pixels = np.clip(pixels.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    digits = tuple(Digit(digit.value, digit.place, digit.x + dx, digit.y + dy) for digit in picture.digits)
    return Picture(pixels, picture.kind, digits, picture.code, picture.percent)
