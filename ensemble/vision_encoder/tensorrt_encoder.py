"""The vision encoder of the target tensorrt-llm: a TensorRT plan, its inputs and outputs in GPU memory.

It knows TensorRT's runtime, torch's GPU memory and streams. It does not know requests, batches or the cache (`batch`).

One call is one packed call: all pictures that `batch` puts together, as N patches in B segments of at most L. Inputs
go to the GPU once, from pinned memory, so that the copy runs without the CPU. The rows stay on the GPU: `batch` joins
them there, and Triton hands them to the language model by DLPack. They never visit the host.

The plan runs on a stream of its own, since TensorRT adds device-wide waits on the default stream. `encode` waits for
that stream before it returns. Triton copies from a stream that knows nothing of ours, and the allocator may give
the inputs' memory to the next call. Waiting costs nothing: one instance encodes one batch at a time, and Triton
gathers the next batch meanwhile.

No CUDA graph: a graph is captured for exact shapes, and N, B and L change with every mix of pictures; a call runs
milliseconds, against which the launches that a graph saves are small. A deployment that resizes every picture to one
size could keep a graph for each number of pictures, here, around `execute_async_v3`.

Memory: the plan's scratch memory is ours to give, for the shapes of the call. TensorRT would take it for the profile's
largest shapes, many times what a call needs. It grows to the largest call so far and stays.

Not yet run on hardware. tests/fake_tensorrt.py stands in for the runtime in tests.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from build_engine.manifest import Manifest
from build_engine.tensorrt_plan import VISION_ENCODER_PLAN
from build_engine.vision_plan import plan
from ensemble.vision_encoder.encoder import CallLimits
from ensemble.vision_encoder.rows import Rows

OUTPUT: Final = "visual_rows"
_MAX_PATCHES: Final = 16384
"""16 pictures of 512 x 512 pixels fill any GPU; larger calls would only take more memory."""
_MAX_PADDING: Final = 0.25
# Name of the manifest's table_dtype at TensorRT and at torch.
_DTYPES: Final = {"BF16": ("BF16", "bfloat16"), "FP16": ("HALF", "float16")}

_log = logging.getLogger(__name__)


class TensorRtEncoder:
    """The encoder of the tensorrt-llm target. One call at a time.

    Args:
        directory: the engine directory.
        manifest: its manifest.
        device: where to run, as torch names it: "cuda:0".
        library: `tensorrt`, or what stands in for it; None imports it.

    Raises:
        RuntimeError: the plan is for another GPU or another TensorRT, or gives other rows than the manifest says.
    """

    def __init__(self, directory: Path, manifest: Manifest, device: str, library: Any = None) -> None:
        import torch

        if library is None:
            import tensorrt

            library = tensorrt
        self._torch: Any = torch
        self._vision = manifest.vision
        self._device = torch.device(device)
        self._stream: Any = None
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # TensorRT loads onto the current device
            self._stream = self._torch.cuda.Stream(self._device)
        self._logger = library.Logger(library.Logger.WARNING)
        self._runtime = library.Runtime(self._logger)
        path = directory / VISION_ENCODER_PLAN
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise RuntimeError(
                f"{path} cannot be loaded by TensorRT {library.__version__} on this GPU (it was built with TensorRT "
                f"{manifest.versions.get('tensorrt', 'unknown')}); a plan belongs to one TensorRT and one kind of GPU: "
                "build the engines again, here"
            )
        tensorrt_dtype, torch_dtype = _DTYPES[manifest.table_dtype]
        self._dtype = getattr(torch, torch_dtype)
        given = self._engine.get_tensor_dtype(OUTPUT)
        if given != getattr(library.DataType, tensorrt_dtype):
            raise RuntimeError(
                f"{path} gives rows of {given}, the manifest says {manifest.table_dtype}; build again"
            )
        self._context = self._engine.create_execution_context(
            library.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        self._scratch = torch.empty(0, dtype=torch.uint8, device=self._device)
        self.call_limits = CallLimits(
            max_patches=min(_MAX_PATCHES, self._largest("scatter_index")[0]),
            max_segments=self._largest("segment_length")[0],
            max_padding=_MAX_PADDING,
        )

    def encode(self, patches: npt.NDArray[np.uint8], grid_thw: npt.NDArray[np.int32]) -> Rows:
        """See `VisionEncoder.encode`; the rows are a torch tensor on the device."""
        arrays = {"pixel_patches": patches, **plan(grid_thw, self._vision).inputs()}
        with self._on_stream():
            # Held until the stream is done with them.
            inputs = {name: self._upload(array) for name, array in arrays.items()}
            for name, tensor in inputs.items():
                self._bind(name, tensor)
            rows = self._torch.empty(
                tuple(self._context.get_tensor_shape(OUTPUT)), dtype=self._dtype, device=self._device
            )
            self._context.set_tensor_address(OUTPUT, rows.data_ptr())
            self._give_scratch()
            started = self._context.execute_async_v3(self._stream.cuda_stream if self._stream else 0)
            if self._stream is not None:
                self._stream.synchronize()
        if not started:
            raise RuntimeError(f"TensorRT could not run grids {grid_thw.tolist()}; its log tells why")
        return rows

    def _upload(self, array: npt.NDArray[Any]) -> Any:
        # torch takes only arrays that may be written to, and Triton's may not.
        tensor = self._torch.from_numpy(np.require(array, requirements=["C", "W"]))
        if self._stream is not None:
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

    def _bind(self, name: str, tensor: Any) -> None:
        shape = tuple(tensor.shape)
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, 0)
        if not all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)):
            raise RuntimeError(
                f"input {name} has shape {list(shape)}, the plan takes {list(smallest)} to {list(largest)}; its largest "
                "follows --max-visual-tokens"
            )
        if not self._context.set_input_shape(name, shape):
            raise RuntimeError(f"TensorRT does not take shape {list(shape)} for input {name}")
        self._context.set_tensor_address(name, tensor.data_ptr())

    def _give_scratch(self) -> None:
        size = self._context.update_device_memory_size_for_shapes()
        if size > self._scratch.nbytes:
            _log.info("the vision encoder's scratch memory grows to %d MB", size >> 20)
            self._scratch = self._torch.empty(
                0, dtype=self._torch.uint8, device=self._device
            )  # give back first
            self._scratch = self._torch.empty(size, dtype=self._torch.uint8, device=self._device)
        self._context.set_device_memory(self._scratch.data_ptr(), self._scratch.nbytes)

    def _largest(self, name: str) -> tuple[int, ...]:
        return tuple(self._engine.get_tensor_profile_shape(name, 0)[2])

    def _on_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else self._torch.cuda.stream(self._stream)
