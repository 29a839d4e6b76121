"""What `python -m ensemble serve` checks and says before and while it starts; no server runs here."""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from build_engine.manifest import Manifest, sha256
from ensemble import tritonserver
from ensemble.__main__ import changed, main
from ensemble.config import DeploymentConfig
from ensemble.preflight import Ports, check_engines, choose_ports
from ensemble.startup import explain
from ensemble.tritonserver import MissingError
from tests.demo_preprocessor import DEMO, manifest


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    """An engine directory with one file and a true manifest."""
    directory = tmp_path / "engines"
    (directory / "checkpoint").mkdir(parents=True)
    shutil.copy(DEMO / "config.json", directory / "checkpoint")
    write(directory)
    return directory


def write(directory: Path, **changes: object) -> Manifest:
    facts = replace(
        manifest(),
        target="openvino",
        versions={"openvino": metadata.version("openvino")},
        files={"checkpoint/config.json": sha256(directory / "checkpoint" / "config.json")},
    )
    facts = replace(facts, **changes)  # type: ignore[arg-type]
    facts.write(directory)
    return facts


def test_whole_engines_of_this_software_are_accepted(engines: Path) -> None:
    assert check_engines(engines).target == "openvino"


def test_a_directory_without_engines_says_how_to_build_them(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="python -m build_engine"):
        check_engines(tmp_path / "nowhere")


def test_engines_of_another_openvino_name_both_versions(engines: Path) -> None:
    write(engines, versions={"openvino": "2019.1"})
    with pytest.raises(MissingError, match=rf"2019\.1, here is {metadata.version('openvino')}"):
        check_engines(engines)


def test_engines_for_an_unknown_target_are_refused(engines: Path) -> None:
    write(engines, target="onnx")
    with pytest.raises(MissingError, match="'onnx' engines; known are openvino, tensorrt-llm"):
        check_engines(engines)


def test_tensorrt_llm_engines_need_the_version_that_built_them(engines: Path) -> None:
    write(engines, target="tensorrt-llm", versions={"tensorrt_llm": "1.2.1", "tensorrt": "10.14"})
    with pytest.raises(MissingError, match=r"tensorrt_llm 1\.2\.1, here is none"):
        check_engines(engines)


def test_a_changed_file_is_named(engines: Path) -> None:
    (engines / "checkpoint" / "config.json").write_text("{}")
    with pytest.raises(MissingError, match=r"config\.json was changed"):
        check_engines(engines)


def test_engines_of_another_checkpoint_are_refused_when_one_is_named(engines: Path) -> None:
    write(engines, checkpoint_hash="0" * 64)
    with pytest.raises(MissingError, match="another checkpoint"):
        check_engines(engines, DEMO)


def test_a_taken_port_is_named_with_its_option() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MissingError, match=rf"port {port} \(http\).*--http-port"):
            choose_ports("127.0.0.1", Ports(0, port, 0))


def test_free_ports_differ() -> None:
    ports = choose_ports("127.0.0.1", Ports(0, 0, 0))
    assert len({ports.grpc, ports.http, ports.metrics}) == 3
    assert 0 not in (ports.grpc, ports.http, ports.metrics)


def test_the_wheel_s_server_is_found_with_this_interpreter_s_libraries(tmp_path: Path) -> None:
    found = tritonserver.find()
    backends, environment = found.prepare(tmp_path)
    assert (backends / "python" / "triton_python_backend_stub").resolve() == found.stub
    first, second, *_ = environment["LD_LIBRARY_PATH"].split(":")
    assert list(Path(first).glob("libpython3*"))
    assert Path(second) == found.libraries


def test_numpy_2_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    true = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.1.0" if name == "numpy" else true(name))
    with pytest.raises(MissingError, match=r"numpy 2\.1\.0 is installed.*numpy>=1\.26,<2"):
        tritonserver.find()


def test_a_missing_libpython_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tritonserver.sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(tritonserver.sysconfig, "get_config_var", lambda name: str(tmp_path))
    monkeypatch.setattr(tritonserver, "_loader_cache", lambda: [])
    with pytest.raises(
        MissingError, match=r"libpython3\.\d+\.so\.1\.0 is not on this machine.*apt install libpython3"
    ):
        tritonserver.find()


def test_no_tritonserver_says_where_it_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tritonserver, "find_spec", lambda name: None)
    monkeypatch.setattr(tritonserver, "SYSTEM", tmp_path / "opt")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"no tritonserver.*qwen3-vl-triton\[serve\]"):
        tritonserver.find()


def test_a_system_installation_is_used_as_it_is(tmp_path: Path) -> None:
    binary = tmp_path / "bin" / "tritonserver"
    binary.parent.mkdir()
    binary.touch()
    with pytest.raises(MissingError, match="not in a complete Triton installation"):
        tritonserver.find(binary)
    (tmp_path / "backends" / "python").mkdir(parents=True)
    backends, environment = tritonserver.find(binary).prepare(tmp_path)
    assert backends == tmp_path / "backends"
    assert environment["LD_LIBRARY_PATH"].startswith(str(tmp_path / "lib"))


def test_fields_of_the_deployment_are_changed_by_name_and_type() -> None:
    changes = ["max_inflight=3", "kv_cache_reuse=false", "media.max_images=2", "media.max_video_seconds=1.5"]
    config = changed(DeploymentConfig(), changes)
    assert (config.max_inflight, config.kv_cache_reuse) == (3, False)
    assert (config.media.max_images, config.media.max_video_seconds) == (2, 1.5)


@pytest.mark.parametrize(
    "change", ["max_inflights=3", "max_inflight", "max_inflight=many", "kv_cache_reuse=no", None]
)
def test_a_wrong_change_is_refused_with_what_is_allowed(change: str | None) -> None:
    with pytest.raises(ValueError, match=r"(?s)--set.*(max_inflight=64|true or false)"):
        changed(DeploymentConfig(), [change])


@pytest.mark.parametrize("seconds", ["0", "-5", "nan"])
def test_a_silence_that_would_end_every_server_is_refused(
    seconds: str, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--engines", str(engines), "--silence", seconds]) == 2
    assert "--silence: got" in capsys.readouterr().err


def test_serve_prints_what_is_missing_and_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--engines", str(tmp_path)]) == 2
    assert "cannot serve" in capsys.readouterr().err


LOGS = {
    r'E1 "failed to load \'x\' version 1: Internal: ValueError: too small\n\nAt:\n  a.py(1): f\n"': "ValueError: too small",
    "E1 failed to start GRPC: Unavailable - Socket '127.0.0.1:8001' already in use": "127.0.0.1:8001 was taken",
    "E1 \"Stub process 'x' is not healthy.\"": "memory ran out",
    "I1 nothing of use": "exit code 1; the end of its log:\nI1 nothing of use",
}


@pytest.mark.parametrize("line", LOGS)
def test_a_failed_start_is_explained_from_the_log(line: str, tmp_path: Path) -> None:
    log = tmp_path / "triton.log"
    log.write_text(line.replace("\\'", "'") + "\n")
    text = explain(log, 1)
    assert LOGS[line] in text
    assert "At:" not in text
    assert "memory ran out" in explain(log, -9)
