"""A process of the development stack: started, watched, ended. It knows processes; it does not know what they do.

A part lives in a process group of its own, so that Ctrl-C reaches the supervisor alone, which ends all in order. If the
supervisor is killed, the kernel tells its children to end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LONGEST_PAUSE_S: Final = 30.0
_STEADY_S: Final = 60.0


@dataclass
class Part:
    """One process.

    Args:
        name: of the log file and of the progress line.
        command: program and arguments.
        ready: whether it can be used; asked again and again.
        log: where all that it writes goes.
        environment: beside that of this process.
        restart: start it again when it dies; otherwise its end is the end of the stack.
        end_s: longest that it may take to end.
    """

    name: str
    command: Sequence[str]
    ready: Callable[[], bool]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    restart: bool = False
    end_s: float = 15.0
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    deaths: int = 0

    def start(self) -> None:
        """Start it; returns at once."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()

        def tied() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                list(self.command),
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=tied,  # there is one thread here, so this is safe
            )
        self.started_s = time.monotonic()

    @property
    def dead(self) -> bool:
        """It was started and has ended."""
        return self.process is not None and self.process.poll() is not None

    def pause_s(self) -> float:
        """How long to wait before it is started again: longer each time that it dies soon after its start."""
        if time.monotonic() - self.started_s > _STEADY_S:
            self.deaths = 0
        self.deaths += 1
        return float(min(_LONGEST_PAUSE_S, 0.5 * 2 ** (self.deaths - 1)))

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def end(self) -> None:
        """Ask it to end, then make it; nothing of its group is left."""
        if self.process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self.process.terminate()
            self.process.wait(self.end_s)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
