"""`python -m tests.llm_api.serve`: what `python -m ensemble serve --profile gpu-pytorch` does, without TensorRT-LLM and a GPU.

What differs: the stubs find the fake package `tensorrt_llm` of this directory, and `trtllm-llmapi-launch` is a script that starts
its arguments as a child, as the true one does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ensemble import repository
from ensemble.command import Settings
from ensemble.config import DeploymentConfig
from ensemble.preflight import Ports, choose_ports
from ensemble.profiles import GPU_PYTORCH, PROFILES
from ensemble.server import serve
from ensemble.tritonserver import find

LAUNCH = """#!/bin/sh
"$@" &
child=$!
trap 'kill -TERM $child' TERM
wait $child
wait $child
"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--engines", type=Path, required=True)
    parser.add_argument("--free-ports", action="store_true", required=True)
    parser.add_argument("--ready-file", type=Path)
    parser.add_argument("--log-dir", type=Path)
    given = parser.parse_args(arguments)
    config = replace(PROFILES[GPU_PYTORCH], engines=given.engines)
    settings = Settings(
        "127.0.0.1", choose_ports("127.0.0.1", Ports(0, 0, 0)), given.log_dir, given.ready_file
    )
    with tempfile.TemporaryDirectory() as programs:
        launch = Path(programs) / "trtllm-llmapi-launch"
        launch.write_text(LAUNCH, encoding="utf-8")
        launch.chmod(0o755)
        os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
        return serve(config, settings, find(), write)


def write(models: Path, config: DeploymentConfig) -> None:
    """The repository, and the fake package where the stubs look first: in the server's working directory."""
    repository.write(models, config)
    shutil.copytree(Path(__file__).parent / "tensorrt_llm", models.parent / "tensorrt_llm")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
