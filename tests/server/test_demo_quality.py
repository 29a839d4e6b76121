"""How well the demo checkpoint answers 500 pictures it never saw, through the served int8 engine.

The same questions to engines whose DeepStack rows are zero, or whose rotary positions lost height and width,
must score clearly worse: a fault in either path cannot hide behind a model that would answer well anyway.
"""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from qwen3vl_client import Client
from safetensors.torch import load_file, save_file

from build_engine.demo.cases import Case, cases
from tests.reference import clip
from tests.server.triton import serving

pytestmark = [pytest.mark.server, pytest.mark.slow]
SEED, CASES, ABLATED_CASES = 20_261_122, 500, 140
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


def ablated(checkpoint: Path, directory: Path, change: str) -> Path:
    """A copy of the checkpoint with DeepStack features zero, or with rotary positions that only count time."""
    shutil.copytree(checkpoint, directory)
    if change == "deepstack":
        weights = load_file(directory / "model.safetensors")
        touched = [name for name in weights if "deepstack_merger_list" in name and "linear_fc2" in name]
        assert touched
        for name in touched:
            weights[name] = weights[name].zero_()
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    else:
        config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        rope = config["text_config"]["rope_parameters"]
        rope["mrope_section"] = [sum(rope["mrope_section"]), 0, 0]
        (directory / "config.json").write_text(json.dumps(config))
    return directory


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


@pytest.mark.parametrize("change", ["deepstack", "mrope"])
def test_the_score_falls_without(
    change: str, demo_checkpoint: Path, engines_of: Callable[..., Path], tmp_path: Path
) -> None:
    chosen = list(cases(SEED, ABLATED_CASES))
    whole, _ = score(engines_of(demo_checkpoint, "int8"), chosen)
    broken, _ = score(engines_of(ablated(demo_checkpoint, tmp_path / change, change), "int8"), chosen)
    mean = sum(whole.values()) / len(whole), sum(broken.values()) / len(broken)
    print(
        f"without {change}: {json.dumps({k: round(v, 2) for k, v in broken.items()})}, mean {mean[0]:.2f} -> {mean[1]:.2f}"
    )
    assert mean[1] < mean[0] - 0.10


def test_the_black_screen_of_the_mission(demo_checkpoint: Path, engines_of: Callable[..., Path]) -> None:
    picture = Path("build_engine/demo/pictures/black_phone.jpg")
    with serving(engines_of(demo_checkpoint, "int8")) as server, Client(server.grpc_url) as client:
        answer = client.chat("我的手机打不开，怎么办？", images=[picture], max_tokens=200).text
    for word in ("黑屏", "电源", "充电", "售后"):
        assert word in answer, answer
