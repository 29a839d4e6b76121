"""The start-up benchmark runs against a real server, and refuses a client that is not light."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests.benchmarks import startup
from loadtests.benchmarks.served import MODELS, NotReady, serving


@pytest.mark.server
def test_it_runs_and_its_last_line_is_json(demo_engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert startup.main(["--engines", str(demo_engines), "--rounds", "1"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    served = figures[demo_engines.name]
    assert served["ready_s"]["median"] > 0
    assert {*MODELS, "tritonserver", "supervisor"} == set(served["memory_mb"])
    assert all(mb["resident"] >= mb["own"] > 0 for mb in served["memory_mb"].values())
    assert set(figures["client"]["import_ms"]) == set(startup.IMPORTS)


def test_a_heavy_client_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "HEAVY", ("torch", "grpc"))
    with pytest.raises(startup.HeavyClient, match="grpc"):
        startup.measure_imports(1)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="cannot serve"), serving(tmp_path):
        pass
