"""Shell of the public model `qwen3_vl`; what it does is in ensemble/postprocessing."""

import triton_python_backend_utils as pb_utils

from build_engine.manifest import Manifest
from ensemble.adapters import Adapters
from ensemble.contract import ENTRY, contract
from ensemble.draining import is_draining
from ensemble.gauges import DRAINING, IN_FLIGHT, Gauges, outcome_numbers
from ensemble.loopback import Loopback
from ensemble.postprocessing.detokenizer import Vocabulary
from ensemble.postprocessing.frontend import Frontend
from ensemble.tracing import Tracing
from ensemble.triton_io import EntryCall, TritonIO, load


class TritonPythonModel:
    def initialize(self, args):
        config = load(args)
        manifest = Manifest.read(config.engines)
        vocabulary = Vocabulary.read(config.engines / "checkpoint" / "tokenizer.json")
        adapters = Adapters(manifest.adapters, config.engines)
        self.frontend = Frontend(manifest, vocabulary, config.max_inflight, adapters)
        self.models = contract(config.target(manifest.target), manifest.table_dtype)
        self.io = TritonIO(pb_utils, self.models[ENTRY])
        self.loopback = Loopback()
        self.tracing = Tracing.to_collector()
        self.gauges = Gauges(pb_utils, self.numbers)

    def execute(self, requests):
        if is_draining():
            self.frontend.drain()
        for request in requests:
            self.frontend.submit(self.tracing.of(EntryCall(self.io, self.loopback, self.models, request)))

    def numbers(self):
        if draining := is_draining():
            self.frontend.drain()
        # In this order: whoever sees DRAINING = 1 sees a number of requests that can only fall.
        now = {IN_FLIGHT: self.frontend.inflight, DRAINING: float(draining)}
        return now | outcome_numbers(self.frontend.outcomes)

    def finalize(self):
        for part in (self.frontend, self.loopback, self.gauges, self.tracing):
            part.close()
