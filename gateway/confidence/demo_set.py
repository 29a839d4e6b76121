"""`python -m gateway.confidence.demo_set`: a labelled set for `calibrate`, made with the demo checkpoint.

Pictures and questions whose right answer is known, as they are and spoilt (blurred, dark, noisy, cropped), things that are no
screen, and questions about other matters go the whole way: guard, model, articles, citation check. Masking is off: the
drawn screens hold no private data. Needs a Triton that serves the demo engines.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from build_engine.demo.cases import Case, cases
from gateway.assistant import notices
from gateway.assistant.assistant import Assistant
from gateway.assistant.model import Model
from gateway.cache import AnswerCache
from gateway.confidence.calibration import Calibration
from gateway.errors import GatewayError
from gateway.guard import Guard
from gateway.knowledge.library import SAMPLE, Library
from gateway.policy import Policy
from gateway.records import Answer, Language, Media, Message, Question, Received
from gateway.scene import scenes
from gateway.settings import Media as MediaLimits

_KINDS: Final = ("fault", "fault", "code", "battery", "two", "turn2", "text")
_SCENES: Final = ("after_sales", "technical_support")
_ELSEWHERE: Final[dict[Language, tuple[str, ...]]] = {
    "zh": ("今天天气怎么样？", "帮我写一首关于春天的诗。", "股票明天会涨吗？", "请把这句话翻译成法语。", "这道数学题怎么做？",
           "附近有什么好吃的？", "洗衣机漏水怎么办？", "汽车轮胎多久换一次？", "合同第三条是什么意思？", "你喜欢什么音乐？"),
    "en": ("What is the weather today?", "Write a poem about spring.", "Will the shares rise?", "Translate this into French.",
           "How do I solve this equation?", "Where can I eat nearby?", "My washing machine leaks.", "How old is the universe?",
           "What does clause three of the contract mean?", "Which music do you like?"),
}  # fmt: skip


@dataclass(frozen=True)
class Item:
    """A question with pictures. `case`: who knows the right answer; None: none is right."""

    messages: tuple[dict[str, Any], ...]
    pictures: tuple[Image.Image, ...]
    case: Case | None
    language: Language
    what: str


def items(count: int, seed: int) -> Iterator[Item]:
    """So many items: half of them as customers should send them, the others as they do."""
    rng = Random(seed)
    for number, case in enumerate(cases(seed, count, _KINDS)):
        language: Language = "zh" if number // len(_KINDS) % 2 == 0 else "en"
        if case.kind == "text" and number % 2:
            words = rng.choice(_ELSEWHERE[language])
            yield Item(({"role": "user", "content": words},), (), None, language, "elsewhere")
        elif case.kind == "fault" and rng.random() < 0.15:
            yield Item(case.messages, (_thing(rng),), None, language, "no_screen")
        elif case.images and rng.random() < 0.55:
            how = rng.choice(sorted(_SPOILERS))
            spoilt = tuple(_SPOILERS[how](image.convert("RGB"), rng) for image in case.images)
            yield Item(case.messages, spoilt, case, language, how)
        else:
            yield Item(case.messages, case.images, case, language, case.kind)


async def label(assistant: Assistant, guard: Guard, item: Item, number: int) -> dict[str, object]:
    """Ask, and say whether the model's own words are right."""
    media = [await guard.media(Received(_png(picture)), "picture") for picture in item.pictures]
    question = Question(
        request_id=f"labelled-{number}",
        tenant="default",
        scene=_SCENES[number % len(_SCENES)],
        language=item.language,
        messages=_messages(item, media),
    )
    answer: Answer | None = None
    async for event in assistant.answer(question):
        if isinstance(event, Answer):
            answer = event
    assert answer is not None
    own = _own_words(answer)
    right = item.case is not None and item.case.is_right(own)
    signals = {name: round(value, 5) for name, value in asdict(answer.signals).items()}
    return {"right": right, "scene": question.scene, "what": item.what, "signals": signals}


def main(arguments: list[str]) -> int:
    """Run the command; its last line of output is JSON."""
    options = _options(arguments)
    try:
        right = asyncio.run(_label_all(options.triton, options.count, options.seed, options.output))
    except GatewayError as error:
        print(f"demo_set: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"answers": options.count, "right": right}))
    return 0


async def _label_all(url: str, count: int, seed: int, output: Path) -> int:
    """How many were right. Every line is written at once: it takes minutes."""
    model = Model(url, "qwen3_vl", 120.0)
    right = 0
    with tempfile.TemporaryDirectory() as directory, output.open("w", encoding="utf-8") as file:
        library = Library(Path(directory) / "knowledge.db")
        try:
            library.add(SAMPLE)
            cache = AnswerCache("", 1, 1.0)
            policy, calibration = Policy.load("demo"), Calibration.load("demo")
            assistant = Assistant(model, library, policy, calibration, cache, scenes("demo"))
            guard = Guard(MediaLimits(mask=False), None)
            for number, item in enumerate(items(count, seed)):
                row = await label(assistant, guard, item, number)
                file.write(f"{json.dumps(row)}\n")
                file.flush()
                right += bool(row["right"])
                if sys.stderr.isatty():
                    print(f"\r{number + 1}/{count}", end="", file=sys.stderr)
        finally:
            library.close()
            await model.close()
    return right


def _own_words(answer: Answer) -> str:
    """Without what the gateway writes below: an article's title may hold the right word too."""
    below = (notices.REFERENCES[answer.language], notices.HANDED_OVER[answer.language])
    return min((answer.text.split(f"\n\n{mark}")[0] for mark in below), key=len)


def _messages(item: Item, media: list[Media]) -> tuple[Message[Media], ...]:
    left = iter(media)
    turns = []
    for message in item.messages:
        parts = message["content"]
        content: tuple[str | Media, ...] = (
            (parts,)
            if isinstance(parts, str)
            else tuple(part["text"] if part["type"] == "text" else next(left) for part in parts)
        )
        turns.append(Message(message["role"], content))
    return tuple(turns)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _thing(rng: Random) -> Image.Image:
    """Something that is not a screen: shapes in colours over a gradient."""
    side = rng.randint(280, 560)
    ramp = np.linspace(0, 1, side)[None, :, None] * np.array([rng.randint(60, 255) for _ in range(3)])
    image = Image.fromarray(np.broadcast_to(ramp, (side, side, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(2, 7)):
        x, y, size = rng.randint(0, side), rng.randint(0, side), rng.randint(30, 160)
        colour = tuple(rng.randint(0, 255) for _ in range(3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x - size, y - size, x + size, y + size), fill=colour)
    return image


def _blurred(image: Image.Image, rng: Random) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(2, 14)))


def _dark(image: Image.Image, rng: Random) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(rng.uniform(0.03, 0.3))


def _noisy(image: Image.Image, rng: Random) -> Image.Image:
    noise = np.random.default_rng(rng.randrange(2**32)).normal(
        0, rng.uniform(30, 120), (*image.size[::-1], 3)
    )
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _cropped(image: Image.Image, rng: Random) -> Image.Image:
    width, height = image.size
    part = rng.uniform(0.15, 0.5)
    x, y = rng.uniform(0, 1 - part) * width, rng.uniform(0, 1 - part) * height
    return image.crop((int(x), int(y), int(x + part * width), int(y + part * height))).resize((256, 256))


_SPOILERS: Final = {"blurred": _blurred, "dark": _dark, "noisy": _noisy, "cropped": _cropped}


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gateway.confidence.demo_set", description=__doc__)
    parser.add_argument("--triton", default="127.0.0.1:8001", help="HOST:PORT of gRPC, demo engines")
    parser.add_argument("--count", type=int, default=420, help="answers (default 420)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, required=True, help="JSON lines")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
