"""The runtime tensorrt-llm-pytorch over a fake of the LLM class."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ensemble import repository
from ensemble.config import DeploymentConfig, LlmApiOptions, MediaLimits
from ensemble.contract import ENSEMBLE, ENTRY, LANGUAGE_MODEL, TENSORRT_LLM_PYTORCH, contract
from ensemble.errors import (
    EngineFailure,
    InvalidImage,
    InvalidMessages,
    InvalidOption,
    InvalidVideo,
    PromptTooLong,
    ServingError,
)
from ensemble.language_model.llm_api import Conversation, LlmApi
from ensemble.language_model.request import Output
from ensemble.options import Options
from ensemble.profiles import GPU_PYTORCH, PROFILES
from tests.conversations import IMAGE, said, user
from tests.demo_preprocessor import DEMO, manifest
from tests.llm_api.tensorrt_llm import LLM, SamplingParams
from tests.reference import png

EOS = manifest().tokens.eos[0]


@pytest.fixture
def llm() -> LLM:
    return LLM()


@pytest.fixture
def api(llm: LLM, tmp_path: Path) -> Iterator[LlmApi]:
    (tmp_path / "checkpoint").symlink_to(DEMO, target_is_directory=True)
    made = LlmApi(llm, SamplingParams, tmp_path, manifest(), MediaLimits(max_images=2), max_inflight=4)
    yield made
    made.close()
    assert llm.is_shut_down


class Answer:
    """Collects the Outputs of one request."""

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.first, self.done = threading.Event(), threading.Event()

    def take(self, output: Output) -> None:
        assert not self.done.is_set(), "an Output after the last"
        self.outputs.append(output)
        self.first.set()
        if output.finished:
            self.done.set()

    @property
    def tokens(self) -> list[int]:
        return [token for output in self.outputs for token in output.token_ids]


def ask(api: LlmApi, *parts: Any, images: Any = (), videos: Any = (), **options: Any) -> Answer:
    answer = Answer()
    messages = json.dumps([user(*parts)]).encode()
    conversation = Conversation("a", messages, images, videos, Options.from_parameters(options))
    api.submit(conversation, answer.take)
    assert answer.done.wait(10)
    return answer


def refused(api: LlmApi, kind: type[ServingError], words: str, *parts: Any, **more: Any) -> None:
    (output,) = ask(api, *parts, **more).outputs
    assert isinstance(output.error, kind), output
    assert words in str(output.error)


def test_a_picture_arrives_resized_and_where_it_stands_in_the_chat(api: LlmApi, llm: LLM) -> None:
    answer = ask(api, said("before"), IMAGE, said("after"), images=[png(70, 100, 1)], max_tokens=9)
    (inputs,) = llm.inputs
    before, after = inputs["prompt"].split("<|vision_start|><|image_pad|><|vision_end|>")
    assert before.endswith("before")
    assert after.startswith("after")
    (picture,) = inputs["multi_modal_data"]["image"]
    assert answer.tokens == [*picture.size, len(inputs["prompt"]), EOS]
    assert [size % 32 for size in picture.size] == [0, 0]
    assert answer.outputs[-1].finish_reason == "stop"
    assert [output.log_probs for output in answer.outputs[:-1]] == [(-0.25,), (-0.5,), (-0.75,), (-1.0,)]
    assert {output.num_input_tokens for output in answer.outputs[:-1]} == {len(inputs["prompt"])}


def test_text_alone_brings_no_pictures(api: LlmApi, llm: LLM) -> None:
    answer = ask(api, said("Hello"), max_tokens=1)
    assert "multi_modal_data" not in llm.inputs[0]
    assert (len(answer.tokens), answer.outputs[-1].finish_reason) == (1, "length")


def test_a_cancelled_request_ends(api: LlmApi) -> None:
    answer = Answer()
    messages = json.dumps([user(said("Hello"))]).encode()
    api.submit(Conversation("b", messages, (), (), Options(max_tokens=100_000)), answer.take)
    assert answer.first.wait(10)
    api.cancel("b")
    assert answer.done.wait(10)
    assert answer.outputs[-1].finish_reason == "cancelled"
    api.cancel("b")  # it is gone: no error


def test_a_request_that_is_cancelled_while_it_is_prepared_never_runs(
    api: LlmApi, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = api._inputs

    def slow(conversation: Conversation) -> dict[str, Any]:
        api.cancel(conversation.request_id)
        return true(conversation)

    monkeypatch.setattr(api, "_inputs", slow)
    (output,) = ask(api, said("Hello")).outputs
    assert (output.finish_reason, llm.inputs) == ("cancelled", [])


def test_what_it_cannot_do_is_refused_and_what_fails_is_hidden(api: LlmApi) -> None:
    refused(api, InvalidVideo, "pictures only", {"type": "video"}, videos=[b"x"])
    refused(api, InvalidOption, "built without adapters", said("Hello"), lora_name="phones")
    refused(api, InvalidMessages, "<|im_end|>", said("end<|im_end|>it"))
    refused(api, InvalidImage, "at most 2", IMAGE, IMAGE, IMAGE, images=[png(40, 40, 1)] * 3)
    refused(api, InvalidImage, "images[0]", IMAGE, images=[b"no picture"])
    refused(
        api, PromptTooLong, "visual tokens", IMAGE, IMAGE, images=[png(1500, 1500, 1)] * 2, max_pixels=1 << 22
    )
    refused(api, EngineFailure, "RuntimeError; the server's log tells more", said("fail"))


def test_it_is_loaded_with_the_limits_of_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "llm_api")
    (tmp_path / "checkpoint").symlink_to(DEMO, target_is_directory=True)
    config = DeploymentConfig(engines=tmp_path, llm_api=LlmApiOptions("/models/4b", 2, 0.7))
    made = LlmApi.load(config, manifest())
    arguments = made._llm.arguments
    cache = arguments.pop("kv_cache_config")
    assert cache.values == {"enable_block_reuse": True, "free_gpu_memory_fraction": 0.7}
    assert arguments == {
        "model": "/models/4b", "tensor_parallel_size": 2, "max_batch_size": 4, "max_num_tokens": 2048, "max_seq_len": 4096,
    }  # fmt: skip
    made.close()
    for name in ("tensorrt_llm", "tensorrt_llm.llmapi"):
        monkeypatch.delitem(sys.modules, name)


def test_its_repository_has_one_step(tmp_path: Path) -> None:
    config = replace(PROFILES[GPU_PYTORCH], engines=tmp_path)
    models = tmp_path / "models"
    repository.write(models, config)
    names = {ENTRY, ENSEMBLE, LANGUAGE_MODEL}
    assert {path.name for path in models.iterdir()} == names
    read = {
        name: text_format.Parse((models / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        for name in names
    }
    (step,) = read[ENSEMBLE].ensemble_scheduling.step
    assert (step.model_name, set(step.input_map)) == (LANGUAGE_MODEL, {"messages", "images", "videos"})
    language = contract(TENSORRT_LLM_PYTORCH, "FP32")[LANGUAGE_MODEL]
    assert [tensor.name for tensor in read[LANGUAGE_MODEL].input] == [t.name for t in language.inputs]
    shell = (models / LANGUAGE_MODEL / "1" / "model.py").read_text()
    assert "LlmApi" in shell
    assert len(shell.splitlines()) <= 45
