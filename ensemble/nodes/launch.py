"""`python -m ensemble node-launch HOST COMMAND...`: the launch agent of `mpirun`, in place of ssh.

It knows one node. Its output and exit code are the daemon's. It waits for a node that does not listen yet, because the pods of a
group start together, and it ends with `mpirun`, which ends the daemon on the node.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ensemble.nodes import secret as secrecy
from ensemble.nodes import wire
from ensemble.nodes.wire import BusyError, Kind, RefusedError, Request

PORT: Final = 8010
PORT_VARIABLE: Final = "QWEN3VL_NODE_PORT"
FILES_VARIABLE: Final = "QWEN3VL_NODE_FILES"
"""A directory that the node gets at the same path."""
WAIT_VARIABLE: Final = "QWEN3VL_NODE_WAIT_S"
_WAIT_S = 600.0
_STEP_S = 0.5
_PATIENCE_S = 10.0
_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> int:
    """Start the daemon on a host and stay until it ends; returns its exit code."""
    if len(arguments) < 2:
        print("usage: python -m ensemble node-launch HOST COMMAND...", file=sys.stderr)
        return 2
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    host, *words = arguments
    try:
        return launch(host, words, os.environ)
    except (RefusedError, secrecy.SecretError) as error:
        print(f"node-launch {host}: {error}", file=sys.stderr)
        return 1
    except (OSError, BusyError) as error:
        print(f"node-launch {host}: {error}; is `python -m ensemble node` running there?", file=sys.stderr)
        return 1


def launch(host: str, words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Ask the node until it takes the command or the time is over, then pass on what it tells."""
    secret = secrecy.read(environment)
    directory = environment.get(FILES_VARIABLE, "")
    request = Request(tuple(words), directory, wire.pack(Path(directory)) if directory else b"")
    port = int(environment.get(PORT_VARIABLE, PORT))
    end_s = time.monotonic() + float(environment.get(WAIT_VARIABLE, _WAIT_S))
    while True:
        try:
            connection = _started((host, port), secret, request)
            break
        except (OSError, BusyError):
            # Not resolved yet, not listening yet, or still ending the daemon of a leader before this one.
            if time.monotonic() + _STEP_S > end_s:
                raise
            time.sleep(_STEP_S)
    with connection:
        return _follow(connection)


def _started(address: tuple[str, int], secret: bytes, request: Request) -> socket.socket:
    connection = socket.create_connection(address, timeout=_PATIENCE_S)
    try:
        wire.send_request(connection, secret, request)
        wire.receive_frame(connection)  # nothing but STARTED comes first
        connection.settimeout(None)
        wire.stay_alive(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _follow(connection: socket.socket) -> int:
    try:
        while (frame := wire.receive_frame(connection))[0] is not Kind.ENDED:
            kind, data = frame
            stream = sys.stdout.buffer if kind is Kind.OUTPUT else sys.stderr.buffer
            stream.write(data)
            stream.flush()
    except OSError as error:
        # Not asked again: the ranks there are gone.
        raise RefusedError(f"the node is gone: {error}") from error
    return int(frame[1])
