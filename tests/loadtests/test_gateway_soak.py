"""The soak of the gateway: what it calls a leak, and that a real stack under load has none but the one that was planted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtests.gateway_soak.holdings import Held, Sample
from loadtests.gateway_soak.verdict import WARM_S, growth, judge, series
from tests.server.triton import alive
from tests.waiting import until

ROOT = Path(__file__).parents[2]
MB = 1_000_000


def sample(at_s: float, resident: float = 200 * MB, part: str = "gateway", **more: Any) -> Sample:
    others = {name: Held(1, 100 * MB, 20, 8) for name in ("triton", "broker", "cache", "worker", "gateway")}
    parts = others | {part: replace(others[part], resident=round(resident))}
    fields: dict[str, Any] = dict.fromkeys(Sample.__dataclass_fields__, 0) | {"at_s": at_s, "parts": parts}
    return Sample(**(fields | more))


def run(make: Callable[[float], Sample], length_s: float = 2 * WARM_S) -> list[Sample]:
    """50 samples; `make` is given the share of the run that is over."""
    return [replace(make(number / 50), at_s=length_s * number / 50) for number in range(1, 51)]


def failing(samples: list[Sample], end: Sample | None = None, **more: Any) -> set[str]:
    given: dict[str, Any] = {"failures": [], "left": [], "code": 0} | more
    checks = judge(samples, end or samples[-1], **given)
    return {name for name, (holds, _) in checks.items() if not holds}


def test_a_steady_run_passes() -> None:
    assert failing(run(lambda _: sample(0))) == set()


def test_what_fills_first_and_then_stays_is_no_leak() -> None:
    """As allocators and caches do."""
    assert failing(run(lambda over: sample(0, 100 * MB + 900 * MB * min(over, 0.19)))) == set()


def test_memory_that_grows_on_and_on_is_a_leak_of_that_part() -> None:
    samples = run(lambda over: sample(0, (100 + 60 * over) * MB, "worker"))
    assert failing(samples) == {"worker: memory stays"}
    found = growth(samples)
    assert found["worker"]["mb_per_hour"] == pytest.approx(60 * 3600 / (2 * WARM_S), rel=0.01)
    assert found["gateway"]["mb_per_hour"] == 0


@pytest.mark.parametrize("part", ["broker", "cache"])
def test_memory_that_is_a_parts_work_is_told_and_not_judged(part: str) -> None:
    samples = run(lambda over: sample(0, (10 + 90 * over) * MB, part))
    assert failing(samples) == set()
    assert growth(samples)[part]["last_fifth_mb"] > 80


def test_tritons_vision_cache_is_not_a_leak() -> None:
    assert (
        failing(run(lambda over: sample(0, (500 + 400 * over) * MB, "triton", vision_cache=400 * over * MB)))
        == set()
    )


def test_a_short_run_judges_no_growth() -> None:
    assert failing(run(lambda over: sample(0, (100 + 900 * over) * MB), WARM_S / 2)) == set()


def test_every_other_kind_of_leak_has_its_check() -> None:
    steady = run(lambda _: sample(0))
    more = Held(1, 100 * MB, 29, 8)
    assert failing(
        [*steady[:40], *(replace(s, parts={**s.parts, "gateway": more}) for s in steady[40:])]
    ) == {"gateway: descriptors stay"}
    assert failing([*steady[:40], *(replace(s, temporary=9) for s in steady[40:])]) == {
        "temporary files stay"
    }
    assert failing([*steady[:40], *(replace(s, shared_bytes=20 * MB) for s in steady[40:])]) == {
        "shared memory stays"
    }
    gone = replace(steady[20], parts={**steady[20].parts, "worker": Held(0, 0, 0, 0)})
    assert failing([*steady[:20], gone, *steady[21:]]) == {"worker lives"}
    assert failing(steady, replace(steady[-1], unreferenced=1)) == {"every object has a row"}
    assert failing(steady, replace(steady[-1], missing=1)) == {"every row has its object"}
    assert failing(steady, replace(steady[-1], unfinished=1)) == {"no half objects"}
    assert failing(steady, failures=["chat: 500"]) == {"every request led to what it must"}
    assert failing(steady, left=["qwen3vl-serve-1-a"]) == {"nothing is left in shared memory"}
    assert failing(steady, code=1) == {"the stack ends well"}


def test_series_have_one_value_for_each_look() -> None:
    found = series(run(lambda _: sample(0)))
    assert {len(values) for values in found.values()} == {50}
    assert found["gateway MB"] == [200.0] * 50


@pytest.mark.server
def test_a_planted_leak_is_all_that_a_real_stack_leaks(demo_engines: Path, tmp_path: Path) -> None:
    state, output = tmp_path / "state", tmp_path / "soak.json"
    command = [sys.executable, "-m", "loadtests.gateway_soak", "--minutes", "0.15", "--pause", "0.2"]
    command += ["--engines", str(demo_engines), "--state", str(state), "--output", str(output)]
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        soak = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err)
    try:
        until(lambda: (state / "ready.json").exists() or soak.poll() is not None, 120)
        leaked = state / "objects" / ("a" * 32) / "bb" / ("b" * 32)
        leaked.parent.mkdir(parents=True)
        leaked.write_bytes(b"nobody refers to this")
        code = soak.wait(120)
    finally:
        soak.terminate()
        soak.wait(60)
    errors = (tmp_path / "err").read_text()
    assert code == 1, errors
    found = json.loads((tmp_path / "out").read_text().splitlines()[-1])
    assert found == json.loads(output.read_text())
    failed = {name for name, check in found["checks"].items() if not check["holds"]}
    assert failed == {"every object has a row"}, found["checks"]
    assert found["failures"]["count"] == 0
    assert sum(found["requests"].values()) >= 5
    assert found["end"]["objects"] > 1
    assert all(min(found["series"][f"{part} MB"]) > 1 for part in found["growth"])
    pids = json.loads((state / "ready.json").read_text())["pids"]
    assert [name for name, pid in pids.items() if alive(pid)] == []


def test_a_stack_that_does_not_start_is_said(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtests.gateway_soak", "--engines", str(tmp_path), "--minutes", "0.1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--engines: got" in done.stderr
