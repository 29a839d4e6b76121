"""`python -m ensemble node`: waits on a machine of an engine until the leader starts MPI's daemon there, and ends with it.

It knows connections and one daemon. A rank that has ended cannot be joined again, so the exit code is the daemon's and the
orchestrator starts the whole group anew. On SIGTERM or SIGINT the daemon and its ranks are ended.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from ensemble.nodes import wire
from ensemble.nodes.daemon import Daemon
from ensemble.nodes.wire import Kind, RefusedError, Request

_PATIENCE_S = 10.0
_STRANGERS = 32
"""Connections that have not yet proved anything. A probe's lasts for a moment."""
_RUN_DIRECTORIES: Final = "qwen3vl-serve-"


class Node:
    """Waits on one address.

    Args:
        host: address to listen on.
        port: its port; 0: a free one.
        secret: what the leader must know.
    """

    def __init__(self, host: str, port: int, secret: bytes) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._secret = secret
        self._strangers = threading.BoundedSemaphore(_STRANGERS)
        self._one = threading.Lock()
        self._daemon: Daemon | None = None
        self._code = 0
        self._told, self._tell = socket.socketpair()
        self._tell.setblocking(False)

    def run(self) -> int:
        """Wait for the leader, and for the end of the daemon; returns its exit code, 0 after a signal."""
        # A handler in Python would have to wait until `select` returns, which only a signal to this very thread, at a
        # moment when it waits already, makes it do. The interpreter itself writes to the socket at once.
        wakes_before = signal.set_wakeup_fd(self._tell.fileno(), warn_on_full_buffer=False)
        before = {
            number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            while True:
                ready, _, _ = select.select([self._listener, self._told], [], [])
                if self._told in ready:
                    return self._code
                connection, address = self._listener.accept()
                if self._strangers.acquire(blocking=False):
                    threading.Thread(target=self._meet, args=(connection, address[0]), daemon=True).start()
                else:
                    connection.close()
        finally:
            self._listener.close()
            if self._daemon is not None:
                self._daemon.end()
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakes_before)

    def _wake(self) -> None:
        with suppress(OSError):
            self._tell.send(b"x")

    def _meet(self, connection: socket.socket, peer: str) -> None:
        with connection:
            try:
                connection.settimeout(_PATIENCE_S)
                try:
                    request = wire.receive_request(connection, self._secret)
                finally:
                    self._strangers.release()
                if request is not None:
                    self._serve(connection, request)
            except (RefusedError, ValueError, KeyError) as error:
                _say(f"refused {peer}: {error}")
                with suppress(OSError):
                    wire.send(connection, Kind.REFUSED, str(error).encode())
            except OSError as error:
                _say(f"lost {peer}: {error}")

    def _serve(self, connection: socket.socket, request: Request) -> None:
        if not self._one.acquire(blocking=False):
            wire.send(connection, Kind.BUSY, b"this node runs a daemon already; it ends with its leader")
            return
        try:
            with _Files(request) as directory:
                daemon = Daemon(request.words, directory)
                self._daemon = daemon
                _say(f"started {' '.join(request.words)[:80]}...")
                connection.settimeout(None)
                wire.stay_alive(connection)
                wire.send(connection, Kind.STARTED, b"")
                self._code = _relay(connection, daemon)
        finally:
            if self._daemon is None:  # refused: another may come
                self._one.release()
        _say(f"the daemon ended with exit code {self._code}")
        self._wake()


class _Files:
    """The leader's files at the leader's path, as long as the daemon runs."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._made: Path | None = None

    def __enter__(self) -> Path:
        if not self._request.directory:
            return Path(tempfile.gettempdir())
        directory = Path(self._request.directory)
        parent = Path(tempfile.gettempdir())
        if directory.parent.parent != parent or not directory.parent.name.startswith(_RUN_DIRECTORIES):
            raise RefusedError(
                f"directory: got {directory}; allowed: {parent}/{_RUN_DIRECTORIES}*/*. Leader and nodes need the same TMPDIR"
            )
        if not directory.parent.exists():  # the leader's own, where it runs on this machine
            directory.parent.mkdir(mode=0o700)
            self._made = directory.parent
            wire.unpack(self._request.files, directory)
        return directory.parent

    def __exit__(self, *_: object) -> None:
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)


def _relay(connection: socket.socket, daemon: Daemon) -> int:
    """Send what the daemon writes, until it ends or the leader is gone; returns the exit code."""
    lock = threading.Lock()

    def pump(pipe: IO[bytes], kind: Kind) -> None:
        while part := os.read(pipe.fileno(), 1 << 16):
            sys.stderr.buffer.write(part)
            sys.stderr.buffer.flush()
            with lock, suppress(OSError):
                wire.send(connection, kind, part)

    def watch() -> None:
        with suppress(OSError):
            while connection.recv(1):
                pass
        if daemon.returncode is None:
            _say("the leader is gone")
            daemon.terminate()

    pumps = [
        threading.Thread(target=pump, args=pair, daemon=True)
        for pair in ((daemon.output, Kind.OUTPUT), (daemon.errors, Kind.ERRORS))
    ]
    for thread in (*pumps, threading.Thread(target=watch, daemon=True)):
        thread.start()
    code = daemon.wait()
    daemon.end()
    for thread in pumps:
        thread.join(1.0)
    with lock, suppress(OSError):
        wire.send(connection, Kind.ENDED, str(code).encode())
    return code


def _say(text: str) -> None:
    print(f"node: {text}", file=sys.stderr, flush=True)
