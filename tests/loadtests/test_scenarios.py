"""The scenarios are what they say: valid for the client, seeded, with pictures that no cache knows."""

from __future__ import annotations

import io
import json
from itertools import islice

import pytest
from PIL import Image
from qwen3vl_client.request import build

from loadtests.media import HUGE, Media
from loadtests.scenarios import MIXES, SCENARIOS, Cast, Player, Question, shares


def asked(name: str, user: int = 0, count: int = 8, seed: int = 1) -> list[Question]:
    """The first requests of a user."""
    player = Cast(name, MEDIA, seed).player(user)
    return list(islice(endless(player), count))


def endless(player: Player):  # type: ignore[no-untyped-def]
    while True:
        answers: list[str] = []
        for question in player.questions(player.choose(), answers):
            yield question
            answers.append("an answer")


MEDIA = Media(1)


@pytest.mark.parametrize("name", [*SCENARIOS, *MIXES])
def test_every_request_is_one_the_client_can_send(name: str) -> None:
    for question in asked(name, count=6):
        request = build(
            question.messages,
            list(question.images),
            list(question.videos),
            {"max_tokens": question.max_tokens},
        )
        parts = json.loads(request.raw_input_contents[0][4:])
        kinds = [part["type"] for message in parts for part in message["content"] if isinstance(part, dict)]
        assert kinds.count("image") == len(question.images)
        assert kinds.count("video") == len(question.videos)
        assert kinds.count("text") >= 1


def test_a_users_questions_follow_from_the_seed_alone() -> None:
    assert asked("mixed", 3) == asked("mixed", 3)
    assert asked("mixed", 3) != asked("mixed", 4)
    assert asked("one-image", 3) != asked("one-image", 3, seed=2)


def test_no_two_requests_show_the_same_pixels() -> None:
    files = [
        image for user in range(10) for question in asked("many-images", user) for image in question.images
    ]
    pixels = {Image.open(io.BytesIO(file)).tobytes() for file in files}
    assert len(pixels) == len(files) == 10 * 8 * 4


def test_turns_carry_the_conversation_and_the_same_picture() -> None:
    first, second, third, new = asked("multi-turn", count=4)
    assert first.images == second.images == third.images != new.images
    assert [len(question.messages) for question in (first, second, third, new)] == [1, 3, 5, 1]
    assert second.messages[1] == {"role": "assistant", "content": "an answer"}
    assert second.messages[:1] == first.messages


def test_shares_come_out() -> None:
    pictures = [question.images[0] for user in range(20) for question in asked("huge-image", user)]
    huge = sum(Image.open(io.BytesIO(file)).size == HUGE for file in pictures)
    assert 6 <= huge <= 28  # of 160 with a chance of one in ten
    cancelled = sum(question.cancel for user in range(20) for question in asked("cancel-half", user))
    assert 55 <= cancelled <= 105
    assert not any(question.cancel for question in asked("one-image"))


def test_mixes_name_scenarios_and_add_up() -> None:
    for mix in MIXES.values():
        assert set(mix) <= set(SCENARIOS)
        assert sum(mix.values()) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="scenario: got 'nothing'; allowed: text-only, one-image"):
        shares("nothing")
