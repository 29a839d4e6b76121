"""Writes the vision encoder as one ONNX model that OpenVINO, ONNX Runtime and TensorRT can take.

The graph is written node by node from the checkpoint's weights instead of being traced from transformers:
tracing takes minutes for a real tower, bakes grids in or fails on them, and gives a graph that nobody can
read. Equality with transformers is tested instead. What depends on the grid comes in as inputs (see
`vision_plan`); only the number of patches N, of segments B and the longest segment L are dynamic.

`dtype` names the type of weights, linear layers, attention and of the rows that come out. In bfloat16 and float16
the model is for a strongly typed TensorRT network, where every tensor has the type that is written here: norms,
rotary embedding and interpolation stay float32, and kernels accumulate in float32.

Why attention is plain MatMul and Softmax, and not the operator `Attention` of opset 23, by compiling all forms with
TensorRT-RTX 1.7.1 (bfloat16 and float16; SM80, 86, 89, 120; head sizes 32, 64 and 72):

- it compiles to the same engine as `Attention`, to the byte of scratch memory: the compiler finds the pattern and
  fuses it. Scores [B, heads, L, L] never exist in memory, and the work is B * L^2, not N^2 over all pictures;
- `Attention` needs a mask [B, 1, L, L] by the documents of TensorRT and by ONNX Runtime. Written out it is put into
  memory: 2.1 GB for 16 segments of 8192 patches, where [B, 1, 1, L] takes nothing;
- `nonpad_kv_seqlen` (opset 24) would say the same in B numbers, but the parser of TensorRT 10 does not look at that
  input of the node: padding would be attended to, silently;
- float32 compiles too, and every other engine takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from build_engine.checkpoint import Checkpoint
from build_engine.onnx_graph import OnnxGraph

OUTPUT = "visual_rows"
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_OPSET, _IR_VERSION = 20, 10
# Above this the weights go to a file beside the model: as a protobuf message, a 2B tower took 5.3 GB of memory to write.
_EXTERNAL_DATA_BYTES = 1 << 28
# Added to the score of a padded key. exp() of it is exactly 0, and it still fits in float16.
_MASKED = -30000.0


def write_onnx(
    checkpoint: Checkpoint,
    path: Path,
    progress: Callable[[], None] = lambda: None,
    dtype: str = "float32",
) -> None:
    """Write the encoder of `checkpoint` to `path`, its weights to `path`.data if they are many.

    Inputs: pixel_patches uint8 [N, K] and the arrays of `VisionPlan`. Output: visual_rows `dtype` [V, 1 + D,
    H], for each visual token its merged feature and then its DeepStack levels.

    Args:
        checkpoint: whose vision tower to write.
        path: the file to write.
        progress: called once per block.
        dtype: "float32", "float16" or "bfloat16".
    """
    sizes = (checkpoint.shards.stored(name).size for name in checkpoint.vision_tensors())
    graph = OnnxGraph(path, external=sum(sizes) * DTYPES[dtype].itemsize > _EXTERNAL_DATA_BYTES)
    _Encoder(checkpoint, graph, DTYPES[dtype]).write(progress)
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
    graph.save(
        "qwen3_vl_vision_encoder",
        [helper.make_tensor_value_info(*declared) for declared in inputs],
        [helper.make_tensor_value_info(OUTPUT, helper.np_dtype_to_tensor_dtype(DTYPES[dtype]), rows)],
        opset=_OPSET,
        ir_version=_IR_VERSION,
    )


class _Encoder:
    """The network: patch embedding, blocks, mergers."""

    def __init__(self, checkpoint: Checkpoint, graph: OnnxGraph, dtype: np.dtype[Any]) -> None:
        self.dtype, self.typed = dtype, dtype != np.float32
        self.vision, self.architecture = checkpoint.vision, checkpoint.architecture
        self.graph, self.shards = graph, checkpoint.shards
        self.head_dim = self.vision.hidden_size // self.vision.num_heads
        self.cos = self.sin = self.mask = ""

    def write(self, progress: Callable[[], None]) -> None:
        graph = self.graph
        x = graph.add("Add", self._embed_patches(), self._narrow(self._embed_positions()))
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
        folded = graph.weight("patch_embed.proj.weight", (weight * scale).astype(self.dtype))
        pixels = graph.add("Cast", "pixel_patches", to=TensorProto.FLOAT)
        centred = graph.add("Sub", pixels, graph.weight("patch_embed.centre", centre.astype(np.float32)))
        bias = self._weight("patch_embed.proj.bias")
        return str(graph.add("Gemm", self._narrow(centred), folded, bias, transB=1))

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
            part = graph.add("Mul", self._widen(row), graph.add("Transpose", weight, perm=[1, 0]))
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
        kept, masked = (graph.scalar(self.dtype.type(value)) for value in (0.0, _MASKED))
        mask = graph.add("Where", real, kept, masked)
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
        q, k = self._rotate(self._widen(q)), self._rotate(self._widen(k))
        # Scaled while it is float32. TensorRT wants the scale before the product, or it does not see attention.
        q, k = self._narrow(graph.add("Mul", q, graph.scalar(size**-0.5))), self._narrow(k)
        # [N, heads, head_dim] -> [B, L, heads, head_dim] -> [B, heads, L, head_dim]
        q, k, v = (graph.add("Gather", part, "gather_index", axis=0) for part in (q, k, v))
        q, k, v = (graph.add("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, k, v))
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
        scale, bias = (
            self.graph.weight(part, self._tensor(part)) for part in (f"{name}.weight", f"{name}.bias")
        )
        x = self._widen(x)
        return self._narrow(self.graph.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-6))

    def _linear(self, x: str, name: str) -> str:
        return str(
            self.graph.add("Gemm", x, self._weight(f"{name}.weight"), self._weight(f"{name}.bias"), transB=1)
        )

    def _narrow(self, x: str) -> str:
        """From float32 to the form's type."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        return str(self.graph.add("Cast", x, to=kind)) if self.typed else x

    def _widen(self, x: str) -> str:
        """From the form's type to float32."""
        return str(self.graph.add("Cast", x, to=TensorProto.FLOAT)) if self.typed else x

    def _weight(self, name: str) -> str:
        bits = self.shards.bits(f"model.visual.{name}") if self.dtype == ml_dtypes.bfloat16 else None
        values = self._tensor(name).astype(self.dtype) if bits is None else bits.view(self.dtype)
        return self.graph.weight(name, values)

    def _tensor(self, name: str) -> npt.NDArray[np.float32]:
        return self.shards.float32(f"model.visual.{name}")
