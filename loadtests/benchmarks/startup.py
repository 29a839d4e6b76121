"""`python -m loadtests.bench startup`: how long a server takes to be ready, and what it keeps in memory; the client's import.

From a warm disk: the first start of a run, which fills the page cache, is not counted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from qwen3vl_client import Client

from loadtests.benchmarks import results, rounds
from loadtests.benchmarks.questions import questions
from loadtests.benchmarks.served import memory, serving

DEFINITIONS: Final = {
    "ready_s": "seconds from the start of `python -m ensemble serve` to its ready file: every model loaded, ports open",
    "first_answer_ms": "the first request of a fresh server, picture and 8 tokens, client's call to last byte",
    "memory_mb": "MB of 10^6 per process after 16 answers: resident (shared libraries and mapped weights count in each process),"
    " and own (pages of no other process)",
    "import_ms": "a fresh interpreter's `import` of the package, its start not counted; grpc_numpy: what the client stands on",
    "client_modules": "modules that `import qwen3vl_client` loads; torch, transformers, openvino among them fail the benchmark",
}
IMPORTS: Final = {
    "client": "qwen3vl_client",
    "grpc_numpy": "grpc, numpy",
    "tritonclient": "tritonclient.grpc",
    "transformers": "torch, transformers",
}
HEAVY: Final = ("torch", "transformers", "openvino", "PIL")
_ANSWERS: Final = 16


class HeavyClient(RuntimeError):
    """The client imports what belongs to servers."""


def main(arguments: list[str]) -> int:
    """See the module; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench startup", description=__doc__)
    parser.add_argument("--engines", type=Path, nargs="+", default=[Path("engines/demo-int8")])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write loadtests/results/startup.json")
    given = parser.parse_args(arguments)
    figures: dict[str, Any] = {"client": measure_imports(given.rounds)}
    print(_import_line(figures["client"]), flush=True)
    for engines in given.engines:
        figures[engines.name] = measure_server(engines, given.rounds, given.seed)
        print(_server_line(engines.name, figures[engines.name]), flush=True)
    command = f"python -m loadtests.bench startup {' '.join(arguments)}".strip()
    results.publish(results.Result("startup", command, given.seed, DEFINITIONS, figures), given.save)
    return 0


def measure_server(engines: Path, count: int, seed: int) -> dict[str, Any]:
    """Start a server `count` times (and once before, not counted)."""
    asked = questions(seed, _ANSWERS)
    ready, first = [], []
    used: dict[str, dict[str, float]] = {}
    for number in range(-1, count):
        with serving(engines) as server, Client(server.grpc_url, timeout=300) as client:
            start = time.perf_counter()
            client.chat(asked[0].messages, images=[asked[0].picture], max_tokens=8)
            answered_ms = (time.perf_counter() - start) * 1e3
            if number < 0:
                continue
            ready.append(rounds.Sample("ready_s", number, server.ready_s))
            first.append(rounds.Sample("first_answer_ms", number, answered_ms))
            if number == count - 1:
                for question in asked:
                    client.chat(question.messages, images=[question.picture], max_tokens=8)
                used = {name: _sum_mb([memory(pid) for pid in pids]) for name, pids in server.pids().items()}
    measured = rounds.Rounds((*ready, *first)).plain()
    return {
        **measured,
        "memory_mb": used,
        "memory_mb_total": {kind: sum(of[kind] for of in used.values()) for kind in ("resident", "own")},
    }


def measure_imports(count: int) -> dict[str, Any]:
    """Import each of IMPORTS in fresh interpreters, in turns; HeavyClient if the client is no light one."""
    loaded = _python(
        "import qwen3vl_client, sys; print(' '.join(m for m in sys.modules if '.' not in m))"
    ).split()
    if heavy := sorted(set(HEAVY) & set(loaded)):
        raise HeavyClient(f"import qwen3vl_client loads {', '.join(heavy)}")
    cases = {name: _import(packages) for name, packages in IMPORTS.items()}
    for run in cases.values():
        run()
    return {
        "import_ms": rounds.run(cases, count).plain("client"),
        "client_modules": int(_python("import qwen3vl_client, sys; print(len(sys.modules))")),
    }


def _import(packages: str) -> Any:
    code = f"import time; s = time.perf_counter(); import {packages}; print((time.perf_counter() - s) * 1e3)"
    return lambda: float(_python(code))


def _python(code: str) -> str:
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return found.stdout


def _sum_mb(processes: list[dict[str, int]]) -> dict[str, float]:
    return {kind: sum(process[kind] for process in processes) / 1e6 for kind in ("resident", "own")}


def _import_line(figures: dict[str, Any]) -> str:
    times = ", ".join(f"{case} {values['median']:.0f} ms" for case, values in figures["import_ms"].items())
    return f"import: {times}; the client loads {figures['client_modules']} modules"


def _server_line(name: str, figures: dict[str, Any]) -> str:
    used = ", ".join(
        f"{process} {mb['resident']:.0f} ({mb['own']:.0f})" for process, mb in figures["memory_mb"].items()
    )
    return (
        f"{name}: ready in {figures['ready_s']['median']:.2f} s, first answer {figures['first_answer_ms']['median']:.0f} ms; "
        f"MB resident (own): {used}"
    )
