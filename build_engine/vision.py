"""Writes the vision encoder as one ONNX model that OpenVINO, ONNX Runtime and TensorRT can take.

The graph is written node by node from the checkpoint's weights instead of being traced from transformers:
tracing takes minutes for a real tower, bakes grids in or fails on them, and gives a graph that nobody can
read. Equality with transformers is tested instead. What depends on the grid comes in as inputs (see
`vision_plan`); only the number of patches N, of segments B and the longest segment L are dynamic. Attention
is plain MatMul and Softmax at opset 20: every engine takes it, in float32 too, and fuses it where it can.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from build_engine.checkpoint import Checkpoint

OPSET = 20
IR_VERSION = 10
OUTPUT = "visual_rows"
# A protobuf message ends at 2 GiB; above this the weights go to a file beside the model.
_EXTERNAL_DATA_BYTES = 1 << 30
# Added to the score of a padded key. exp() of it is exactly 0, and it still fits in float16.
_MASKED = -30000.0


def write_onnx(checkpoint: Checkpoint, path: Path, progress: Callable[[], None] = lambda: None) -> None:
    """Write the encoder of `checkpoint` to `path` in float32; `progress` is called once per block.

    Inputs: pixel_patches uint8 [N, K] and the arrays of `VisionPlan`. Output: visual_rows float32 [V, 1 + D,
    H], for each visual token its merged feature and then its DeepStack levels.
    """
    graph = _Graph()
    encoder = _Encoder(checkpoint, graph)
    encoder.write(progress)
    model = graph.model(checkpoint)
    external = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > _EXTERNAL_DATA_BYTES
    onnx.save_model(
        model, path, save_as_external_data=external, location=f"{path.name}.data" if external else None
    )


class _Graph:
    """Collects nodes and weights; `add` returns the name of the new node's first output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._scope = ""
        self._counts: dict[str, int] = {}
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], str] = {}

    def scope(self, name: str) -> None:
        """Prefix of the names of the nodes that follow."""
        self._scope = name

    def add(self, kind: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        """Add a node; one output name, or a list of them when `outputs` > 1."""
        stem = name or self._unique(f"{self._scope}/{kind}")
        names = [stem] if outputs == 1 else [f"{stem}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=stem, **attributes))
        return names[0] if outputs == 1 else names

    def weight(self, name: str, array: npt.NDArray[Any]) -> str:
        """A named initializer."""
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def ints(self, *values: int) -> str:
        """An int64 [n] constant; equal ones are shared."""
        return self._constant(np.array(values, np.int64))

    def scalar(self, value: float | np.generic) -> str:
        """A constant without dimensions: float32, or the type of a numpy value."""
        return self._constant(np.array(value, None if isinstance(value, np.generic) else np.float32))

    def model(self, checkpoint: Checkpoint) -> onnx.ModelProto:
        """The finished model."""
        vision = checkpoint.vision
        head_dim = vision.hidden_size // vision.num_heads
        integer, real = TensorProto.INT32, TensorProto.FLOAT
        inputs = (
            ("pixel_patches", TensorProto.UINT8, ["N", vision.patch_values]),
            ("rotary_cos", real, ["N", head_dim]),
            ("rotary_sin", real, ["N", head_dim]),
            ("position_index", integer, [4, "N"]),
            ("position_weight", real, [4, "N"]),
            ("gather_index", integer, ["B", "L"]),
            ("segment_length", integer, ["B"]),
            ("scatter_index", integer, ["N"]),
        )
        rows = ["V", 1 + vision.deepstack_levels, vision.out_hidden_size]
        graph = helper.make_graph(
            self.nodes,
            "qwen3_vl_vision_encoder",
            [helper.make_tensor_value_info(*declared) for declared in inputs],
            [helper.make_tensor_value_info(OUTPUT, real, rows)],
            initializer=self.weights,
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="build_engine",
        )

    def _constant(self, array: npt.NDArray[Any]) -> str:
        key = (str(array.dtype), array.tobytes(), array.shape)
        if key not in self._constants:
            self._constants[key] = self.weight(f"constant.{len(self._constants)}", array)
        return self._constants[key]

    def _unique(self, stem: str) -> str:
        count = self._counts[stem] = self._counts.get(stem, -1) + 1
        return f"{stem}_{count}" if count else stem


class _Encoder:
    """The network: patch embedding, blocks, mergers."""

    def __init__(self, checkpoint: Checkpoint, graph: _Graph) -> None:
        self.vision, self.architecture = checkpoint.vision, checkpoint.architecture
        self.graph, self.shards = graph, checkpoint.shards
        self.head_dim = self.vision.hidden_size // self.vision.num_heads
        self.cos = self.sin = self.mask = ""

    def write(self, progress: Callable[[], None]) -> None:
        graph = self.graph
        x = graph.add("Add", self._embed_patches(), self._embed_positions())
        graph.scope("rotary")
        self.cos = graph.add("Unsqueeze", "rotary_cos", graph.ints(1))  # [N, 1, head_dim]
        self.sin = graph.add("Unsqueeze", "rotary_sin", graph.ints(1))
        self.mask = self._mask_padding()
        features: dict[int, str] = {}
        levels = {level.block: level.merger for level in self.architecture.deepstack}
        for i in range(self.vision.depth):
            x = self._block(x, f"blocks.{i}")
            if i in levels:
                features[i] = self._merge(x, f"deepstack_merger_list.{levels[i]}", norm_after_shuffle=True)
            progress()
        merged = self._merge(x, "merger", norm_after_shuffle=False)
        graph.scope("rows")
        rows = [graph.add("Unsqueeze", row, graph.ints(1)) for row in (merged, *features.values())]
        graph.add("Concat", *rows, axis=1, name=OUTPUT)

    def _embed_patches(self) -> str:
        """(pixel * rescale - mean) / std, folded into the patch projection.

        The centre mean / rescale is subtracted first, not folded into the bias: 127.5 is exact even in
        bfloat16, and rounded weights then do not multiply a large common offset.
        """
        graph, vision = self.graph, self.vision
        graph.scope("patch_embed")
        per_channel = vision.temporal_patch_size * vision.patch_size**2
        centre = np.repeat(np.array(vision.image_mean) / vision.rescale_factor, per_channel)
        scale = np.repeat(vision.rescale_factor / np.array(vision.image_std), per_channel)
        weight = self._tensor("patch_embed.proj.weight").reshape(vision.hidden_size, -1)
        folded = graph.weight("patch_embed.proj.weight", (weight * scale).astype(np.float32))
        pixels = graph.add("Cast", "pixel_patches", to=TensorProto.FLOAT)
        centred = graph.add("Sub", pixels, graph.weight("patch_embed.centre", centre.astype(np.float32)))
        return str(graph.add("Gemm", centred, folded, self._weight("patch_embed.proj.bias"), transB=1))

    def _embed_positions(self) -> str:
        """Sum of 4 table rows per patch, one neighbour at a time: [4, N, C] at once would be the largest
        tensor.
        """
        graph = self.graph
        graph.scope("pos_embed")
        table = self._weight("pos_embed.weight")
        indices = graph.add("Split", "position_index", axis=0, num_outputs=4, outputs=4)
        weights = graph.add("Split", "position_weight", axis=0, num_outputs=4, outputs=4)
        total = ""
        for index, weight in zip(indices, weights, strict=True):
            row = graph.add("Gather", table, graph.add("Squeeze", index, graph.ints(0)), axis=0)
            part = graph.add("Mul", row, graph.add("Transpose", weight, perm=[1, 0]))
            total = graph.add("Add", total, part) if total else part
        return total

    def _mask_padding(self) -> str:
        """[B, 1, 1, L]: 0 on the keys of a segment, _MASKED on its padding."""
        graph = self.graph
        graph.scope("mask")
        longest = graph.add("Gather", graph.add("Shape", "gather_index"), graph.scalar(np.int64(1)))
        places = graph.add("Range", graph.scalar(np.int64(0)), longest, graph.scalar(np.int64(1)))
        lengths = graph.add(
            "Unsqueeze", graph.add("Cast", "segment_length", to=TensorProto.INT64), graph.ints(1)
        )
        real = graph.add("Less", places, lengths)
        mask = graph.add("Where", real, graph.scalar(0.0), graph.scalar(_MASKED))
        return str(graph.add("Unsqueeze", mask, graph.ints(1, 2)))

    def _block(self, x: str, name: str) -> str:
        graph = self.graph
        graph.scope(name)
        x = graph.add("Add", x, self._attend(self._norm(x, f"{name}.norm1"), f"{name}.attn"))
        inner = self._linear(self._norm(x, f"{name}.norm2"), f"{name}.mlp.linear_fc1")
        approximate = "tanh" if self.architecture.vision_act == "gelu_pytorch_tanh" else "none"
        active = graph.add("Gelu", inner, approximate=approximate)
        return str(graph.add("Add", x, self._linear(active, f"{name}.mlp.linear_fc2")))

    def _attend(self, x: str, name: str) -> str:
        graph, heads, size = self.graph, self.vision.num_heads, self.head_dim
        joined = graph.add("Reshape", self._linear(x, f"{name}.qkv"), graph.ints(0, 3 * heads, size))
        q, k, v = graph.add("Split", joined, axis=1, num_outputs=3, outputs=3)  # [N, heads, head_dim] each
        q, k = self._rotate(q), self._rotate(k)
        # [N, heads, head_dim] -> [B, L, heads, head_dim] -> [B, heads, L, head_dim]
        q, k, v = (graph.add("Gather", part, "gather_index", axis=0) for part in (q, k, v))
        q, k, v = (graph.add("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, k, v))
        q = graph.add("Mul", q, graph.scalar(size**-0.5))
        scores = graph.add("MatMul", q, graph.add("Transpose", k, perm=[0, 1, 3, 2]))
        weights = graph.add("Softmax", graph.add("Add", scores, self.mask), axis=-1)
        mixed = graph.add("Transpose", graph.add("MatMul", weights, v), perm=[0, 2, 1, 3])
        flat = graph.add("Reshape", mixed, graph.ints(-1, heads * size))  # [B * L, C]
        return self._linear(graph.add("Gather", flat, "scatter_index", axis=0), f"{name}.proj")

    def _rotate(self, x: str) -> str:
        graph = self.graph
        low, high = graph.add("Split", x, axis=2, num_outputs=2, outputs=2)
        turned = graph.add("Concat", graph.add("Neg", high), low, axis=2)
        return str(graph.add("Add", graph.add("Mul", x, self.cos), graph.add("Mul", turned, self.sin)))

    def _merge(self, x: str, name: str, norm_after_shuffle: bool) -> str:
        """[N, C] -> [V, H]. DeepStack mergers normalise the joined patches, the last merger each patch."""
        graph = self.graph
        graph.scope(name)
        joined = graph.ints(-1, self.vision.hidden_size * self.vision.spatial_merge_size**2)
        if norm_after_shuffle:
            x = self._norm(graph.add("Reshape", x, joined), f"{name}.norm")
        else:
            x = graph.add("Reshape", self._norm(x, f"{name}.norm"), joined)
        return self._linear(graph.add("Gelu", self._linear(x, f"{name}.linear_fc1")), f"{name}.linear_fc2")

    def _norm(self, x: str, name: str) -> str:
        scale, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return str(self.graph.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-6))

    def _linear(self, x: str, name: str) -> str:
        return str(
            self.graph.add("Gemm", x, self._weight(f"{name}.weight"), self._weight(f"{name}.bias"), transB=1)
        )

    def _weight(self, name: str) -> str:
        return self.graph.weight(name, self._tensor(name))

    def _tensor(self, name: str) -> npt.NDArray[np.float32]:
        return self.shards.float32(f"model.visual.{name}")
