"""What transformers thinks of a served answer: how likely each of its tokens is, given the ones before.

An answer is judged along its own tokens (teacher forcing), so one rounding difference does not spoil the comparison of all later
ones, which it does when two greedy answers are compared. Works with transformers 4.57 (NVIDIA's container) and 5.

Pixels and token ids come from our preprocessing, which tests/parity and tests/server compare with transformers' own. Everything
behind them is transformers': vision tower, DeepStack, rotary positions, decoder.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from build_engine.manifest import Manifest
from ensemble.config import MediaLimits
from ensemble.options import Options
from ensemble.preprocessing.preprocessor import Preprocessor, Prompt
from tests.gpu.conversation import Conversation


@dataclass(frozen=True)
class Judgement:
    """One answer against transformers, per token.

    Attributes:
        errors: |served log-probability - transformers'| [tokens], in nats.
        gaps: how much likelier transformers' best token is than the served one [tokens], in nats; 0: the same token.
    """

    errors: npt.NDArray[np.float64]
    gaps: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Visual:
    """Token ids as transformers wants them, and pixels by kind ("image", "video")."""

    ids: torch.Tensor
    kinds: torch.Tensor
    patches: dict[str, npt.NDArray[np.uint8]]
    grids: dict[str, list[list[int]]]


class Teacher:
    """A checkpoint under transformers, beside the engines that were built from it.

    Args:
        checkpoint: the Hugging Face directory.
        engines: the engine directory.
        device: "cuda" or "cpu". float32 where three times its size is free, else bfloat16.
    """

    def __init__(self, checkpoint: Path, engines: Path, device: str) -> None:
        from transformers import Qwen3VLForConditionalGeneration

        self.manifest = Manifest.read(engines)
        self.dtype = _dtype(checkpoint, device)
        model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=self.dtype)
        self.model = model.eval().to(device)
        self.device = device
        self._preprocessor = Preprocessor(self.manifest, engines, MediaLimits(), b"k" * 32)
        # transformers 5 wants to be told which token is what; 4.57 finds out by itself and refuses the argument.
        self._takes_kinds = "mm_token_type_ids" in inspect.signature(self.model.forward).parameters

    def prompt(self, conversation: Conversation) -> Prompt:
        """The conversation as the engines get it."""
        messages = json.dumps(list(conversation.messages)).encode()
        return self._preprocessor.prepare(messages, list(conversation.images), [], Options(max_tokens=1))

    def first_visual_token(self, conversation: Conversation) -> int:
        """How many prompt tokens stand before the first visual one."""
        ids = self.prompt(conversation).input_ids[0]
        return int(np.argmax(ids >= self.manifest.text.vocab_size))

    @torch.no_grad()
    def judge(
        self, conversation: Conversation, token_ids: tuple[int, ...], token_logprobs: tuple[float, ...]
    ) -> Judgement:
        """Compare a served answer with what transformers says after each of its tokens."""
        made = self._visual(self.prompt(conversation))
        given: dict[str, Any] = {"input_ids": made.ids}
        if made.patches and self._takes_kinds:
            given["mm_token_type_ids"] = made.kinds
        for kind, name in (("image", "pixel_values"), ("video", "pixel_values_videos")):
            if kind in made.patches:
                given[name] = self.normalised(made.patches[kind])
                given[f"{kind}_grid_thw"] = torch.tensor(made.grids[kind], device=self.device)
        # transformers keeps the offset of the last pictures it saw, and would apply it to a text without any.
        self.model.model.rope_deltas = None
        state = self.model.model(**given, use_cache=True)
        hidden = [state.last_hidden_state[0, -1:]]
        # In a second call, since an answer may hold an <|image_pad|> that is no picture.
        served = torch.tensor(token_ids, device=self.device)
        if len(token_ids) > 1:
            start = made.ids.shape[1]
            state = self.model.model(
                input_ids=served[None, :-1],
                past_key_values=state.past_key_values,
                cache_position=torch.arange(start, start + len(token_ids) - 1, device=self.device),
                use_cache=True,
            )
            hidden.append(state.last_hidden_state[0])
        logprobs = self.model.lm_head(torch.cat(hidden)).float().log_softmax(-1)
        own = logprobs.gather(1, served[:, None])[:, 0].double().cpu().numpy()
        best = logprobs.amax(-1).double().cpu().numpy()
        return Judgement(np.abs(np.array(token_logprobs) - own), best - own)

    @torch.no_grad()
    def rows(self, patches: npt.NDArray[np.uint8], grids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """[V, 1 + D, H]: merged features and DeepStack levels of packed pictures."""
        made = self.model.model.visual(
            self.normalised(patches), grid_thw=torch.tensor(grids.astype(np.int64), device=self.device)
        )
        # transformers 4.57 returns a pair, 5 an object.
        merged, levels = made if isinstance(made, tuple) else (made.pooler_output, made.deepstack_features)
        rows: npt.NDArray[np.float32] = torch.stack([merged, *levels], 1).float().cpu().numpy()
        return rows

    def normalised(self, patches: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Patches as the processors normalise them [N, K]."""
        vision = self.manifest.vision
        shaped = torch.from_numpy(patches).float().reshape(len(patches), vision.in_channels, -1)
        mean, std = (torch.tensor(values)[None, :, None] for values in (vision.image_mean, vision.image_std))
        normal = ((shaped * vision.rescale_factor - mean) / std).reshape(len(patches), -1)
        return normal.to(self.device, self.dtype)

    def _visual(self, prompt: Prompt) -> _Visual:
        """Virtual ids back to <|image_pad|>; the checklist sends pictures, no videos."""
        tokens, ids = self.manifest.tokens, prompt.input_ids[0].astype(np.int64)
        visual = ids >= self.manifest.text.vocab_size
        ids = np.where(visual, tokens.image, ids)
        patches, grids = prompt.pixel_patches[0], prompt.grid_thw[0].tolist()
        return _Visual(
            torch.from_numpy(ids)[None].to(self.device),
            torch.from_numpy(visual.astype(np.int32))[None].to(self.device),
            {"image": patches} if len(patches) else {},
            {"image": grids} if grids else {},
        )


def _dtype(checkpoint: Path, device: str) -> torch.dtype:
    """float32 is the better judge; bfloat16 leaves a 24 GB GPU room for the engine."""
    if device == "cpu":
        return torch.float32
    stored = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    free, _ = torch.cuda.mem_get_info()
    return torch.float32 if free > 3 * 2 * stored else torch.bfloat16
