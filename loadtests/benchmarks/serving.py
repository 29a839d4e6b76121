"""`python -m loadtests.bench serving`: the whole path through Triton, from the client's call to the last byte.

Three parts: `alone` (one user: time outside the engines), `turn` (a second question about a picture), `crowd` (many users, beside
a one-at-a-time server).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from ensemble.__main__ import changed
from ensemble.config import DeploymentConfig
from loadtests.benchmarks import results, second_turn, serving_alone, serving_crowd, whole_model
from loadtests.benchmarks.questions import questions
from loadtests.benchmarks.served import serving
from loadtests.benchmarks.tutorial_server import DTYPES

PARTS: Final = ("alone", "turn", "crowd")
_DEFINITIONS: Final = {
    "alone": serving_alone.DEFINITIONS,
    "turn": second_turn.DEFINITIONS,
    "crowd": serving_crowd.DEFINITIONS,
}


def main(arguments: list[str]) -> int:
    """See the module; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench serving", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--engines", type=Path, default=Path("engines/demo-int8"), help="of the demo checkpoint"
    )
    parser.add_argument(
        "--checkpoint", type=Path, default=whole_model.checkpoint("demo"), help="the same, for transformers"
    )
    parser.add_argument("--requests", type=int, default=42, help="of `alone`; the first two are not counted")
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-round", type=int, default=48, help="requests of a round of `crowd`")
    parser.add_argument("--tutorial-dtype", choices=DTYPES, help="default: the faster one, tried first")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument(
        "--turn-engines", type=Path, help="of `turn`; default: built and kept, Qwen3-VL-2B's shape, int8"
    )
    parser.add_argument("--side", type=int, default=1024, help="pixels of a side of the picture of `turn`")
    parser.add_argument("--turn-tokens", type=int, default=16)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="changes",
        help="of the server, as `ensemble serve` takes it",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="write loadtests/results/serving.json")
    given = parser.parse_args(arguments)
    figures: dict[str, Any] = {}
    if {"alone", "crowd"} & set(given.parts):
        figures |= _demo(given)
    if "turn" in given.parts:
        engines = given.turn_engines or whole_model.engines("2b", "int8")
        figures["turn"] = second_turn.measure(
            engines, given.side, given.rounds, given.turn_tokens, given.seed
        )
        print(_turn_line(figures["turn"]), flush=True)
    definitions = {name: text for part in given.parts for name, text in _DEFINITIONS[part].items()}
    command = f"python -m loadtests.bench serving {' '.join(arguments)}".strip()
    results.publish(results.Result("serving", command, given.seed, definitions, figures), given.save)
    return 0


def _demo(given: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    changes = [word for change in given.changes for word in ("--set", change)]
    with serving(given.engines, *changes) as server:
        if "alone" in given.parts:
            config = changed(DeploymentConfig(engines=given.engines), given.changes)
            asked = questions(given.seed, given.requests)
            figures["alone"] = serving_alone.measure(server, config, asked, given.max_tokens)
            print(_alone_line(figures["alone"]), flush=True)
        if "crowd" in given.parts:
            dtypes = (given.tutorial_dtype,) if given.tutorial_dtype else DTYPES
            asked = questions(given.seed + 1, given.rounds * given.per_round)
            figures["crowd"] = serving_crowd.measure(
                server.grpc_url, given.checkpoint, asked, given.users, given.max_tokens, given.rounds, dtypes
            )
            print(_crowd_line(figures["crowd"]), flush=True)
    return figures


def _alone_line(figures: dict[str, Any]) -> str:
    return (
        f"alone: total {figures['total_ms']['median']:.1f} ms, first text {figures['ttft_ms']['median']:.1f} ms, engines "
        f"{figures['engines_ms']['median']:.1f} ms, outside {figures['outside_ms']['median']:.1f} ms "
        f"({figures['outside_share']:.0%}, budget {figures['budget_ms']:.1f} ms), "
        f"{figures['tokens_per_answer']:.1f} tokens; relay {figures['cpu_ms_per_token']['qwen3_vl']:.2f} ms CPU/token"
    )


def _turn_line(figures: dict[str, Any]) -> str:
    times = ", ".join(f"{case} {values['median']:.0f} ms" for case, values in figures["ttft_ms"].items())
    return (
        f"turn, {figures['side']} x {figures['side']}: {times}; second / cold {figures['second_over_cold']:.1%}, tokens equal; "
        f"{figures['cached_tokens']} of {figures['prompt_tokens']} prompt tokens from the cache"
    )


def _crowd_line(figures: dict[str, Any]) -> str:
    rates = ", ".join(f"{case} {values['median']:.2f}" for case, values in figures["answers_per_s"].items())
    return (
        f"crowd, {figures['users']} users: answers/s {rates}; {figures['ratio']:.1f} times; p95 first text "
        f"{figures['ttft_ms']['ours']['p95']:.0f} ms against {figures['ttft_ms']['tutorial']['p95']:.0f} ms "
        f"({figures['tutorial_dtype']}); right {figures['right']} of {figures['asked']}"
    )
