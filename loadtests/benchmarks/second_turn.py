"""A second question about the same picture: what the embedding cache and the shared KV blocks save.

The same second turn also goes to a server without either cache: its tokens must be equal, and its time is the comparison.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from qwen3vl_client import Client, Reply

from loadtests.benchmarks import rounds
from loadtests.benchmarks.served import serving

DEFINITIONS: Final = {
    "second_turn.cold": "ms to the first text of a first question about a picture that the server has not seen",
    "second_turn.second": "ms to the first text of a second question, which brings the picture and the first turn again",
    "second_turn.second_without_caches": "the same second question at a server with vision_cache_bytes=0, kv_cache_reuse=false",
    "second_turn.equal": "whether the second answers of both servers (matrix_tiles=off) are token by token the same",
}
_FIRST, _SECOND = "What does this picture show?", "And what is in its lower left corner?"
# Or the part of a prompt that is in a cache would decide which form of int8 weights computes the rest (docs/decisions/0011).
ONE_FORM: Final = ("--set", "matrix_tiles=off")
WITHOUT_CACHES: Final = (*ONE_FORM, "--set", "vision_cache_bytes=0", "--set", "kv_cache_reuse=false")


class Unequal(RuntimeError):
    """The caches changed an answer."""


def measure(engines: Path, side: int, count: int, max_tokens: int, seed: int) -> dict[str, Any]:
    """The figures of DEFINITIONS over `count` pictures of `side` x `side` pixels; Unequal if the caches change a token."""
    cached_tokens: list[int] = []
    equal = 0
    with (
        serving(engines, *ONE_FORM) as cached,
        serving(engines, *WITHOUT_CACHES) as plain,
        Client(cached.grpc_url, timeout=600) as ours,
        Client(plain.grpc_url, timeout=600) as without,
    ):
        for client in (ours, without):
            _ask(client, _picture(side, seed), _turns(None), max_tokens, side)  # warm-up
        dice = seed
        replies: dict[str, tuple[Reply, list[int]]] = {}

        def cold() -> float:
            nonlocal dice
            dice += 1
            replies["cold"] = _ask(ours, _picture(side, dice), _turns(None), max_tokens, side)
            return _ttft(replies["cold"])

        def again(name: str, client: Client) -> float:
            replies[name] = _ask(
                client, _picture(side, dice), _turns(replies["cold"][0].text), max_tokens, side
            )
            return _ttft(replies[name])

        samples = []
        for number in range(count):  # in this order: a second turn needs its first
            values = {
                "cold": cold(),
                "second": again("second", ours),
                "second_without_caches": again("plain", without),
            }
            samples += [rounds.Sample(case, number, value) for case, value in values.items()]
            cached_tokens.append(replies["second"][0].usage.cached_tokens)
            if replies["second"][1] != replies["plain"][1]:
                raise Unequal(
                    f"round {number}: {replies['second'][1]} with caches, {replies['plain'][1]} without"
                )
            equal += 1
    measured = rounds.Rounds(tuple(samples))
    return {
        "side": side,
        "pictures": count,
        "ttft_ms": measured.plain("cold"),
        "second_over_cold": measured.ratio("second", "cold"),
        "second_over_second_without_caches": measured.ratio("second", "second_without_caches"),
        "equal": equal == count,
        "tokens_compared": max_tokens * count,
        "prompt_tokens": replies["second"][0].usage.prompt_tokens,
        "cached_tokens": min(cached_tokens),
    }


def _turns(first_answer: str | None) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _FIRST}]}
    ]
    if first_answer is None:
        return asked
    return [*asked, {"role": "assistant", "content": first_answer}, {"role": "user", "content": _SECOND}]


def _ask(
    client: Client, picture: bytes, messages: list[dict[str, Any]], max_tokens: int, side: int
) -> tuple[Reply, list[int]]:
    with client.stream(messages, images=[picture], max_tokens=max_tokens, max_pixels=side * side) as stream:
        token_ids = [token for chunk in stream for token in chunk.token_ids]
    return stream.reply, token_ids


def _ttft(found: tuple[Reply, list[int]]) -> float:
    return found[0].timings.client_time_to_first_token_ms


def _picture(side: int, seed: int) -> bytes:
    dice = np.random.default_rng(seed)
    coarse = dice.integers(0, 256, (max(1, side // 32), max(1, side // 32), 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()
