"""The server of the profile `cpu`, started with the chart's own command line and ended as a kubelet would, under load."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from qwen3vl_client import Client
from qwen3vl_client.errors import Draining, Unreachable

from tests.helm.chart import CHART, render
from tests.helm.kubelet import Container, running

pytestmark = pytest.mark.server
STREAMS, TOKENS = 8, 600


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def server_pod() -> dict[str, Any]:
    objects = render(values=[CHART / "values" / "cpu.yaml"])
    (deployment,) = (
        each
        for each in objects
        if each["kind"] == "Deployment" and each["metadata"]["name"].endswith("-server")
    )
    return deployment["spec"]["template"]["spec"]


@pytest.fixture
def container(endless_engines: Path, tmp_path: Path) -> Iterator[Container]:
    grpc, http, metrics = free_ports(3)
    ports = {"grpc": grpc, "http": http, "metrics": metrics}
    # The last of an option counts. Nothing else differs from what is rendered.
    more = ["--host=127.0.0.1", *(f"--{name}-port={port}" for name, port in ports.items())]
    places = {"/engines": str(endless_engines), "/tmp": str(tmp_path)}
    with running(server_pod(), "server", places, ports, tmp_path, more) as started:
        started.start(hurry=20)
        yield started


def test_eight_streams_outlive_the_deletion_of_their_pod(container: Container) -> None:
    url = f"127.0.0.1:{container.ports['grpc']}"
    begun = threading.Barrier(STREAMS + 1)
    ends: list[str] = []

    def stream() -> None:
        with Client(url) as client, client.stream("Hello", max_tokens=TOKENS) as answer:
            for number, _ in enumerate(answer):
                if number == 0:
                    begun.wait(60)
            ends.append(answer.reply.finish_reason)

    def load(threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.start()
        begun.wait(60)

    # While preStop sleeps, balancers still send: everything is answered.
    early = threading.Thread(target=container.pre_stop)
    early.start()
    with Client(url) as client:
        while early.is_alive():
            assert client.chat("Hello", max_tokens=2).text
            assert container.probe("livenessProbe")
            assert container.probe("readinessProbe")
    early.join()

    streams = [threading.Thread(target=stream) for _ in range(STREAMS)]
    load(streams)
    took: list[float] = []
    ending = threading.Thread(target=lambda: took.append(container.terminate()))
    ending.start()
    time.sleep(0.3)
    with Client(url, retries=0) as late, pytest.raises((Draining, Unreachable)) as refused:
        late.chat("Hello", max_tokens=4)
    # Draining: the server said so. It may be gone already if the streams were quick.
    assert isinstance(refused.value, Draining) or container.process.poll() is not None
    for thread in (*streams, ending):
        thread.join(container.grace_s)
    assert ends == ["length"] * STREAMS, container.log.read_text()
    assert container.process.returncode == 0, container.log.read_text()
    assert took[0] < container.grace_s
    print(f"ended {took[0]:.1f} s after SIGTERM; grace {container.grace_s} s")


def test_the_grace_holds_the_sleep_and_the_drain() -> None:
    """The same number reaches the server, the hook and the pod."""
    pod = server_pod()
    (spec,) = pod["containers"]
    (timeout,) = (
        int(word.split("=")[-1]) for word in spec["args"] if word.startswith("--set=exit_timeout_s=")
    )
    sleep = spec["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= sleep + timeout + 5
