"""What is checked before Triton starts, so that a fault is named at once and not found in a log.

It knows engines, versions and ports. Every error is a `MissingError` whose text says what to do.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from build_engine.manifest import Manifest, ManifestError
from ensemble.tritonserver import MissingError

_BIG_ENGINE_BYTES = 1 << 30


@dataclass(frozen=True)
class Ports:
    """TCP ports; 0 means: take any free one."""

    grpc: int = 8001
    http: int = 8000
    metrics: int = 8002


def check_engines(directory: Path, checkpoint: Path | None = None) -> Manifest:
    """Read the manifest, and check that these engines are whole and made for this software.

    Args:
        directory: the engine directory.
        checkpoint: refuse engines that were built from another checkpoint than this one.
    """
    try:
        # Big files are not read twice at every start; their names and the manifest are checked all the same.
        size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
        manifest = Manifest.read(directory, check_files=size < _BIG_ENGINE_BYTES)
    except ManifestError as error:
        raise MissingError(str(error)) from error
    if manifest.target != "openvino":
        raise MissingError(f"{directory} holds {manifest.target} engines; this server runs openvino engines")
    built, here = manifest.versions.get("openvino"), metadata.version("openvino")
    if built != here:
        raise MissingError(
            f"{directory} was built with openvino {built}, here is {here}. Its paged attention is not compatible "
            "between versions; build the engines again"
        )
    if checkpoint is not None:
        _check_checkpoint(directory, manifest, checkpoint)
    return manifest


def _check_checkpoint(directory: Path, manifest: Manifest, checkpoint: Path) -> None:
    from build_engine.checkpoint import Checkpoint

    here = Checkpoint.read(checkpoint).content_hash()
    if here != manifest.checkpoint_hash:
        raise MissingError(
            f"{directory} was built from another checkpoint than {checkpoint}: {manifest.checkpoint_hash[:12]}..., "
            f"not {here[:12]}.... Build again: python -m build_engine {checkpoint} --target openvino "
            f"--output {directory} --force"
        )


def check_installation() -> None:
    """Whether a stub will find our packages: it runs an isolated interpreter that sees only what is installed."""
    trial = subprocess.run(
        [sys.executable, "-I", "-c", "import build_engine, ensemble"],
        cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    if trial.returncode != 0:
        reason = trial.stderr.strip().splitlines()[-1]
        raise MissingError(
            f"this package is not installed in {sys.executable} ({reason}), and Triton's Python processes see only "
            "installed packages. In the repository: pip install -e '.[serve]'"
        )


def choose_ports(host: str, wanted: Ports) -> Ports:
    """The ports to use; MissingError names one that is taken. All are probed at once, so they differ."""
    chosen: dict[str, int] = {}
    with ExitStack() as stack:
        for name, port in asdict(wanted).items():
            probe = stack.enter_context(socket.socket(_family(host), socket.SOCK_STREAM))
            # As Triton does: a port whose last connections are in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen()
            except OSError as error:
                raise MissingError(
                    f"port {port} ({name}) cannot be used on {host}: {error.strerror}. "
                    f"Choose another with --{name}-port, or use --free-ports"
                ) from error
            chosen[name] = probe.getsockname()[1]
    return Ports(**chosen)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
