"""The language model's benchmark, end to end at a tiny shape: what it prints, and what makes it fail."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from build_engine.checkpoint import Checkpoint
from ensemble.language_model.batch import Batch
from loadtests import bench
from loadtests.benchmarks import decoders, language_model, results, shapes
from loadtests.benchmarks.decoders import ServingEngine, TransformersModel, Work
from loadtests.benchmarks.machine import Calibration
from tests.fakes import FakeLanguageModel
from tests.fakes import manifest as fake_manifest

TINY = [
    "language-model",
    "--shape",
    "tiny",
    "--rounds",
    "2",
    "--steps",
    "2",
    "--sequences",
    "1,3",
    "--weights",
    "int8",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(autouse=True)
def _own_places(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "cache_directory", lambda: cache)
    monkeypatch.setattr(results.publish, "__defaults__", (tmp_path / "results",))
    monkeypatch.setattr("loadtests.benchmarks.machine.calibrate", lambda: Calibration(1e10, 1e12, 1e11))


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    printed: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return printed


def test_a_run_prints_and_saves_consistent_figures(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert bench.main([*TINY, "--onnxruntime", "--save"]) == 0
    printed = last_line(capsys)
    assert json.loads((tmp_path / "results" / "language-model-tiny.json").read_text()) == printed
    assert set(printed["figures"]) == {
        "decode_1", "decode_3", "prefill_512", "prefill_mix", "overhead_us", "calibration", "transformers_dtype",
    }  # fmt: skip
    for metric in ("decode_1", "decode_3", "prefill_512", "prefill_mix"):
        ours, theirs = printed["figures"][metric]["int8"], printed["figures"][metric]["transformers"]
        rounds = [a / b for a, b in zip(ours["values"], theirs["values"], strict=True)]
        assert len(rounds) == 2
        assert ours["ratio_to_transformers"] == pytest.approx(median(rounds))
        assert ours["median"] == median(ours["values"])
        assert ours["roofline_share"] > 0
    assert printed["figures"]["decode_3"][language_model.PEER]["roofline_share"] > 0
    assert set(printed["figures"]["overhead_us"]) == {"int8"}
    assert printed["figures"]["overhead_us"]["int8"]["greedy"] > 0
    assert printed["command"].endswith("--save")
    assert printed["definitions"]["prefill_512"]


def test_a_label_keeps_files_apart(tmp_path: Path) -> None:
    assert bench.main([*TINY, "--label", "again", "--save"]) == 0
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["language-model-tiny-again.json"]


def test_scale_reports_the_cost_of_a_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model, "_SCALE", (10, 20))
    monkeypatch.setattr(language_model, "_ANSWERED", 20)
    assert bench.main([*TINY, "--scale"]) == 0
    figures = last_line(capsys)["figures"]
    cost = figures["cost_per_request_ms"]
    rounds = [a / b for a, b in zip(cost["20"]["values"], cost["10"]["values"], strict=True)]
    assert cost["20"]["ratio_to_10"] == pytest.approx(median(rounds))


def test_a_case_that_fails_saves_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(self: TransformersModel, lengths: Sequence[int]) -> float:
        if len(lengths) > 1:
            raise RuntimeError("out of memory")
        return 1.0

    monkeypatch.setattr(TransformersModel, "prefill", broken)
    assert bench.main([*TINY, "--save"]) == 1
    told = capsys.readouterr()
    assert "case 'transformers' failed in round 0" in told.err
    assert not (tmp_path / "results").exists()
    assert not told.out.splitlines()[-1].startswith("{")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [(["--weights", "int8,int3"], "int3"), (["--sequences", "0"], "1 to 16"), (["--shape", "70b"], "70b"),
     (["--rounds", "0"], "at least 1")],
)  # fmt: skip
def test_a_wrong_option_is_named(wrong: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        language_model.main(wrong)
    assert told in capsys.readouterr().err


def engine(model: FakeLanguageModel) -> ServingEngine:
    serving = object.__new__(ServingEngine)
    serving.manifest, serving.reuse = fake_manifest(), False
    serving.manifest = replace(serving.manifest, text=replace(serving.manifest.text, inv_freq=(1.0, 0.5)))
    serving.model = decoders.Stopwatch(model)
    serving._random = np.random.default_rng(0)
    return serving


@pytest.mark.parametrize("sequences", [1, 2, 3])
def test_only_steps_in_which_every_sequence_decoded_are_counted(
    sequences: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that advances a second per forward, and a little whenever it is read: no two tokens of a step arrive at once."""
    now = [0.0]

    def read() -> float:
        now[0] += 1e-4
        return now[0]

    monkeypatch.setattr("loadtests.benchmarks.decoders.time.perf_counter", read)

    class Slow(FakeLanguageModel):
        def forward(self, batch: Batch) -> Any:
            now[0] += 1
            return super().forward(batch)

    # 64 tokens fit a step: the last prompt's first token comes late, and the first sequence ends first.
    measured = engine(Slow(64)).steps(sequences, 10)
    assert measured.count == 10
    assert measured.tokens == sequences * 10
    assert measured.forward_seconds == pytest.approx(10, rel=0.01)
    assert measured.seconds == pytest.approx(10, rel=0.01)
    assert measured.seconds > measured.forward_seconds


def test_sequences_that_never_decode_together_are_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="2 sequences decoded together in 1 steps"):
        engine(FakeLanguageModel(64)).steps(2, 0)


def test_a_failed_request_is_no_measurement() -> None:
    model = FakeLanguageModel(64)
    model.fail_next = OSError("broken")
    with pytest.raises(RuntimeError, match="1 of 1 requests failed"):
        engine(model).decode(1, 2)


def test_the_first_step_sees_every_prompt() -> None:
    """As a peer's does. A prompt that was a step ahead of the others would cost a step of its own, or not, by luck."""
    model = FakeLanguageModel(64)
    for _ in range(20):
        engine(model).prefill((3, 5, 7))
    assert model.steps == [[1], [3, 5, 7]] * 20


def test_a_refused_prompt_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="1 of 2 requests failed"):
        engine(FakeLanguageModel(64)).prefill((5, 10_000))


def test_the_roofline_is_the_lower_of_memory_and_arithmetic() -> None:
    text = fake_manifest().text  # hidden 4, 2 layers, 2 query heads, 1 key head of 4, vocabulary 97
    work = Work.of(text, 10, bits=8, head_bits=16, kv_bytes=1)
    body = 2 * 4 * (2 * 8 + 2 * 4 + 3 * 10)
    assert (work.body_parameters, work.head_parameters) == (body, 4 * 97)
    assert work.weight_bytes == body + 2 * 4 * 97
    assert work.kv_bytes_per_token == 2 * 4 * 2
    slow_memory = Calibration(read_bytes_per_s=1000, bf16_flops=1e9, f32_flops=1)
    assert work.decode_limit(2, slow_memory) == 2 * 1000 / (work.weight_bytes + 2 * 64 * 16)
    slow_products = Calibration(read_bytes_per_s=1e12, bf16_flops=1000, f32_flops=1)
    assert work.decode_limit(2, slow_products) == 1000 / (2 * (body + 4 * 97))
    assert work.prefill_limit(slow_products) == 1000 / (2 * body)
    without_bfloat16 = Calibration(read_bytes_per_s=1e12, bf16_flops=1, f32_flops=1000)
    assert work.prefill_limit(without_bfloat16) == 1000 / (2 * body)


@pytest.mark.parametrize(("f32_flops", "dtype"), [(9.0, "bfloat16"), (11.0, "float32")])
def test_transformers_computes_in_what_the_processor_multiplies_faster(
    f32_flops: float, dtype: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model.machine, "calibrate", lambda: Calibration(1.0, 10.0, f32_flops))
    assert bench.main(TINY) == 0
    figures = last_line(capsys)["figures"]
    assert figures["transformers_dtype"] == dtype


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_transformers_computes_in_what_it_is_told_to(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([*TINY, "--transformers", dtype]) == 0
    assert last_line(capsys)["figures"]["transformers_dtype"] == dtype


def test_a_random_checkpoint_is_the_same_again_and_has_the_shape(tmp_path: Path) -> None:
    first, second = (shapes.checkpoint("tiny", 3, tmp_path / name) for name in ("a", "b"))
    other = shapes.checkpoint("tiny", 4, tmp_path / "a")
    weights = [(path / "model.safetensors").read_bytes() for path in (first, second, other)]
    assert weights[0] == weights[1] != weights[2]
    read = Checkpoint.read(first)
    assert (read.text.hidden_size, read.text.num_hidden_layers, read.text.vocab_size) == (64, 2, 2048)


def test_an_unknown_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"'7b'; one of demo, 2b, 0.6b, tiny"):
        shapes.checkpoint("7b")
