"""The model `tensorrt_llm` on Triton's Python backend, in place of NVIDIA's C++ backend `tensorrtllm`.

What a caller sees follows TensorRT-LLM 1.2 as read in its sources: model_instance_state.cc (stop requests, outputs, final
responses), utils.cc (inputs), llmRequest.cpp (validate, what a response holds), promptTuningBuffers.cpp and runtimeBuffers.cpp
(checks inside a step, which end every running request), peftCacheManager.cpp (adapters). Tokens come from the OpenVINO engine
of the directory in the parameter `openvino_engines`, so answers can be compared with the target openvino.

What it cannot show: GPU memory (inputs are only checked to be in host memory where the C++ code reads them on the host), real
adapters (one adds its own first weight as a token before the answer), beams, several ranks. Errors inside a step are in our
own words.
"""

import json
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from build_engine.manifest import Manifest
from build_engine.trtllm.engine_config import EngineConfig
from ensemble.config import DeploymentConfig
from ensemble.contract import PROMPT
from ensemble.language_model.engine import Engine
from ensemble.language_model.forward import OpenVinoLanguageModel
from ensemble.language_model.request import Request
from ensemble.triton_io import end_with_parent

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
# Read on the host, whatever memory they are in.
ON_HOST = {tensor.name for tensor in PROMPT} - {"mrope_rotary_cos_sin"}
PERFORMANCE = {
    "kv_cache_alloc_new_blocks": np.int32, "kv_cache_alloc_total_blocks": np.int32, "arrival_time_ns": np.int64,
    "first_scheduled_time_ns": np.int64, "first_token_time_ns": np.int64, "last_token_time_ns": np.int64,
    "acceptance_rate": np.float32, "total_accepted_draft_tokens": np.int32, "total_draft_tokens": np.int32,
}  # fmt: skip
CACHED_ADAPTERS = 1


class RefusedError(Exception):
    """This request alone fails."""


class StepError(Exception):
    """A check inside a step: every running request fails."""


class TritonPythonModel:
    def initialize(self, args):
        end_with_parent()
        config = json.loads(args["model_config"])
        self.parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        for name in ("tokenizer_dir", "xgrammar_tokenizer_info_path", "guided_decoding_backend"):
            self.parameters[name]  # read without a default
        if self.parameters["gpt_model_type"] != "inflight_fused_batching":
            raise ValueError("Invalid gpt_model_type.")
        if not config["model_transaction_policy"]["decoupled"]:
            raise ValueError("Streaming is only supported if model is deployed using decoupled mode.")
        self.reuse = self.parameters["enable_kv_cache_reuse"] == "true"
        self.normalize = self.parameters["normalize_log_probs"] == "true"
        self.queue_size = int(config["dynamic_batching"]["default_queue_policy"]["max_queue_size"])
        self.limits = EngineConfig.read(Path(self.parameters["gpt_model_path"]) / "config.json")
        engines = Path(self.parameters["openvino_engines"])
        self.manifest = Manifest.read(engines)
        deployment = DeploymentConfig(engines=engines)
        model = OpenVinoLanguageModel.load(deployment, self.manifest)
        self.engine = Engine(model, self.manifest, self.reuse)
        self.running = {}
        self.adapters = OrderedDict()
        self.number = 0
        self.lock = threading.RLock()

    def execute(self, requests):
        for request in requests:
            sender, request_id = request.get_response_sender(), request.request_id()
            try:
                given = read(request)
                if given.get("stop", np.array([False])).any():
                    self.stop(sender, request_id)
                else:
                    self.start(given, sender, request_id, set(request.requested_output_names()))
            except RefusedError as error:
                send_error(sender, str(error))

    def stop(self, sender, request_id):
        if not request_id:
            raise RefusedError("Trying to stop a request but request ID is not provided")
        # An unknown id is no error: that request may have ended.
        if stream := self.running.get(request_id):
            print(f"stop {request_id} after {len(stream.log_probs)} tokens", flush=True)
        self.engine.cancel(request_id)
        sender.send(pb_utils.InferenceResponse([]), flags=FINAL)

    def start(self, given, sender, request_id, wanted):
        for name in ("input_ids", "request_output_len"):
            if name not in given:
                raise RefusedError(f"{name} is not present in the request")
        with self.lock:
            if len(self.running) >= self.queue_size:
                raise RefusedError(
                    f"Maximum queue size of {self.queue_size} has been reached, please try again later"
                )
            self.number += 1
            stream = Stream(self, sender, request_id, self.number, given, wanted)
            self.running[request_id] = stream
        try:
            self.validate(given)
            stream.first_token = self.adapter(given)
            self.step_checks(given)
        except RefusedError as error:
            stream.fail(str(error))
            return
        except StepError as error:
            with self.lock:
                streams = list(self.running.values())
            for other in streams:
                other.fail(f"Encountered an error in forwardAsync function: {error}")
                self.engine.cancel(other.request_id)
            return
        self.engine.submit(self.request(given, request_id), stream.take)

    def validate(self, given):
        """llmRequest.cpp, validate(): this request alone fails."""
        length = given["input_ids"].size
        if length > self.limits.max_input_len:
            raise RefusedError(
                f"Prompt length ({length}) exceeds maximum input length ({self.limits.max_input_len}). Set log level to info "
                "and check TRTGptModel logs for how maximum input length is set"
            )
        end_id = int(given["end_id"].item())
        if not -1 <= end_id < self.limits.vocab_size:
            raise RefusedError(
                f"EndId ({end_id}) is not within acceptable range [-1, {self.limits.vocab_size})."
            )
        # Extra ids of another number are dropped without a word before validate() looks.
        ids = given.get("prompt_table_extra_ids")
        if self.reuse and "prompt_embedding_table" in given and (ids is None or ids.size != length):
            raise RefusedError(
                "Input token extra ids must be provided when enabling kv cache reuse with prompt table"
            )

    def adapter(self, given):
        """peftCacheManager.cpp: the token that this adapter puts before the answer, None without one."""
        if "lora_task_id" not in given:
            return None
        task = int(given["lora_task_id"].item())
        if "lora_weights" in given and "lora_config" in given:
            print(f"adapter {task} put into the cache", flush=True)
            self.adapters[task] = int(given["lora_weights"].reshape(-1)[0])
            while len(self.adapters) > CACHED_ADAPTERS:
                self.adapters.popitem(last=False)
        if task not in self.adapters:
            raise RefusedError(f"LoRA task {task} not found in cache. Please send LoRA weights with request")
        return self.adapters[task]

    def step_checks(self, given):
        """What the runtime finds out inside a step."""
        for name in ("mrope_rotary_cos_sin", "mrope_position_deltas"):
            if name not in given:
                raise StepError(f"{name} is missing")
        size = self.limits.mrope_rotary_cos_sin_size
        if given["mrope_rotary_cos_sin"].size != size:
            raise StepError(
                f"mrope_rotary_cos_sin has {given['mrope_rotary_cos_sin'].size} values, not {size}"
            )
        if "prompt_embedding_table" in given:
            table = given["prompt_embedding_table"]
            if table.dtype != torch.bfloat16:
                raise StepError(f"the prompt embedding table is {table.dtype}")
            if table.shape[-2] > self.limits.table_rows_per_request:
                raise StepError(f"{table.shape[-2]} rows, {self.limits.table_rows_per_request} fit")

    def request(self, given, request_id):
        length = given["input_ids"].size
        room = self.limits.max_seq_len - length
        tensors = {tensor.name: given[tensor.name] for tensor in PROMPT if tensor.name in given}
        tensors = {
            name: array.reshape(1, 1) if array.shape == (1,) else array for name, array in tensors.items()
        }
        # More than fits is cut with a warning in the log.
        tensors["request_output_len"] = np.minimum(tensors["request_output_len"], room)
        tensors["prompt_embedding_table"] = given["prompt_embedding_table"].float().numpy()
        request = Request.from_tensors(tensors, {}, self.manifest, request_id)
        # One end id; other ids that end an answer are ordinary tokens here.
        return replace(request, end_ids=(int(given["end_id"].item()),), return_log_probs=True)

    def finalize(self):
        self.engine.close()


class Stream:
    """One request that was taken: its responses, in the order and form of the C++ backend."""

    def __init__(self, model, sender, request_id, number, given, wanted):
        self.model, self.sender, self.request_id, self.number = model, sender, request_id, number
        self.wanted = wanted
        self.first_token = None
        self.ended = False
        self.log_probs = []
        self.greedy = given.get("runtime_top_k", np.array([0])).item() == 1
        self.asked = {
            name: bool(given.get(name, np.array([False])).any())
            for name in ("return_log_probs", "return_num_input_tokens", "return_perf_metrics")
        }

    def take(self, output):
        """News of the engine, on the engine's thread."""
        with self.model.lock:
            if self.ended:
                return
            tokens, log_probs = list(output.token_ids), list(output.log_probs)
            if output.error is not None:
                self.fail(str(output.error))
                return
            if output.finish_reason == "stop":
                tokens.pop()  # the end token is not part of the output
                log_probs.pop()
            if self.first_token is not None and not self.log_probs:
                tokens, log_probs = [self.first_token, *tokens], [0.0, *log_probs]
            if tokens or output.finished:
                self.send(tokens, log_probs, output)

    def send(self, tokens, log_probs, output):
        # Of all tokens so far, also when the tokens are only the new ones.
        self.log_probs += [0.0] * len(log_probs) if self.model.normalize and self.greedy else log_probs
        outputs = {
            "output_ids": np.array(tokens, np.int32).reshape(1, 1, -1),
            "sequence_length": np.array([[len(tokens)]], np.int32),
        }
        if self.asked["return_log_probs"] and "output_log_probs" in self.wanted:
            outputs["output_log_probs"] = np.array(self.log_probs, np.float32).reshape(1, 1, -1)
        if self.asked["return_num_input_tokens"] and "num_input_tokens" in self.wanted:
            outputs["num_input_tokens"] = np.array([[output.num_input_tokens]], np.int32)
        if self.asked["return_perf_metrics"]:
            outputs["kv_cache_reused_blocks"] = np.array([[output.reused_blocks]], np.int32)
            outputs |= {name: np.zeros((1, 1), dtype) for name, dtype in PERFORMANCE.items()}
        if unasked := sorted(set(outputs) - self.wanted):
            # A Python model's stub would drop it; of a C++ backend, Triton's ensemble scheduler fails the response.
            self.fail(
                f"internal response header specified output '{unasked[0]}' that does not map to any ensemble tensors"
            )
            return
        response = pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in outputs.items()]
        )
        self.sender.send(response, flags=FINAL if output.finished else 0)
        if output.finish_reason == "cancelled":
            print(f"cancelled {self.request_id} after {len(self.log_probs)} tokens", flush=True)
        if output.finished:
            self.end()

    def fail(self, text):
        with self.model.lock:
            if not self.ended:
                send_error(
                    self.sender,
                    f"Executor failed process requestId {self.number} due to the following error: {text}",
                )
                self.end()

    def end(self):
        self.ended = True
        self.model.running.pop(self.request_id, None)


def send_error(sender, text):
    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(text)), flags=FINAL)


def read(request):
    """Inputs by name; a BF16 one as a torch tensor, but lora_weights as its bits."""
    given = {}
    for tensor in request.inputs():
        name = tensor.name()
        assert tensor.is_cpu() or name not in ON_HOST, f"{name} would be read on the host"
        if name in ("prompt_embedding_table", "lora_weights"):
            held = torch.utils.dlpack.from_dlpack(tensor.to_dlpack()).clone()
            given[name] = held if name == "prompt_embedding_table" else held.view(torch.int16).numpy()
        else:
            given[name] = tensor.as_numpy().copy()
    return given
