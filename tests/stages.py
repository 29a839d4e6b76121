"""The stages behind Triton's models, run in this process, with the tensors between them open to change.

The same classes on the same engines as the server; only the transport is missing. So a fault put into a tensor on
purpose shows what a fault in the stage that makes it would do.
"""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engine.manifest import Manifest
from ensemble.config import DeploymentConfig
from ensemble.contract import PROMPT_EMBEDDING_TABLE
from ensemble.language_model.engine import Engine
from ensemble.language_model.forward import OpenVinoLanguageModel
from ensemble.language_model.request import Output, Request
from ensemble.options import Options
from ensemble.preprocessing.preprocessor import Preprocessor
from ensemble.vision_encoder.batch import BatchEncoder, VisionRequest
from ensemble.vision_encoder.embedding_cache import EmbeddingCache
from ensemble.vision_encoder.encoder import OpenVinoEncoder

Tensors = dict[str, NDArray[Any]]
Change = Callable[[Tensors, Manifest], None]


class Stages:
    """Preprocessing, vision encoder and language model of an engine directory."""

    def __init__(self, engines: Path) -> None:
        from tokenizers import Tokenizer

        self.manifest = Manifest.read(engines)
        config = DeploymentConfig(engines=engines)
        self._preprocessor = Preprocessor(self.manifest, engines, config.media, b"k" * 32)
        self._encoder = BatchEncoder(
            OpenVinoEncoder(engines, self.manifest), self.manifest, EmbeddingCache(1 << 26)
        )
        self._engine = Engine(OpenVinoLanguageModel.load(config, self.manifest), self.manifest, reuse=False)
        self._tokenizer = Tokenizer.from_file(str(engines / "checkpoint" / "tokenizer.json"))
        self._asked = 0

    def ask(
        self,
        messages: Sequence[dict[str, Any]],
        images: Sequence[bytes],
        videos: Sequence[bytes],
        change: Change,
        max_tokens: int = 160,
    ) -> str:
        """The greedy answer after `change` has had its way with the language model's inputs."""
        prompt = self._preprocessor.prepare(
            json.dumps(list(messages)).encode(), list(images), list(videos), Options(max_tokens=max_tokens)
        )
        tensors = prompt.tensors()
        (table,) = self._encoder.encode_batch([VisionRequest.read(tensors)])
        assert not isinstance(table, Exception)
        tensors[PROMPT_EMBEDDING_TABLE.name] = np.array(table)
        change(tensors, self.manifest)
        self._asked += 1
        news: queue.SimpleQueue[Output] = queue.SimpleQueue()
        self._engine.submit(Request.from_tensors(tensors, {}, self.manifest, str(self._asked)), news.put)
        tokens: list[int] = []
        while True:
            output = news.get(timeout=60)
            assert output.error is None, output.error
            tokens += output.token_ids
            if output.finished:
                return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def flat_rotary(self) -> NDArray[np.float32]:
        """The table of a prompt without pictures: every token one position after the one before it."""
        prompt = self._preprocessor.prepare(
            b'[{"role": "user", "content": "Hello"}]', [], [], Options(max_tokens=2000)
        )
        return np.array(prompt.tensors()["mrope_rotary_cos_sin"])

    def close(self) -> None:
        """End the engine's thread."""
        self._engine.close()


def nothing(tensors: Tensors, manifest: Manifest) -> None:
    """Leaves the tensors as they are."""


def without_deepstack(tensors: Tensors, manifest: Manifest) -> None:
    """All rows of the table but each visual token's first become zero."""
    rows = tensors[PROMPT_EMBEDDING_TABLE.name]
    rows.reshape(-1, manifest.rows_per_visual_token, rows.shape[-1])[:, 1:] = 0
