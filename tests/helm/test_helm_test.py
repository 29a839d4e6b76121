"""What `helm test` runs, run here: the pods' own commands against a real server, and against none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helm.chart import CHART, render
from tests.helm.kubelet import environment, mapped
from tests.helm.pod_templates import of_kind
from tests.server.triton import serving

pytestmark = pytest.mark.server


def run(pod: dict[str, Any], places: dict[str, str]) -> subprocess.CompletedProcess[str]:
    (container,) = pod["spec"]["containers"]
    program, *arguments = [mapped(word, places) for word in container["args"]]
    return subprocess.run(
        [str(Path(sys.executable).parent / program), *arguments],
        env=environment(container, places) | {"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_pods_ask_for_a_text_a_stream_and_a_picture(demo_engines: Path, tmp_path: Path) -> None:
    objects = render(sets=["tests.timeoutSeconds=20"])
    pods = {
        item["metadata"]["name"].removeprefix("demo-qwen3-vl-test-"): item
        for item in of_kind(objects, "Pod")
        if item["metadata"]["annotations"]["helm.sh/hook"] == "test"
    }
    assert set(pods) == {"ready", "text", "stream", "image", "gateway"}
    del pods["gateway"]  # test_gateway_pod asks the same path
    there = "dns:///demo-qwen3-vl-server-headless:8001"
    places = {"/pictures": str(CHART / "files"), "/tmp": str(tmp_path)}
    with serving(demo_engines) as server:
        said = {name: run(pod, places | {there: server.grpc_url}) for name, pod in pods.items()}
    assert {name: done.returncode for name, done in said.items()} == dict.fromkeys(pods, 0), said
    assert '"text"' in said["text"].stdout
    assert "first token" in said["stream"].stderr
    assert "black" in said["image"].stdout.lower()
    nobody = places | {there: "127.0.0.1:1"}
    assert run(pods["image"], nobody).returncode != 0
