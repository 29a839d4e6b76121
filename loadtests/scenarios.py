"""What users do, as data: the questions, what they show, how they read, and in which mix they come.

It knows no server, clock or picture file; `media` makes the pictures, `users` play the scenarios.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Any, Final

from loadtests.media import Media

CANCEL_AFTER_CHUNKS: Final = 1
"""Where "midway" is: answers of the demo checkpoint are 20 to 60 chunks long."""


@dataclass(frozen=True)
class Scenario:
    """One kind of user.

    Attributes:
        name: on the command line and in reports.
        about: one line for people.
        questions: one per turn. Each turn is a request and carries the turns before it.
        pictures: pictures shown with the first question, each with pixels that no other request has.
        videos: clips shown with the first question, out of a pool of `media.POOL`.
        huge_share: share of requests whose picture is one of 12 megapixels, out of a pool of `media.POOL`.
        cancel_share: share of requests that leave after CANCEL_AFTER_CHUNKS pieces of text.
        pause_s: the reader's pause after each chunk, seconds.
        max_tokens: limit of each answer.
    """

    name: str
    about: str
    questions: tuple[str, ...]
    pictures: int = 0
    videos: int = 0
    huge_share: float = 0.0
    cancel_share: float = 0.0
    pause_s: float = 0.0
    max_tokens: int = 64


@dataclass(frozen=True)
class Question:
    """One request to be: messages as `qwen3vl_client` takes them, and how its answer is read."""

    scenario: str
    messages: tuple[Mapping[str, Any], ...]
    images: tuple[bytes, ...]
    videos: tuple[bytes, ...]
    max_tokens: int
    pause_s: float
    cancel: bool


_FAULT: Final = "我的手机打不开，怎么办？"

SCENARIOS: Final[Mapping[str, Scenario]] = MappingProxyType(
    {
        scenario.name: scenario
        for scenario in (
            Scenario("text-only", "a question, no picture", ("My phone does not turn on.",)),
            Scenario("one-image", "a photo of about 360x450 and a question", (_FAULT,), pictures=1),
            Scenario(
                "many-images", "four photos of about 360x450", ("Which picture shows a crack?",), pictures=4
            ),
            Scenario(
                "multi-turn",
                "three turns on one photo: the second and third reuse its embedding and the prompt's KV blocks",
                ("Please look at this picture first.", "What is wrong?", "Is it a hardware problem?"),
                pictures=1,
            ),
            Scenario(
                "video",
                "a clip of 2 to 6 s at 4 to 10 frames/s, about 330x430",
                ("At which second does the error appear?",),
                videos=1,
            ),
            Scenario(
                "huge-image",
                "as one-image, but one photo in ten has 4000x3000 pixels",
                (_FAULT,),
                pictures=1,
                huge_share=0.1,
            ),
            Scenario(
                "cancel-half",
                "as one-image, but half of the users leave at the first text",
                (_FAULT,),
                pictures=1,
                cancel_share=0.5,
            ),
            Scenario(
                "slow-reader",
                "as one-image, but the reader pauses 100 ms after each chunk",
                (_FAULT,),
                pictures=1,
                pause_s=0.1,
            ),
        )
    }
)

MIXES: Final[Mapping[str, Mapping[str, float]]] = MappingProxyType(
    {
        "mixed": MappingProxyType(
            {
                "text-only": 0.20,
                "one-image": 0.40,
                "many-images": 0.05,
                "multi-turn": 0.15,
                "video": 0.05,
                "huge-image": 0.05,
                "cancel-half": 0.05,
                "slow-reader": 0.05,
            }
        )
    }
)
"""Names that stand for several scenarios, with the share of users who play each. Shares add up to 1."""


class Cast:
    """Draws what users do. The same seed and user give the same questions, whatever the server does.

    Args:
        name: of SCENARIOS or of MIXES. ValueError for another.
        media: where pictures and clips come from.
        seed: of every draw.
    """

    def __init__(self, name: str, media: Media, seed: int) -> None:
        self.name, self.seed, self._media = name, seed, media
        self._shares = shares(name)

    def player(self, user: int) -> Player:
        """User number `user`."""
        return Player(self._shares, self._media, Random(f"{self.seed} user {user}"))

    def warm(self) -> None:
        """Make what takes long (12-megapixel pictures, clips) before the clock runs."""
        chosen = [SCENARIOS[name] for name in self._shares]
        self._media.warm(
            huge=any(scenario.huge_share for scenario in chosen),
            videos=any(scenario.videos for scenario in chosen),
        )


class Player:
    """One user: plays a scenario after the other."""

    def __init__(self, shares: Mapping[str, float], media: Media, random: Random) -> None:
        self._shares, self._media, self._random = shares, media, random

    def choose(self) -> Scenario:
        """What the user does next."""
        (name,) = self._random.choices(list(self._shares), list(self._shares.values()))
        return SCENARIOS[name]

    def questions(self, scenario: Scenario, answers: list[str]) -> Iterator[Question]:
        """The turns of `scenario`. Before each further turn the caller appends the answer to `answers`."""
        random = self._random
        images = tuple(
            self._media.huge(random) if random.random() < scenario.huge_share else self._media.picture(random)
            for _ in range(scenario.pictures)
        )
        videos = tuple(self._media.clip(random) for _ in range(scenario.videos))
        shown = [{"type": "image"}] * len(images) + [{"type": "video"}] * len(videos)
        messages: list[Mapping[str, Any]] = []
        for turn, text in enumerate(scenario.questions):
            if turn:
                messages.append({"role": "assistant", "content": answers[-1]})
            parts = [*(shown if turn == 0 else ()), {"type": "text", "text": text}]
            messages.append({"role": "user", "content": parts})
            yield Question(
                scenario.name,
                tuple(messages),
                images,
                videos,
                scenario.max_tokens,
                scenario.pause_s,
                cancel=random.random() < scenario.cancel_share,
            )


def shares(name: str) -> Mapping[str, float]:
    """Scenario to share of users, for the name of a scenario or of a mix. ValueError for another name."""
    if name in SCENARIOS:
        return {name: 1.0}
    if name not in MIXES:
        raise ValueError(f"scenario: got {name!r}; allowed: {', '.join([*SCENARIOS, *MIXES])}")
    return MIXES[name]
