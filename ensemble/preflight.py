"""What is checked before Triton starts, so that a fault is named at once and not found in a log.

It knows engines, versions and ports. Every error is a `MissingError` whose text says what to do.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from build_engine.manifest import Manifest, ManifestError
from ensemble.config import LlmApiOptions
from ensemble.contract import OPENVINO, TENSORRT_LLM, TENSORRT_LLM_PYTORCH
from ensemble.tensorrtllm import NAME, TensorRtLlmBackend
from ensemble.tritonserver import MissingError, TritonServer

_BIG_ENGINE_BYTES = 1 << 30
# Packages whose version an engine is tied to, and why.
_VERSIONED = {
    OPENVINO: (("openvino",), "Its paged attention"),
    TENSORRT_LLM: (("tensorrt_llm", "tensorrt"), "An engine"),
    TENSORRT_LLM_PYTORCH: ((), "Nothing"),
}


@dataclass(frozen=True)
class Ports:
    """TCP ports; 0 means: take any free one."""

    grpc: int = 8001
    http: int = 8000
    metrics: int = 8002


def check_engines(directory: Path, checkpoint: Path | None = None, versions: bool = True) -> Manifest:
    """Read the manifest, and check that these engines are whole and made for this software.

    Args:
        directory: the engine directory.
        checkpoint: refuse engines that were built from another checkpoint than this one.
        versions: refuse engines of other versions; False when only the manifest is used.
    """
    try:
        # Big files are not read twice at every start; their names and the manifest are checked all the same.
        size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
        manifest = Manifest.read(directory, check_files=size < _BIG_ENGINE_BYTES)
    except ManifestError as error:
        raise MissingError(str(error)) from error
    if manifest.target not in _VERSIONED:
        raise MissingError(
            f"{directory} holds {manifest.target!r} engines; known are {', '.join(_VERSIONED)}"
        )
    names, reason = _VERSIONED[manifest.target]
    for name in names if versions else ():
        built, here = manifest.versions.get(name), _installed(name)
        if built != here:
            raise MissingError(
                f"{directory} was built with {name} {built}, here is {here or 'none'}. {reason} is not compatible "
                "between versions; build the engines again, or serve them where they were built"
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
            f"not {here[:12]}.... Build again: python -m build_engine {checkpoint} --target {manifest.target} "
            f"--output {directory} --force"
        )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_gpu(backend: TensorRtLlmBackend, triton: TritonServer) -> None:
    """Whether this machine can run NVIDIA's C++ backend over these engines; MissingError names what it lacks."""
    if not (triton.backends / NAME).is_dir():
        raise MissingError(
            f"{triton.backends} has no backend {NAME!r}; use NVIDIA's container tritonserver:*-trtllm-python-py3 "
            "(docker/Dockerfile.gpu)"
        )
    found = _gpus()
    if not found:
        raise MissingError(
            "no NVIDIA GPU: neither `nvidia-smi` nor /dev/nvidia0 shows one. In Docker: --gpus all"
        )
    if (highest := max(backend.gpu_device_ids)) >= found:
        raise MissingError(
            f"gpu_device_ids names GPU {highest}, but this machine has {found}: 0 to {found - 1}"
        )
    if backend.engine.tp_size > 1 and shutil.which("mpirun") is None:
        raise MissingError(
            f"the engine has {backend.engine.tp_size} ranks, and `mpirun`, which starts them, is not on PATH"
        )


def check_llm_api(options: LlmApiOptions) -> None:
    """Whether this machine can run TensorRT-LLM's LLM API; MissingError names what it lacks."""
    if not (Path(options.model) / "config.json").is_file():
        raise MissingError(
            f"llm_api.model is {options.model!r}, no Hugging Face directory; --set llm_api.model=PATH"
        )
    here = _installed("tensorrt_llm")
    if here is None or tuple(map(int, re.findall(r"\d+", here)[:2])) < (1, 2):
        raise MissingError(f"tensorrt_llm is {here or 'not installed'}; this runtime needs 1.2 or later")
    if shutil.which("trtllm-llmapi-launch") is None:
        raise MissingError("`trtllm-llmapi-launch`, which comes with tensorrt_llm, is not on PATH")
    if (found := _gpus()) < options.tensor_parallel_size:
        raise MissingError(
            f"tensor_parallel_size is {options.tensor_parallel_size}, and this machine has {found} GPUs"
        )


def _gpus() -> int:
    """NVIDIA GPUs of this machine."""
    if smi := shutil.which("nvidia-smi"):
        listing = subprocess.run([smi, "--list-gpus"], capture_output=True, text=True, check=False)
        if listing.returncode == 0:
            return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


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
