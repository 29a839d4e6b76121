"""Rows of prompt embedding tables as arrays: numpy on the openvino target, torch tensors on the GPU otherwise.

It knows the few things that the batch and the cache do with rows and that numpy and torch do differently. torch is
imported only where rows are torch tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

Rows = Any
"""A numpy array, or a torch tensor on any device: [v, 1+D, H], or a table [1, rows, H]."""

_TORCH_DTYPES: Final = {"BF16": "bfloat16", "FP16": "float16"}


def join(parts: Sequence[Rows]) -> Rows:
    """The parts one after the other, always as a copy that owns its memory.

    On a GPU the copy is finished on return: it may be read from any stream, as Triton does, and the parts may go.
    """
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    joined = torch.cat(list(parts))
    if joined.is_cuda:
        torch.cuda.current_stream(joined.device).synchronize()
    return joined


def zeros(shape: tuple[int, ...], table_dtype: str) -> Rows:
    """Zeros in host memory, of a type as Triton spells it: numpy for FP32, torch for what numpy lacks."""
    if table_dtype == "FP32":
        return np.zeros(shape, np.float32)
    import torch

    return torch.zeros(shape, dtype=getattr(torch, _TORCH_DTYPES[table_dtype]))


def freeze(rows: Rows) -> None:
    """Let nobody write to `rows`, where the array can refuse; ValueError if they are a view of other memory.

    A view would hold more bytes than its own. torch cannot refuse writers: there it is the rule that cached rows leave
    only through `join`, as copies.
    """
    if isinstance(rows, np.ndarray):
        owned = rows.base is None
        rows.flags.writeable = False
    else:
        owned = rows.untyped_storage().nbytes() == rows.nbytes
    if not owned:
        raise ValueError("rows that share memory with others cannot be kept")
