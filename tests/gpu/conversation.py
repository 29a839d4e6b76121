"""What the checklist asks: drawn pictures of chosen sizes, and chats around them.

It needs Pillow alone, so it runs with any transformers. tests/reference.py does not: it is written against
transformers 5 (its PIL image processor, `patchify`, `mm_token_type_ids`), and NVIDIA's container holds 4.57.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, ImageDraw

LONG = "Describe everything that you see, every shape, its colour, size and place, in at least 500 words."
SHORT = "Which shapes and colours are in the pictures? Name them from left to right."
SENTENCE = (
    "The customer turned the device off and on again, waited for a minute and wrote down what it showed. "
)
IMAGE: dict[str, Any] = {"type": "image"}


@dataclass(frozen=True)
class Conversation:
    """One request as a client sends it."""

    messages: tuple[dict[str, Any], ...]
    images: tuple[bytes, ...] = ()


def drawing(height: int, width: int, seed: int) -> bytes:
    """A PNG of a few large coloured shapes, another one for every seed."""
    choose = random.Random(seed)
    image = Image.new("RGB", (width, height), _colour(choose))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        left, top = choose.randrange(width * 3 // 4), choose.randrange(height * 3 // 4)
        box = (left, top, left + width // 4 + 8, top + height // 4 + 8)
        shape = choose.choice((draw.ellipse, draw.rectangle))
        shape(box, fill=_colour(choose))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def asked(question: str, *images: bytes, system: str = "") -> Conversation:
    """The pictures, then the question, in one turn."""
    user = {"role": "user", "content": [IMAGE] * len(images) + [{"type": "text", "text": question}]}
    before = ({"role": "system", "content": system},) if system else ()
    return Conversation((*before, user), images)


def unequal() -> dict[str, Conversation]:
    """Eight requests of 0 to 5 pictures of different sizes."""
    sizes = [(96, 128), (256, 160), (64, 320), (192, 192), (320, 96)]
    made = {"no picture": asked("Name twelve shapes and twelve colours.")}
    for count in range(1, 6):
        pictures = [
            drawing(height, width, 10 * count + at) for at, (height, width) in enumerate(sizes[:count])
        ]
        made[f"{count} pictures"] = asked(SHORT, *pictures)
    made["one small picture"] = asked(SHORT, drawing(64, 64, 91))
    made["one large picture"] = asked(SHORT, drawing(416, 384, 92))
    return made


def lengthened(conversation: Conversation, sentences: int) -> Conversation:
    """The conversation with a long report after its pictures, and its first picture once more at the end."""
    (*before, user) = conversation.messages
    text = {"type": "text", "text": "A report: " + SENTENCE * sentences}
    parts = [*user["content"], text, IMAGE, {"type": "text", "text": SHORT}]
    return replace(
        conversation,
        messages=(*before, {**user, "content": parts}),
        images=(*conversation.images, conversation.images[0]),
    )


def _colour(choose: random.Random) -> tuple[int, int, int]:
    return choose.randrange(256), choose.randrange(256), choose.randrange(256)
