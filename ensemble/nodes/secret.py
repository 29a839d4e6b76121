"""The secret that the machines of one engine share, and proofs of knowing it.

It knows the environment and HMAC. It does not know sockets.

Whoever knows the secret can run programs on the other machines: that is what MPI's daemon is for. The secret itself never
travels. What travels is neither encrypted nor protected after the first exchange, nor is MPI's own traffic: let a
NetworkPolicy keep others out.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

VARIABLE: Final = "QWEN3VL_NODE_SECRET"
FILE_VARIABLE: Final = "QWEN3VL_NODE_SECRET_FILE"
LEADER: Final = b"leader"
NODE: Final = b"node"
BYTES: Final = 32
"""Length of a proof."""
_SHORTEST = 16


class SecretError(ValueError):
    """There is no secret, or it is too short."""


def read(environment: Mapping[str, str] = os.environ) -> bytes:
    """The secret, from the variable or the file that another variable names; SecretError if there is none."""
    text = environment.get(VARIABLE, "")
    file = environment.get(FILE_VARIABLE, "")
    if not text and file:
        try:
            text = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SecretError(
                f"{FILE_VARIABLE}: got {file}, which cannot be read: {error.strerror}"
            ) from error
    if len(text) < _SHORTEST:
        raise SecretError(
            f"{VARIABLE}: got {f'{len(text)} characters' if text else 'none'}; allowed: {_SHORTEST} characters or more, the same "
            f"on all machines of one engine. Set it, or {FILE_VARIABLE} to a file with it: openssl rand -hex 24"
        )
    return text.encode()


def prove(secret: bytes, side: bytes, *parts: bytes) -> bytes:
    """What only one who knows the secret can say about the parts. The side keeps a proof from being sent back as one's own."""
    digest = hmac.new(secret, digestmod=hashlib.sha256)
    for part in (side, *parts):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def holds(secret: bytes, given: bytes, side: bytes, *parts: bytes) -> bool:
    """Whether a proof is right, in a time that does not tell how wrong it is."""
    return hmac.compare_digest(given, prove(secret, side, *parts))
