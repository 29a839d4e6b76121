"""Runs one Triton server: starts it, waits until it is ready, watches it, drains it, and leaves nothing behind.

It knows the life of a server. Processes are in `process`, checks in `preflight`, the command in `command`, and what Triton
serves in `repository`.

How it ends:

- On SIGTERM or SIGINT the public model is told to refuse new requests (`draining`), and the requests that it holds go on, at most
  `exit_timeout_s`. With the last one done Triton is told to exit, and killed if it has not within GRACE_S: a
  client that only holds a connection open would otherwise keep Triton alive until it aborts. Exit code 0.
- A second signal, or the timeout, cuts what is left. Exit code 1.
- When Triton or one of its Python processes dies, all the rest is killed, so that every client sees its connection
  break at once, and the exit code is 1: an orchestrator starts the server anew. (Triton would start a dead
  Python process again, but the requests it held would never end.)
- When Triton gives no answer for `silence_s`, it is ended as if it had died: a Triton that crashes can stand still.
- When this process itself is killed, the kernel kills Triton, and the Python processes notice within a second.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

from ensemble import draining, loopback, repository, tracing
from ensemble.command import Settings, start_command
from ensemble.config import DeploymentConfig
from ensemble.gauges import DRAINING, IN_FLIGHT
from ensemble.heartbeat import EVERY_S, Heartbeat
from ensemble.nodes import launch
from ensemble.process import Stub, TritonProcess, memory_kills
from ensemble.startup import StartError, explain, show_progress
from ensemble.tritonserver import TritonServer

GRACE_S = 2.5
"""How long Triton may take to exit when nothing is in flight; it needs about 2 s."""
_POLL_S = 0.05
_PREFIX = "qwen3vl-serve"
_MPI_STORE = "PMIX_MCA_gds"


class _Signals:
    """Counts SIGTERM and SIGINT; the loops below look at the number several times a second."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> _Signals:
        self._before = {
            number: signal.signal(number, self._take) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: object) -> None:
        self.count += 1


def serve(
    config: DeploymentConfig,
    settings: Settings,
    triton: TritonServer,
    write: Callable[[Path, DeploymentConfig], None] = repository.write,
) -> int:
    """Serve until a signal or a failure; returns the exit code. StartError if it does not become ready.

    Args:
        config: the deployment.
        settings: where to listen and write.
        triton: the installation to run.
        write: writes the model repository of a deployment into a directory.
    """
    started_s = time.monotonic()
    with _Signals() as signals, _run_directory() as run, _log_file(settings, run) as log:
        write(run / "models", config)
        backends, environment = triton.prepare(run)
        environment |= _environment(settings, run)
        command = start_command(triton.binary, run / "models", backends, config, settings, _shm_prefix())
        process = TritonProcess(command, environment, run, log)
        try:
            if not _wait_ready(process, settings, log, signals):
                return 0
            process.watch_stubs()
            _announce(process, settings, time.monotonic() - started_s)
            with closing(Heartbeat(_grpc(settings), min(EVERY_S, settings.silence_s / 4))) as heartbeat:
                _watch(process, heartbeat, settings, signals)
            return 0 if _end(process, config, settings, run, signals) else 1
        finally:
            if settings.ready_file:
                settings.ready_file.unlink(missing_ok=True)
            process.close()


def _environment(settings: Settings, run: Path) -> dict[str, str]:
    return {
        draining.VARIABLE: str(run / "drain"),
        loopback.VARIABLE: _grpc(settings),
        tracing.VARIABLE: settings.trace_url,
        # Digests of pictures are keyed with it; see model_repository/preprocessing.
        "QWEN3VL_HASH_KEY": secrets.token_hex(32),
        # numpy does small work only; the engines have threads of their own, set by `threads`.
        **{
            name: os.environ.get(name, "1")
            for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        },
        "TOKENIZERS_PARALLELISM": "false",
        # What the other ranks read, see `nodes`; and how long their machines may take to come up.
        launch.FILES_VARIABLE: str(run / "models"),
        launch.WAIT_VARIABLE: str(settings.ready_timeout_s),
        # NVIDIA's C++ backend begins MPI; with the other store that begin can fail inside containers.
        _MPI_STORE: os.environ.get(_MPI_STORE, "hash"),
    }


def _wait_ready(process: TritonProcess, settings: Settings, log: Path, signals: _Signals) -> bool:
    """Wait until every model is loaded. False when a signal came first."""
    url = f"{_http(settings.host, settings.ports.http)}/v2/health/ready"
    end_s = time.monotonic() + settings.ready_timeout_s
    with show_progress(log) as progress:
        while not _is_ready(url):
            if signals.count:
                return False
            process.wait(_POLL_S)
            if process.returncode is not None:
                raise StartError(explain(log, process.returncode))
            if time.monotonic() > end_s:
                raise StartError(f"not ready within {settings.ready_timeout_s:.0f} s\n{explain(log, None)}")
            progress()
    return True


def _announce(process: TritonProcess, settings: Settings, seconds: float) -> None:
    if settings.ready_file:
        facts = {
            "pid": os.getpid(),
            "triton_pid": process.pid,
            "host": settings.host,
            **{f"{name}_port": port for name, port in asdict(settings.ports).items()},
        }
        # Renamed into place: who sees the file sees all of it.
        draft = settings.ready_file.with_name(f"{settings.ready_file.name}.{os.getpid()}")
        draft.write_text(json.dumps(facts) + "\n", encoding="utf-8")
        draft.replace(settings.ready_file)
    host, ports = settings.host, settings.ports
    print(
        f"ready in {seconds:.1f} s: gRPC {host}:{ports.grpc}, HTTP {_http(host, ports.http)}, "
        f"metrics {_http(host, ports.metrics)}/metrics",
        flush=True,
    )


def _watch(process: TritonProcess, heartbeat: Heartbeat, settings: Settings, signals: _Signals) -> None:
    """Return at the first signal; ServerDiedError if a process ends before, or the server falls silent."""
    heard, silent_s = heartbeat.answers, 0.0
    while not signals.count:
        _look(process, _POLL_S)
        # Our own steps are counted, not the clock: while this process stands still nobody asks.
        silent_s = silent_s + _POLL_S if heartbeat.answers == heard else 0.0
        heard = heartbeat.answers
        if silent_s > settings.silence_s:
            raise ServerDiedError(
                f"tritonserver (pid {process.pid}) runs but gave no answer for {settings.silence_s:g} s; it is ended"
            )


def _look(process: TritonProcess, seconds: float) -> None:
    stub = process.wait(seconds)
    if stub is not None or process.returncode is not None:
        raise ServerDiedError(_obituary(process, stub))


def _obituary(process: TritonProcess, stub: Stub | None) -> str:
    who = (
        f"the Python process of model {stub.model} (pid {stub.pid}) died; the server ends with it"
        if stub
        else f"tritonserver ended with exit code {process.returncode}"
    )
    if memory_kills() > process.memory_kills_at_start:
        who += ". Meanwhile the kernel killed a process because memory ran out: give more, or lower kv_cache_bytes"
    return who


class ServerDiedError(RuntimeError):
    """Triton or one of its Python processes ended without being told to."""


def _end(
    process: TritonProcess, config: DeploymentConfig, settings: Settings, run: Path, signals: _Signals
) -> bool:
    """Drain, then end Triton. Returns whether every request was finished."""
    (run / "drain").touch()
    asked = signals.count
    end_s = time.monotonic() + config.exit_timeout_s
    url = f"{_http(settings.host, settings.ports.metrics)}/metrics"
    shown = -1.0
    while (inflight := _inflight(url)) != 0:
        if signals.count > asked:
            print("second signal: cutting what is left", file=sys.stderr, flush=True)
            return False
        if time.monotonic() > end_s:
            print(
                f"requests were still running after {config.exit_timeout_s} s: cut",
                file=sys.stderr,
                flush=True,
            )
            return False
        if inflight is not None and inflight != shown:
            shown = inflight
            print(f"draining: {inflight:.0f} in flight", file=sys.stderr, flush=True)
        _look(process, _POLL_S)
    drained_s = time.monotonic()
    process.terminate()
    while process.returncode is None and time.monotonic() < drained_s + GRACE_S:
        time.sleep(0.02)
    print("drained", file=sys.stderr, flush=True)
    return True


def _inflight(metrics_url: str) -> float | None:
    """Requests of the public model still in flight; None as long as it has not begun to drain."""
    try:
        with urllib.request.urlopen(metrics_url, timeout=1.0) as reply:
            lines = reply.read().decode().splitlines()
    except OSError:
        return None
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith((IN_FLIGHT, DRAINING)))
    return float(values[IN_FLIGHT]) if float(values.get(DRAINING, 0)) == 1 else None


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1.0) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _reachable(host: str) -> str:
    """The host as this machine reaches it: a server that listens everywhere is asked on the loopback."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _grpc(settings: Settings) -> str:
    return f"{_reachable(settings.host)}:{settings.ports.grpc}"


def _http(host: str, port: int) -> str:
    return f"http://{_reachable(host)}:{port}"


@contextmanager
def _run_directory() -> Iterator[Path]:
    """A directory for this server's files; it and shared memory are removed at the end, and a killed server's too."""
    for pid in _dead_servers():
        _remove_files_of(pid)
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}-{os.getpid()}-"))
    try:
        yield directory
    finally:
        _remove_files_of(os.getpid())


def _shm_prefix(pid: int | None = None) -> str:
    return f"{_PREFIX}-{pid or os.getpid()}-"


def _dead_servers() -> set[int]:
    names = [path.name for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}-*-*")]
    names += [path.name for path in Path("/dev/shm").glob(f"{_PREFIX}-*-*")]
    pids = {int(word) for name in names if (word := name.split("-")[2]).isdigit()}
    return {pid for pid in pids if not Path(f"/proc/{pid}").exists()}


def _remove_files_of(pid: int) -> None:
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}-{pid}-*"):
        shutil.rmtree(directory, ignore_errors=True)  # another user's is not ours to remove
    for file in Path("/dev/shm").glob(f"{_shm_prefix(pid)}*"):
        try:
            file.unlink(missing_ok=True)
        except PermissionError:
            continue


@contextmanager
def _log_file(settings: Settings, run: Path) -> Iterator[Path]:
    """The file for Triton's log; a temporary one outlives a failure, and the place is told."""
    if settings.log_dir is not None:
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        yield settings.log_dir / "triton.log"
        return
    log = run / "triton.log"
    log.touch()
    try:
        yield log
    except Exception:
        kept = Path(tempfile.gettempdir()) / f"{_PREFIX}.{os.getpid()}.log"
        shutil.copyfile(log, kept)
        print(f"Triton's log is kept in {kept}", file=sys.stderr)
        raise
