"""How an engine over several machines is asked for: hosts, the command, what is refused. Nothing is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ensemble.__main__ import main
from ensemble.command import Settings, start_command
from ensemble.config import DeploymentConfig
from ensemble.contract import TENSORRT_LLM
from ensemble.nodes import daemon, secret
from ensemble.nodes.hosts import HostsError, others
from ensemble.nodes.wire import RefusedError
from ensemble.preflight import Ports
from ensemble.profiles import PROFILES
from ensemble.tensorrtllm import SettingsError, TensorRtLlmBackend
from tests.contract.test_gpu_repository import write

LEADER = {"LWS_LEADER_ADDRESS": "qwen-0.qwen.shop", "LWS_GROUP_SIZE": "3", "LWS_WORKER_INDEX": "0"}


@pytest.fixture
def spread(tmp_path: Path) -> Callable[..., DeploymentConfig]:
    """A deployment of an engine of two ranks over so many machines."""

    def make(nodes: int, devices: str = "") -> DeploymentConfig:
        config = replace(PROFILES["gpu-h100"], engines=write(tmp_path / f"{nodes}{devices}", "8B TP2"))
        assert config.tensorrt_llm is not None
        return replace(config, tensorrt_llm=replace(config.tensorrt_llm, nodes=nodes, gpu_device_ids=devices))

    return make


def command(config: DeploymentConfig, *nodes: str) -> list[str]:
    settings = Settings("0.0.0.0", Ports(8001, 8000, 8002), nodes=nodes)
    return start_command(Path("/bin/tritonserver"), Path("/r/models"), Path("/b"), config, settings, "shm-7-")


def test_a_leader_of_a_group_knows_the_pods_of_its_workers() -> None:
    assert others(None, LEADER) == ("qwen-0-1.qwen.shop", "qwen-0-2.qwen.shop")
    own_subdomain = {**LEADER, "LWS_LEADER_ADDRESS": "qwen-7.qwen-7.shop", "LWS_GROUP_SIZE": "2"}
    assert others(None, own_subdomain) == ("qwen-7-1.qwen-7.shop",)
    assert others("a.b, 10.0.0.7", LEADER) == ("a.b", "10.0.0.7")
    assert others("", LEADER) == ()
    assert others(None, {}) == ()
    assert others(None, {**LEADER, "LWS_GROUP_SIZE": "1"}) == ()


@pytest.mark.parametrize(
    ("given", "environment", "words"),
    [
        ("a:8", {}, "got 'a:8'"),
        ("a,-x", {}, "got '-x'"),
        ("a,b c", {}, "got 'b c'"),
        ("a,a", {}, "each machine once"),
        (None, {**LEADER, "LWS_GROUP_SIZE": "two"}, "LWS_GROUP_SIZE: got 'two'"),
        (None, {**LEADER, "LWS_GROUP_SIZE": "0"}, "LWS_GROUP_SIZE: got '0'"),
        (None, {**LEADER, "LWS_WORKER_INDEX": "1"}, "the leader serves"),
        (None, {**LEADER, "LWS_LEADER_ADDRESS": "a b"}, "LWS_LEADER_ADDRESS: got 'a b'"),
    ],
)
def test_wrong_hosts_are_named(given: str | None, environment: dict[str, str], words: str) -> None:
    with pytest.raises(HostsError, match=words):
        others(given, environment)


def test_as_many_ranks_are_started_on_each_machine(spread: Callable[..., DeploymentConfig]) -> None:
    words = command(spread(2), "qwen-0-1.qwen.shop")
    assert words[words.index("--host") + 1] == "localhost:1,qwen-0-1.qwen.shop:1"
    assert words.count("-n") == 2
    assert words[words.index("plm_rsh_agent") + 1].endswith(" -m ensemble node-launch")
    assert "--host" not in command(spread(1)), "one machine needs no agent"


def test_each_machine_counts_its_own_gpus(spread: Callable[..., DeploymentConfig]) -> None:
    """TensorRT-LLM takes the device at rank modulo length of the list, and refuses a list longer than the machine has GPUs."""
    values = {item.name: item.value for item in TensorRtLlmBackend.read(spread(2)).parameters()}
    assert (values["gpu_device_ids"], values["participant_ids"]) == ("0", "0,1")
    assert TensorRtLlmBackend.read(spread(2, "5")).gpu_device_ids == (5,)
    with pytest.raises(SettingsError, match="allowed: 1 different GPUs"):
        TensorRtLlmBackend.read(spread(2, "0,1"))
    for nodes in (0, 3):
        with pytest.raises(SettingsError, match=f"nodes: got {nodes}; allowed: a divisor of 2"):
            TensorRtLlmBackend.read(spread(nodes))


def test_serving_over_machines_wants_a_secret_and_an_engine_with_ranks(
    spread: Callable[..., DeploymentConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv(secret.VARIABLE, raising=False)
    arguments = ["serve", "--engines", str(spread(1).engines), "--nodes", "a"]
    monkeypatch.setattr("ensemble.preflight._VERSIONED", {TENSORRT_LLM: ((), "")})  # none is installed here
    assert main(arguments) == 2
    assert "QWEN3VL_NODE_SECRET: got none" in capsys.readouterr().err
    assert main([*arguments, "--profile", "cpu"]) == 2
    assert "only tensorrt-llm engines have ranks" in capsys.readouterr().err


def test_the_secret_is_read_from_a_variable_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("0123456789abcdef\n")
    assert secret.read({"QWEN3VL_NODE_SECRET_FILE": str(tmp_path / "secret")}) == b"0123456789abcdef"
    assert secret.read({"QWEN3VL_NODE_SECRET": "fedcba9876543210"}) == b"fedcba9876543210"
    for environment, words in (
        ({}, "got none"),
        ({"QWEN3VL_NODE_SECRET": "short"}, "got 5 characters"),
        ({"QWEN3VL_NODE_SECRET_FILE": str(tmp_path / "no")}, "cannot be read"),
    ):
        with pytest.raises(secret.SecretError, match=words):
            secret.read(environment)


def test_a_proof_is_of_one_side_and_of_parts_where_they_end() -> None:
    proof = secret.prove(b"s" * 16, secret.LEADER, b"ab", b"c")
    assert secret.holds(b"s" * 16, proof, secret.LEADER, b"ab", b"c")
    assert not secret.holds(b"s" * 16, proof, secret.NODE, b"ab", b"c")
    assert not secret.holds(b"s" * 16, proof, secret.LEADER, b"a", b"bc")
    assert not secret.holds(b"t" * 16, proof, secret.LEADER, b"ab", b"c")


@pytest.fixture
def orted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    file = tmp_path / "bin" / "orted"
    file.parent.mkdir()
    file.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(file.parent))
    return str(file)


def test_the_daemons_command_line_is_taken_out_of_what_is_meant_for_a_shell(orted: str) -> None:
    rest = ["-mca", "ess", "env", "-mca", "orte_hnp_uri", "1.0;tcp://10.0.0.1:4,10.0.0.2:5"]
    quoted = '-mca ess "env" -mca orte_hnp_uri "1.0;tcp://10.0.0.1:4,10.0.0.2:5"'
    prefixed = (
        "PATH=/opt/hpcx/ompi/bin:$PATH ; export PATH ; LD_LIBRARY_PATH=/opt/hpcx/ompi/lib:$LD_LIBRARY_PATH ; "
        "export LD_LIBRARY_PATH ; /opt/hpcx/ompi/bin/orted"
    )
    for words in (["orted", *quoted.split(" ")], [f"orted {quoted}"], [f" {prefixed} {quoted}"]):
        assert daemon.command(words) == [orted, *rest]


@pytest.mark.parametrize(
    "words",
    [
        "sh -c 'orted'",
        "",
        ";",
        "rm -rf / ; orted",
        "orted ; rm -rf /",
        "orted & rm",
        "orted 'unended",
        "exec orted",
        "/bin/sh orted",
        "LD_PRELOAD=/tmp/x.so ; orted",
        "prted",  # not installed here
    ],
)
def test_nothing_but_the_daemon_is_started(orted: str, words: str) -> None:
    if words == "orted & rm":  # no shell sees it: it is an argument
        assert daemon.command([words]) == [orted, "&", "rm"]
        return
    with pytest.raises(RefusedError, match="command: got"):
        daemon.command([words])


def test_the_daemon_inherits_what_mpi_and_cuda_know_and_no_secret() -> None:
    given = {
        "PATH": "/bin", "LD_LIBRARY_PATH": "/lib", "NCCL_DEBUG": "INFO", "PMIX_MCA_gds": "hash", "CUDA_VISIBLE_DEVICES": "1",
        "QWEN3VL_NODE_SECRET": "x", "HF_TOKEN": "x", "AWS_SECRET_ACCESS_KEY": "x", "LD_PRELOAD": "x", "PYTHONPATH": "x",
    }  # fmt: skip
    assert list(daemon.environment(given)) == list(given)[:5]
