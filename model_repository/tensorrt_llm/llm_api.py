"""Shell of the model `tensorrt_llm` on the runtime tensorrt-llm-pytorch; see ensemble/language_model/llm_api.py."""

import triton_python_backend_utils as pb_utils

from build_engine.manifest import Manifest
from ensemble.contract import LANGUAGE_MODEL, STOP, TENSORRT_LLM_PYTORCH, contract
from ensemble.language_model.llm_api import Conversation, LlmApi
from ensemble.language_model.outbox import Outbox
from ensemble.options import Options
from ensemble.triton_io import TritonIO, load


class TritonPythonModel:
    def initialize(self, args):
        config = load(args)
        manifest = Manifest.read(config.engines)
        self.io = TritonIO(pb_utils, contract(TENSORRT_LLM_PYTORCH, manifest.table_dtype)[LANGUAGE_MODEL])
        self.llm = LlmApi.load(config, manifest)
        self.outbox = Outbox(self.io.send_output, config.stream_interval_ms / 1e3)

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
            self.llm.cancel(request_id)
            self.io.send(sender, None, final=True)
            return
        options = Options.from_parameters(self.io.parameters(request))
        media = [list(given.get(name, ())) for name in ("images", "videos")]
        conversation = Conversation(request_id, given["messages"][0], *media, options)
        self.llm.submit(conversation, self.outbox.for_sender(sender))

    def finalize(self):
        self.llm.close()
        self.outbox.close()
