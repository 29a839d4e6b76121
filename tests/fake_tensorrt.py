"""A stand-in for TensorRT's runtime in host memory: the part of its Python API that the encoder uses, and as strict.

It runs the ONNX model that the plan was compiled from, on ONNX Runtime, reading and writing at the addresses it was given. What
TensorRT leaves undefined is an error here: an address that is missing or was not set again for this call, a shape
outside the profile, scratch memory that is too small or was not asked for with these shapes.
"""

from __future__ import annotations

import ctypes
import enum
import pickle
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime

from build_engine.tensorrt_plan import ShapeRange
from tests.rounded_onnx import rounded

__version__ = "10.14.1"
_MAGIC = b"fake plan"


class DataType(enum.Enum):
    FLOAT = onnx.TensorProto.FLOAT
    HALF = onnx.TensorProto.FLOAT16
    BF16 = onnx.TensorProto.BFLOAT16
    INT32 = onnx.TensorProto.INT32
    UINT8 = onnx.TensorProto.UINT8


_NUMPY = {
    DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.BF16: ml_dtypes.bfloat16, DataType.INT32: np.int32,
    DataType.UINT8: np.uint8,
}  # fmt: skip


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class Logger:
    WARNING = 2

    def __init__(self, severity: int) -> None:
        self.severity = severity


class Runtime:
    def __init__(self, logger: Logger) -> None:
        assert isinstance(logger, Logger)

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        return Engine(*pickle.loads(plan[len(_MAGIC) :])) if plan.startswith(_MAGIC) else None


def make_plan(onnx_path: Path, profile: dict[str, ShapeRange]) -> bytes:
    """What the compiler would make of the model."""
    given = onnx.load(onnx_path, load_external_data=False).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*given.input, *given.output)}
    narrow = types[given.output[0].name] == onnx.TensorProto.BFLOAT16
    runnable = rounded(onnx_path) if narrow else onnx_path.read_bytes()
    return _MAGIC + pickle.dumps((runnable, types, given.output[0].name, profile))


class Engine:
    def __init__(
        self, model: bytes, types: dict[str, int], output: str, profile: dict[str, ShapeRange]
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.types, self.output, self.profile = types, output, profile

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType(self.types[name])

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert index == 0, "there is one profile"
        found = self.profile[name]
        return [found.min, found.opt, found.max]

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> Context:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.needed: int | None = None
        self.scratch = (0, 0)
        self.calls: list[dict[str, tuple[int, ...]]] = []

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        limits = self.engine.profile[name]
        if not all(a <= b <= c for a, b, c in zip(limits.min, shape, limits.max, strict=True)):
            return False
        self.shapes[name] = shape
        self.needed = None
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert name in self.engine.types
        assert isinstance(address, int)
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == self.engine.output
        assert set(self.shapes) == set(self.engine.profile), (
            "the output's shape is unknown before all inputs'"
        )
        (rows,) = self.engine.session.get_outputs()
        return (self.shapes["pixel_patches"][0] // 4, *rows.shape[1:])

    def update_device_memory_size_for_shapes(self) -> int:
        assert set(self.shapes) == set(self.engine.profile)
        self.needed = 64 * self.shapes["pixel_patches"][0]
        return self.needed

    def set_device_memory(self, address: int, size: int) -> None:
        self.scratch = (address, size)

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert isinstance(stream_handle, int)
        assert self.needed is not None, "scratch memory was not asked for with these shapes"
        assert self.scratch[0], "no scratch memory"
        assert self.scratch[1] >= self.needed, "too little scratch memory"
        assert set(self.addresses) == set(self.engine.types), "addresses of another call"
        ctypes.memset(self.scratch[0], 0xEE, self.needed)
        inputs = {name: self._array(name, shape) for name, shape in self.shapes.items()}
        (rows,) = self.engine.session.run([self.engine.output], inputs)
        self._array(self.engine.output, rows.shape)[...] = rows
        self.calls.append(dict(self.shapes))
        self.addresses.clear()
        return True

    def _array(self, name: str, shape: tuple[int, ...]) -> Any:
        dtype = np.dtype(_NUMPY[self.engine.get_tensor_dtype(name)])
        count = int(np.prod(shape))
        memory = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(self.addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)
