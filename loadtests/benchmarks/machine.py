"""What the machine is, and what it gives at this moment: hardware by name, memory bandwidth, matrix rates.

It knows the hardware. It does not know what is measured on it.
"""

from __future__ import annotations

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

FLAGS: Final = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8")
"""Processor flags that decide how fast a matrix product is."""

_READ_BYTES: Final = 256 << 20
_MATRIX: Final = 1024


@dataclass(frozen=True)
class Machine:
    """Hardware and system. `cores` are those that this process may use; `flags` those of FLAGS that it has."""

    cpu: str
    cores: int
    flags: tuple[str, ...]
    memory_bytes: int
    last_level_cache: str
    system: str
    python: str


@dataclass(frozen=True)
class Calibration:
    """What all cores together gave in a moment.

    Attributes:
        read_bytes_per_s: reading memory that is in no cache.
        bf16_flops: multiplications and additions per second of a 1024^3 bfloat16 matrix product (torch, oneDNN).
        f32_flops: the same in float32.
    """

    read_bytes_per_s: float
    bf16_flops: float
    f32_flops: float

    @property
    def flops(self) -> float:
        """The better of both rates; torch has no bfloat16 kernels for processors without AVX-512."""
        return max(self.bf16_flops, self.f32_flops)

    @staticmethod
    def mean(first: Calibration, second: Calibration) -> Calibration:
        """The mean of each figure."""
        return Calibration(
            (first.read_bytes_per_s + second.read_bytes_per_s) / 2,
            (first.bf16_flops + second.bf16_flops) / 2,
            (first.f32_flops + second.f32_flops) / 2,
        )


@cache
def describe() -> Machine:
    """The machine that this process runs on."""
    info = _cpu_info()
    present = set(info.get("flags", "").split())
    return Machine(
        cpu=info.get("model name", platform.processor() or "unknown"),
        cores=len(os.sched_getaffinity(0)),
        flags=tuple(flag for flag in FLAGS if flag in present),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        last_level_cache=_last_level_cache(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def calibrate() -> Calibration:
    """Measure for about 0.3 s, longer where a product takes longer. Needs torch. The first call allocates 256 MiB for good."""
    return Calibration(_read_rate(), _matrix_rate("bfloat16"), _matrix_rate("float32"))


def _read_rate(seconds: float = 0.12) -> float:
    cores = describe().cores
    parts = np.array_split(_memory(), cores)

    def read(part: np.ndarray[Any, Any]) -> None:
        while time.perf_counter() < end:
            part.max()  # vectorised, and numpy gives up the interpreter lock for it
            done.append(part.nbytes)

    done: list[int] = []
    start = time.perf_counter()
    end = start + seconds
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(read, parts))
    return sum(done) / (time.perf_counter() - start)


def _matrix_rate(kind: str, seconds: float = 0.1) -> float:
    import torch

    a = torch.ones(_MATRIX, _MATRIX, dtype=getattr(torch, kind))
    # Starts threads and library; a whole product takes seconds on some processors.
    torch.mm(a[:64, :64], a[:64, :64])
    best, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        torch.mm(a, a)
        best = min(best, time.perf_counter() - start)
    return 2.0 * _MATRIX**3 / best


@cache
def _memory() -> np.ndarray[Any, Any]:
    return np.ones(_READ_BYTES // 4, np.int32)


def _cpu_info() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    pairs = (line.partition(":") for line in path.read_text().split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _last_level_cache() -> str:
    sizes = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    return sizes[-1].read_text().strip() if sizes else "unknown"
