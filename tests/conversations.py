"""The conversations that the parity tests ask: every shape of request the contract knows, seeded."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.reference import Conversation, clip, jpeg, png

IMAGE: dict[str, Any] = {"type": "image"}
VIDEO: dict[str, Any] = {"type": "video"}


def said(text: str) -> dict[str, Any]:
    """A text part."""
    return {"type": "text", "text": text}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    """A user turn."""
    return {"role": "user", "content": list(parts)}


def moving(seed: int, frames: int = 20, height: int = 96, width: int = 130) -> list[np.ndarray]:
    """RGB frames of a bright block that wanders over a dark noisy ground."""
    random = np.random.default_rng(seed)
    ground = random.integers(0, 90, (height, width, 3), dtype=np.uint8)
    out = []
    for step in range(frames):
        frame = ground.copy()
        x = int((width - 32) * step / frames)
        frame[20:60, x : x + 32] = (250, 40 + 9 * step % 200, 30)
        out.append(frame)
    return out


def conversations() -> dict[str, Conversation]:
    """Name -> conversation. Sizes are (height, width)."""
    three = (jpeg(48, 200, 11), png(300, 90, 12), jpeg(160, 160, 13))
    one = {
        f"image {height}x{width}": Conversation(
            (user(IMAGE, said("这是什么问题？")),), (png(height, width, seed),)
        )
        for seed, (height, width) in enumerate([(37, 53), (6, 1000), (1000, 6), (360, 640), (1025, 1023)])
    }
    return {
        "text only": Conversation(({"role": "user", "content": "你好, how do I reset my phone? 🙂"},)),
        "system and text": Conversation(
            (
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "Hello"},
            )
        ),
        **one,
        "three images between text": Conversation(
            (
                user(
                    said("first "),
                    IMAGE,
                    said(" then\n\n"),
                    IMAGE,
                    IMAGE,
                    said("Which picture shows a crack?"),
                ),
            ),
            three,
        ),
        "video": Conversation(
            (user(VIDEO, said("At which second does the error appear?")),), (), (clip(moving(1), 5),)
        ),
        "image and video": Conversation(
            (user(IMAGE, said("compare with "), VIDEO, said("第几秒出现错误？")),),
            (jpeg(120, 90, 21),),
            (clip(moving(2, frames=13), 4),),
        ),
        "three turns": Conversation(
            (
                {"role": "system", "content": "你是售后客服助手。"},
                user(IMAGE, said("Please look at this picture first.")),
                {"role": "assistant", "content": "Got the picture. What would you like to know?"},
                user(said("What is wrong?")),
                {"role": "assistant", "content": "Fault: app crash."},
                user(said("and in this one? "), IMAGE),
            ),
            (jpeg(200, 140, 31), jpeg(140, 200, 32)),
        ),
    }
