"""The report of the hardware checklist: lines, files, and that nothing that failed looks like a pass."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.report import FAIL, PASS, SKIP, Report, machine, markdown

ROOT = Path(__file__).parents[2]


def filled() -> Report:
    report = Report()
    with report.line(3, "long answer", "tensorrt-llm") as figures:
        figures["mean error"] = 0.0123456
        figures["table"] = [{"at once": 1, "tokens/s": 211.5}, {"at once": 4, "tokens/s": 700.0}]
    with pytest.raises(AssertionError), report.line(4, "unequal", "tensorrt-llm") as figures:
        figures["mean error"] = 7.5
        raise AssertionError("the first line\nthe second line")
    with pytest.raises(pytest.skip.Exception), report.line(5, "chunks", "tensorrt-llm"):
        pytest.skip("no chunks here")
    return report


def test_outcomes_are_kept_printed_and_raised_again(capsys: pytest.CaptureFixture[str]) -> None:
    report = filled()
    assert [(line.number, line.outcome) for line in report.lines] == [(3, PASS), (4, FAIL), (5, SKIP)]
    shown = [line for line in capsys.readouterr().out.splitlines() if line]
    assert shown[0].startswith("PASS  3 long answer [tensorrt-llm]")
    assert "mean error 0.01235" in shown[0]
    assert shown[1].endswith("AssertionError: the first line"), "figures and the reason's first line"
    assert shown[2].endswith("no chunks here")


def test_a_keyboard_interrupt_is_no_pass() -> None:
    report = Report()
    with pytest.raises(KeyboardInterrupt), report.line(1, "build", "tensorrt-llm"):
        raise KeyboardInterrupt
    assert report.lines[0].outcome == FAIL


def test_both_files_hold_every_line_the_machine_and_the_reasons(tmp_path: Path) -> None:
    report = filled()
    text, data = (
        file.read_text()
        for file in report.write(tmp_path / "new", {"gpu": "NVIDIA H100, 590.44.01", "pipe": "a|b"})
    )
    assert "1 passed, 1 failed, 1 skipped" in text
    assert "| gpu | NVIDIA H100, 590.44.01 |" in text
    assert "a\\|b" in text, "a bar would end the cell"
    assert "| at once | tokens/s |\n| --- | --- |\n| 1 | 211.5 |\n| 4 | 700 |" in text
    assert "the first line\nthe second line" in text
    plain = json.loads(data)
    assert plain["machine"]["gpu"] == "NVIDIA H100, 590.44.01"
    assert [line["outcome"] for line in plain["lines"]] == [PASS, FAIL, SKIP]
    assert plain["lines"][0]["figures"]["table"][1]["tokens/s"] == 700.0


def test_an_empty_report_says_so() -> None:
    assert "0 passed, 0 failed, 0 skipped" in markdown({}, [])


def test_the_machine_names_versions_gpus_and_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'NVIDIA L4, 590.44.01, 23034 MiB, 8.9'\necho 'NVIDIA L4, 590.44.01, 23034 MiB, 8.9'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    manifest = {
        "target": "tensorrt-llm",
        "weights": "bf16",
        "limits": {},
        "versions": {"tensorrt": "10.14.1.48"},
        "adapters": [],
    }
    (tmp_path / "engine_manifest.json").write_text(json.dumps(manifest))
    facts = machine(tmp_path)
    assert facts["gpu"] == "NVIDIA L4, 590.44.01, 23034 MiB, 8.9; NVIDIA L4, 590.44.01, 23034 MiB, 8.9"
    assert facts["numpy"].startswith("1.")
    assert facts["tensorrt_llm"] == "not installed"
    assert facts["engines"]["versions"] == {"tensorrt": "10.14.1.48"}
    monkeypatch.setenv("PATH", "")
    assert machine()["gpu"] == "no nvidia-smi"


def test_a_gpu_run_without_a_checkpoint_fails_line_by_line_and_is_written_down(tmp_path: Path) -> None:
    """The whole way that `make test-gpu` takes, on a machine that has nothing."""
    environment = {"PATH": "/usr/bin:/bin", "QWEN3VL_REPORT": str(tmp_path), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-q", "-s", "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr
    lines = json.loads((tmp_path / "report.json").read_text())["lines"]
    assert {line["outcome"] for line in lines} == {FAIL}
    assert {line["number"] for line in lines} == set(range(11))
    assert {line["target"] for line in lines} == {"tensorrt-llm", "tensorrt-llm, TRTLLM_FORCE_XQA=1"}
    assert "set QWEN3VL_CHECKPOINT" in done.stdout
    assert (tmp_path / "report.md").is_file()
