"""How the supervisor tells the public model to take no new requests: a file appears.

A file, because it reaches a process that the supervisor did not start itself, costs a millionth of a second
to look for, and cannot be sent by a client. Without a supervisor there is no such file, and Triton's own
drain has to do.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "QWEN3VL_DRAIN_FILE"
"""Environment variable that names the file."""


def is_draining() -> bool:
    """Whether the supervisor has asked to drain."""
    name = os.environ.get(VARIABLE)
    return name is not None and Path(name).exists()
