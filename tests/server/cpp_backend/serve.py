"""`python -m tests.server.cpp_backend.serve`: what `python -m ensemble serve` does for the target tensorrt-llm, without a GPU.

The repository is rendered from the profile `gpu` and the engine directory. What differs from it, and no more: the model
`tensorrt_llm` runs on the Python backend, with the stand-in of this directory and one parameter more, and `vision_encoder`
runs the OpenVINO encoder on the CPU.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from ensemble import repository
from ensemble.__main__ import changed
from ensemble.command import Settings
from ensemble.config import DeploymentConfig
from ensemble.contract import LANGUAGE_MODEL, VISION_ENCODER
from ensemble.preflight import Ports, choose_ports
from ensemble.profiles import GPU, PROFILES
from ensemble.server import serve
from ensemble.tritonserver import find

OPENVINO_ENGINES = "openvino_engines"
"""Link in the engine directory to the engines that the stand-in runs."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--engines", type=Path, required=True)
    parser.add_argument("--free-ports", action="store_true", required=True)
    parser.add_argument("--ready-file", type=Path)
    parser.add_argument("--log-dir", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="changes")
    given = parser.parse_args(arguments)
    config = replace(PROFILES[GPU], engines=given.engines, preprocessing_instances=1)
    ports = choose_ports("127.0.0.1", Ports(0, 0, 0))
    settings = Settings("127.0.0.1", ports, given.log_dir, given.ready_file)
    return serve(changed(config, given.changes), settings, find(), write)


def write(models: Path, config: DeploymentConfig) -> None:
    """The rendered repository with the two models exchanged."""
    repository.write(models, config)
    here = Path(__file__).parent
    shutil.copyfile(here / "stand_in.py", models / LANGUAGE_MODEL / "1" / "model.py")
    shutil.copyfile(here / "vision_encoder.py", models / VISION_ENCODER / "1" / "model.py")
    engines = config.engines / OPENVINO_ENGINES
    added = f'\nparameters {{ key: "{OPENVINO_ENGINES}" value {{ string_value: "{engines}" }} }}\n'
    exchange(models / LANGUAGE_MODEL, 'backend: "tensorrtllm"', 'backend: "python"' + added)
    exchange(models / VISION_ENCODER, "  gpus: [0]\n  kind: KIND_GPU", "  kind: KIND_CPU")


def exchange(model: Path, old: str, new: str) -> None:
    text = (model / "config.pbtxt").read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} in\n{text}"
    (model / "config.pbtxt").write_text(text.replace(old, new), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
