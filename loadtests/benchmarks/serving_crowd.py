"""Many users at once: this server beside the one-at-a-time design of `tutorial_server`, with equal requests."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any, Final

from qwen3vl_client import Client

from loadtests.benchmarks import rounds
from loadtests.benchmarks.questions import Question
from loadtests.benchmarks.serving_alone import percentile
from loadtests.benchmarks.tutorial_server import DTYPES

DEFINITIONS: Final = {
    "crowd.answers_per_s": "whole answers / seconds from the first request to the last byte of the last answer, closed loop: each"
    " user asks the next question when its last answer is there",
    "crowd.ttft_ms": "the user's call to the first text that it can read; the tutorial's design sends an answer whole",
    "crowd.right": "answers that hold the expected words (the demo checkpoint, int8 here, unquantised there)",
    "crowd.tutorial_dtype": "whichever of float32 and bfloat16 answered a few requests faster on this machine",
}
_START_S = 180.0
_REQUEST_S = 600.0


@dataclass(frozen=True)
class Answered:
    """One answer as its user saw it; milliseconds."""

    ttft_ms: float
    total_ms: float
    right: bool


Ask = Callable[[Question], Answered]


def measure(
    grpc_url: str,
    checkpoint: Path,
    questions: list[Question],
    users: int,
    max_tokens: int,
    count: int,
    dtypes: Sequence[str] = DTYPES,
) -> dict[str, Any]:
    """The figures of DEFINITIONS over `count` rounds; every round asks the questions of its own turn once."""
    with Client(grpc_url) as client, _tutorial(checkpoint, questions[:3], max_tokens, dtypes) as (dtype, url):
        asks: dict[str, Ask] = {
            "ours": lambda question: ask_served(client, question, max_tokens),
            "tutorial": lambda question: ask_tutorial(url, question, max_tokens),
        }
        answers: dict[str, list[list[Answered]]] = {name: [] for name in asks}
        turns = {name: _turns(questions, count) for name in asks}

        def case(name: str) -> Callable[[], float]:
            def run() -> float:
                found, seconds = crowd(asks[name], next(turns[name]), users)
                answers[name].append(found)
                return len(found) / seconds

            return run

        measured = rounds.run({name: case(name) for name in asks}, count)
    ttft = {name: _percentiles([a.ttft_ms for of in found for a in of]) for name, found in answers.items()}
    return {
        "users": users,
        "questions_per_round": len(questions) // count,
        "answers_per_s": measured.plain("tutorial"),
        "ratio": measured.ratio("ours", "tutorial"),
        "ttft_ms": ttft,
        "ttft_p95_ratio": ttft["ours"]["p95"] / ttft["tutorial"]["p95"],
        "total_ms": {
            n: _percentiles([a.total_ms for of in found for a in of]) for n, found in answers.items()
        },
        "right": {n: sum(a.right for of in found for a in of) for n, found in answers.items()},
        "asked": len(questions) // count * count,
        "tutorial_dtype": dtype,
    }


def crowd(ask: Ask, questions: Sequence[Question], users: int) -> tuple[list[Answered], float]:
    """All questions asked once by so many users; the answers, and the seconds it took."""
    waiting, lock, found = iter(questions), Lock(), []

    def user() -> None:
        while True:
            with lock:
                question = next(waiting, None)
            if question is None:
                return
            answered = ask(question)
            with lock:
                found.append(answered)

    start = time.perf_counter()
    with ThreadPoolExecutor(users) as pool:
        for done in [pool.submit(user) for _ in range(users)]:
            done.result()
    return found, time.perf_counter() - start


def ask_served(client: Client, question: Question, max_tokens: int) -> Answered:
    """Ask this server."""
    start = time.perf_counter()
    reply = client.chat(question.messages, images=[question.picture], max_tokens=max_tokens)
    total = (time.perf_counter() - start) * 1e3
    return Answered(reply.timings.client_time_to_first_token_ms, total, question.case.is_right(reply.text))


def ask_tutorial(url: str, question: Question, max_tokens: int) -> Answered:
    """Ask a tutorial server."""
    start = time.perf_counter()
    request = urllib.request.Request(url, question.predict(max_tokens), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=_REQUEST_S) as reply:
        (text,) = json.load(reply)["data"]
    total = (time.perf_counter() - start) * 1e3
    return Answered(total, total, question.case.is_right(text))


def _turns(questions: list[Question], count: int) -> Iterator[list[Question]]:
    size = len(questions) // count
    return iter([questions[turn * size : (turn + 1) * size] for turn in range(count)])


@contextmanager
def _tutorial(
    checkpoint: Path, trial: Sequence[Question], max_tokens: int, dtypes: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """A tutorial server in the fastest of some precisions: its name and URL."""
    seconds = dict.fromkeys(dtypes, 0.0)
    for dtype in dtypes if len(dtypes) > 1 else ():
        with _tutorial_server(checkpoint, dtype) as url:
            ask_tutorial(url, trial[0], max_tokens)  # warm-up
            seconds[dtype] = median(ask_tutorial(url, question, max_tokens).total_ms for question in trial)
    best = min(seconds, key=lambda dtype: seconds[dtype])
    with _tutorial_server(checkpoint, best) as url:
        ask_tutorial(url, trial[0], max_tokens)
        yield best, url


@contextmanager
def _tutorial_server(checkpoint: Path, dtype: str) -> Iterator[str]:
    command = [sys.executable, "-m", "loadtests.benchmarks.tutorial_server", "--checkpoint", str(checkpoint)]
    command += ["--port", "0", "--dtype", dtype]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"the tutorial server did not start: exit code {process.wait(_START_S)}")
            yield url
        finally:
            process.terminate()


def _percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {name: percentile(ordered, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))}
