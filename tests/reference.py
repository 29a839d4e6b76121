"""What transformers says: the answers that every served answer must equal, token by token, in float32.

Only transformers' own code decides here: its chat template call, its PIL image processor, its video sampling,
resizing rule, patch order and timestamps, its rotary positions and its greedy `generate`. The one thing taken
from elsewhere is the call under torchvision's resize (torchvision has no CPU build for this torch):
`torch.nn.functional.interpolate` on uint8 with antialias, which is what torchvision calls.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor, smart_resize


@dataclass(frozen=True)
class Conversation:
    """One request as a client sends it."""

    messages: tuple[dict[str, Any], ...]
    images: tuple[bytes, ...] = ()
    videos: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """What `generate` takes, batch of one."""

    input_ids: torch.Tensor
    mm_token_type_ids: torch.Tensor
    pixel_values: torch.Tensor | None
    image_grid_thw: torch.Tensor | None
    pixel_values_videos: torch.Tensor | None
    video_grid_thw: torch.Tensor | None


class Reference:
    """A checkpoint in float32 under transformers."""

    def __init__(self, checkpoint: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.images = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)
        self.video = SimpleNamespace(
            **{**_class_defaults(), **json.loads((checkpoint / "video_preprocessor_config.json").read_text())}
        )
        config = self.model.config
        self.image_token = self.tokenizer.convert_ids_to_tokens(config.image_token_id)
        self.video_token = self.tokenizer.convert_ids_to_tokens(config.video_token_id)

    def inputs(self, conversation: Conversation) -> Inputs:
        """Everything that Qwen3VLProcessor would make of the conversation."""
        text = self.tokenizer.apply_chat_template(
            list(conversation.messages), tokenize=False, add_generation_prompt=True
        )
        pixel_values = grid = pixel_values_videos = video_grid = None
        if conversation.images:
            made = self.images([_picture(data) for data in conversation.images], return_tensors="pt")
            pixel_values, grid = made["pixel_values"], made["image_grid_thw"]
            text = self._expand_images(text, grid)
        if conversation.videos:
            patches, grids, pieces = zip(*map(self._video, conversation.videos), strict=True)
            pixel_values_videos, video_grid = torch.cat(patches), torch.tensor(grids)
            # Only the inner token is replaced: the outer <|vision_start|> ... <|vision_end|> of the chat template stay
            # around all frame groups (transformers 5; version 4.57 dropped them).
            for piece in pieces:
                text = text.replace(self.video_token, piece.replace(self.video_token, "\0"), 1)
            text = text.replace("\0", self.video_token)
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        config = self.model.config
        kinds = (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id).int()
        return Inputs(ids, kinds, pixel_values, grid, pixel_values_videos, video_grid)

    def answer(self, conversation: Conversation, max_new_tokens: int = 64) -> list[int]:
        """Greedy token ids, the end token included if it came."""
        made = self.inputs(conversation)
        given = {name: value for name, value in vars(made).items() if value is not None}
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = self.model.generate(
                **given,
                attention_mask=torch.ones_like(made.input_ids),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                use_cache=True,
            )
        return [int(token) for token in out[0, made.input_ids.shape[1] :]]

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of answer tokens, without special tokens."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def _expand_images(self, text: str, grid: torch.Tensor) -> str:
        merge = self.images.merge_size**2
        for t, h, w in grid.tolist():
            text = text.replace(self.image_token, "\0" * (t * h * w // merge), 1)
        return text.replace("\0", self.image_token)

    def _video(self, data: bytes) -> tuple[torch.Tensor, list[int], str]:
        frames, fps = _frames(data)
        settings = self.video
        metadata = SimpleNamespace(total_num_frames=len(frames), fps=fps)
        indices = Qwen3VLVideoProcessor.sample_frames(settings, metadata, fps=settings.fps)
        chosen = torch.stack([frames[i] for i in indices])
        factor = settings.patch_size * settings.merge_size
        height, width = smart_resize(
            num_frames=len(chosen),
            height=chosen.shape[2],
            width=chosen.shape[3],
            temporal_factor=settings.temporal_patch_size,
            factor=factor,
            min_pixels=settings.size["shortest_edge"],
            max_pixels=self._frame_budget(len(chosen), factor),
        )
        if (height, width) != tuple(chosen.shape[2:]):
            chosen = torch.nn.functional.interpolate(
                chosen, size=(height, width), mode="bicubic", antialias=True, align_corners=False
            )
        mean, std = (torch.tensor(settings.__dict__[k]).view(1, 3, 1, 1) for k in ("image_mean", "image_std"))
        # The fused form of transformers: (x - mean / rescale) / (std / rescale).
        scale = settings.rescale_factor
        normal = (chosen.float() - mean / scale) / (std / scale)
        patches, t, h, w = Qwen3VLVideoProcessor.patchify(
            settings, normal[None], settings.patch_size, settings.merge_size, settings.temporal_patch_size
        )
        times = Qwen3VLProcessor._calculate_timestamps(settings, indices, fps, settings.temporal_patch_size)
        tokens = h * w // settings.merge_size**2
        text = "".join(
            f"<{time:.1f} seconds><|vision_start|>{self.video_token * tokens}<|vision_end|>" for time in times
        )
        return patches[0], [t, h, w], text

    def _frame_budget(self, frames: int, factor: int) -> int:
        size, settings = self.video.size, self.video
        if not settings.cap_pixels_per_frame:
            return int(size["longest_edge"])
        cap = min(settings.max_video_tokens * factor**2, size["longest_edge"] // frames)
        return max(cap, int(size["shortest_edge"] * 1.05)) * frames


def _class_defaults() -> dict[str, Any]:
    names = ("fps", "min_frames", "max_frames", "cap_pixels_per_frame", "max_video_tokens", "rescale_factor")
    return {name: getattr(Qwen3VLVideoProcessor, name, None) for name in names}


def _picture(data: bytes) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def _frames(data: bytes) -> tuple[torch.Tensor, float]:
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
        return torch.stack(frames).permute(0, 3, 1, 2).contiguous(), float(stream.average_rate)


def jpeg(height: int, width: int, seed: int, quality: int = 90) -> bytes:
    """A seeded noisy picture with structure."""
    return _encode(height, width, seed, "JPEG", quality=quality)


def png(height: int, width: int, seed: int) -> bytes:
    """A seeded noisy picture with structure, lossless."""
    return _encode(height, width, seed, "PNG")


def _encode(height: int, width: int, seed: int, form: str, **options: Any) -> bytes:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (max(2, height // 40), max(2, width // 40), 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(image).astype(np.int16) + random.integers(-20, 21, (height, width, 3))
    out = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out, form, **options)
    return out.getvalue()


def clip(
    frames: Sequence[np.ndarray | Image.Image], fps: int, codec: str = "libx264", form: str = "mp4"
) -> bytes:
    """Encode RGB frames (sides are cut to even numbers, as the codec wants)."""
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        arrays = [
            np.asarray(frame.convert("RGB") if isinstance(frame, Image.Image) else frame) for frame in frames
        ]
        height, width = (side // 2 * 2 for side in arrays[0].shape[:2])
        stream = container.add_stream(codec, rate=fps, width=width, height=height, pix_fmt="yuv420p")
        if codec == "libx264":
            stream.options = {"crf": "14"}
        for array in arrays:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()
