"""A peer: the same text shape as an ONNX graph of ONNX Runtime's own int4 and attention operations, random weights.

It knows the shape and that runtime's operations. It measures speed only: weights, scales and so answers are noise, and the
embedding is left out (rows are fed in). MatMulNBits rounds activations to int8 too (accuracy_level 4), in groups of 128.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from build_engine.checkpoint import Checkpoint
from loadtests.benchmarks.decoders import CONTEXT

_BLOCK: Final = 128
_POSITIONS: Final = 2048
_MICROSOFT: Final = "com.microsoft"


class OnnxPeer:
    """ONNX Runtime on all cores, as a Decoder. Its KV cache is a padded array per layer; no scheduler, no sampler."""

    def __init__(self, checkpoint: Path, seed: int) -> None:
        import onnxruntime

        read = Checkpoint.read(checkpoint)
        self._text = read.text
        self._random = np.random.default_rng(seed)
        model = _Graph(read, self._random).model()
        options = onnxruntime.SessionOptions()
        # Its idle threads would otherwise spin into the next case's time.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def decode(self, sequences: int, steps: int) -> float:
        """See Decoder."""
        state = self._forward(sequences, CONTEXT, [])
        start = time.perf_counter()
        for step in range(steps):
            state[0].argmax(-1)
            state = self._forward(sequences, 1, state[1:], CONTEXT + step)
        return sequences * steps / (time.perf_counter() - start)

    def prefill(self, lengths: Sequence[int]) -> float:
        """See Decoder. One prompt after the other: its attention takes no ragged batch."""
        start = time.perf_counter()
        for length in lengths:
            self._forward(1, length, [])[0].argmax(-1)
        return sum(lengths) / (time.perf_counter() - start)

    def _forward(self, sequences: int, length: int, past: list[Any], done: int = 0) -> list[Any]:
        """Logits [sequences, 1, vocab], then keys and values of each layer."""
        text = self._text
        rows = self._random.standard_normal((sequences, length, text.hidden_size), np.float32)
        empty = np.zeros((sequences, text.num_key_value_heads, 0, text.head_dim), np.float32)
        names = [f"past.{kind}.{i}" for i in range(text.num_hidden_layers) for kind in ("key", "value")]
        given = dict(zip(names, past or [empty] * len(names), strict=True)) | {
            "rows": rows,
            "last": np.full(sequences, done + length - 1, np.int32),
            "total": np.array(done + length, np.int32),
        }
        made: list[Any] = self._session.run(None, given)
        return made


class _Graph:
    """The network, node by node."""

    def __init__(self, checkpoint: Checkpoint, random: np.random.Generator) -> None:
        self._text = checkpoint.text
        self._inner = checkpoint.architecture.text_intermediate_size
        self._random = random
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def model(self) -> Any:
        from onnx import TensorProto, helper

        text, layers = self._text, range(self._text.num_hidden_layers)
        cache = ["sequences", text.num_key_value_heads, None, text.head_dim]
        value = helper.make_tensor_value_info
        inputs = [value("rows", TensorProto.FLOAT, ["sequences", "length", text.hidden_size]),
                  value("last", TensorProto.INT32, ["sequences"]), value("total", TensorProto.INT32, [])]  # fmt: skip
        outputs = [value("logits", TensorProto.FLOAT, ["sequences", 1, text.vocab_size])]
        angles = np.arange(_POSITIONS)[:, None] / text.rope_theta ** (
            np.arange(0, text.head_dim, 2) / text.head_dim
        )
        self._constant("cos", np.cos(angles).astype(np.float32))
        self._constant("sin", np.sin(angles).astype(np.float32))
        self._constant("newest", np.array([-1], np.int64))
        x = "rows"
        for i in layers:
            x = self._layer(x, i)
            inputs += [value(f"past.{kind}.{i}", TensorProto.FLOAT, cache) for kind in ("key", "value")]
            outputs += [value(f"present.{kind}.{i}", TensorProto.FLOAT, cache) for kind in ("key", "value")]
        newest = self._node("Gather", self._norm(x, text.hidden_size), "newest", axis=1)
        self._linear(newest, text.hidden_size, text.vocab_size, output="logits")
        graph = helper.make_graph(self._nodes, "peer", inputs, outputs, self._constants)
        imports = [helper.make_opsetid("", 21), helper.make_opsetid(_MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def _layer(self, x: str, i: int) -> str:
        text = self._text
        hidden, queries = text.hidden_size, text.num_attention_heads * text.head_dim
        keys = text.num_key_value_heads * text.head_dim
        h = self._norm(x, hidden)
        q = self._heads(self._linear(h, hidden, queries), text.num_attention_heads)
        k = self._heads(self._linear(h, hidden, keys), text.num_key_value_heads)
        v = self._linear(h, hidden, keys)
        attended = self._node(
            "GroupQueryAttention", q, k, v, f"past.key.{i}", f"past.value.{i}", "last", "total", "cos", "sin",
            outputs=(f"attended.{i}", f"present.key.{i}", f"present.value.{i}"), domain=_MICROSOFT,
            num_heads=text.num_attention_heads, kv_num_heads=text.num_key_value_heads, do_rotary=1,
        )  # fmt: skip
        x = self._node("Add", x, self._linear(attended, queries, hidden))
        h = self._norm(x, hidden)
        gate = self._linear(h, hidden, self._inner)
        gate = self._node("Mul", gate, self._node("Sigmoid", gate))
        inner = self._node("Mul", gate, self._linear(h, hidden, self._inner))
        return self._node("Add", x, self._linear(inner, self._inner, hidden))

    def _heads(self, x: str, heads: int) -> str:
        size = self._text.head_dim
        split = self._constant(f"split.{len(self._nodes)}", np.array([0, -1, heads, size], np.int64))
        joined = self._constant(f"joined.{len(self._nodes)}", np.array([0, -1, heads * size], np.int64))
        return self._node("Reshape", self._norm(self._node("Reshape", x, split), size), joined)

    def _norm(self, x: str, width: int) -> str:
        weight = self._constant(f"norm.{len(self._nodes)}", np.ones(width, np.float32))
        return self._node("SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=1e-6)

    def _linear(self, x: str, width: int, out: int, output: str = "") -> str:
        name, blocks = f"linear.{len(self._nodes)}", -(-width // _BLOCK)
        packed = self._random.integers(0, 256, (out, blocks, _BLOCK // 2), np.uint8)
        weight = self._constant(name, packed)
        scale = self._constant(f"{name}.scale", np.full((out, blocks), 0.2 / width**0.5, np.float32))
        return self._node(
            "MatMulNBits", x, weight, scale, outputs=(output or f"{name}.out",), domain=_MICROSOFT,
            K=width, N=out, bits=4, block_size=_BLOCK, accuracy_level=4,
        )  # fmt: skip

    def _node(self, kind: str, *inputs: str, outputs: Sequence[str] = (), **options: Any) -> str:
        from onnx import helper

        made = outputs or (f"value.{len(self._nodes)}",)
        self._nodes.append(helper.make_node(kind, inputs, made, **options))
        return made[0]

    def _constant(self, name: str, array: np.ndarray[Any, Any]) -> str:
        from onnx import numpy_helper

        self._constants.append(numpy_helper.from_array(array, name))
        return name
