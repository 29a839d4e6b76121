"""One training sequence: a shared beginning (system prompt, pictures) and several questions that branch off it.

The branches do not see each other and all continue at the position where the beginning ends, so one encoded picture
answers several questions, each exactly as if it had been asked alone. Positions are Qwen3-VL's: text moves all
three axes by one, a picture of h x w tokens moves them by max(h, w). NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engine.demo.dialogue import Answer, system_prompt

DIGIT_WEIGHT, KEY_WEIGHT = 5.0, 4.0


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer and the control tokens that chats need."""

    tokenizer: Any

    @lru_cache(maxsize=1 << 16)  # noqa: B019 (one vocabulary lives as long as the process)
    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of text without control tokens."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def last_token(self, text: str, part: str) -> int:
        """Index of the token in `text` where `part` ends."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        end = text.index(part) + len(part)
        return max(i for i, (start, _) in enumerate(encoded["offset_mapping"]) if start < end)

    def control(self, name: str) -> int:
        """Id of ``<|name|>``."""
        return int(self.tokenizer.convert_tokens_to_ids(f"<|{name}|>"))


class Sequence3:
    """Token ids, three-axis positions, weight of each token as a target, and the branch each belongs to (0: shared)."""

    def __init__(self, vocabulary: Vocabulary, shorten: float, rng: Random) -> None:
        self.vocabulary, self.shorten, self.rng = vocabulary, shorten, rng
        self.ids: list[int] = []
        self.positions: list[tuple[int, int, int]] = []
        self.weights: list[float] = []
        self.branches: list[int] = []
        self._next = self._branch = 0

    def start_branch(self, number: int, position: int) -> None:
        """Go on from `position` as branch `number` >= 1."""
        self._branch, self._next = number, position

    @property
    def position(self) -> int:
        """The next text position."""
        return self._next

    def add(self, ids: Sequence[int], weights: Sequence[float] | None = None) -> None:
        """Text or control tokens."""
        self.ids += ids
        self.positions += [(self._next + i,) * 3 for i in range(len(ids))]
        self.weights += weights or [0.0] * len(ids)
        self.branches += [self._branch] * len(ids)
        self._next += len(ids)

    def say(self, text: str) -> None:
        """Text that is not learned."""
        self.add(self.vocabulary.encode(text))

    def control(self, name: str) -> None:
        """One control token."""
        self.add([self.vocabulary.control(name)])

    def visual(self, height: int, width: int, pad: str) -> None:
        """height x width visual tokens between their markers."""
        self.control("vision_start")
        start = self._next
        self.ids += [self.vocabulary.control(pad)] * (height * width)
        self.positions += [(start, start + i, start + j) for i in range(height) for j in range(width)]
        self.weights += [0.0] * (height * width)
        self.branches += [self._branch] * (height * width)
        self._next += max(height, width)
        self.control("vision_end")

    def clip(self, times: Sequence[float], height: int, width: int) -> None:
        """A video as transformers 5 writes it: outer markers, then a time and a marked group each."""
        self.control("vision_start")
        for time in times:
            self.say(f"<{time:.1f} seconds>")
            self.visual(height, width, "video_pad")
        self.control("vision_end")

    def system(self) -> None:
        """Perhaps a system turn."""
        if text := system_prompt(self.rng):
            self.open_turn("system")
            self.say(text)
            self.close_turn()

    def open_turn(self, role: str) -> None:
        """``<|im_start|>role``."""
        self.control("im_start")
        self.say(f"{role}\n")

    def close_turn(self) -> None:
        """``<|im_end|>`` and the line end."""
        self.control("im_end")
        self.say("\n")

    def answer(self, answer: Answer, learned: bool = True) -> None:
        """The assistant's turn. Learned answers are mostly cut after what must be right: the advice behind it is easy."""
        self.open_turn("assistant")
        end = self.vocabulary.control("im_end")
        ids = [*self.vocabulary.encode(answer.text), end]
        if not learned:
            self.add(ids)
            return
        weights = [*self._key_weights(answer), 1.0]
        cut = max((i for i, weight in enumerate(weights) if weight > 1), default=len(ids)) + 4
        if len(ids) > cut + 12 and self.rng.random() < self.shorten:
            ids, weights = ids[:cut], weights[:cut]
        self.add(ids, weights)

    def _key_weights(self, answer: Answer) -> list[float]:
        encoded = self.vocabulary.tokenizer(
            answer.text, add_special_tokens=False, return_offsets_mapping=True
        )
        spans = encoded["offset_mapping"]
        weights = [1.0] * len(spans)
        for key in answer.keys:
            start = answer.text.find(key)
            for i, (first, last) in enumerate(spans):
                if start >= 0 and first < start + len(key) and last > start:
                    weights[i] = DIGIT_WEIGHT if key[0].isdigit() else KEY_WEIGHT
        return weights


@dataclass(frozen=True)
class Packed:
    """Arrays of several sequences, padded: ids [B,L], positions [3,B,L], weights [B,L], mask [B,1,L,L] (True: may look)."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    weights: NDArray[np.float32]
    mask: NDArray[np.bool_]


def pack(sequences: Sequence[Sequence3], pad: int) -> Packed:
    """Pad to the longest; a token sees the shared beginning and its own branch, up to itself."""
    count, length = len(sequences), max(len(s.ids) for s in sequences)
    ids = np.full((count, length), pad, np.int64)
    positions = np.zeros((3, count, length), np.int64)
    weights = np.zeros((count, length), np.float32)
    branches = np.full((count, length), -1)
    for row, s in enumerate(sequences):
        n = len(s.ids)
        ids[row, :n], weights[row, :n], branches[row, :n] = s.ids, s.weights, s.branches
        positions[:, row, :n] = np.array(s.positions).T
    seen = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    mask = np.tril(np.ones((length, length), bool))[None] & seen | np.eye(length, dtype=bool)[None]
    return Packed(ids, positions, weights, mask[:, None])
