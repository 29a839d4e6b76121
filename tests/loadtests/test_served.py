"""Load on real servers of the demo checkpoint: a short ladder, cancels counted right, rejections by cause."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from loadtests.scenarios import CANCEL_AFTER_CHUNKS
from tests.loadtests.command import play
from tests.server.conftest import grpc_url, metrics_url, server  # noqa: F401 (fixtures)
from tests.server.test_many_requests import until_zero
from tests.server.triton import serving

pytestmark = pytest.mark.server


def test_a_short_ladder_of_every_scenario(grpc_url: str, tmp_path: Path) -> None:  # noqa: F811
    words = ("run", "--target", grpc_url, "--scenario", "mixed", "--ladder", "users=1,6", "--duration", "2s")
    code, run, told = play(tmp_path, *words)
    assert code == 0, told
    assert run.knee() is not None
    traces = [trace for stage in run.stages for trace in stage.traces]
    assert {trace.outcome for trace in traces} <= {"complete", "cancelled"}, told
    assert all(trace.tokens > 0 and trace.ttft_s for trace in traces)
    assert all(trace.prompt_tokens > 0 for trace in traces if trace.outcome == "complete")
    # More than one user at once: somebody began while another one's answer was under way.
    ordered = sorted(run.stages[1].traces, key=lambda trace: trace.sent_s)
    assert any(b.sent_s < a.end_s for a, b in itertools.pairwise(ordered))


def test_cancelled_streams_are_counted_and_end_on_the_server(
    grpc_url: str,  # noqa: F811
    metrics_url: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    words = (
        "run",
        "--target",
        grpc_url,
        "--scenario",
        "cancel-half",
        "--ladder",
        "users=4",
        "--duration",
        "2s",
    )
    code, run, told = play(tmp_path, *words)
    assert code == 0, told
    (figures,) = run.summaries()
    assert figures.cancelled > 0
    assert figures.complete > 0
    assert (figures.rejected, figures.failed) == ({}, {})
    left = [trace for trace in run.stages[0].traces if trace.outcome == "cancelled"]
    assert {len(trace.gaps_s) for trace in left} == {CANCEL_AFTER_CHUNKS - 1}
    assert until_zero(metrics_url, "qwen3vl_kv_blocks_in_use") == 0


def test_a_full_server_rejects_by_name_and_recovers(demo_engines: Path, tmp_path: Path) -> None:
    with serving(demo_engines, arguments=("--set", "max_inflight=2")) as full:
        words = (
            "run",
            "--target",
            full.grpc_url,
            "--scenario",
            "one-image",
            "--ladder",
            "users=12",
            "--duration",
            "2s",
        )
        code, run, told = play(tmp_path / "full", *words)
        (figures,) = run.summaries()
        assert code == 0, told
        assert set(figures.rejected) == {"Overloaded"}
        assert figures.failed == {}
        assert figures.aborted == 0
        assert figures.complete > 0
        assert f"{figures.rejected['Overloaded']} Overloaded" in told
        words = (*words[:-3], "users=1", "--duration", "1s")
        code, run, told = play(tmp_path / "after", *words)
        assert code == 0
        assert run.summaries()[0].rejected == {}, told


def test_nobody_at_the_target_is_an_exit_code(tmp_path: Path) -> None:
    words = (
        "run",
        "--target",
        "127.0.0.1:9",
        "--scenario",
        "text-only",
        "--ladder",
        "rate=10",
        "--duration",
        "1s",
    )
    code, run, _ = play(tmp_path, *words)
    assert code == 1
    assert set(run.summaries()[0].rejected) == {"Unreachable"}
