"""The GPUs that the planner knows by name, and the compute capability of those that this machine has."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

_MIB = 1 << 20
COMPUTE_CAPABILITY: Final = "compute_capability"
"""Its name among the versions of a manifest."""


@dataclass(frozen=True)
class Gpu:
    """A GPU: compute capability (89 for 8.9) and total memory in bytes, as nvidia-smi prints it."""

    sm: int
    memory: int


GPUS: Final = {
    "a10": Gpu(86, 23028 * _MIB),
    "l4": Gpu(89, 23034 * _MIB),
    "l40s": Gpu(89, 46068 * _MIB),
    "a100-40": Gpu(80, 40960 * _MIB),
    "a100-80": Gpu(80, 81920 * _MIB),
    "h100-80": Gpu(90, 81559 * _MIB),
    "h20-96": Gpu(90, 97871 * _MIB),
    "h200": Gpu(90, 143771 * _MIB),
    "b200": Gpu(100, 183359 * _MIB),
}


def compute_capability() -> str | None:
    """Of this machine's GPUs, "9.0"; None where `nvidia-smi` sees none. Needs no CUDA library, so a check is cheap."""
    if (smi := shutil.which("nvidia-smi")) is None:
        return None
    query = [smi, "--query-gpu=compute_cap", "--format=csv,noheader"]
    listing = subprocess.run(query, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        return None
    return ", ".join(sorted({line.strip() for line in listing.stdout.splitlines() if line.strip()})) or None
