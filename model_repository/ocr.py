"""Shell of the optional model `ocr`; what it does is in ensemble/ocr. Written to ocr/1/model.py where it is asked for."""

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble.contract import OCR
from ensemble.ocr.reader import Reader
from ensemble.triton_io import TritonIO, load


class TritonPythonModel:
    def initialize(self, args):
        self.reader = Reader(load(args).ocr_threads)
        self.io = TritonIO(pb_utils, OCR)

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        try:
            lines = self.reader.read(self.io.tensors(request)["image"][0])
            texts = np.array([text.encode() for text in lines.texts], np.object_)
            return self.io.response(
                {"boxes": lines.boxes[None], "texts": texts[None], "scores": lines.scores[None]}
            )
        except Exception as error:
            return self.io.failure(error, request)
