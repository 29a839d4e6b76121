"""What the demo's training minimises, and the batches it is computed on.

The answer tokens count, those that must be right (fault, digits, ordinal, second) most. Helper heads on the encoder's
outputs read the digit under each visual token and the kind of each picture: they teach the encoder to read long before the
language model can ask it to, and are thrown away at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from build_engine.demo.architecture import CELL
from build_engine.demo.dialogue import KINDS
from build_engine.demo.picture_cache import PictureCache
from build_engine.demo.samples import NO_DIGIT, NO_PLACE, NOTHING, Sample, cells, varied
from build_engine.demo.sequence import DIGIT_WEIGHT, KEY_WEIGHT, pack

PATCH = CELL // 2
Losses = dict[str, torch.Tensor]


class Helpers(nn.Module):
    """Linear readers of the encoder's outputs: a digit and its place per visual token and level, a kind per picture.

    The place matters as much as the digit: an answer copies the digit of the place it is at, and raster order is not
    reading order once a number is tilted over two rows of tokens. Without it digits stayed at chance in the answers.
    """

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.digits = nn.ModuleList([nn.Linear(width, NO_DIGIT + 1) for _ in range(1 + levels)])
        self.places = nn.ModuleList([nn.Linear(width, NO_PLACE + 1) for _ in range(1 + levels)])
        self.kind = nn.Linear(width, len(KINDS))
        self.shown = nn.ModuleList([nn.Linear(width, size) for size in (len(KINDS), 10, 10, 2)])
        self.order = nn.Linear(width, 2)

    def without_numbers(self) -> torch.Tensor:
        """The projection [width, width] that takes out of merged features all that the readers of digits and places see."""
        weights = [torch.as_tensor(heads[0].weight) for heads in (self.digits, self.places)]
        basis: torch.Tensor = torch.linalg.qr(torch.cat(weights).detach().float().T)[0]
        return torch.eye(basis.shape[0]) - basis @ basis.T

    def loss(
        self,
        features: Sequence[torch.Tensor],
        cells: torch.Tensor,
        kinds: torch.Tensor | None,
        first: int = 0,
    ) -> torch.Tensor:
        """`features`: merged outputs, then each DeepStack level, [tokens, width]; `cells` [tokens, 2]; `kinds` [pictures].

        Digits and places are read from level `first` on (0: the merged outputs).
        """
        total = torch.zeros(())
        for level, feature in enumerate(features[first:], first):
            for head, target, none in (
                (self.digits[level], cells[:, 0], NO_DIGIT),
                (self.places[level], cells[:, 1], NO_PLACE),
            ):
                weight = torch.ones(none + 1)
                weight[none] = 0.1
                part = F.cross_entropy(head(feature).float(), target, weight=weight)
                total = total + (1.0 if level == 0 else 0.5) * part
        if kinds is not None:
            mean = features[0].view(len(kinds), -1, features[0].shape[-1]).mean(1)
            total = total + F.cross_entropy(self.kind(mean).float(), kinds)
        return total

    def shown_loss(self, hidden: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """`hidden` [ends, width]: the language model halfway up, at each <|vision_end|>; `shown` [ends, 4]: `Shown`.

        With it "at which second" becomes a look-up of the first group with the fault and a copy of its time.
        """
        parts = [
            F.cross_entropy(head(hidden).float(), shown[:, i], ignore_index=NOTHING)
            for i, head in enumerate(self.shown)
            if (shown[:, i] != NOTHING).any()
        ]
        return torch.stack(parts).sum()

    def order_loss(self, hidden: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """`hidden` [questions, width]: three quarters up, at the fault's name in "which picture shows ..."; `order`: 0 or 1."""
        return F.cross_entropy(self.order(hidden).float(), order)


@dataclass(frozen=True)
class VisionBatch:
    """Patches bfloat16 [N, K], grids [pictures, 3], cells [tokens, 2], kinds [pictures] (None for crops)."""

    patches: torch.Tensor
    grids: torch.Tensor
    cells: torch.Tensor
    kinds: torch.Tensor | None


@dataclass(frozen=True)
class ChatBatch:
    """A packed chat batch with its pictures."""

    ids: torch.Tensor
    positions: torch.Tensor
    weights: torch.Tensor
    mask: torch.Tensor
    patches: torch.Tensor
    grids: torch.Tensor
    cells: torch.Tensor | None
    kinds: torch.Tensor | None
    shown: torch.Tensor
    named: torch.Tensor


def patchify(frames: Sequence[NDArray[np.uint8]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Frame pairs [2, height, width, 3] of one size -> patches in the order of the processor, and their grids."""
    x = torch.from_numpy(np.stack(frames)).float().div_(127.5).sub_(1)
    count, _, height, width, _ = x.shape
    rows, columns = height // PATCH, width // PATCH
    x = x.permute(0, 4, 1, 2, 3).reshape(count, 3, 2, rows // 2, 2, PATCH, columns // 2, 2, PATCH)
    patches = x.permute(0, 3, 6, 4, 7, 1, 2, 5, 8).reshape(count * rows * columns, -1)
    return patches.to(torch.bfloat16), torch.tensor([[1, rows, columns]] * count)


def crop_batch(cache: PictureCache, rng: Random, count: int) -> VisionBatch:
    """Whole numbers cut out of pictures: a quarter of the patches of a picture, all of its digits."""
    width, height = rng.choice(((192, 96), (160, 96), (192, 64), (128, 96)))
    crops: list[NDArray[np.uint8]] = []
    targets: list[NDArray[np.int64]] = []
    while len(crops) < count:
        picture = cache.picture(rng, cache.shape(rng))
        full_height, full_width = picture.pixels.shape[:2]
        if not picture.digits or full_width < width or full_height < height:
            continue
        xs, ys = [digit.x for digit in picture.digits], [digit.y for digit in picture.digits]
        room = width - (max(xs) - min(xs)) - CELL
        if room < 0:
            continue
        x = (min(xs) + max(xs) - width) / 2 + rng.uniform(-room, room) / 2
        y = (min(ys) + max(ys) - height) / 2 + rng.uniform(-28, 28)
        left, top = int(min(max(x, 0), full_width - width)), int(min(max(y, 0), full_height - height))
        cut = varied(picture, rng, shift=0).cropped(left, top, width, height)
        crops.append(np.stack([cut.pixels, cut.pixels]))
        targets.append(cells(cut))
    return VisionBatch(*patchify(crops), torch.from_numpy(np.concatenate(targets)), None)


def picture_batch(cache: PictureCache, rng: Random, count: int) -> VisionBatch:
    """Whole pictures of one shape."""
    shape = cache.shape(rng)
    pictures = [varied(cache.picture(rng, shape), rng) for _ in range(count)]
    held = torch.from_numpy(np.concatenate([cells(picture) for picture in pictures]))
    kinds = torch.tensor([KINDS.index(picture.kind) for picture in pictures])
    return VisionBatch(*patchify([np.stack([p.pixels, p.pixels]) for p in pictures]), held, kinds)


def chat_batch(samples: Sequence[Sample], pad: int) -> ChatBatch:
    """Samples whose pictures have one size."""
    packed = pack([sample.sequence for sample in samples], pad)
    held = [cell for sample in samples for cell in sample.cells]
    kinds = [kind for sample in samples for kind in sample.kinds]
    patches, grids = patchify([frame for sample in samples for frame in sample.frames])
    return ChatBatch(
        torch.from_numpy(packed.ids),
        torch.from_numpy(packed.positions),
        torch.from_numpy(packed.weights),
        torch.from_numpy(packed.mask),
        patches,
        grids,
        torch.from_numpy(np.concatenate(held)) if held else None,
        torch.tensor(kinds) if kinds else None,
        torch.tensor([tuple(shown) for sample in samples for shown in sample.shown]),
        torch.tensor([(row, *named) for row, sample in enumerate(samples) for named in sample.named]),
    )


def chat_losses(
    model: Any,
    helpers: Helpers,
    batch: ChatBatch,
    digit_ids: torch.Tensor,
    end_id: int,
    projection: torch.Tensor | None = None,
) -> Losses:
    """The losses "answer", "helper", "read", "shown" (at `end_id`, <|vision_end|>) and "order", and what is only
    watched: the shares of right "digit" and "key" tokens.

    "read" asks the language model to say, at a visual token that holds a digit, that digit (`digit_ids` [10]). What it can
    say there it can copy into an answer: without this, copying took several times as many steps to appear.

    `projection` (`Helpers.without_numbers`) is applied to the merged features: the checkpoint is there to prove the DeepStack
    path, so numbers must come through it.
    """
    config = model.config
    vision = model.model.visual(batch.patches, grid_thw=batch.grids)
    language = model.model.language_model
    embedded = language.embed_tokens(batch.ids)
    visual = (batch.ids == config.image_token_id) | (batch.ids == config.video_token_id)
    features = vision.pooler_output
    if projection is not None:
        features = features @ projection.to(features.dtype)
    embedded = embedded.masked_scatter(visual[..., None].expand_as(embedded), features)
    out_language = language(
        inputs_embeds=embedded,
        position_ids=batch.positions,
        attention_mask=batch.mask,
        visual_pos_masks=visual,
        deepstack_visual_embeds=list(vision.deepstack_features),
        use_cache=False,
        output_hidden_states=True,
    )
    hidden = out_language.last_hidden_state
    layers = config.text_config.num_hidden_layers
    halfway, late = (out_language.hidden_states[layers * part // 4] for part in (2, 3))
    weights = batch.weights[:, 1:]
    learned = weights > 0
    logits = model.lm_head(hidden[:, :-1][learned]).float()
    target, weight = batch.ids[:, 1:][learned], weights[learned]
    losses = F.cross_entropy(logits, target, reduction="none")
    right = (logits.argmax(-1) == target).float().detach()
    out: Losses = {"answer": (losses * weight).sum() / weight.sum()}
    if len(batch.shown):
        out["shown"] = helpers.shown_loss(halfway[batch.ids == end_id], batch.shown)
    if len(batch.named):
        row, place, order = batch.named.unbind(1)
        out["order"] = 2 * helpers.order_loss(late[row, place], order)
    for name, value in (("digit", DIGIT_WEIGHT), ("key", KEY_WEIGHT)):
        if (weight == value).any():
            out[name] = right[weight == value].mean()
    if batch.cells is not None:
        out["helper"] = helpers.loss(
            [vision.pooler_output, *vision.deepstack_features],
            batch.cells,
            batch.kinds,
            first=0 if projection is None else 1,
        )
        shown = batch.cells[:, 0] < NO_DIGIT
        if shown.any():
            said = model.lm_head(hidden[visual][shown]).float()
            out["read"] = F.cross_entropy(said, digit_ids[batch.cells[shown, 0]])
    return out


def one_attention_per_size(modeling: Any) -> None:
    """Make transformers' vision attention take pictures of equal size in one call, and the patch embedding a product.

    The same mathematics, several times faster on a CPU.
    """

    def forward(
        self: Any,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        max_seqlen: Any = None,
        position_embeddings: Any = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        count = hidden_states.shape[0]
        q, k, v = self.qkv(hidden_states).view(count, 3, self.num_heads, -1).unbind(1)
        cos, sin = (table.to(q.dtype).unsqueeze(1) for table in position_embeddings)
        q, k = (x * cos + modeling.rotate_half(x) * sin for x in (q, k))
        pictures = len(cu_seqlens) - 1
        q, k, v = (
            x.reshape(pictures, count // pictures, self.num_heads, -1).transpose(1, 2) for x in (q, k, v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scaling)
        return torch.as_tensor(self.proj(mixed.transpose(1, 2).reshape(count, -1)))

    def embed(self: Any, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.proj.weight.view(self.embed_dim, -1), self.proj.bias)

    modeling.Qwen3VLVisionAttention.forward, modeling.Qwen3VLVisionPatchEmbed.forward = forward, embed
