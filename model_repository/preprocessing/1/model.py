"""Shell of the model `preprocessing`; what it does is in ensemble/preprocessing."""

import os
import secrets

import triton_python_backend_utils as pb_utils

from build_engine.manifest import Manifest
from ensemble.contract import PREPROCESSING, contract
from ensemble.options import Options
from ensemble.preprocessing.preprocessor import Preprocessor
from ensemble.triton_io import TritonIO, load


class TritonPythonModel:
    def initialize(self, args):
        config = load(args)
        manifest = Manifest.read(config.engines)
        # One key for all instances, new with each server: nobody outside can tell a picture from its digest.
        key = os.environ.get("QWEN3VL_HASH_KEY") or secrets.token_hex(32)
        self.preprocessor = Preprocessor(
            manifest, config.engines, config.media, bytes.fromhex(key), config.preprocessing_threads
        )
        self.model = contract(manifest.target, manifest.table_dtype)[PREPROCESSING]
        self.io = TritonIO(pb_utils, self.model)

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        try:
            given = self.io.tensors(request)
            prompt = self.preprocessor.prepare(
                given["messages"][0],
                list(given.get("images", ())),
                list(given.get("videos", ())),
                Options.from_parameters(self.io.parameters(request)),
            )
            return self.io.response(prompt.tensors(self.model))
        except Exception as error:
            return self.io.failure(error, request)
