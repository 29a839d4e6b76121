"""Shell of the model `tensorrt_llm` on the openvino target; what it does is in ensemble/language_model."""

import triton_python_backend_utils as pb_utils

from build_engine.manifest import Manifest
from ensemble.contract import CONTRACT, LANGUAGE_MODEL, STOP
from ensemble.gauges import Gauges, language_model_numbers
from ensemble.language_model.engine import Engine
from ensemble.language_model.forward import OpenVinoLanguageModel
from ensemble.language_model.outbox import Outbox
from ensemble.language_model.request import Request
from ensemble.triton_io import TritonIO, load


class TritonPythonModel:
    def initialize(self, args):
        config = load(args)
        self.manifest = Manifest.read(config.engines)
        model = OpenVinoLanguageModel.load(config, self.manifest)
        self.engine = Engine(model, self.manifest, config.kv_cache_reuse)
        self.io = TritonIO(pb_utils, CONTRACT[LANGUAGE_MODEL])
        self.outbox = Outbox(self.io.send_output, config.stream_interval_ms / 1e3)
        self.gauges = Gauges(pb_utils, lambda: language_model_numbers(self.engine.counters))

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            try:
                self.start(request, sender)
            except Exception as error:
                self.io.send(sender, self.io.failure(error, request), final=True)

    def start(self, request, sender):
        given, request_id = self.io.tensors(request), request.request_id()
        if STOP.name in given and given[STOP.name].any():
            self.engine.cancel(request_id)
            self.io.send(sender, None, final=True)
            return
        prompt = Request.from_tensors(given, self.io.parameters(request), self.manifest, request_id)
        self.engine.submit(prompt, self.outbox.for_sender(sender))

    def finalize(self):
        self.engine.close()
        self.outbox.close()
        self.gauges.close()
