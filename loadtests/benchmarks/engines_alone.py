"""The two engines without a server: how long they themselves compute for a request.

It calls them in this process with the tensors that serving calls them with, and adds up only the time inside the calls.
What a served request takes beyond that is the time outside the engines.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from build_engine.manifest import Manifest
from ensemble.config import DeploymentConfig
from ensemble.language_model.batch import Batch
from ensemble.language_model.engine import Engine
from ensemble.language_model.forward import LanguageModel, OpenVinoLanguageModel, Scores
from ensemble.language_model.request import Output, Request
from ensemble.options import Options
from ensemble.preprocessing.preprocessor import Preprocessor
from ensemble.vision_encoder.batch import BatchEncoder, VisionRequest
from ensemble.vision_encoder.embedding_cache import EmbeddingCache
from ensemble.vision_encoder.encoder import OpenVinoEncoder, VisionEncoder


@dataclass(frozen=True)
class EngineTime:
    """Milliseconds inside the engines for one request, and the tokens of its answer."""

    vision_ms: float
    language_ms: float
    token_ids: tuple[int, ...]

    @property
    def total_ms(self) -> float:
        """Both engines."""
        return self.vision_ms + self.language_ms


class EnginesAlone:
    """The engines of a directory, loaded into this process with a server's settings. One request at a time."""

    def __init__(self, config: DeploymentConfig) -> None:
        engines = config.engines
        self._manifest = Manifest.read(engines)
        self._preprocessor = Preprocessor(self._manifest, engines, config.media, bytes(32))
        self._vision = _TimedEncoder(OpenVinoEncoder(engines, self._manifest, config.threads))
        # Without a cache, so that a picture is encoded each time, as a new one would be.
        self._encoder = BatchEncoder(self._vision, self._manifest, EmbeddingCache(0))
        self._language = _TimedLanguageModel(OpenVinoLanguageModel.load(config, self._manifest))
        self._engine = Engine(self._language, self._manifest, config.kv_cache_reuse)

    def ask(self, messages: bytes, images: Sequence[bytes], options: Options) -> EngineTime:
        """Answer a request; RuntimeError if the engines fail."""
        self._vision.ms = self._language.ms = 0.0
        tensors: dict[str, Any] = self._preprocessor.prepare(messages, images, [], options).tensors()
        (table,) = self._encoder.encode_batch([VisionRequest.read(tensors)])
        if isinstance(table, Exception):
            raise RuntimeError("the vision encoder failed") from table
        request = Request.from_tensors(
            tensors | {"prompt_embedding_table": table},
            options.to_parameters(),
            self._manifest,
            str(uuid.uuid4()),
        )
        outputs: SimpleQueue[Output] = SimpleQueue()
        self._engine.submit(request, outputs.put)
        token_ids: list[int] = []
        while True:
            output = outputs.get()
            if output.error is not None:
                raise RuntimeError("the language model failed") from output.error
            token_ids += output.token_ids
            if output.finished:
                return EngineTime(self._vision.ms, self._language.ms, tuple(token_ids))

    def close(self) -> None:
        """End the language model's thread."""
        self._engine.close()


class _TimedEncoder:
    def __init__(self, encoder: VisionEncoder) -> None:
        self._encoder = encoder
        self.call_limits = encoder.call_limits
        self.ms = 0.0

    def encode(self, patches: npt.NDArray[np.uint8], grid_thw: npt.NDArray[np.int32]) -> Any:
        start = time.perf_counter()
        rows = self._encoder.encode(patches, grid_thw)
        self.ms += (time.perf_counter() - start) * 1e3
        return rows


class _TimedLanguageModel:
    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.num_blocks, self.max_num_tokens = model.num_blocks, model.max_num_tokens
        self.ms = 0.0

    def forward(self, batch: Batch) -> Scores:
        start = time.perf_counter()
        scores = self._model.forward(batch)
        self.ms += (time.perf_counter() - start) * 1e3
        return scores

    def clear(self, blocks: Sequence[int]) -> None:
        self._model.clear(blocks)
