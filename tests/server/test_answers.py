"""Served answers equal transformers, token by token, in float32 greedy decoding."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from qwen3vl_client import Client

from tests.conversations import conversations
from tests.reference import Conversation, Reference

pytestmark = pytest.mark.server
TOKENS = 64


def asked(client: Client, conversation: Conversation, **options: object) -> list[int]:
    """Token ids of the served answer, the end token included if it came."""
    reply = client.chat(
        list(conversation.messages),
        images=list(conversation.images),
        videos=list(conversation.videos),
        max_tokens=TOKENS,
        **options,
    )
    return list(reply.token_ids)


def expected(reference: Reference, conversation: Conversation) -> list[int]:
    """What transformers answers."""
    return reference.answer(conversation, TOKENS)


@pytest.fixture(scope="session")
def demo_reference(demo_checkpoint: Path) -> Reference:
    return Reference(demo_checkpoint)


@pytest.mark.parametrize("name", list(conversations()))
def test_an_answer_equals_transformers(name: str, client: Client, demo_reference: Reference) -> None:
    conversation = conversations()[name]
    assert asked(client, conversation) == expected(demo_reference, conversation)


def test_eight_staggered_conversations_equal_transformers(client: Client, demo_reference: Reference) -> None:
    chosen = list(conversations().items())[:12]

    def one(item: tuple[int, tuple[str, Conversation]]) -> list[int]:
        number, (_, conversation) = item
        time.sleep(0.05 * (number % 8))
        return asked(client, conversation)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, enumerate(chosen)))
    wrong = [
        name
        for (name, conversation), answer in zip(chosen, answers, strict=True)
        if answer != expected(demo_reference, conversation)
    ]
    assert not wrong


def test_a_repeated_question_reuses_blocks_and_says_the_same(client: Client) -> None:
    conversation = conversations()["three turns"]
    messages, images = list(conversation.messages), list(conversation.images)
    first = client.chat(messages, images=images, max_tokens=24)
    again = client.chat(messages, images=images, max_tokens=24)
    assert again.token_ids == first.token_ids
    assert again.usage.cached_tokens > 0
    other = client.chat(messages, images=images[::-1], max_tokens=24)
    # Only the text before the first picture may be shared with a request about other pictures.
    assert other.usage.cached_tokens < 64
