"""Shell of the model `vision_encoder`; what it does is in ensemble/vision_encoder."""

import triton_python_backend_utils as pb_utils

from build_engine.manifest import Manifest
from ensemble.contract import PROMPT_EMBEDDING_TABLE, VISION_ENCODER, contract
from ensemble.gauges import Gauges
from ensemble.triton_io import TritonIO, load
from ensemble.vision_encoder.batch import BatchEncoder, VisionRequest
from ensemble.vision_encoder.embedding_cache import EmbeddingCache
from ensemble.vision_encoder.encoder import load_encoder


class TritonPythonModel:
    def initialize(self, args):
        config = load(args)
        manifest = Manifest.read(config.engines)
        self.cache = EmbeddingCache(config.vision_cache_bytes)
        encoder = load_encoder(config.engines, manifest, config)
        self.encoder = BatchEncoder(encoder, manifest, self.cache, encoder.call_limits)
        self.io = TritonIO(pb_utils, contract(manifest.target, manifest.table_dtype)[VISION_ENCODER])
        self.gauges = Gauges(pb_utils, self.numbers)

    def execute(self, requests):
        try:
            tables = self.encoder.encode_batch([VisionRequest.read(self.io.tensors(r)) for r in requests])
        except Exception as error:
            return [self.io.failure(error, request) for request in requests]
        return [
            self.io.failure(table, request) if isinstance(table, Exception)
            else self.io.response({PROMPT_EMBEDDING_TABLE.name: table})
            for table, request in zip(tables, requests, strict=True)
        ]  # fmt: skip

    def numbers(self):
        prefix, cache = "qwen3vl_vision_cache", self.cache
        return {
            f"{prefix}_bytes": cache.size_bytes,
            f"{prefix}_hits": cache.hits,
            f"{prefix}_misses": cache.misses,
        }

    def finalize(self):
        self.gauges.close()
