"""Fitting: against a known truth, an independent optimum, and sets that teach nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.confidence import Calibration, calibrate, measures
from gateway.confidence.calibration import PRIOR, SIGNALS, _inputs
from gateway.errors import InvalidInput, NotFound
from gateway.records import Signals

SHARE = st.floats(0, 1)
SHIPPED = Path(calibrate.__file__).parent


def drawn(count: int, truth: Calibration, seed: int = 0) -> tuple[list[Signals], list[bool]]:
    rng = np.random.default_rng(seed)
    signals = [Signals(*map(float, row)) for row in rng.uniform(0.05, 0.999, (count, 4))]
    return signals, [bool(rng.random() < truth.confidence(one)) for one in signals]


def test_a_known_truth_is_found_again() -> None:
    truth = Calibration(-2.0, (0.5, 1.0, 2.0, 1.5))
    fitted = Calibration.fit(*drawn(20_000, truth), penalty=1e-3)
    np.testing.assert_allclose((fitted.intercept, *fitted.weights), (-2.0, 0.5, 1.0, 2.0, 1.5), atol=0.15)
    signals, right = drawn(5_000, truth, seed=1)
    confidence = [fitted.confidence(one) for one in signals]
    assert measures.calibration_error(confidence, right) < 0.03
    assert measures.auc(confidence, right) > 0.75


def test_the_fit_is_where_the_slope_is_zero() -> None:
    signals, right = drawn(300, Calibration(-2.0, (0.5, 1.0, 2.0, 1.5)), seed=3)
    fitted = Calibration.fit(signals, right, penalty=2.0)
    weights = np.array((fitted.intercept, *fitted.weights))
    inputs, pull = _inputs(signals), np.array([2e-3, 2, 2, 2, 2])

    def loss(at: np.ndarray) -> float:
        odds = inputs @ at
        cost = -np.where(right, np.log(1 / (1 + np.exp(-odds))), np.log(1 - 1 / (1 + np.exp(-odds)))).sum()
        return float(cost + 0.5 * (pull * (at - np.array(PRIOR)) ** 2).sum())

    for place in range(5):
        step = np.zeros(5)
        step[place] = 1e-4
        assert loss(weights) <= min(loss(weights + step), loss(weights - step)) + 1e-9


def test_a_signal_that_never_varies_keeps_its_prior_weight() -> None:
    signals, right = drawn(500, Calibration(-2.0, (0.5, 1.0, 2.0, 1.5)))
    fitted = Calibration.fit([replace(one, image_quality=0.0) for one in signals], right)
    assert fitted.weights[2] == pytest.approx(PRIOR[3])


def test_no_weight_is_negative_even_if_the_set_says_so() -> None:
    backwards = Calibration(0.0, (0.5, 0.0, -4.0, 1.0))
    fitted = Calibration.fit(*drawn(4_000, backwards))
    assert fitted.weights[2] == 0.0
    assert min(fitted.weights) >= 0.0


def test_labels_that_a_line_parts_do_not_run_away() -> None:
    signals = [Signals(value, value, value, value) for value in (0.1, 0.2, 0.3, 0.7, 0.8, 0.9)]
    fitted = Calibration.fit(signals, [False] * 3 + [True] * 3)
    assert all(map(math.isfinite, (fitted.intercept, *fitted.weights)))
    assert fitted.confidence(signals[0]) < 0.3 < 0.7 < fitted.confidence(signals[-1])


def test_equal_labels_teach_nothing() -> None:
    with pytest.raises(InvalidInput, match="3 times the same"):
        Calibration.fit([Signals(1, 1, 1, 1)] * 3, [True] * 3)


@pytest.mark.parametrize("profile", ["default", "demo"])
@given(SHARE, SHARE, SHARE, SHARE, st.sampled_from(SIGNALS), SHARE)
def test_better_signals_never_make_an_answer_less_sure(
    profile: str, a: float, b: float, c: float, d: float, name: str, more: float
) -> None:
    calibration = Calibration.load(profile)
    signals = Signals(a, b, c, d)
    better = replace(signals, **{name: max(more, getattr(signals, name))})
    assert 0.0 <= calibration.confidence(signals) <= calibration.confidence(better) <= 1.0


def test_values_that_are_no_share_count_as_the_nearest() -> None:
    calibration = Calibration.load("default")
    assert calibration.confidence(Signals(math.nan, -1.0, 2.0, 1.0)) == calibration.confidence(
        Signals(0, 0, 1, 1)
    )


@pytest.mark.parametrize(("profile", "good", "bad"), [("default", 0.98, 0.5), ("demo", 0.9999, 0.99)])
def test_shipped_calibrations_tell_good_from_bad(profile: str, good: float, bad: float) -> None:
    calibration = Calibration.load(profile)
    assert calibration.origin
    assert calibration.confidence(Signals(good, 0.5, 1.0, 0.9)) > 0.8
    assert calibration.confidence(Signals(bad, 0.0, 0.0, 0.0)) < 0.3


def test_the_demos_calibration_is_what_its_labelled_set_gives() -> None:
    labelled = calibrate.read(SHIPPED / "demo.jsonl")
    fitted = Calibration.fit([one.signals for one in labelled], [one.right for one in labelled])
    shipped = Calibration.read(SHIPPED / "demo.json")
    np.testing.assert_allclose(
        (shipped.intercept, *shipped.weights), (fitted.intercept, *fitted.weights), atol=1e-5
    )
    confidence = calibrate.held_out(labelled, 1.0)
    right = [one.right for one in labelled]
    assert len(labelled) >= 400
    assert measures.brier(confidence, right) < 0.2
    assert measures.calibration_error(confidence, right) < 0.1
    assert measures.auc(confidence, right) > 0.75
    assert (SHIPPED / "demo.svg").read_text().startswith("<svg")


def test_files_are_read_as_written_and_wrong_ones_refused(tmp_path: Path) -> None:
    calibration = Calibration(-1.25, (0.5, 0.0, 2.0, 1.0), "a test")
    calibration.write(tmp_path / "c.json")
    assert Calibration.read(tmp_path / "c.json") == calibration
    values = json.loads((tmp_path / "c.json").read_text())
    for wrong in ({"intercept": "x"}, {"weights": {}}, {"weights": {**values["weights"], SIGNALS[0]: -1}}):
        (tmp_path / "w.json").write_text(json.dumps({**values, **wrong}))
        with pytest.raises(InvalidInput, match=r"w\.json"):
            Calibration.read(tmp_path / "w.json")
    profile = tmp_path / "p.yaml"
    profile.write_text(f"extends: default\ncalibration: {tmp_path}/none.json\n")
    with pytest.raises(NotFound, match="calibrate"):
        Calibration.load(str(profile))


def test_measures_against_values_worked_out_by_hand() -> None:
    sure, right = [0.9, 0.8, 0.6, 0.2], [True, False, True, False]
    assert measures.brier(sure, right) == pytest.approx((0.01 + 0.64 + 0.16 + 0.04) / 4)
    assert measures.auc(sure, right) == 0.75
    assert measures.auc([0.5, 0.5], [True, False]) == 0.5
    assert math.isnan(measures.auc([0.5], [True]))
    assert measures.calibration_error(sure, right, 2) == pytest.approx((abs(0.85 - 0.5) + abs(0.4 - 0.5)) / 2)
    assert measures.choose(sure, right, 0.6) == measures.Choice(0.6, pytest.approx(2 / 3), 0.75)
    assert measures.choose([0.9, 0.1], [False, True], 0.9) is None
    assert measures.at(sure, right, 0.95) == measures.Choice(0.95, 1.0, 0.0)


@given(st.lists(st.tuples(SHARE, st.booleans()), min_size=1, max_size=50))
def test_measures_stay_in_their_range(pairs: list[tuple[float, bool]]) -> None:
    sure, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert 0 <= measures.brier(sure, right) <= 1
    assert 0 <= measures.calibration_error(sure, right) <= 1
    assert sum(part.count for part in measures.bins(sure, right)) == len(pairs)
    if (choice := measures.choose(sure, right, 0.9)) is not None:
        assert measures.at(sure, right, choice.threshold) == choice
        assert choice.precision >= 0.9


def written(path: Path, count: int = 200) -> Path:
    signals, right = drawn(count, Calibration(-2.0, (0.5, 1.0, 2.0, 1.5)))
    rows = [
        {"right": good, "scene": ("after_sales", "education")[place % 2], "signals": vars(one)}
        for place, (one, good) in enumerate(zip(signals, right, strict=True))
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + "\n")
    return path


def test_the_command_fits_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "fitted.json"
    code = calibrate.main(
        [str(written(tmp_path / "set.jsonl")), "--output", str(output), "--precision", "0.7", "0.9999"]
    )
    out = capsys.readouterr().out
    figures = json.loads(out.splitlines()[-1])
    assert code == 0
    assert figures["answers"] == 200
    assert figures["brier"] < figures["brier_of_base_rate"]
    assert figures["auc"] > 0.7
    assert set(figures["thresholds"]) == {"all", "after_sales", "education"}
    assert 0 < figures["thresholds"]["all"]["0.7"] < 1
    assert "200 answers of set.jsonl" in Calibration.read(output).origin
    curve = (tmp_path / "fitted.svg").read_text()
    assert curve.startswith("<svg")
    assert curve.count("<circle") == 10
    assert "http" not in curve.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "line 2"),
        ('{"right": 1, "signals": {}}', "line 2"),
        (json.dumps({"right": "yes", "signals": dict.fromkeys(SIGNALS, 1)}), "right: true or false"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named(
    line: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(f"\n{line}\n")
    assert calibrate.main([str(path), "--output", str(tmp_path / "o.json")]) == 1
    assert what in capsys.readouterr().err
    path.write_text("\n")
    assert calibrate.main([str(path), "--output", str(tmp_path / "o.json")]) == 1
    assert "no lines" in capsys.readouterr().err
