"""The page stands alone, parses, escapes what it shows, and shows the knee; a run survives its file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from loadtests import report, run_file, soak
from loadtests.__main__ import main
from loadtests.metrics import DEFINITIONS
from loadtests.resources import Sample
from loadtests.run_file import RunFile
from tests.loadtests.traces import ladder, trace


def run() -> RunFile:
    """Answers of 0.14 s at 1 and 2 users; at 4 twice as long for little more."""
    return ladder(
        (1, tuple(trace(0.2 * n) for n in range(40))),
        (2, tuple(trace(0.1 * n) for n in range(80))),
        (
            4,
            (
                *(trace(0.1 * n, ttft=0.9) for n in range(85)),
                trace(1.0, None, (), "rejected", "Over<loaded>"),
            ),
        ),
    )


def parsed(page: str) -> ElementTree.Element:
    """The page as XML (it is written so that both kinds of parser take it)."""
    return ElementTree.fromstring(page.removeprefix("<!doctype html>\n"))


def test_the_page_needs_nothing_else_and_parses() -> None:
    page = report.html(run())
    assert not re.search(r"https?://|src=|href=|@import|url\(|<script", page)
    root = parsed(page)
    assert len(root.findall(".//svg")) == 6
    assert len(root.findall(".//tbody/tr")) == 3
    assert "Over<loaded>" in "".join(root.itertext())


def test_the_knee_is_marked_at_its_load() -> None:
    page = report.html(run())
    labels = [node.text for node in parsed(page).iter("text") if (node.text or "").startswith("knee")]
    assert labels == ["knee 2"] * 6
    assert "knee: users=2" in report.text(run())


def test_a_late_generator_is_named() -> None:
    late = ladder((1, (trace(1.0), trace(2.0, ttft=0.5, late=0.3))))
    for shown in (report.text(late), report.html(late)):
        assert "users=1: the generator was late (send lag p99 300 ms)" in shown
    assert "was late" not in report.text(run())


def test_every_definition_is_printed_with_the_figures() -> None:
    text, page = report.text(run()), "".join(parsed(report.html(run())).itertext())
    for name, meaning in DEFINITIONS.items():
        assert f"{name}: {meaning}" in text
        assert meaning in page


def test_a_run_survives_its_file_and_the_report_command_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = replace(run(), checks={"nothing hangs": (True, "0")}, extra={"x": [1.5]})
    path = tmp_path / "run.json"
    checked.write(path)
    assert run_file.read(path) == checked
    assert main(["report", str(path)]) == 0
    assert "knee: users=2" in capsys.readouterr().out
    assert (tmp_path / "report.html").read_text() == report.html(checked)
    assert main(["report", str(path), "--figures", str(tmp_path / "small.json")]) == 0
    small = json.loads((tmp_path / "small.json").read_text())
    assert small["stages"][1]["figures"]["complete"] == 80
    assert "traces" not in small["stages"][1]


def test_the_capacity_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run().write(tmp_path / "run.json")
    assert main(["capacity", str(tmp_path / "run.json"), "--think", "10s", "--users", "1000"]) == 0
    told = capsys.readouterr().out
    assert "X * (R + Z)" in told
    assert "does not hold: complete 98.8 % < 99 %" in told
    assert main(["capacity", str(tmp_path / "run.json"), "--slo", "ttft_p95=1ms"]) == 1
    assert main(["capacity", str(tmp_path / "run.json"), "--slo", "fast"]) == 2
    assert "slo: got 'fast'; allowed" in capsys.readouterr().err


def test_a_file_that_is_no_run_is_told(tmp_path: Path) -> None:
    for text in ("{}", "[", '{"version": 99}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ValueError, match="got no run of"):
            run_file.read(tmp_path / "run.json")


def test_a_soaks_series_are_drawn() -> None:
    samples = [
        Sample(
            float(n),
            {"tritonserver 1": 100 << 20},
            {"tritonserver 1": 30},
            1 << 20,
            {"qwen3vl_kv_blocks_in_use": 3.0},
        )
        for n in range(20)
    ]
    plan = RunFile(
        "soak",
        "users",
        ("a:1",),
        "mixed",
        1,
        0.0,
        run().slo,
        "",
        run().stages[:1],
        {},
        soak.figures(samples, samples[-1]),
    )
    assert len(parsed(report.html(plan)).findall(".//svg")) == 4
