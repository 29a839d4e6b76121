"""An ONNX graph that is written node by node: names, constants, weights beside the model when it is big.

It knows ONNX, not networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

# Weights beside the model begin at whole memory pages, so that a reader may map them.
_ALIGNMENT = 4096
# Smaller ones (shapes, scalars) are values that readers fold while they parse: they stay in the model.
_MIN_EXTERNAL_BYTES = 1024


class OnnxGraph:
    """Collects nodes and weights; `add` returns the name of the new node's first output.

    Args:
        path: the model's file.
        external: write weights to `path`.data as they come instead of keeping them in the model: a protobuf
            message ends at 2 GiB, and takes several times its size in memory.
    """

    def __init__(self, path: Path, external: bool) -> None:
        self._path = path
        self._data = path.with_name(f"{path.name}.data").open("wb") if external else None
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
        """A named initializer of the array's own type; bfloat16 is that of ml_dtypes."""
        array = np.ascontiguousarray(array).reshape(array.shape)  # numpy gives a scalar a dimension here
        if self._data is None or array.nbytes < _MIN_EXTERNAL_BYTES:
            self.weights.append(numpy_helper.from_array(array, name))
            return name
        self._data.write(bytes(-self._data.tell() % _ALIGNMENT))
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
        place = {"location": Path(self._data.name).name, "offset": self._data.tell(), "length": array.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._data.write(array.view(np.uint8).data)
        self.weights.append(tensor)
        return name

    def ints(self, *values: int) -> str:
        """An int64 [n] constant; equal ones are shared."""
        return self._constant(np.array(values, np.int64))

    def scalar(self, value: float | np.generic) -> str:
        """A constant without dimensions: float32, or the type of a numpy value."""
        return self._constant(np.array(value, None if isinstance(value, np.generic) else np.float32))

    def save(
        self,
        name: str,
        inputs: list[onnx.ValueInfoProto],
        outputs: list[onnx.ValueInfoProto],
        opset: int,
        ir_version: int,
    ) -> None:
        """Write the model."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, initializer=self.weights)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=ir_version,
            producer_name="build_engine",
        )
        self._path.write_bytes(model.SerializeToString())
        if self._data is not None:
            self._data.close()

    def _constant(self, array: npt.NDArray[Any]) -> str:
        key = (str(array.dtype), array.tobytes(), array.shape)
        if key not in self._constants:
            self._constants[key] = self.weight(f"constant.{len(self._constants)}", array)
        return self._constants[key]

    def _unique(self, stem: str) -> str:
        count = self._counts[stem] = self._counts.get(stem, -1) + 1
        return f"{stem}_{count}" if count else stem
