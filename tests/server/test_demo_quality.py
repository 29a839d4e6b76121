"""How well the demo checkpoint answers 500 pictures it never saw, through the served int8 engine.

The same questions with the DeepStack rows zeroed, or with the rotary positions of plain text, must score clearly worse:
a fault in either path cannot hide behind a model that would answer well anyway.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from qwen3vl_client import Client

from build_engine.demo.cases import Case, cases
from build_engine.manifest import Manifest
from tests.reference import clip
from tests.server.triton import serving
from tests.stages import Change, Stages, Tensors, nothing, without_deepstack

pytestmark = [pytest.mark.server, pytest.mark.slow]
SEED, CASES, ABLATED_CASES = 20_261_122, 500, 120
LEAST = {"fault": 0.97, "code": 0.90, "battery": 0.90, "two": 0.90, "turn2": 0.90, "video": 0.90}


def encoded(image: Image.Image) -> bytes:
    """JPEG as a phone would send it."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92)
    return out.getvalue()


def ask(client: Client, case: Case) -> str:
    return client.chat(
        list(case.messages),
        images=[encoded(image) for image in case.images],
        videos=[clip(frames, round(fps)) for frames, fps in case.videos],
        max_tokens=160,
    ).text


def score(engines: Path, chosen: Sequence[Case]) -> tuple[dict[str, float], list[tuple[Case, str]]]:
    """Share answered right per kind, and every answer."""
    with serving(engines) as server, Client(server.grpc_url) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda case: ask(client, case), chosen))
    asked = Counter(case.kind for case in chosen)
    right = Counter(case.kind for case, answer in zip(chosen, answers, strict=True) if case.is_right(answer))
    return {kind: right[kind] / asked[kind] for kind in asked}, list(zip(chosen, answers, strict=True))


def digits_right(answers: Sequence[tuple[Case, str]]) -> float:
    """Share of error-code digits read right, place by place."""
    right = total = 0
    for case, answer in answers:
        if case.kind == "code":
            read = next((word for word in _numbers(answer) if len(word) == len(case.expected)), "")
            right += sum(a == b for a, b in zip(read, case.expected, strict=False))
            total += len(case.expected)
    return right / total


def _numbers(text: str) -> list[str]:
    return "".join(c if c.isdigit() else " " for c in text).split()


def test_five_hundred_unseen_cases(demo_checkpoint: Path, engines_of: Callable[..., Path]) -> None:
    scores, answers = score(engines_of(demo_checkpoint, "int8"), list(cases(SEED, CASES)))
    digits = digits_right(answers)
    print(
        "demo quality, int8:",
        json.dumps({**{k: round(v, 3) for k, v in scores.items()}, "digit": round(digits, 3)}),
    )
    misses = {kind: (scores[kind], least) for kind, least in LEAST.items() if scores[kind] < least}
    assert not misses
    assert digits >= 0.97


@pytest.mark.parametrize("fault", ["deepstack", "mrope"])
def test_the_score_falls_without(fault: str, demo_checkpoint: Path, engines_of: Callable[..., Path]) -> None:
    stages = Stages(engines_of(demo_checkpoint, "int8"))
    flat = stages.flat_rotary()

    def without_mrope(tensors: Tensors, manifest: Manifest) -> None:
        tensors["mrope_rotary_cos_sin"] = flat

    def mean_score(change: Change) -> float:
        chosen = list(cases(SEED, ABLATED_CASES, sorted(LEAST)))
        answers = [
            stages.ask(
                case.messages,
                [encoded(image) for image in case.images],
                [clip(frames, round(fps)) for frames, fps in case.videos],
                change,
            )
            for case in chosen
        ]
        right = Counter(
            case.kind for case, answer in zip(chosen, answers, strict=True) if case.is_right(answer)
        )
        asked = Counter(case.kind for case in chosen)
        print(
            fault, change.__name__, json.dumps({kind: round(right[kind] / asked[kind], 2) for kind in asked})
        )
        return sum(right.values()) / len(chosen)

    try:
        whole, broken = (
            mean_score(nothing),
            mean_score(without_deepstack if fault == "deepstack" else without_mrope),
        )
    finally:
        stages.close()
    assert whole > 0.9
    assert broken < whole - 0.10


def test_the_black_screen_of_the_mission(demo_checkpoint: Path, engines_of: Callable[..., Path]) -> None:
    picture = Path("build_engine/demo/pictures/black_phone.jpg")
    with serving(engines_of(demo_checkpoint, "int8")) as server, Client(server.grpc_url) as client:
        answer = client.chat("我的手机打不开，怎么办？", images=[picture], max_tokens=200).text
    for word in ("黑屏", "电源", "充电", "售后"):
        assert word in answer, answer
