"""Shell of `vision_encoder` for tests of the target tensorrt-llm without a GPU: the OpenVINO encoder, and a BF16 table.

As the TensorRT side does, it hands on a torch tensor through DLPack; only the tensor is in host memory.
"""

import torch
import triton_python_backend_utils as pb_utils

from build_engine.manifest import Manifest
from ensemble.contract import PROMPT_EMBEDDING_TABLE, VISION_ENCODER, contract
from ensemble.triton_io import TritonIO, load
from ensemble.vision_encoder.batch import BatchEncoder, VisionRequest
from ensemble.vision_encoder.embedding_cache import EmbeddingCache
from ensemble.vision_encoder.encoder import load_encoder


class TritonPythonModel:
    def initialize(self, args):
        config = load(args)
        manifest = Manifest.read(config.engines)
        engines = config.engines / "openvino_engines"
        of_openvino = Manifest.read(engines)
        encoder = load_encoder(engines, of_openvino, config)
        cache = EmbeddingCache(config.vision_cache_bytes)
        self.encoder = BatchEncoder(encoder, of_openvino, cache, encoder.call_limits)
        self.io = TritonIO(pb_utils, contract(manifest.target, manifest.table_dtype)[VISION_ENCODER])

    def execute(self, requests):
        tables = self.encoder.encode_batch([VisionRequest.read(self.io.tensors(r)) for r in requests])
        return [
            self.io.response({PROMPT_EMBEDDING_TABLE.name: torch.from_numpy(table).to(torch.bfloat16)})
            for table in tables
        ]
