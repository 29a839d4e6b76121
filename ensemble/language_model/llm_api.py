"""The runtime tensorrt-llm-pytorch: TensorRT-LLM's LLM API (1.2 and later, PyTorch backend) behind the same public model.

For the day when no release builds engines any more. The LLM API tokenizes, encodes pictures and generates by itself, so this
is the ensemble's only step: it takes the request as the client sent it. Not yet run on hardware; tests run it over a fake of
the LLM class.

What it lacks beside the engines: videos, adapters, reused blocks in `usage`, a cache of picture embeddings, a digest of pictures
under our own key, and special-token strings in customers' text, which its tokenizer would read as control tokens, so they
are refused. Its prompt limits are its own: a prompt that is too long fails as EngineFailure.

Pictures reach it resized and enhanced as our preprocessing does it, so min_pixels, max_pixels and enhance hold here too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from build_engine.manifest import Manifest
from ensemble.adapters import Adapters
from ensemble.config import DeploymentConfig, MediaLimits
from ensemble.errors import EngineFailure, InvalidMessages, InvalidVideo, PromptTooLong, ServingError
from ensemble.language_model.request import FinishReason, Output
from ensemble.options import DEFAULT_MAX_TOKENS, Options
from ensemble.preprocessing.chat_template import ChatTemplate
from ensemble.preprocessing.image_processor import ImageProcessor
from ensemble.preprocessing.media import ImageItem, MediaOpener
from ensemble.preprocessing.messages import check_media_counts, parse_messages
from ensemble.preprocessing.tokenizer import TextTokenizer

_log = logging.getLogger(__name__)
_REASONS: Mapping[str | None, FinishReason] = {"stop": "stop", "length": "length", "cancelled": "cancelled"}


@dataclass(frozen=True, eq=False)
class Conversation:
    """A request as the client sent it."""

    request_id: str
    messages: bytes
    images: Sequence[bytes]
    videos: Sequence[bytes]
    options: Options


class LlmApi:
    """Runs requests on one LLM object, a thread each: the LLM API processes pictures in the thread that asks.

    Args:
        llm: `tensorrt_llm.LLM`.
        sampling_params: the class `tensorrt_llm.SamplingParams`.
        engines: directory with `checkpoint/`: template, tokenizer, image processor.
        manifest: facts of the checkpoint.
        limits: of media.
        max_inflight: requests at once.
    """

    def __init__(
        self,
        llm: Any,
        sampling_params: Callable[..., Any],
        engines: Path,
        manifest: Manifest,
        limits: MediaLimits,
        max_inflight: int,
    ) -> None:
        checkpoint = engines / "checkpoint"
        self._llm, self._sampling_params = llm, sampling_params
        self._manifest, self._limits = manifest, limits
        self._template = ChatTemplate.from_checkpoint(checkpoint)
        self._tokenizer = TextTokenizer(checkpoint / "tokenizer.json")
        self._images = ImageProcessor.from_file(checkpoint / "preprocessor_config.json")
        self._lock = threading.Lock()
        self._running: dict[str, Any] = {}  # what the LLM gave for a request; None while it is prepared
        self._cancelled: set[str] = set()
        self._workers = ThreadPoolExecutor(max_inflight, thread_name_prefix="llm-api")

    @classmethod
    def load(cls, config: DeploymentConfig, manifest: Manifest) -> LlmApi:
        """Load the model of a deployment; takes minutes."""
        from tensorrt_llm import LLM, SamplingParams
        from tensorrt_llm.llmapi import KvCacheConfig

        options, limits = config.llm_api, manifest.limits
        assert options is not None, "only a deployment with llm_api has this runtime"
        llm = LLM(
            model=options.model,
            tensor_parallel_size=options.tensor_parallel_size,
            max_batch_size=limits.max_batch_size,
            max_num_tokens=limits.max_num_tokens,
            max_seq_len=limits.max_seq_len,
            kv_cache_config=KvCacheConfig(
                enable_block_reuse=config.kv_cache_reuse,
                free_gpu_memory_fraction=options.free_gpu_memory_fraction,
            ),
        )
        return cls(llm, SamplingParams, config.engines, manifest, config.media, config.max_inflight)

    def submit(self, conversation: Conversation, emit: Callable[[Output], None]) -> None:
        """Answer a request on a thread of its own; `emit` gets its Outputs in order, the last one `finished`."""
        with self._lock:
            self._running[conversation.request_id] = None
        self._workers.submit(self._serve, conversation, emit)

    def cancel(self, request_id: str) -> None:
        """End a request; an unknown id is no error."""
        with self._lock:
            if request_id not in self._running:
                return
            self._cancelled.add(request_id)
            handle = self._running[request_id]
        if handle is not None:
            handle.abort()

    def close(self) -> None:
        """Wait for the requests, then let go of the model."""
        self._workers.shutdown(wait=True)
        self._llm.shutdown()

    def _serve(self, conversation: Conversation, emit: Callable[[Output], None]) -> None:
        request_id = conversation.request_id
        try:
            reason = self._generate(conversation, emit)
            emit(Output(finished=True, finish_reason=reason))
        except ServingError as error:
            emit(Output(finished=True, error=error))
        except Exception as error:
            # The boundary of a request: a foreign fault ends it, with the cause in the log.
            _log.error("request %s", request_id, exc_info=error)
            text = f"{type(error).__name__}; the server's log tells more, under request id {request_id}"
            emit(Output(finished=True, error=EngineFailure(text)))
        finally:
            with self._lock:
                del self._running[request_id]
                self._cancelled.discard(request_id)

    def _generate(self, conversation: Conversation, emit: Callable[[Output], None]) -> FinishReason:
        inputs, request_id = self._inputs(conversation), conversation.request_id
        with self._lock:
            if request_id in self._cancelled:
                return "cancelled"
        handle = self._llm.generate_async(inputs, self._sampling(conversation.options), streaming=True)
        with self._lock:
            self._running[request_id] = handle
            cancelled = request_id in self._cancelled
        if cancelled:
            handle.abort()
        sent, finish_reason = 0, None
        for result in handle:
            answer = result.outputs[0]
            tokens = list(answer.token_ids[sent:])
            # Cumulative, as the tokens are.
            log_probs = [_log_prob(*pair) for pair in zip(answer.logprobs[sent:], tokens, strict=True)]
            sent, finish_reason = sent + len(tokens), answer.finish_reason
            if tokens:
                emit(Output(tuple(tokens), tuple(log_probs), num_input_tokens=len(result.prompt_token_ids)))
        return _REASONS.get(finish_reason, "")

    def _inputs(self, conversation: Conversation) -> dict[str, Any]:
        """What `generate_async` takes: the rendered chat, and its pictures in order."""
        options = conversation.options
        Adapters((), Path()).check(options.lora_name)
        if conversation.videos:
            raise InvalidVideo(
                "videos", f"{len(conversation.videos)} items", "none: this runtime takes pictures only"
            )
        chat = parse_messages(conversation.messages, self._limits.max_messages_bytes)
        for text in chat.texts:
            if len(pieces := self._tokenizer.split_control_tokens(text)) > 1:
                raise InvalidMessages("messages", pieces[1], "text without special tokens, with this runtime")
        opener = MediaOpener(
            self._images.with_options(options), None, self._limits, options.enhance == "auto"
        )
        opener.check_counts(len(conversation.images), 0)
        check_media_counts(chat, len(conversation.images), 0)
        items = opener.open(chat.media, conversation.images, ())
        visual_tokens = sum(item.patches for item in items) // self._images.layout.merge_size**2
        if visual_tokens > self._manifest.limits.max_visual_tokens:
            allowed = f"at most {self._manifest.limits.max_visual_tokens}"
            raise PromptTooLong("images", f"{visual_tokens} visual tokens", allowed, "Lower max_pixels.")
        inputs: dict[str, Any] = {"prompt": self._template.render(chat.messages)}
        if items:
            pictures = [
                Image.fromarray(item.frames()[0].transpose(1, 2, 0))
                for item in items
                if isinstance(item, ImageItem)
            ]
            inputs["multi_modal_data"] = {"image": pictures}
        return inputs

    def _sampling(self, options: Options) -> Any:
        return self._sampling_params(
            max_tokens=options.max_tokens or DEFAULT_MAX_TOKENS,
            temperature=options.temperature or 1.0,
            top_k=1 if options.greedy else options.top_k,
            top_p=options.top_p or 1.0,
            min_p=options.min_p,
            seed=options.seed,
            repetition_penalty=options.repetition_penalty,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
            end_id=self._manifest.tokens.eos[0],
            pad_id=self._manifest.tokens.pad,
            logprobs=1,
        )


def _log_prob(entry: Any, token_id: int) -> float:
    """Of the token itself: an entry is a number, or the most likely tokens with theirs."""
    return float(entry[token_id].logprob if isinstance(entry, Mapping) else entry)
