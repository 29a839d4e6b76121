"""A real `mpirun` over two nodes at two addresses of this machine, with the command line that `serve` composes.

A small program stands for tritonserver: what is tested is who starts, who ends, and what arrives.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from ensemble.command import _spread
from ensemble.nodes import launch, secret, wire
from ensemble.nodes.wire import RefusedError, Request
from ensemble.process import descendants
from tests.waiting import until

SECRET = "a secret of these tests"
NODES = ("127.0.0.2", "127.0.0.3")
RANK = """echo "rank $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE" """


@dataclass(frozen=True)
class Waiting:
    """A node that runs."""

    host: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path


def free_port() -> int:
    with socket.socket() as probe, socket.socket() as other:
        probe.bind((NODES[0], 0))
        port: int = probe.getsockname()[1]
        other.bind((NODES[1], port))
        return port


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    return {**kept, "TMPDIR": temporary(tmp_path, "leader"), secret.VARIABLE: SECRET}


def temporary(tmp_path: Path, host: str) -> str:
    """A machine's directory for temporary files; short, for sockets are made in it.

    MPI's daemons write the machine's topology into a file there that is named by host and job, and map it. Machines never
    share it; two daemons that do read each other's pointers, and one in thirty dies of them.
    """
    directory = tmp_path / host
    directory.mkdir(exist_ok=True)
    return str(directory)


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., Waiting]]:
    """Starts nodes, and ends those that are left."""
    port = free_port()
    with ExitStack() as stack:

        def begin(host: str = NODES[0], **changes: str) -> Waiting:
            log = tmp_path / f"{host}.log"
            with log.open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", "ensemble", "node", "--listen", f"{host}:{port}"],
                    env=environment | {"TMPDIR": temporary(tmp_path, host)} | changes, stderr=file, cwd=tmp_path,
                )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.kill)
            until(lambda: b"waiting for the leader" in log.read_bytes() or process.poll() is not None, 10.0)
            return Waiting(host, port, process, log)

        yield begin


def mpirun(commands: list[list[str]], per_node: int = 1) -> list[str]:
    assert shutil.which("mpirun"), (
        "this test needs Open MPI: apt-get install openmpi-bin (`make test` does it)"
    )
    words = ["mpirun", "--allow-run-as-root", *_spread(NODES, per_node)]
    for index, command in enumerate(commands):
        words += [*([":"] if index else []), "-n", "1", *command]
    return words


def leader(environment: dict[str, str], port: int, wait_s: int = 5) -> dict[str, str]:
    return environment | {launch.PORT_VARIABLE: str(port), launch.WAIT_VARIABLE: str(wait_s)}


def alive(marker: str) -> list[int]:
    """Processes with a word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if marker.encode() in words:
                found.append(int(entry.name))
    return found


def test_ranks_run_on_every_node_and_their_output_and_exit_codes_arrive(
    start: Callable[..., Waiting], environment: dict[str, str]
) -> None:
    nodes = [start(host) for host in NODES]
    parent = (
        'echo "under $(tr "\\0" " " < /proc/$PPID/cmdline | cut -d " " -f 1) secret=$QWEN3VL_NODE_SECRET"'
    )
    commands = [["sh", "-c", f"{RANK}; {parent}; sleep 0.3"] for _ in range(2)]
    ends = [["sh", "-c", f"{RANK}; {parent}; sleep 0.3; exit 7"]]
    done = subprocess.run(
        mpirun(commands + ends),
        env=leader(environment, nodes[0].port),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert {f"rank {rank} of 3" for rank in range(3)} <= set(done.stdout.splitlines()), done.stderr
    assert done.stdout.count("orted secret=\n") == 2, (
        "the nodes' ranks run under MPI's daemon and know no secret"
    )
    assert done.returncode == 7
    for node in nodes:
        node.process.wait(10)  # with the daemon, so that the orchestrator starts the group anew
        assert "the daemon ended with exit code" in node.log.read_text()


def test_a_killed_leader_ends_the_ranks_on_all_nodes(
    start: Callable[..., Waiting], environment: dict[str, str]
) -> None:
    nodes = [start(host) for host in NODES]
    marker = f"rank-of-{os.getpid()}"
    # They do not listen to SIGTERM: only force ends them.
    rank = ["sh", "-c", "trap '' TERM; while :; do sleep 0.2; done", marker]
    process = subprocess.Popen(
        mpirun([rank] * 3),
        env=leader(environment, nodes[0].port),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: len([pid for pid in alive(marker) if pid != process.pid and _shell(pid)]) == 3, 10.0)
    finally:
        ours = descendants(process.pid)
        process.kill()
        process.wait()
    for node in nodes:
        assert node.process.wait(15) is not None
    for pid in ours:  # this machine's own rank: in a pod it ends with the container
        if pid in alive(marker):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(marker), 10.0)


def _shell(pid: int) -> bool:
    try:
        return (Path(f"/proc/{pid}/comm")).read_text().strip() == "sh"
    except OSError:
        return False


def test_a_leader_with_another_secret_starts_nothing(
    start: Callable[..., Waiting], environment: dict[str, str]
) -> None:
    nodes = [start(host) for host in NODES]
    wrong = leader(environment, nodes[0].port) | {secret.VARIABLE: "another secret than theirs"}
    done = subprocess.run(mpirun([["true"]] * 3), env=wrong, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "the secret is another one than this node's" in done.stderr
    assert nodes[0].process.poll() is None, "it goes on waiting for the right one"
    assert "refused 127.0.0.1" in nodes[0].log.read_text() + nodes[1].log.read_text()


def test_a_leader_waits_for_nodes_that_come_later(
    start: Callable[..., Waiting], environment: dict[str, str]
) -> None:
    first = start(NODES[0])
    process = subprocess.Popen(
        mpirun([["sh", "-c", RANK]] * 3),
        env=leader(environment, first.port, 20),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        until(lambda: "started" in first.log.read_text(), 10.0)
        assert process.poll() is None
        start(NODES[1])
        output, _ = process.communicate(timeout=20)
    assert "rank 2 of 3" in output
    assert process.returncode == 0


def ask(node: Waiting, request: Request) -> socket.socket:
    """As the launch agent does."""
    connection = socket.create_connection((node.host, node.port), timeout=5)
    wire.send_request(connection, SECRET.encode(), request)
    return connection


@pytest.fixture
def orted(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Puts a script in the daemon's place; returns what a node's environment must have."""

    def write(script: str) -> dict[str, str]:
        file = tmp_path / "bin" / "orted"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return {"PATH": f"{file.parent}:{os.environ['PATH']}"}

    return write


def test_other_programs_are_refused_and_the_node_goes_on(start: Callable[..., Waiting]) -> None:
    node = start()
    for words in (("touch", "/tmp/x"), ("sh", "-c", "orted"), ("orted", ";", "touch", "x")):
        with (
            ask(node, Request(words)) as connection,
            pytest.raises(RefusedError, match="allowed: MPI's daemon"),
        ):
            wire.receive_frame(connection)
    for directory in ("/etc/x/models", "/tmp/qwen3vl-serve-1-a/../../etc", str(Path.home() / "a" / "models")):
        request = Request(("orted",), directory, wire.pack(Path(__file__).parent))
        with ask(node, request) as connection, pytest.raises(RefusedError, match="directory: got"):
            wire.receive_frame(connection)
    assert node.process.poll() is None


@pytest.mark.parametrize(
    "data",
    [b"", b"GET / HTTP/1.1\r\n\r\n", bytes(200), os.urandom(5000)],
    ids=["probe", "http", "zeros", "noise"],
)
def test_a_stranger_gets_nothing_and_does_no_harm(
    start: Callable[..., Waiting], orted: Callable[[str], dict[str, str]], data: bytes
) -> None:
    node = start(**orted("exit 5"))
    answer = b""
    with socket.create_connection((node.host, node.port), timeout=5) as stranger, suppress(OSError):
        stranger.sendall(data)
        stranger.shutdown(socket.SHUT_WR)  # a reset may come first, and take the answer with it
        while part := stranger.recv(4096):
            answer += part
    assert answer[len(wire.GREETING) + 32 :][:1] in (b"", wire.Kind.REFUSED.value)
    with ask(node, Request(("orted",))) as connection:
        assert wire.receive_frame(connection)[0] is wire.Kind.STARTED
        assert node.process.wait(5) == 5


def test_the_leaders_files_lie_at_the_leaders_path_while_the_daemon_runs(
    tmp_path: Path,
    start: Callable[..., Waiting],
    orted: Callable[[str], dict[str, str]],
) -> None:
    models = tmp_path / "models"
    (models / "tensorrt_llm" / "1").mkdir(parents=True)
    (models / "tensorrt_llm" / "config.pbtxt").write_text("name: 'tensorrt_llm'")
    there = Path(temporary(tmp_path, NODES[0])) / "qwen3vl-serve-41-abc" / "models"
    node = start(
        **orted(f"pwd; cat {there}/tensorrt_llm/config.pbtxt; ls -d {there}/*/1; echo warning >&2; exit 3")
    )
    seen: dict[wire.Kind, bytes] = {}
    with ask(node, Request(("orted",), str(there), wire.pack(models))) as connection:
        while wire.Kind.ENDED not in seen:
            kind, data = wire.receive_frame(connection)
            seen[kind] = seen.get(kind, b"") + data
    expected = f"{there.parent}\nname: 'tensorrt_llm'{there}/tensorrt_llm/1\n"
    assert seen[wire.Kind.OUTPUT].decode() == expected
    assert seen[wire.Kind.ERRORS] == b"warning\n"
    assert seen[wire.Kind.ENDED] == b"3"
    assert node.process.wait(5) == 3
    assert not there.parent.exists()


def test_one_daemon_at_a_time(start: Callable[..., Waiting], orted: Callable[[str], dict[str, str]]) -> None:
    node = start(**orted("exec sleep 60"))
    with ask(node, Request(("orted",))) as first:
        assert wire.receive_frame(first)[0] is wire.Kind.STARTED
        with ask(node, Request(("orted",))) as second, pytest.raises(wire.BusyError):
            wire.receive_frame(second)
    assert node.process.wait(5) == 128 + signal.SIGTERM, "closed: the leader is gone"


def test_a_node_that_is_told_to_end_leaves_nothing(
    start: Callable[..., Waiting], orted: Callable[[str], dict[str, str]]
) -> None:
    marker = f"left-by-{os.getpid()}"
    stubborn = f"setsid sh -c \"trap '' TERM; while :; do sleep 0.1; done\" {marker} &"
    node = start(**orted(f"{stubborn} exec sleep 60"))
    with ask(node, Request(("orted",))) as connection:
        wire.receive_frame(connection)
        until(lambda: len(alive(marker)) == 1, 10.0)
        node.process.terminate()
        node.process.wait(10)
    assert not alive(marker)


def test_a_node_without_a_secret_does_not_listen(start: Callable[..., Waiting]) -> None:
    node = start(**{secret.VARIABLE: ""})
    assert node.process.wait(5) == 2
    assert "QWEN3VL_NODE_SECRET: got none" in node.log.read_text()
