"""Arithmetic and order of interleaved rounds, and what ends a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtests import bench
from loadtests.benchmarks import results
from loadtests.benchmarks.machine import Calibration, calibrate, describe
from loadtests.benchmarks.results import Result, publish
from loadtests.benchmarks.rounds import CaseFailed, Rounds, Sample, run


def replay(*values: float) -> Callable[[], float]:
    left = list(values)
    return lambda: left.pop(0)


def test_medians_and_ratios_are_those_worked_out_by_hand() -> None:
    made = run({"a": replay(2, 10, 12), "b": replay(1, 2, 12)}, 3)
    assert made.values("a") == [2, 10, 12]
    assert made.median("a") == 10
    assert made.median("b") == 2
    assert made.ratio_of_medians("a", "b") == 5
    assert made.ratio("a", "b") == 2  # of 2/1, 10/2, 12/12
    assert made.ratio_range("a", "b") == (1, 5)


def test_json_names_every_figure() -> None:
    figures = run({"a": replay(2, 10, 12), "b": replay(1, 2, 12)}, 3).plain("b")
    assert figures["b"] == {"median": 2, "min": 1, "max": 12, "values": [1, 2, 12]}
    assert figures["a"]["ratio_to_b"] == 2
    assert figures["a"]["ratio_of_medians_to_b"] == 5
    assert (figures["a"]["ratio_to_b_min"], figures["a"]["ratio_to_b_max"]) == (1, 5)


def test_cases_take_turns_and_none_always_comes_first() -> None:
    order: list[str] = []

    def case(name: str) -> Callable[[], float]:
        def once() -> float:
            order.append(name)
            return 1

        return once

    made = run({name: case(name) for name in "abc"}, 3)
    assert order == list("abc" + "bca" + "cab")
    assert made.cases == ["a", "b", "c"]


def test_each_sample_carries_the_mean_of_the_calibrations_around_it() -> None:
    given = iter(Calibration(rate, 10 * rate, 100 * rate) for rate in (1.0, 3.0, 5.0))
    made = run({"a": replay(1, 8)}, 2, lambda: next(given))
    assert [sample.calibration for sample in made.samples] == [
        Calibration(2, 20, 200),
        Calibration(4, 40, 400),
    ]
    assert made.share("a", lambda calibration: calibration.read_bytes_per_s) == (1 / 2 + 8 / 4) / 2
    assert made.calibration()["f32_flops"] == {"median": 300, "min": 200, "max": 400}


def test_without_calibration_there_is_no_share() -> None:
    made = Rounds((Sample("a", 0, 1.0),))
    assert made.share("a", lambda _: 1.0) is None
    assert made.calibration() == {}


def test_a_case_that_raises_ends_the_run_and_is_named() -> None:
    def broken() -> float:
        raise OSError("disk full")

    with pytest.raises(CaseFailed, match=r"case 'b' failed in round 0: OSError\('disk full'\)"):
        run({"a": replay(1, 1), "b": broken}, 2)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_case_that_measured_nothing_ends_the_run(value: float) -> None:
    with pytest.raises(CaseFailed, match="more than 0 is allowed"):
        run({"a": replay(value)}, 1)


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 of each"):
        run({}, 1)
    with pytest.raises(ValueError, match="at least 1 of each"):
        run({"a": replay(1)}, 0)


def test_a_case_that_did_not_run_is_named() -> None:
    with pytest.raises(KeyError, match="case 'c' did not run; these did: a"):
        run({"a": replay(1)}, 1).values("c")


def test_the_machine_is_named_and_measured() -> None:
    assert describe().cpu
    assert describe().cores >= 1
    assert describe().memory_bytes > 1 << 28
    given = calibrate()
    assert min(given.read_bytes_per_s, given.bf16_flops, given.f32_flops) > 1e6


RESULT = Result(
    "some-name", "python -m loadtests.bench some-name", 7, {"metric": "what it is"}, {"ratio": 2.5}
)


def test_the_last_line_is_the_json_that_is_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(RESULT, True, tmp_path / "results")
    lines = capsys.readouterr().out.splitlines()
    printed = json.loads(lines[-1])
    assert printed == json.loads((tmp_path / "results" / "some-name.json").read_text())
    assert printed["figures"] == {"ratio": 2.5}
    assert printed["seed"] == 7
    assert printed["machine"]["cpu"] == describe().cpu
    assert printed["versions"]["numpy"]
    assert "metric: what it is" in lines


def test_nothing_is_written_unless_asked(tmp_path: Path) -> None:
    publish(RESULT, False, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_packages_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "PACKAGES", ("numpy", "no-such-package"))
    assert list(results.versions()) == ["numpy"]


def test_an_unknown_benchmark_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["languagemodel"]) == 2
    told = capsys.readouterr().err
    assert "'languagemodel'" in told
    assert all(name in told for name in bench.BENCHMARKS)


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--help"]) == 0
    assert "language-model" in capsys.readouterr().out
