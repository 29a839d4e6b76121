"""The same parity on random checkpoints of other shapes: nothing may be fixed to the demo's sizes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from qwen3vl_client import Client

from tests.conversations import conversations
from tests.reference import Reference
from tests.server.test_answers import asked, expected
from tests.server.triton import serving

pytestmark = pytest.mark.server


@pytest.mark.parametrize("variant", ["untied", "one_level", "three_levels", "wide_heads", "one_kv_head"])
def test_served_answers_equal_transformers_on_other_shapes(
    variant: str, random_checkpoint: Callable[[str], Path], engines_of: Callable[..., Any]
) -> None:
    checkpoint = random_checkpoint(variant)
    reference = Reference(checkpoint)
    chosen = conversations()
    with serving(engines_of(checkpoint, "f32")) as server, Client(server.grpc_url) as client:
        with ThreadPoolExecutor(8) as pool:
            answers = dict(zip(chosen, pool.map(lambda c: asked(client, c), chosen.values()), strict=True))
    wrong = {name: answers[name] for name in chosen if answers[name] != expected(reference, chosen[name])}
    assert not wrong
    assert len({tuple(answer) for answer in answers.values()}) > len(answers) // 2, (
        "a model that always says the same"
    )
