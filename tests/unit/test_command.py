"""The command line that starts Triton, for both targets; nothing is started here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ensemble import preflight
from ensemble.command import Settings, start_command
from ensemble.config import DeploymentConfig
from ensemble.preflight import Ports, check_gpu
from ensemble.profiles import PROFILES
from ensemble.tensorrtllm import TensorRtLlmBackend
from ensemble.tritonserver import MissingError, TritonServer
from tests.contract.test_gpu_repository import write

BINARY = Path("/opt/tritonserver/bin/tritonserver")
SETTINGS = Settings("0.0.0.0", Ports(8001, 8000, 8002))


def command(config: DeploymentConfig) -> list[str]:
    return start_command(BINARY, Path("/run/models"), Path("/backends"), config, SETTINGS, "shm-7-")


@pytest.fixture
def gpu(tmp_path: Path) -> Callable[..., DeploymentConfig]:
    return lambda name="4B": replace(PROFILES["gpu-h100"], engines=write(tmp_path / name, name))


def test_openvino_needs_no_gpu() -> None:
    words = command(DeploymentConfig())
    assert words[0] == str(BINARY)
    assert "--pinned-memory-pool-byte-size=0" in words
    assert not any("cuda" in word for word in words)


def test_one_gpu_needs_no_mpi(gpu: Callable[..., DeploymentConfig]) -> None:
    words = command(gpu())
    assert words[0] == str(BINARY)
    assert f"--cuda-memory-pool-byte-size=0:{8 * 4 * 4096 * 2560 * 2}" in words
    assert {"--model-repository=/run/models", "--grpc-port=8001", "--grpc-address=0.0.0.0"} <= set(words)
    assert "--disable-auto-complete-config" in words
    assert not any(word.startswith("--pinned-memory-pool") for word in words)


def test_two_gpus_start_a_leader_and_a_rank_that_loads_the_language_model_alone(
    gpu: Callable[..., DeploymentConfig],
) -> None:
    words = command(gpu("8B TP2"))
    split = words.index(":")
    leader, rank = words[:split], words[split + 1 :]
    assert leader[:5] == ["mpirun", "--allow-run-as-root", "-n", "1", str(BINARY)]
    assert not any("control-mode" in word for word in leader)
    assert any(word.startswith("--cuda-memory-pool-byte-size=0:") for word in leader)
    assert rank[:3] == ["-n", "1", str(BINARY)]
    assert rank[-2:] == ["--model-control-mode=explicit", "--load-model=tensorrt_llm"]
    prefix = "--backend-config=python,shm-region-prefix-name=shm-7-"
    assert prefix in leader
    assert f"{prefix}1-" in rank  # names of one rank's memory are not those of another
    assert ":" not in rank


@pytest.fixture
def triton(tmp_path: Path) -> TritonServer:
    (tmp_path / "backends" / "tensorrtllm").mkdir(parents=True)
    return TritonServer(BINARY, tmp_path / "backends", tmp_path / "lib")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bool], None]:
    """Makes this machine seem to have GPUs, and mpirun or not."""

    def seem(gpus: int, mpirun: bool) -> None:
        programs = {"nvidia-smi": "/bin/nvidia-smi", **({"mpirun": "/bin/mpirun"} if mpirun else {})}
        monkeypatch.setattr(shutil, "which", programs.get)
        listing = "".join(f"GPU {number}: NVIDIA H100 (UUID: GPU-{number})\n" for number in range(gpus))
        done = subprocess.CompletedProcess([], 0 if gpus else 9, listing, "")
        monkeypatch.setattr(preflight.subprocess, "run", lambda *_, **__: done)

    return seem


def test_a_machine_with_all_it_takes_passes(
    machine: Callable[[int, bool], None], triton: TritonServer, gpu: Callable[..., DeploymentConfig]
) -> None:
    machine(2, True)
    check_gpu(TensorRtLlmBackend.read(gpu("8B TP2")), triton)
    machine(1, False)
    check_gpu(TensorRtLlmBackend.read(gpu("4B")), triton)


@pytest.mark.parametrize(
    ("gpus", "mpirun", "words"),
    [
        (0, True, "no NVIDIA GPU.*--gpus all"),
        (1, True, "names GPU 1, but this machine has 1"),
        (2, False, "2 ranks, and `mpirun`"),
    ],
)
def test_a_machine_that_lacks_something_is_told_what(
    gpus: int,
    mpirun: bool,
    words: str,
    machine: Callable[[int, bool], None],
    triton: TritonServer,
    gpu: Callable[..., DeploymentConfig],
) -> None:
    backend = TensorRtLlmBackend.read(gpu("8B TP2"))
    machine(gpus, mpirun)
    with pytest.raises(MissingError, match=words):
        check_gpu(backend, triton)


def test_a_triton_without_the_backend_is_told_which_container(
    tmp_path: Path, gpu: Callable[..., DeploymentConfig]
) -> None:
    with pytest.raises(MissingError, match=r"no backend 'tensorrtllm'.*trtllm-python-py3"):
        check_gpu(
            TensorRtLlmBackend.read(gpu()), TritonServer(BINARY, tmp_path / "backends", tmp_path / "lib")
        )


def test_triton_hands_trace_headers_on_only_where_traces_are_wanted() -> None:
    def words(url: str) -> list[str]:
        settings = replace(SETTINGS, trace_url=url)
        return start_command(BINARY, Path("/m"), Path("/b"), DeploymentConfig(), settings, "shm-7-")

    assert "--grpc-header-forward-pattern=^(traceparent|tracestate)$" in words("http://collector:4318")
    assert not [word for word in words("") if "forward" in word]
    # Its own tracer loses traces; docs/decisions/0020.
    assert not [word for word in words("http://collector:4318") if word.startswith("--trace-config")]
