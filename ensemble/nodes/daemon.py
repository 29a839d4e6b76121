"""MPI's daemon on a node: which command lines are one, what it inherits, how it is run and ended.

It knows command lines and processes. It does not know sockets.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ensemble.nodes.wire import RefusedError
from ensemble.process import descendants

PROGRAMS: Final = ("orted", "prted")
"""Open MPI's daemon up to version 4, and from 5 on. Nothing else is started."""
_NAMES = ("PATH", "LD_LIBRARY_PATH", "HOME", "USER", "TMPDIR", "TZ", "LANG", "XDG_CACHE_HOME", "OPAL_PREFIX")
_PREFIXES = (
    "LC_",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "UCX_",
    "OMPI_",
    "OPAL_",
    "PMIX_",
    "PRTE_",
    "TRTLLM_",
    "TLLM_",
)
_PRELUDE = ("export", "PATH=", "LD_LIBRARY_PATH=", "DYLD_LIBRARY_PATH=")
_PR_SET_CHILD_SUBREAPER = 36
_GRACE_S = 5.0


def command(words: Sequence[str]) -> list[str]:
    """Program and arguments; RefusedError if it is not one of PROGRAMS.

    `mpirun` writes for a remote shell: settings of the search path and `;` may come first. They are dropped, for the node
    knows its own paths, and no shell ever sees the line.
    """
    lexer = shlex.shlex(" ".join(words), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        tokens = list(lexer)
    except ValueError as error:
        raise RefusedError(f"command: got {' '.join(words)[:200]!r}: {error}") from error
    statements: list[list[str]] = [[]]
    for token in tokens:
        if token == ";":
            statements.append([])
        else:
            statements[-1].append(token)
    *prelude, last = statements
    name = Path(last[0]).name if last else ""
    if name not in PROGRAMS or any(not line or not line[0].startswith(_PRELUDE) for line in prelude):
        raise RefusedError(
            f"command: got {' '.join(words)[:200]!r}; allowed: MPI's daemon alone, {' or '.join(PROGRAMS)}"
        )
    program = shutil.which(name)
    if program is None:
        raise RefusedError(
            f"command: got {name}, which is not on this node's PATH; install the leader's Open MPI"
        )
    return [program, *last[1:]]


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Of the node's own variables those that MPI, CUDA and TensorRT-LLM know. No secret is among them."""
    return {key: value for key, value in given.items() if key in _NAMES or key.startswith(_PREFIXES)}


class Daemon:
    """The running daemon.

    Args:
        words: as `mpirun` gave them; RefusedError if they may not be run.
        directory: its working directory.
    """

    def __init__(self, words: Sequence[str], directory: Path) -> None:
        started = command(words)
        # What outlives the daemon becomes this process's child, and is found by `end`.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._process = subprocess.Popen(
            started,
            cwd=directory,
            env=environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.output = self._process.stdout
        self.errors = self._process.stderr

    @property
    def returncode(self) -> int | None:
        """Exit code as a shell tells it; None while it runs."""
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        self._process.wait()
        return self.returncode or 0

    def terminate(self) -> None:
        """Ask for an orderly end: the daemon ends its ranks, then itself."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """End it and all that it has started: in order, then by force."""
        self.terminate()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        end_s = time.monotonic() + _GRACE_S
        while (left := descendants(os.getpid())) and time.monotonic() < end_s:
            for pid in left:
                _kill(pid)
            time.sleep(0.02)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, os.WNOHANG)
    except (ProcessLookupError, ChildProcessError):
        return
