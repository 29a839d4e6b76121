"""The command that starts Triton: its options for a target, and MPI around it for an engine of several ranks.

It knows options. It does not know processes. What it composes for the target tensorrt-llm was not yet run on hardware.

An engine built for several GPUs (tensor parallelism) runs in the leader mode of NVIDIA's C++ backend, as NVIDIA's own
scripts/launch_triton_server.py starts it: `mpirun` with one tritonserver a rank. Rank 0 is the server; the others load the
language model alone, take its work, and never begin to listen. The other mode, an orchestrator that spawns worker processes,
needs `mpirun` as well, and one more copy of every request.

Where the ranks are spread over machines, `mpirun` starts its daemon on the others by our launch agent (`nodes`).
"""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ensemble.config import DeploymentConfig
from ensemble.contract import LANGUAGE_MODEL
from ensemble.options import TRACE_HEADERS
from ensemble.preflight import Ports
from ensemble.tensorrtllm import TensorRtLlmBackend

CLOSED: Final = ("model-repository", "shared-memory", "trace", "logging")
"""Groups of Triton's calls, under its own names, that a served model has no use for."""


@dataclass(frozen=True)
class Settings:
    """Where a server listens and writes.

    Attributes:
        host: address to bind.
        ports: free ports of it.
        log_dir: directory for triton.log; None: a temporary one, kept when the server fails.
        ready_file: JSON written when ready, removed at the end: pid, triton_pid, host and ports.
        ready_timeout_s: how long loading may take.
        silence_s: how long Triton may answer nothing before it is taken for dead.
        verbose: Triton's verbose log.
        trace_url: where spans go, an OpenTelemetry collector's HTTP address; "": none are made.
        nodes: the machines that hold the ranks which this one does not, in order; on each `python -m ensemble node` runs.
    """

    host: str
    ports: Ports
    log_dir: Path | None = None
    ready_file: Path | None = None
    ready_timeout_s: float = 600.0
    silence_s: float = 30.0
    verbose: bool = False
    trace_url: str = ""
    nodes: tuple[str, ...] = ()


def start_command(
    binary: Path,
    models: Path,
    backends: Path,
    config: DeploymentConfig,
    settings: Settings,
    shm_prefix: str,
) -> list[str]:
    """Program and arguments.

    Args:
        binary: tritonserver.
        models: the model repository.
        backends: directory with one directory per backend.
        config: the deployment.
        settings: where to listen and write.
        shm_prefix: begins the names of the server's shared memory.
    """
    if config.llm_api is not None:
        # It spawns workers with MPI, which a plain program cannot.
        return [
            "trtllm-llmapi-launch",
            str(binary),
            *_options(models, backends, config, settings, shm_prefix),
        ]
    if config.tensorrt_llm is None:
        # No GPU: nothing to measure, nothing to pin.
        own = ["--allow-gpu-metrics=false", "--pinned-memory-pool-byte-size=0"]
        return [str(binary), *_options(models, backends, config, settings, shm_prefix), *own]
    backend = TensorRtLlmBackend.read(config)
    pool = f"--cuda-memory-pool-byte-size={backend.gpu_device_ids[0]}:{backend.cuda_pool_bytes}"
    server = [str(binary), *_options(models, backends, config, settings, shm_prefix), pool]
    if backend.engine.tp_size == 1:
        return server
    command = ["mpirun", "--allow-run-as-root", *_spread(settings.nodes, backend.ranks), "-n", "1", *server]
    for rank in range(1, backend.engine.tp_size):
        command += [":", "-n", "1", str(binary)]
        command += _options(models, backends, config, settings, f"{shm_prefix}{rank}-")
        command += ["--model-control-mode=explicit", f"--load-model={LANGUAGE_MODEL}"]
    return command


def _spread(nodes: tuple[str, ...], ranks: int) -> list[str]:
    """Of `mpirun`: so many ranks on this machine, then as many on each of the others."""
    if not nodes:
        return []
    return [
        # Open MPI would cut a pod's name at the first dot, and a pod's first name alone means nothing.
        *("--mca", "orte_keep_fqdn_hostnames", "true"),
        *("--mca", "plm", "rsh"),
        *("--mca", "plm_rsh_agent", f"{sys.executable} -m ensemble node-launch"),
        # All daemons are started from here: the nodes know no agent.
        *("--mca", "plm_rsh_no_tree_spawn", "1"),
        # Else the daemons would leave the nodes' sight at once.
        "--leave-session-attached",
        *("--map-by", "slot", "--bind-to", "none"),
        # This machine by the name that is always its own.
        *("--host", ",".join(f"{host}:{ranks}" for host in ("localhost", *nodes))),
    ]


def _options(
    models: Path, backends: Path, config: DeploymentConfig, settings: Settings, shm_prefix: str
) -> list[str]:
    address = {"grpc": settings.ports.grpc, "http": settings.ports.http, "metrics": settings.ports.metrics}
    return [
        f"--model-repository={models}",
        f"--backend-directory={backends}",
        *(f"--{name}-address={settings.host}" for name in address),
        *(f"--{name}-port={port}" for name, port in address.items()),
        # The configs are complete. Without this, every stub would be started twice.
        "--disable-auto-complete-config",
        # Prompts of many pictures do not fit the megabyte that the Python backend begins with.
        f"--backend-config=python,shm-default-byte-size={16 << 20}",
        f"--backend-config=python,shm-growth-byte-size={16 << 20}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--backend-config=python,stub-timeout-seconds={int(settings.ready_timeout_s)}",
        # By the time Triton is told to exit, the requests are done: see `server`.
        f"--exit-timeout-secs={config.exit_timeout_s}",
        f"--log-verbose={int(settings.verbose)}",
        *_traced(settings.trace_url),
        *_closed(),
    ]


def _traced(url: str) -> list[str]:
    """The headers that `tracing` reads. Triton's own tracer stays off: it loses traces (docs/decisions/0020)."""
    if not url:
        return []
    return [f"--grpc-header-forward-pattern=^({'|'.join(TRACE_HEADERS)})$"]


def _closed() -> list[str]:
    """Calls that nobody may make: with shared memory one reads what other requests left there, with the others one changes
    the server. Triton has no switch for them but a key in the header; this one is known to nobody.
    """
    key = f"closed={secrets.token_hex(32)}"
    calls = ",".join(CLOSED)
    return [f"--grpc-restricted-protocol={calls}:{key}", f"--http-restricted-api={calls}:{key}"]
