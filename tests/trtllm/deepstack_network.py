"""The operations that build_engine/trtllm/model.py calls, as layers of a strongly typed TensorRT network.

TensorRT-RTX has TensorRT's network API, type checks and compiler, and compiles without a GPU. So the types and shapes of the
DeepStack lookup are judged by NVIDIA's code. The operations add the layers that TensorRT-LLM's functional.py adds, as its sources
near 1.2 show; the code is not theirs. No numbers come out: tests/trtllm/strict_tensorrt_llm.py has those.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorrt_rtx as trt

_DTYPES = {np.dtype(np.int32): trt.int32, np.dtype(np.int64): trt.int64, np.dtype(np.float32): trt.float32}


class Errors(trt.ILogger):  # type: ignore[misc]
    """Keeps what TensorRT complains about."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.said: list[str] = []

    def log(self, severity: Any, text: str) -> None:
        if severity <= trt.ILogger.ERROR:
            self.said.append(text)


class Network:
    """A network under construction, and functional.py's operations on it as methods."""

    def __init__(self) -> None:
        self.errors = Errors()
        self._builder = trt.Builder(self.errors)
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._network = self._builder.create_network(typed)
        self._config = self._builder.create_builder_config()
        self._profile = self._builder.create_optimization_profile()
        self._alive: list[Any] = []

    def input(self, name: str, dtype: Any, smallest: tuple[int, ...], largest: tuple[int, ...]) -> Tensor:
        shape = [low if low == high else -1 for low, high in zip(smallest, largest, strict=True)]
        self._profile.set_shape(name, smallest, largest, largest)
        return Tensor(self._network.add_input(name, dtype, shape), self)

    def compile(self, output: Tensor, sm: str) -> int:
        """Bytes of the engine; 0 if it was refused."""
        self._network.mark_output(output.value)
        self._config.add_optimization_profile(self._profile)
        self._config.num_compute_capabilities = 1
        self._config.set_compute_capability(getattr(trt.ComputeCapability, sm), 0)
        engine = self._builder.build_serialized_network(self._network, self._config)
        return 0 if engine is None else engine.nbytes

    def constant(self, value: Any, dtype: Any = None) -> Tensor:
        """A Python int becomes int32 [1], unless a type is given."""
        if isinstance(value, Tensor):
            return value
        kind = np.int32 if dtype in (None, trt.int32) else np.int64 if dtype == trt.int64 else np.float32
        return self._array(np.array([value], kind))

    def elementwise(self, left: Any, right: Any, operation: Any) -> Tensor:
        left = self.constant(left, right.dtype if isinstance(right, Tensor) else None)
        right = self.constant(right, left.dtype)
        return self._add("elementwise", left.value, right.value, operation)

    def where(self, condition: Tensor, left: Any, right: Any) -> Tensor:
        sides = [self.constant(side) for side in (left, right)]
        rank = max(len(side.value.shape) for side in (condition, *sides))
        condition, left, right = (self._with_rank(side, rank) for side in (condition, *sides))
        return self._add("select", condition.value, left.value, right.value)

    def cast(self, input: Tensor, dtype: Any) -> Tensor:
        return input if input.dtype == dtype else self._add("cast", input.value, dtype)

    def shape(self, input: Tensor) -> Tensor:
        return self._add("shape", input.value)

    def expand(self, input: Tensor, expand_shape: Tensor) -> Tensor:
        rank = len(input.value.shape)
        one, zero = (self._array(np.full(rank, number, np.int64)) for number in (1, 0))
        below = self.elementwise(self.shape(input), one, trt.ElementWiseOperation.SUB)
        strides = self.elementwise(below, one, trt.ElementWiseOperation.MIN)  # 0 where the size is 1
        layer = self._network.add_slice(input.value, [0] * rank, [1] * rank, [1] * rank)
        for index, tensor in ((1, zero), (2, expand_shape), (3, strides)):
            layer.set_input(index, tensor.value)
        return Tensor(layer.get_output(0), self)

    def unsqueeze(self, input: Tensor, axis: int) -> Tensor:
        assert axis == -1
        place = self._array(np.array([len(input.value.shape)], np.int64))
        return self._add("unsqueeze", input.value, place.value)

    def embedding(self, input: Tensor, weight: Tensor) -> Tensor:
        return self._add("gather", weight.value, input.value, 0)

    def _with_rank(self, tensor: Tensor, rank: int) -> Tensor:
        missing = rank - len(tensor.value.shape)
        if not missing:
            return tensor
        return self._add("unsqueeze", tensor.value, self._array(np.arange(missing, dtype=np.int64)).value)

    def _array(self, values: Any) -> Tensor:
        self._alive.append(values)
        weights = trt.Weights(values)
        return self._add("constant", values.shape, weights)

    def _add(self, kind: str, *arguments: Any) -> Tensor:
        layer = getattr(self._network, f"add_{kind}")(*arguments)
        return Tensor(layer.get_output(0), self)


class Tensor:
    """functional.Tensor."""

    def __init__(self, value: Any, network: Network) -> None:
        self.value, self._network = value, network

    @property
    def dtype(self) -> Any:
        return self.value.dtype

    def __add__(self, other: Any) -> Tensor:
        return self._network.elementwise(self, other, trt.ElementWiseOperation.SUM)

    def __sub__(self, other: Any) -> Tensor:
        return self._network.elementwise(self, other, trt.ElementWiseOperation.SUB)

    def __mul__(self, other: Any) -> Tensor:
        return self._network.elementwise(self, other, trt.ElementWiseOperation.PROD)

    def __gt__(self, other: Any) -> Tensor:
        return self._network.elementwise(self, other, trt.ElementWiseOperation.GREATER)
