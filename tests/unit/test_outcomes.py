"""How requests to the public model are counted: what alerts are made of."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ensemble.gauges import COUNTER_HELP, outcome_numbers
from ensemble.postprocessing.call import Failure
from ensemble.postprocessing.frontend import Frontend
from tests.unit.test_postprocessing_frontend import (
    ADAPTERS,
    END,
    MANIFEST,
    VOCABULARY,
    MemoryCall,
    tokens,
    wait,
)


@pytest.fixture
def frontend() -> Iterator[Frontend]:
    made = Frontend(MANIFEST, VOCABULARY, max_inflight=2, adapters=ADAPTERS)
    yield made
    made.close()


def counted(frontend: Frontend) -> tuple[float, float, float]:
    numbers = outcome_numbers(frontend.outcomes)
    assert set(numbers) <= set(COUNTER_HELP)
    return tuple(numbers[f"qwen3vl_requests{kind}"] for kind in ("", "_refused", "_failed"))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("script", "options", "expected"),
    [
        ([*tokens("ok"), END], {}, (1, 0, 0)),
        ([], {"temperature": -5}, (1, 0, 0)),
        ([Failure("InvalidImage: broken")], {}, (1, 0, 0)),
        ([Failure("in ensemble 'ensemble', Exceeds maximum queue size")], {}, (1, 1, 0)),
        ([Failure("Server is stopping, scheduler for model has stopped accepting")], {}, (1, 0, 0)),
        ([Failure("Stub process 'tensorrt_llm_0_0' is not healthy.")], {}, (1, 0, 1)),
        ([*tokens("ab"), RuntimeError("BLS broke")], {}, (1, 0, 1)),
    ],
)
def test_an_end_is_counted_once(
    frontend: Frontend,
    script: list[Any],
    options: dict[str, Any],
    expected: tuple[int, int, int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    call = MemoryCall(script, **options)
    frontend.submit(call)
    wait(lambda: call.ended.is_set() and frontend.inflight == 0)
    assert counted(frontend) == expected


def test_a_full_server_counts_what_it_refuses(frontend: Frontend) -> None:
    gate = threading.Event()
    held = [MemoryCall([lambda: gate.wait(10), END]) for _ in range(2)]
    for call in held:
        frontend.submit(call)
    for _ in range(3):
        frontend.submit(MemoryCall([]))
    assert counted(frontend) == (5, 3, 0)
    gate.set()
    wait(lambda: frontend.inflight == 0)


def test_draining_is_no_refusal(frontend: Frontend) -> None:
    frontend.drain()
    frontend.submit(MemoryCall([]))
    assert counted(frontend) == (1, 0, 0)
