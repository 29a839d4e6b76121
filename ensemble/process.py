"""The tritonserver process and the stub processes it starts: started, watched, stopped, and never left behind.

It knows process ids, signals and exits. It does not know models, requests or ports.

A stub is one model's Python process. Triton starts a dead one again, but requests that it held stay open for
ever, so the supervisor (`server`) ends the whole server when one dies. What is watched is a file descriptor
per process, which the kernel makes readable the moment the process ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_STEP_BACK = 3  # of the 19 steps of niceness: half the share of a core when both want it
_STUB_WORD = "triton_python_backend_stub"
_SERVER_WORD = "tritonserver"  # ranks of an engine of several GPUs
_LIFELINE = "QWEN3VL_LIFELINE"
"""Environment variable with a pipe that only tritonserver holds open for writing: its ends and its number, READ:WRITE:INODE."""


@dataclass(frozen=True)
class Stub:
    """The process of one instance of a Python model."""

    pid: int
    model: str


class TritonProcess:
    """A running tritonserver.

    Args:
        command: program and arguments.
        environment: its environment.
        directory: its working directory, which is the first entry of sys.path in its stubs.
        log: file that takes all it writes; None: standard error.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], directory: Path, log: Path | None
    ) -> None:
        output = log.open("ab") if log else None
        lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                list(command),
                env={**environment, _LIFELINE: f"{lifeline[0]}:{lifeline[1]}:{os.fstat(lifeline[0]).st_ino}"},
                pass_fds=lifeline,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output or 2,
                stderr=subprocess.STDOUT,
                # Out of the terminal's process group: Ctrl-C reaches the supervisor alone, which drains first.
                start_new_session=True,
                preexec_fn=_die_with_parent(),  # safe: no other thread runs yet
            )
        finally:
            for end in lifeline:
                os.close(end)
            if output:
                output.close()
        self.pid = self._process.pid
        self.memory_kills_at_start = memory_kills()
        self._descriptors: list[int] = []
        self._stubs: dict[int, Stub] = {}  # by pidfd
        self._poll = select.poll()
        self._watch(os.pidfd_open(self.pid))

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    @property
    def stubs(self) -> tuple[Stub, ...]:
        """The stubs that `watch_stubs` found."""
        return tuple(self._stubs.values())

    def watch_stubs(self) -> None:
        """Watch every stub there is now."""
        for stub in find_stubs(self.pid):
            if stub not in self._stubs.values():
                descriptor = os.pidfd_open(stub.pid)
                self._stubs[descriptor] = stub
                self._watch(descriptor)

    def wait(self, seconds: float) -> Stub | None:
        """Wait until the server or a watched stub ends, or the time is over; returns a stub that ended."""
        for descriptor, _ in self._poll.poll(seconds * 1000):
            if stub := self._stubs.get(descriptor):
                return stub
        return None

    def terminate(self) -> None:
        """Ask for an orderly exit."""
        if self.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End server and stubs now."""
        pids = {*descendants(self.pid), *(stub.pid for stub in self._stubs.values())}
        self._process.kill()
        self._process.wait()
        # Stubs notice by themselves that their server is gone, but only within a second, and not while they load.
        for pid in pids:
            if _is_ours(pid):
                os.kill(pid, signal.SIGKILL)
        _wait_until(lambda: not any(_is_ours(pid) for pid in pids), seconds=5.0)

    def close(self) -> None:
        """Make sure that nothing is left, and let go of the descriptors."""
        self.kill()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    def _watch(self, descriptor: int) -> None:
        self._poll.register(descriptor, select.POLLIN)
        self._descriptors.append(descriptor)


def find_stubs(server: int) -> list[Stub]:
    """The stubs below a process (tritonserver, or the mpirun above it), with the model that each runs."""
    commands = {pid: _command(pid) for pid in descendants(server)}
    return [
        Stub(pid, _model_of(words))
        for pid, words in commands.items()
        if words and words[0].endswith(_STUB_WORD)
    ]


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and those that they have."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids = [int(word) for word in children.read_text().split()]
        except FileNotFoundError:  # that thread has ended
            continue
        for child in pids:
            found += [child, *descendants(child)]
    return found


def end_with_parent() -> None:
    """In a stub: end as soon as Triton is gone.

    A stub looks for itself, but it does so under a lock that Triton shares with it, and one that was killed while
    it held the lock leaves stubs behind that wait for ever, with Python's own lock in their hands, so that no thread of
    Python's can end them. So the kernel does, by a signal when the pipe of which Triton holds the other end is closed. (Its
    death signal does not help here: it goes with the thread that started the stub, which ends when the model is loaded.)
    """
    if _hold_lifeline():
        return
    descriptor = os.pidfd_open(os.getppid())

    def wait() -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _hold_lifeline() -> bool:
    """Whether the kernel will kill this process when Triton is gone; not under MPI, which closes what it does not know."""
    try:
        read, write, number = (int(word) for word in os.environ[_LIFELINE].split(":"))
        if {os.fstat(read).st_ino, os.fstat(write).st_ino} != {number}:
            return False  # not inherited; the numbers are of other files
        # A description of its own: owner and signal belong to it, and the inherited one is every stub's.
        own = os.open(f"/proc/self/fd/{read}", os.O_RDONLY | os.O_NONBLOCK)
        os.close(write)
    except (KeyError, OSError):
        return False
    fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    try:
        gone = os.read(own, 1) == b""
    except BlockingIOError:  # nothing to read, and somebody who could write
        return True
    if gone:
        os.kill(os.getpid(), signal.SIGKILL)
    return True


def step_back() -> None:
    """Let other processes go first where cores are scarce: every running answer waits for the language model's next step,
    and only new ones for the other models.
    """
    os.nice(_STEP_BACK)


def memory_kills() -> int:
    """Processes that the kernel killed for want of memory since it started."""
    for line in Path("/proc/vmstat").read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


def _model_of(words: Sequence[str]) -> str:
    # triton_python_backend_stub REPOSITORY/MODEL/VERSION/model.py ...
    return Path(words[1]).parent.parent.name if len(words) > 1 else "?"


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _is_ours(pid: int) -> bool:
    """Whether the process lives (a zombie has no command line) and is a stub or a server: ids are used again."""
    words = _command(pid)
    return bool(words) and words[0].endswith((_STUB_WORD, _SERVER_WORD))


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _die_with_parent() -> Callable[[], None]:
    """What the child does before it becomes tritonserver: ask the kernel to be killed when the supervisor ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def run() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended in between
            os._exit(1)

    return run
