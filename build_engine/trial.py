"""Runs built engines step by step, without a server, scheduler or sampler: for `verify` and for tests.

It knows the engines' inputs and hands out KV blocks in a scrambled order, so that nothing passes by luck. It
knows no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov

from build_engine.manifest import Manifest
from build_engine.openvino_ir import BLOCK_SIZE, load_language_model, load_vision_encoder
from build_engine.vision_plan import plan

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass
class Request:
    """One request: its ids (virtual ones count from vocab_size), rotary table, visual rows, and its state."""

    ids: Ids
    cos: Floats  # [positions, head_dim]
    sin: Floats
    table: Floats  # [(1 + D) * V, H]
    past: int = 0
    blocks: list[int] = field(default_factory=list)


class Trial:
    """The two engines of a directory."""

    def __init__(
        self,
        directory: Path,
        kv_cache_dtype: str = "auto",
        threads: int = 0,
        blocks: int = 128,
        tiles: bool = False,
        fused: bool = False,
    ) -> None:
        self.manifest = Manifest.read(directory)
        self.vision = load_vision_encoder(directory, self.manifest, threads)
        self.language = load_language_model(
            directory, self.manifest, kv_cache_dtype, threads, tiles=tiles, fused=fused
        ).create_infer_request()
        self._caches = self._allocate(blocks)
        self._free = [int(block) for block in np.random.default_rng(0).permutation(blocks)]

    def encode(self, pixel_patches: npt.NDArray[np.uint8], grid_thw: Ids) -> Floats:
        """visual_rows [V, 1 + D, H] of packed patches."""
        inputs = plan(grid_thw, self.manifest.vision).inputs()
        rows: Floats = self.vision({"pixel_patches": pixel_patches, **inputs})["visual_rows"]
        return rows

    def request(self, ids: Ids, cos: Floats, sin: Floats, rows: Floats | None = None) -> Request:
        """A new request; `rows` as `encode` gave them, in prompt order."""
        width = self.manifest.text.hidden_size
        table = np.zeros((self.manifest.rows_per_visual_token, width), np.float32) if rows is None else rows
        return Request(ids, cos, sin, table.reshape(-1, width))

    def step(self, parts: Sequence[tuple[Request, int]]) -> Floats:
        """Run the next `count` tokens of each sequence; logits [len(parts), vocab_size] after the last of
        each.
        """
        vocab_size = self.manifest.text.vocab_size
        ids, cos, sin, tables, rows = [], [], [], [], 0
        for sequence, count in parts:
            places = slice(sequence.past, sequence.past + count)
            chunk = sequence.ids[places]
            ids.append(np.where(chunk >= vocab_size, chunk + rows, chunk).astype(np.int32))
            cos.append(sequence.cos[places])
            sin.append(sequence.sin[places])
            tables.append(sequence.table)
            rows += len(sequence.table)
            self._reserve(sequence, sequence.past + count)
        past = np.array([sequence.past for sequence, _ in parts], np.int32)
        counts = np.array([count for _, count in parts], np.int32)
        begins = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        used = [len(sequence.blocks) for sequence, _ in parts]
        logits = self._infer(
            {
                "input_ids": np.concatenate(ids),
                "prompt_embedding_table": np.concatenate(tables),
                "rotary_cos": np.concatenate(cos)[:, None],
                "rotary_sin": np.concatenate(sin)[:, None],
                "logits_index": begins[1:] - 1,
                "past_lens": past,
                "subsequence_begins": begins,
                "block_indices": np.concatenate([sequence.blocks for sequence, _ in parts]).astype(np.int32),
                "block_indices_begins": np.concatenate([[0], np.cumsum(used)]).astype(np.int32),
                "max_context_len": np.array((past + counts).max(), np.int32),
            }
        )
        for sequence, count in parts:
            sequence.past += count
        return logits

    def release(self, sequence: Request) -> None:
        """Give its blocks back."""
        self._free.extend(sequence.blocks)
        sequence.blocks = []

    def _infer(self, inputs: dict[str, npt.NDArray[np.generic]]) -> Floats:
        tensors = {name: ov.Tensor(np.array(array, order="C")) for name, array in inputs.items()}
        for name, tensor in tensors.items():
            self.language.set_tensor(name, tensor)
        self.language.infer()
        return np.array(self.language.get_tensor("logits").data)

    def _allocate(self, blocks: int) -> list[ov.Tensor]:
        caches = []
        for port in self.language.model_inputs:
            if "_cache." in port.any_name:
                shape = [blocks, *(dimension.get_length() for dimension in list(port.partial_shape)[1:])]
                cache = ov.Tensor(port.element_type, shape)
                self.language.set_tensor(port.any_name, cache)
                caches.append(cache)
        return caches

    def _reserve(self, sequence: Request, tokens: int) -> None:
        while len(sequence.blocks) * BLOCK_SIZE < tokens:
            sequence.blocks.append(self._free.pop())
