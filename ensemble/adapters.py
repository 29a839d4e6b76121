"""LoRA adapters: the name in a request becomes the tensors that NVIDIA's C++ backend takes.

It knows the adapters of one engine directory. The backend keeps adapters in a cache under their task id, and refuses an id that
it does not hold; so a request goes out with the id alone, and once more with the weights if that is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ensemble.contract import LORA_CONFIG, LORA_TASK_ID, lora_weights
from ensemble.errors import EngineFailure, InvalidOption

DIRECTORY: Final = "adapters"
WEIGHTS_FILE: Final = "model.lora_weights.npy"
CONFIG_FILE: Final = "model.lora_config.npy"

Tensors = dict[str, npt.NDArray[Any]]


class Adapters:
    """The adapters that a request may choose.

    Args:
        names: as in the manifest; the task id is the place in the list + 1.
        engines: the engine directory.
    """

    def __init__(self, names: Sequence[str], engines: Path) -> None:
        self._names = tuple(names)
        self._directory = engines / DIRECTORY

    def check(self, name: str) -> None:
        """InvalidOption unless `name` is an adapter, or "" for none."""
        if name and name not in self._names:
            allowed = ", ".join(self._names) or "nothing: the engines were built without adapters"
            raise InvalidOption("lora_name", name, allowed)

    def task(self, name: str) -> Tensors:
        """The tensors that name a cached adapter; none for ""."""
        self.check(name)
        return {LORA_TASK_ID.name: np.array([[self._names.index(name) + 1]], np.uint64)} if name else {}

    def with_weights(self, name: str) -> Tensors:
        """The tensors that put an adapter into the cache and use it: `lora_weights` [1,modules*layers,-1], two bytes an
        item in the engine's data type, and `lora_config` [1,modules*layers,3].

        EngineFailure if the files do not hold that.
        """
        weights = np.load(self._directory / name / WEIGHTS_FILE)
        config = np.load(self._directory / name / CONFIG_FILE)
        if weights.dtype.itemsize != 2 or weights.ndim != 3 or config.shape != (1, weights.shape[1], 3):
            raise EngineFailure(
                f"adapter {name!r}: weights are {weights.dtype}{list(weights.shape)}, config {list(config.shape)}"
            )
        weights_name = lora_weights("BF16").name
        return {**self.task(name), weights_name: weights, LORA_CONFIG.name: config.astype(np.int32)}


def is_missing(message: str) -> bool:
    """Whether an error's text says that the backend does not hold the adapter (peftCacheManager.cpp, addRequestPeft)."""
    return "not found in cache. Please send LoRA weights" in message
