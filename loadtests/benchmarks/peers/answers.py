"""The peer's end of the pipe: reads questions, one JSON line each, and answers with seconds.

    -> (nothing)                        <- {"ready": {"PACKAGE": "VERSION"}}      once, when the model is loaded
    -> {"decode": 8, "steps": 16}       <- {"seconds": 1.5}     16 steps of 8 sequences, after their first tokens
    -> {"prefill": [512]}               <- {"seconds": 1.1}     until the first token of each prompt
                                        <- {"error": "..."}     instead of either; the peer goes on

It knows no runtime, and runs under any Python 3.10 with nothing installed.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, Final

CONTEXT: Final = 64
"""Tokens of the prompts that decoding starts from, as everywhere in this benchmark."""
_PR_SET_PDEATHSIG: Final = 1


class Model(ABC):
    """A runtime with a loaded model: greedy, no end of sequence, no prefix reuse.

    Attributes:
        packages: distributions whose versions tell what was measured.
    """

    packages: tuple[str, ...] = ()

    @abstractmethod
    def decode_seconds(self, prompts: Sequence[Sequence[int]], steps: int) -> float:
        """Seconds of `steps` tokens for each of `prompts` together, counted from the last first token."""

    @abstractmethod
    def prefill_seconds(self, prompts: Sequence[Sequence[int]]) -> float:
        """Seconds until the first token of each prompt."""


class SteppedModel(Model):
    """A Model of a runtime that batches by itself and is driven step by step."""

    @abstractmethod
    def submit(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
        """Add requests; nothing is computed yet."""

    @abstractmethod
    def step(self) -> list[int]:
        """Compute one step; how many tokens each of the submitted requests has now."""

    def decode_seconds(self, prompts: Sequence[Sequence[int]], steps: int) -> float:
        """See Model."""
        self.submit(prompts, steps + 1)
        self._until(1)
        start = time.perf_counter()
        self._until(steps + 1)
        return time.perf_counter() - start

    def prefill_seconds(self, prompts: Sequence[Sequence[int]]) -> float:
        """See Model."""
        start = time.perf_counter()
        self.submit(prompts, 1)
        self._until(1)
        return time.perf_counter() - start

    def _until(self, tokens: int) -> None:
        while min(self.step()) < tokens:
            pass


def serve(load: Callable[[], Model], vocabulary: int) -> None:
    """Load the model and answer until the pipe is closed. What the runtime prints goes to stderr."""
    _end_with_the_benchmark()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    model = load()
    print(json.dumps({"ready": {name: metadata.version(name) for name in model.packages}}), file=answers)
    draw = random.Random(0)
    for line in sys.stdin:
        answer: dict[str, Any]
        try:
            answer = {"seconds": _answer(model, json.loads(line), draw, vocabulary)}
        except Exception as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer), file=answers)


def _end_with_the_benchmark() -> None:
    """Whoever is stopped does not see a closed pipe. So the kernel wakes this process when the benchmark was killed, and it
    ends its group: itself, and what the runtime started, which is stopped as well and may hold the weights.
    """
    benchmark = os.getppid()
    if os.getpgrp() != os.getpid():
        return  # started by hand: the group belongs to others too

    def look(*_: object) -> None:
        if os.getppid() != benchmark:
            os.killpg(os.getpgrp(), signal.SIGKILL)

    signal.signal(signal.SIGCONT, look)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def _answer(model: Model, question: dict[str, Any], draw: random.Random, vocabulary: int) -> float:
    lengths = question.get("prefill") or [CONTEXT] * question["decode"]
    prompts = [[draw.randrange(vocabulary) for _ in range(length)] for length in lengths]
    if "prefill" in question:
        return model.prefill_seconds(prompts)
    return model.decode_seconds(prompts, question["steps"])
