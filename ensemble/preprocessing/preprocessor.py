"""One request in, every tensor of the engines out. It knows the order of the steps and the engines' limits;
each step lives in its own module.

Whatever can be refused is refused early: options, chat and counts first, then media headers, then the
number of visual tokens, and only then are pixels decoded.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from build_engine.manifest import Manifest
from ensemble.adapters import Adapters
from ensemble.config import MediaLimits
from ensemble.contract import CONTRACT, PREPROCESSING, TENSORRT_LLM, Model
from ensemble.errors import InvalidOption, PromptTooLong
from ensemble.options import DEFAULT_MAX_TOKENS, Options
from ensemble.preprocessing.crew import Crew
from ensemble.preprocessing.image_processor import ImageProcessor
from ensemble.preprocessing.media import Item, MediaOpener
from ensemble.preprocessing.messages import IMAGE, check_media_counts, parse_messages
from ensemble.preprocessing.mrope import RotaryTable, position_ids
from ensemble.preprocessing.packed_media import MediaPacker
from ensemble.preprocessing.patches import PatchLayout
from ensemble.preprocessing.prompt import MediaShape, PromptWriter, Span
from ensemble.preprocessing.video_processor import VideoProcessor

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class Prompt:
    """The tensors of `contract.VISION_REQUEST` and `contract.PROMPT`, by their names there."""

    pixel_patches: NDArray[np.uint8]
    grid_thw: NDArray[np.int32]
    media_digest: NDArray[np.uint64]
    input_ids: NDArray[np.int32]
    input_lengths: NDArray[np.int32]
    request_output_len: NDArray[np.int32]
    end_id: NDArray[np.int32]
    pad_id: NDArray[np.int32]
    prompt_table_extra_ids: NDArray[np.uint64]
    mrope_rotary_cos_sin: NDArray[np.float32]
    mrope_position_deltas: NDArray[np.int64]
    streaming: NDArray[np.bool_]
    exclude_input_in_output: NDArray[np.bool_]
    return_log_probs: NDArray[np.bool_]
    return_num_input_tokens: NDArray[np.bool_]
    return_perf_metrics: NDArray[np.bool_]
    runtime_top_k: NDArray[np.int32]
    runtime_top_p: NDArray[np.float32]
    temperature: NDArray[np.float32]
    repetition_penalty: NDArray[np.float32]
    presence_penalty: NDArray[np.float32]
    frequency_penalty: NDArray[np.float32]
    seed: NDArray[np.uint64]

    def tensors(self, model: Model = CONTRACT[PREPROCESSING]) -> dict[str, NDArray[np.generic]]:
        """Outputs of the model `preprocessing` of a target, by name, each with its leading batch dimension of 1."""
        return {tensor.name: getattr(self, tensor.name) for tensor in model.outputs}


class Preprocessor:
    """Prepares requests for the engines of one directory. Holds no state of requests; one instance
    serves many threads.
    """

    def __init__(
        self,
        manifest: Manifest,
        engines_dir: Path,
        media_limits: MediaLimits,
        hash_key: bytes,
        threads: int = 0,
    ) -> None:
        """`hash_key` (32 bytes) keys the digests of media, so that no one can prepare two
        pictures of one digest. `threads`: see `DeploymentConfig.preprocessing_threads`.
        """
        checkpoint = engines_dir / "checkpoint"
        self._manifest, self._limits = manifest, media_limits
        self._adapters = Adapters(manifest.adapters, engines_dir)
        self._writer = PromptWriter(checkpoint, manifest.tokens)
        vision = manifest.vision
        self._layout = PatchLayout(vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)
        # All the pictures decoded at once are then no larger than the one largest picture that a request may bring.
        crew = Crew(threads, budget=media_limits.max_image_pixels)
        self._packer = MediaPacker(self._layout, hash_key, crew)
        self._images = ImageProcessor.from_file(checkpoint / "preprocessor_config.json")
        video_config = checkpoint / "video_preprocessor_config.json"
        self._videos = VideoProcessor.from_file(video_config) if video_config.is_file() else None
        for processor in (self._images, self._videos):
            if processor is not None and processor.layout != self._layout:
                raise ValueError(f"{checkpoint}: {processor} does not fit engines with {self._layout}")
        self._rotary = RotaryTable(manifest.text, manifest.limits.max_seq_len)

    def prepare(
        self, messages: bytes, images: Sequence[bytes], videos: Sequence[bytes], options: Options
    ) -> Prompt:
        """All tensors for a request; a RequestError says what is wrong with it."""
        self._adapters.check(options.lora_name)
        if options.min_p and self._manifest.target == TENSORRT_LLM:
            raise InvalidOption("min_p", options.min_p, "0 on TensorRT-LLM engines", "Use top_p instead.")
        chat = parse_messages(messages, self._limits.max_messages_bytes)
        opener = MediaOpener(
            self._images.with_options(options),
            self._videos and self._videos.with_options(options),
            self._limits,
            options.enhance == "auto",
        )
        opener.check_counts(len(images), len(videos))
        check_media_counts(chat, len(images), len(videos))
        items = opener.open(chat.media, images, videos)
        self._check_visual_tokens(items)
        media = self._packer.pack(items)
        prompt = self._writer.write(chat, self._shapes(items, media.grids))
        output_len = self._check_length(len(prompt.ids), options)
        positions, delta = position_ids(len(prompt.ids), prompt.spans)
        input_ids, extra_ids = self._mark_visual_tokens(prompt.ids, prompt.spans, media.digests)
        return Prompt(
            pixel_patches=media.patches[None],
            grid_thw=media.grids[None],
            media_digest=media.digests[None],
            input_ids=input_ids[None],
            input_lengths=_scalar(len(input_ids), np.int32),
            request_output_len=_scalar(output_len, np.int32),
            end_id=_scalar(self._manifest.tokens.eos[0], np.int32),
            pad_id=_scalar(self._manifest.tokens.pad, np.int32),
            prompt_table_extra_ids=extra_ids[None],
            mrope_rotary_cos_sin=self._rotary.gather(
                positions, delta, self._rotary_rows(len(prompt.ids) + output_len)
            )[None],
            mrope_position_deltas=_scalar(delta, np.int64),
            streaming=_scalar(True, np.bool_),
            exclude_input_in_output=_scalar(True, np.bool_),
            return_log_probs=_scalar(True, np.bool_),  # every answer comes with its confidence
            return_num_input_tokens=_scalar(True, np.bool_),
            return_perf_metrics=_scalar(True, np.bool_),  # for kv_cache_reused_blocks
            runtime_top_k=_scalar(1 if options.greedy else options.top_k, np.int32),
            runtime_top_p=_scalar(options.top_p, np.float32),
            temperature=_scalar(options.temperature or 1.0, np.float32),  # top_k = 1 already says greedy
            repetition_penalty=_scalar(options.repetition_penalty, np.float32),
            presence_penalty=_scalar(options.presence_penalty, np.float32),
            frequency_penalty=_scalar(options.frequency_penalty, np.float32),
            seed=_scalar(secrets.randbits(63) if options.seed is None else options.seed, np.uint64),
        )

    def _check_visual_tokens(self, items: Sequence[Item]) -> None:
        counts = [item.patches // self._layout.merge_size**2 for item in items]
        limit = self._manifest.limits.max_visual_tokens
        if sum(counts) > limit:
            shown = ", ".join(
                f"{item.kind} {item.index}: {count}" for item, count in zip(items, counts, strict=True)
            )
            raise PromptTooLong(
                "images" if all(item.kind == IMAGE for item in items) else "videos",
                f"{sum(counts)} visual tokens ({shown})",
                f"at most {limit}",
                "Lower max_pixels or fps, or send fewer pictures.",
            )

    def _check_length(self, length: int, options: Options) -> int:
        """How many tokens the answer may have; PromptTooLong if the engine cannot hold prompt and answer."""
        limits = self._manifest.limits
        if length > limits.max_input_len:
            raise PromptTooLong("messages", f"{length} prompt tokens", f"at most {limits.max_input_len}")
        room = limits.max_seq_len - length
        if options.max_tokens is not None and options.max_tokens > room:
            shown = f"{length} prompt tokens and max_tokens = {options.max_tokens}"
            advice = f"max_tokens may be at most {room} here." if room > 0 else "Shorten the prompt."
            raise PromptTooLong("max_tokens", shown, f"at most {limits.max_seq_len} together", advice)
        if room <= 0:
            raise PromptTooLong("messages", f"{length} prompt tokens", f"at most {limits.max_seq_len - 1}")
        return min(room, DEFAULT_MAX_TOKENS) if options.max_tokens is None else options.max_tokens

    def _rotary_rows(self, tokens: int) -> int:
        """How many rows of cos and sin are sent: TensorRT-LLM takes no fewer than its longest sequence has, and they are
        megabytes that every request carries through three processes; our language model reads those of its tokens only.
        """
        return self._manifest.limits.max_seq_len if self._manifest.target == TENSORRT_LLM else tokens

    def _shapes(self, items: Sequence[Item], grids: NDArray[np.int32]) -> list[MediaShape]:
        merged = (grids // self._layout.merge_size).tolist()
        return [
            MediaShape(item.kind, height, width, item.timestamps)
            for item, (_, height, width) in zip(items, merged, strict=True)
        ]

    def _mark_visual_tokens(
        self, ids: NDArray[np.int32], spans: Sequence[Span], digests: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        """Virtual ids for visual tokens (see contract.py), and extra ids [L]: the item's digest, or
        0 for text.
        """
        input_ids, extra_ids = ids.copy(), np.zeros(len(ids), dtype=np.uint64)
        step, row = self._manifest.rows_per_visual_token, 0
        for span in spans:
            count = span.stop - span.start
            input_ids[span.start : span.stop] = self._manifest.text.vocab_size + step * np.arange(
                row, row + count
            )
            extra_ids[span.start : span.stop] = digests[span.item, 0]
            row += count
        return input_ids, extra_ids


def _scalar(value: float, dtype: type[_Scalar]) -> NDArray[_Scalar]:
    return np.full((1, 1), value, dtype=dtype)
