"""What a leader and a node say to each other over TCP: who they are, one request, and what comes of it.

It knows bytes and proofs. It does not know processes.

    node    -> leader   GREETING, nonce
    leader  -> node     nonce, length and SHA-256 of the request, the leader's proof of all of it
    node    -> leader   PROVED, the node's proof; or REFUSED
    leader  -> node     the request
    node    -> leader   STARTED, then OUTPUT, ERRORS, ... and at last ENDED with the exit code; or REFUSED, BUSY

Nothing that is sent before the leader's proof is kept, so a stranger costs a node a few bytes and a few seconds. When the leader
closes the connection, the node ends what it has started.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import socket
import struct
import tarfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from ensemble.nodes import secret as secrecy

GREETING: Final = b"qwen3vl-node 1\n"
_NONCE: Final = 32
_LENGTH: Final = struct.Struct(">Q")
_FRAME: Final = struct.Struct(">cI")
_LARGEST_REQUEST: Final = 16 << 20
_LARGEST_FRAME: Final = 1 << 20


class Kind(Enum):
    """What a node tells."""

    PROVED = b"p"
    REFUSED = b"r"
    BUSY = b"b"
    STARTED = b"s"
    OUTPUT = b"o"
    ERRORS = b"e"
    ENDED = b"x"


class RefusedError(RuntimeError):
    """The other side does not know the secret, or does not do what was asked."""


class BusyError(RuntimeError):
    """The node runs something else."""


@dataclass(frozen=True)
class Request:
    """A daemon to start.

    Attributes:
        words: what `mpirun` gave its launch agent: a command line for a remote shell.
        directory: where the files go, an absolute path; "": there are none.
        files: a tar of them: the model repository, which the ranks read at the same path as the leader.
    """

    words: tuple[str, ...]
    directory: str = ""
    files: bytes = b""

    def encode(self) -> bytes:
        """As bytes."""
        return json.dumps({"words": self.words, "directory": self.directory}).encode() + b"\n" + self.files

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """From bytes; ValueError if they are no request."""
        head, _, files = data.partition(b"\n")
        fields = json.loads(head)
        if not isinstance(fields, dict):
            raise ValueError(f"request: got {type(fields).__name__}; allowed: an object")
        return cls(tuple(map(str, fields["words"])), str(fields["directory"]), files)


def pack(directory: Path) -> bytes:
    """A tar of a directory's files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(directory, arcname=".")
    return buffer.getvalue()


def unpack(files: bytes, directory: Path) -> None:
    """The files of a tar; none of them can land outside of the directory."""
    with tarfile.open(fileobj=io.BytesIO(files), mode="r:gz") as tar:
        tar.extractall(directory, filter="data")


def receive_request(connection: socket.socket, secret: bytes) -> Request | None:
    """A node's side until the request. None for a connection that says nothing, as those of probes.

    RefusedError for one who does not know the secret, ValueError for bytes that are no request.
    """
    mine = secrets.token_bytes(_NONCE)
    connection.sendall(GREETING + mine)
    theirs = receive(connection, _NONCE, at_least=0)
    if not theirs:
        return None
    length, digest = receive(connection, _LENGTH.size), receive(connection, hashlib.sha256().digest_size)
    proof = receive(connection, secrecy.BYTES)
    if not secrecy.holds(secret, proof, secrecy.LEADER, mine, theirs, length, digest):
        raise RefusedError("the secret is another one than this node's; give leader and nodes the same")
    (size,) = _LENGTH.unpack(length)
    if size > _LARGEST_REQUEST:
        raise ValueError(f"request: got {size} bytes; allowed: {_LARGEST_REQUEST}")
    send(connection, Kind.PROVED, secrecy.prove(secret, secrecy.NODE, theirs, mine))
    body = receive(connection, size)
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("request: got other bytes than announced")
    return Request.decode(body)


def send_request(connection: socket.socket, secret: bytes, request: Request) -> None:
    """A leader's side until the request is sent; RefusedError if the node does not know the secret."""
    if receive(connection, len(GREETING)) != GREETING:
        raise RefusedError("what listens there is no node of this version")
    theirs, mine = receive(connection, _NONCE), secrets.token_bytes(_NONCE)
    body = request.encode()
    length, digest = _LENGTH.pack(len(body)), hashlib.sha256(body).digest()
    proof = secrecy.prove(secret, secrecy.LEADER, theirs, mine, length, digest)
    connection.sendall(mine + length + digest + proof)
    kind, data = receive_frame(connection)
    if kind is not Kind.PROVED or not secrecy.holds(secret, data, secrecy.NODE, mine, theirs):
        raise RefusedError("what listens there does not know the secret")
    connection.sendall(body)


def send(connection: socket.socket, kind: Kind, data: bytes) -> None:
    """One frame."""
    connection.sendall(_FRAME.pack(kind.value, len(data)) + data)


def receive_frame(connection: socket.socket) -> tuple[Kind, bytes]:
    """The next frame; RefusedError and BusyError for what they mean, ConnectionError at the end."""
    mark, size = _FRAME.unpack(receive(connection, _FRAME.size))
    if size > _LARGEST_FRAME:
        raise RefusedError(f"frame: got {size} bytes; allowed: {_LARGEST_FRAME}")
    kind, data = Kind(mark), receive(connection, size)
    if kind is Kind.REFUSED:
        raise RefusedError(data.decode(errors="replace"))
    if kind is Kind.BUSY:
        raise BusyError(data.decode(errors="replace"))
    return kind, data


def receive(connection: socket.socket, size: int, at_least: int = 1) -> bytes:
    """Exactly so many bytes; b"" if the other side closes before the first one and `at_least` is 0."""
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(size - len(data), 1 << 16))
        if not part:
            if not data and not at_least:
                return b""
            raise ConnectionError("the other side has closed the connection")
        data += part
    return bytes(data)


def stay_alive(connection: socket.socket) -> None:
    """Notice within half a minute that the other machine is gone, and send small frames at once."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
