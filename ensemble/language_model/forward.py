"""One step of the language model: `LanguageModel` is the seam, OpenVINO is behind it.

It knows the compiled graph and its KV cache tensors. It does not know sequences, sampling or scheduling.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from build_engine.manifest import Manifest
from ensemble.config import DeploymentConfig
from ensemble.language_model.batch import Batch
from ensemble.language_model.kv_cache import kv_blocks
from ensemble.language_model.padding import idle, padded
from ensemble.language_model.tiles import LARGE, wants_fused, wants_tiles

if TYPE_CHECKING:
    import openvino

logger = logging.getLogger(__name__)

# The compiled model asks for a cache type by name; a numpy type of the same width holds its bits.
_BITS = {8: np.uint8, 16: np.uint16, 32: np.float32}
_TRIALS = 3


@dataclass(frozen=True, eq=False)
class Scores:
    """What a step says of the tokens that may come next; valid until the next step.

    Attributes:
        logits: float32 [n, vocab_size].
        logsumexp: float32 [n], the logarithms of the sums of the exponentials of each row.
    """

    logits: npt.NDArray[np.float32]
    logsumexp: npt.NDArray[np.float32]

    def log_probability(self, row: int, token_id: int) -> float:
        """Natural logarithm of a token's probability. Not above 0, however the two were rounded."""
        return min(0.0, float(self.logits[row, token_id]) - float(self.logsumexp[row]))


class LanguageModel(Protocol):
    """What the batcher needs of an engine."""

    @property
    def num_blocks(self) -> int:
        """KV blocks that exist, numbered from 0."""

    @property
    def max_num_tokens(self) -> int:
        """Tokens of a step above which several steps are faster; 0: there is no such number."""

    def forward(self, batch: Batch) -> Scores:
        """Scores of n = len(batch.logits_index) tokens.

        Writes the keys and values of the batch's tokens into their blocks. Any exception means that the
        step failed, and that the contents of the blocks written by it are undefined.
        """

    def clear(self, blocks: Many[int]) -> None:
        """Overwrite blocks with zeros, so that no NaN is left in them."""


class OpenVinoLanguageModel:
    """The graph of `build_engine.openvino_ir` with its paged KV cache.

    With `tiles`, the same model in its form for matrix tiles, steps of LARGE to `max_num_tokens` tokens are computed by that
    one. Both write the same cache.
    """

    def __init__(
        self,
        compiled: openvino.CompiledModel,
        num_blocks: int,
        tiles: openvino.CompiledModel | None = None,
        max_num_tokens: int = 0,
    ) -> None:
        # One more block, for the tokens of `padded`.
        self.num_blocks = num_blocks
        self.max_num_tokens = max_num_tokens
        self._caches = {
            port.any_name: _Cache(port, num_blocks + 1) for port in compiled.inputs if _is_cache(port)
        }
        self._small = _Graph(compiled, self._caches)
        self._large = _Graph(tiles, self._caches) if tiles else self._small

    @classmethod
    def load(cls, config: DeploymentConfig, manifest: Manifest) -> OpenVinoLanguageModel:
        """Compile the engine in `config.engines` and allocate its KV cache."""
        from build_engine import openvino_ir as engines

        load = partial(
            engines.load_language_model, config.engines, manifest, config.kv_cache_dtype, config.threads
        )
        compiled = load(fused=wants_fused(config, manifest))
        blocks = kv_blocks(config, manifest, bytes_per_block(compiled))
        if wants_tiles(config, manifest):
            model = cls(compiled, blocks, load(tiles=True), engines.tile_tokens(manifest))
            tried = config.matrix_tiles == "auto" and manifest.weights == "bf16"
            if tried and not model.is_faster_with_tiles(manifest):
                model = cls(compiled, blocks)
        else:
            model = cls(compiled, blocks)
        model.warm_up(manifest)
        return model

    def warm_up(self, manifest: Manifest) -> None:
        """Compute a step with each form: with its first one, OpenVINO lays the weights out for the processor, which takes
        seconds for billions of them.
        """
        self._small.forward(idle(1, self.num_blocks, manifest))
        if self._large is not self._small:
            self._large.forward(idle(LARGE, self.num_blocks, manifest))

    def is_faster_with_tiles(self, manifest: Manifest) -> bool:
        """Whether the longest step of the form for tiles is computed faster by it than by the other one, on this machine.

        They are tried in turns: a machine that is slow for a moment, which shared ones are, decides nothing.
        """
        step = idle(self.max_num_tokens, self.num_blocks, manifest)
        small, large = (partial(graph.forward, step) for graph in (self._small, self._large))
        small(), large()
        gain = median(_seconds(small) / _seconds(large) for _ in range(_TRIALS))
        logger.info("%d tokens with matrix tiles for prompts: %.2f times as fast", self.max_num_tokens, gain)
        return gain > 1

    def forward(self, batch: Batch) -> Scores:
        """See LanguageModel."""
        fits = len(batch.input_ids) <= self.max_num_tokens
        batch = padded(batch, self.num_blocks)
        return (self._large if fits and len(batch.input_ids) >= LARGE else self._small).forward(batch)

    def clear(self, blocks: Many[int]) -> None:
        """See LanguageModel."""
        for cache in self._caches.values():
            cache.array[list(blocks)] = 0


class _Cache:
    """Keys or values of a layer. The tensor borrows the array's memory."""

    def __init__(self, port: Any, blocks: int) -> None:
        import openvino

        kind = port.get_element_type()
        self.array: npt.NDArray[Any] = np.zeros((blocks, *_block_shape(port)), _BITS[kind.bitwidth])
        self.tensor = openvino.Tensor(self.array, openvino.Shape(list(self.array.shape)), kind)


class _Graph:
    """A compiled model over caches that are there. It reads and writes the same arrays as long as their shapes are the same."""

    def __init__(self, compiled: openvino.CompiledModel, caches: Mapping[str, _Cache]) -> None:
        import openvino

        self._tensor = partial(openvino.Tensor, shared_memory=True)
        self._request = compiled.create_infer_request()
        self._inputs: list[tuple[int, str]] = []
        for index, port in enumerate(compiled.inputs):
            if _is_cache(port):
                self._request.set_input_tensor(index, caches[port.any_name].tensor)
            else:
                self._inputs.append((index, port.any_name))
        self._widths = [port.get_partial_shape()[1].get_length() for port in compiled.outputs]
        self._outputs = [np.empty((0, width), np.float32) for width in self._widths]
        self._batch: Batch | None = None
        self._scores: Scores

    def forward(self, batch: Batch) -> Scores:
        if batch is not self._batch:  # else the request has its arrays, and reads what is in them now
            self._bind(batch)
        self._request.infer()
        return self._scores

    def _bind(self, batch: Batch) -> None:
        for index, name in self._inputs:
            self._request.set_input_tensor(index, self._tensor(getattr(batch, name)))
        rows = len(batch.logits_index)
        if rows > len(self._outputs[0]):
            self._outputs = [np.empty((rows, width), np.float32) for width in self._widths]
        logits, logsumexp = (array[:rows] for array in self._outputs)
        for index, array in enumerate((logits, logsumexp)):
            self._request.set_output_tensor(index, self._tensor(array))
        self._scores = Scores(logits, logsumexp[:, 0])
        self._batch = batch


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bytes_per_block(compiled: openvino.CompiledModel) -> int:
    """Bytes that one block takes in the caches of all layers."""
    return sum(
        int(np.prod(_block_shape(port))) * port.get_element_type().bitwidth // 8
        for port in compiled.inputs
        if _is_cache(port)
    )


def _is_cache(port: Any) -> bool:
    return str(port.any_name).startswith(("key_cache.", "value_cache."))


def _block_shape(port: Any) -> tuple[int, ...]:
    """Shape of one block, [key/value heads, 32, head size] and what quantisation adds."""
    return tuple(port.get_partial_shape()[axis].get_length() for axis in (1, 2, 3))
