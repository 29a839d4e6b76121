"""Compiles the vision encoder's ONNX model into a TensorRT plan.

The same code drives two libraries, which share the Python API that is used here: `tensorrt` (10.14, in the serving
container, for the GPU in the machine) and `tensorrt_rtx` (on any machine, for a named GPU architecture; see
`compile_check`). The library is an argument. It knows profiles and the compiler; the network is in `vision`.

`tensorrt` itself: not yet run on hardware.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from build_engine.checkpoint import Checkpoint
from build_engine.manifest import Limits, VisionFacts

VISION_ENCODER_PLAN: Final = "vision_encoder/model.plan"
MAX_SEGMENTS: Final = 16
"""Most segments of one call. The compiler plans memory for as many segments as long as the longest can be (for a
2B tower and 28,672 patches 4.0 GB), although calls that large never come; the encoder allocates for real shapes."""
_USUAL_PATCHES, _USUAL_SEGMENTS = 4096, 4
_ERROR = 1  # severity; 0 is an internal error, higher numbers are no errors


class PlanError(ValueError):
    """The compiler refused the model; the text names the library, the node, and the compiler's own words."""


@dataclass(frozen=True)
class ShapeRange:
    """Shapes of one input: the smallest, the one that kernels are tuned for, the largest."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A compiled encoder.

    Attributes:
        data: the serialized plan, bytes in the compiler's own memory.
        seconds: how long parsing and compiling took.
        scratch_bytes: GPU memory for the profile's largest shapes, if the compiler tells.
    """

    data: memoryview
    seconds: float
    scratch_bytes: int | None


def profile(vision: VisionFacts, limits: Limits) -> dict[str, ShapeRange]:
    """The shapes that a plan takes, by input.

    Three sizes vary: N patches, B segments, the longest segment of L patches. Smallest: one visual token. Largest:
    one picture with all visual tokens of a request is both N and L; B is MAX_SEGMENTS. Tuned for a full packed call:
    4096 patches in 4 segments of 1024 (pictures of 512 x 512 pixels, when a patch is 16 x 16).
    """
    smallest = vision.spatial_merge_size**2
    largest = smallest * limits.max_visual_tokens
    usual = min(_USUAL_PATCHES, largest)
    longest = max(usual // _USUAL_SEGMENTS, smallest)
    small = _input_shapes(vision, smallest, 1, smallest)
    tuned = _input_shapes(vision, usual, _USUAL_SEGMENTS, longest)
    large = _input_shapes(vision, largest, MAX_SEGMENTS, largest)
    return {name: ShapeRange(small[name], tuned[name], large[name]) for name in small}


def _input_shapes(
    vision: VisionFacts, patches: int, segments: int, longest: int
) -> dict[str, tuple[int, ...]]:
    head_dim = vision.hidden_size // vision.num_heads
    return {
        "pixel_patches": (patches, vision.patch_values),
        "rotary_cos": (patches, head_dim),
        "rotary_sin": (patches, head_dim),
        "position_index": (4, patches),
        "position_weight": (4, patches),
        "gather_index": (segments, longest),
        "segment_length": (segments,),
        "scatter_index": (patches,),
    }


def write_vision_encoder(
    checkpoint: Checkpoint,
    dtype: str,
    limits: Limits,
    directory: Path,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Write `directory`/vision_encoder/model.plan for the GPU in this machine.

    Args:
        checkpoint: whose encoder to compile.
        dtype: "bfloat16" or "float16".
        limits: they bound the profile.
        directory: the engine directory.
        progress: called once per block of the model. Compiling comes after the last: the compiler takes the network as
            one piece and tells nothing meanwhile.

    Raises:
        PlanError: TensorRT refused the model.
    """
    # Here, because the serving process knows this module's constants but has no onnx.
    import tensorrt

    from build_engine.vision import write_onnx

    path = directory / VISION_ENCODER_PLAN
    path.parent.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        onnx_path = Path(scratch) / "model.onnx"
        write_onnx(checkpoint, onnx_path, progress, dtype)
        path.write_bytes(compile_onnx(tensorrt, onnx_path, profile(checkpoint.vision, limits)).data)


def compile_onnx(library: Any, onnx_path: Path, shapes: dict[str, ShapeRange], sm: int | None = None) -> Plan:
    """Compile a strongly typed ONNX model.

    Args:
        library: `tensorrt`, or `tensorrt_rtx`.
        onnx_path: the model; weights beside it are found by its own references.
        shapes: the profile.
        sm: the GPU architecture to compile for, as in 89; only `tensorrt_rtx` can choose, and must without a GPU.

    Raises:
        PlanError: the model was refused.
    """
    started = time.monotonic()
    logger = _logger(library)
    builder = library.Builder(logger)
    # Strongly typed: every tensor keeps the type that the model gives it, so nothing is rounded behind our back.
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        raise PlanError(_parse_failure(library, parser))
    # The workspace is left unlimited: a limit below what the attention kernel needs fails the build, no more.
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, network, shapes))
    # The whole tower becomes one kernel graph with scratch memory of its own. With this the memory follows the shapes
    # of a call (see ensemble/vision_encoder/tensorrt_encoder.py), without it the profile's largest shapes.
    config.set_preview_feature(library.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    if sm is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_architecture(library, sm), 0)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise PlanError(_build_failure(library, logger.errors, sm))
    return Plan(memoryview(serialized), time.monotonic() - started, logger.scratch_bytes)


def _profile(builder: Any, network: Any, shapes: dict[str, ShapeRange]) -> Any:
    made = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        if name not in shapes:
            raise PlanError(f"the model has an input {name!r} that the profile has no shape for")
        made.set_shape(name, shapes[name].min, shapes[name].opt, shapes[name].max)
    return made


def _architecture(library: Any, sm: int) -> Any:
    capability = getattr(library.ComputeCapability, f"SM{sm}", None)
    if capability is None:
        known = sorted(
            int(name[2:]) for name in dir(library.ComputeCapability) if re.fullmatch(r"SM\d+", name)
        )
        raise PlanError(
            f"{_name(library)} does not know SM{sm}; it compiles for {', '.join(map(str, known))}"
        )
    return capability


def _parse_failure(library: Any, parser: Any) -> str:
    reasons = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        # Some checks only say "false": which one it was stands in the function's name.
        said = "" if error.desc() == "false" else f": {_plain(error.desc())}"
        reasons.append(
            f"node {error.node_name()!r} ({error.node_operator()}) by {error.func()} "
            f"as {error.code().name}{said}"
        )
    return f"{_name(library)} refuses " + "; ".join(reasons)


def _build_failure(library: Any, errors: list[str], sm: int | None) -> str:
    where = "" if sm is None else f" for SM{sm}"
    reasons = " | ".join(dict.fromkeys(filter(None, map(_plain, errors))))
    return f"{_name(library)} cannot compile the model{where}: {reasons or 'it gives no reason'}"


def _plain(text: str) -> str:
    """In one line, without the complaint about CUDA that follows every error where there is no driver."""
    return " ".join(line.strip() for line in text.splitlines() if "cudaError" not in line)


def _name(library: Any) -> str:
    return f"{library.__name__} {library.__version__}"


def _logger(library: Any) -> Any:
    """Keeps errors and the size of the scratch memory. A subclass of the library's own class, hence made here."""

    class Log(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []
            self.scratch_bytes: int | None = None

        def log(self, severity: Any, text: str) -> None:
            if int(severity) <= _ERROR:
                self.errors.append(text)
            elif match := re.search(r"Total Activation Memory: (\d+) bytes", text):
                self.scratch_bytes = int(match[1])

    return Log()
