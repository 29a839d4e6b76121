"""Does a Dockerfile's installation without a container engine: what is copied, what pip is told, then commands of the image.

    python docker/trial.py Dockerfile.gateway gateway -- python -m gateway serve --help -- python -m gateway kb --help

It knows COPY lines and the `pip install` parts of RUN lines; of a stage `FROM base AS x`, base's come first. It makes a directory
with exactly the copied files and a new virtual environment, runs each part there with a HOME of its own, then the commands, with
an empty directory as the working directory unless the stage's last WORKDIR is the one of the code. Not for images whose Python
packages come with the base image (Dockerfile.gpu). The exit code is that of the first step that failed. Minutes and gigabytes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, continuation lines joined."""

    name: str
    text: str

    @property
    def command(self) -> list[str]:
        """The exec form. A shell form is an error, for a shell does not pass signals on."""
        words: list[str] = json.loads(self.text)
        return words


def instructions(name: str) -> list[Instruction]:
    """The instructions of docker/NAME."""
    lines = [
        line
        for line in (ROOT / "docker" / name).read_text().splitlines()
        if not line.lstrip().startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        Instruction(kind, text)
        for kind, text in (line.split(None, 1) for line in joined.splitlines() if line.strip())
    ]


def stages(name: str) -> dict[str, list[Instruction]]:
    """The instructions of each stage, those of the stages that it is made from included."""
    found: dict[str, list[Instruction]] = {}
    for instruction in instructions(name):
        if instruction.name == "FROM":
            base, _, stage = instruction.text.split()
            found[stage] = [*found.get(base, []), instruction]
        else:
            found[stage].append(instruction)
    return found


def install(stage: Sequence[Instruction], directory: Path) -> None:
    """Repeat COPY and `pip install` in DIRECTORY/code, into DIRECTORY/venv."""
    code = directory / "code"
    code.mkdir()
    venv.create(directory / "venv", with_pip=True)
    for item in stage:
        if item.name == "COPY" and "--from" not in item.text:
            *sources, target = item.text.split()
            for source in sources:
                _copy(
                    ROOT / source,
                    code / target / Path(source).name if target.endswith("/") else code / target,
                )
        for command in item.text.split("&&") if item.name == "RUN" else ():
            if command.strip().startswith("pip install"):
                # The image's caches are none; here the machine's saves the network.
                _run(["sh", "-c", command.strip()], code, directory)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copy(source, target)
    else:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))


def _run(command: Sequence[str], directory: Path, trial: Path) -> None:
    environment = {
        "PATH": f"{trial / 'venv' / 'bin'}:/usr/bin:/bin",
        "HOME": str(trial),
        "VIRTUAL_ENV": str(trial / "venv"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip")),
        **{
            key: value
            for key, value in os.environ.items()
            if key.startswith("PIP_") or key.endswith("_proxy")
        },
    }
    began = time.monotonic()
    done = subprocess.run(
        list(command), cwd=directory, env=environment, stdin=subprocess.DEVNULL, check=False
    )
    print(f"{done.returncode:4} {time.monotonic() - began:7.1f} s  {' '.join(command)}", flush=True)
    if done.returncode:
        sys.exit(done.returncode)


def _size(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file()) >> 20


def _commands(words: Sequence[str]) -> Iterator[list[str]]:
    for separator, part in groupby(words, lambda word: word == "--"):
        if not separator:
            yield list(part)


def main(arguments: Sequence[str]) -> int:
    """Run the trial; returns the exit code."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    name, wanted, *rest = arguments
    stage = stages(name)[wanted]
    places = [item.text for item in stage if item.name == "WORKDIR"]
    with tempfile.TemporaryDirectory(prefix="image-trial-") as made:
        trial = Path(made)
        install(stage, trial)
        print(f"     {_size(trial / 'venv')} MB of packages, {_size(trial / 'code')} MB of ours", flush=True)
        (trial / "state").mkdir()
        for command in _commands(rest):
            _run(command, trial / ("state" if places[-1] != places[0] else "code"), trial)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
