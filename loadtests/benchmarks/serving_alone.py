"""One user: where the time of a request goes, engine by engine and process by process."""

from __future__ import annotations

import json
import math
import time
from statistics import median
from typing import Any, Final

from qwen3vl_client import Client

from ensemble.config import DeploymentConfig
from ensemble.options import Options
from loadtests.benchmarks.engines_alone import EnginesAlone
from loadtests.benchmarks.questions import Question
from loadtests.benchmarks.served import Served

DEFINITIONS: Final = {
    "alone.total_ms": "client's call to the last byte of the answer (the call itself ends a round trip later), one request at a"
    " time, every picture new",
    "alone.ttft_ms": "client's call to the first piece of text",
    "alone.engines_ms": "time inside the calls of the two engines for the same requests, in the benchmark's own process, in turns"
    " with the served ones",
    "alone.outside_ms": "total_ms - engines_ms, request by request; share: of total_ms",
    "alone.budget_ms": "5 ms + 0.3 ms for each token of the answer: what outside_ms should stay below",
    "alone.cpu_ms_per_token": "processor time of a process while the served requests ran, for each token of their answers"
    " (preprocessing included); qwen3_vl is the relay",
}


def measure(
    server: Served, config: DeploymentConfig, questions: list[Question], max_tokens: int
) -> dict[str, Any]:
    """The figures of DEFINITIONS; `config` is the server's. The first two requests are a warm-up and not counted."""
    options = Options(max_tokens=max_tokens)
    alone = EnginesAlone(config)
    totals, ttfts, inside, outside, counts, equal = [], [], [], [], [], 0
    cpu = dict.fromkeys(server.cpu_ms(), 0.0)
    try:
        with Client(server.grpc_url) as client:
            for index, question in enumerate(questions):
                before = server.cpu_ms()
                start = time.perf_counter()
                with client.stream(
                    question.messages, images=[question.picture], max_tokens=max_tokens
                ) as stream:
                    token_ids = [token for chunk in stream for token in chunk.token_ids]
                    total = (time.perf_counter() - start) * 1e3
                after = server.cpu_ms()
                found = alone.ask(json.dumps(question.messages).encode(), [question.picture], options)
                if index < 2:
                    continue
                cpu = {name: cpu[name] + after[name] - before[name] for name in cpu}
                totals.append(total)
                ttfts.append(stream.reply.timings.client_time_to_first_token_ms)
                inside.append(found.total_ms)
                outside.append(total - found.total_ms)
                counts.append(stream.reply.usage.completion_tokens)
                equal += token_ids == list(found.token_ids)
    finally:
        alone.close()
    budgets = [5 + 0.3 * tokens for tokens in counts]
    return {
        "requests": len(totals),
        "answers_equal_to_engines_alone": equal,
        "tokens_per_answer": sum(counts) / len(counts),
        "total_ms": spread(totals),
        "ttft_ms": spread(ttfts),
        "engines_ms": spread(inside),
        "outside_ms": spread(outside),
        "outside_share": median(out / total for out, total in zip(outside, totals, strict=True)),
        "budget_ms": median(budgets),
        "outside_within_budget": median(outside) <= median(budgets),
        "cpu_ms_per_token": {name: value / sum(counts) for name, value in cpu.items()},
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median with the 5th and 95th percentile and the ends."""
    ordered = sorted(values)
    return {
        "median": median(ordered),
        "p5": percentile(ordered, 0.05),
        "p95": percentile(ordered, 0.95),
        "min": ordered[0],
        "max": ordered[-1],
    }


def percentile(ordered: list[float], share: float) -> float:
    """The smallest value that at least `share` of the ordered values do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
