"""Whether engines are whole and are those that were asked for, on this machine.

It reads, and imports no engine library, so it also runs where engines are only served.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from build_engine.build import choose_limits
from build_engine.checkpoint import Checkpoint
from build_engine.manifest import FILE_NAME, Manifest, ManifestError
from build_engine.request import BuildRequest
from build_engine.trtllm.engine_config import FILE_NAME as ENGINE_CONFIG
from build_engine.trtllm.engine_config import EngineConfig, EngineConfigError
from build_engine.trtllm.gpus import COMPUTE_CAPABILITY, compute_capability
from build_engine.volume.record import Record

# Packages whose version an engine is tied to.
_TIED = {"openvino": ("openvino",), "tensorrt-llm": ("tensorrt_llm", "tensorrt")}


class NotWholeError(Exception):
    """There are no engines, or they are damaged: a build helps."""


class OtherError(Exception):
    """There are whole engines, but others than those asked for: a build would destroy what someone may use."""


def check(
    engines: Path, request: BuildRequest, checkpoint: Checkpoint | None, contents: bool = True
) -> Manifest:
    """The manifest of engines that fit.

    Args:
        engines: the engine directory.
        request: what was asked for.
        checkpoint: what they must be built from; None leaves that open.
        contents: compare every file's sha256, not only its presence.

    Raises:
        NotWholeError, OtherError
    """
    if not (engines / FILE_NAME).is_file():
        raise NotWholeError(f"{engines} holds no engines")
    try:
        manifest = Manifest.read(engines, check_files=contents)
    except (ManifestError, OSError) as error:
        raise NotWholeError(str(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NotWholeError(f"{engines / FILE_NAME} is damaged ({error!r})") from error
    differences = [
        *_asked(manifest, request, checkpoint),
        *_engine_options(engines, request),
        *_machine(manifest),
    ]
    if checkpoint is not None and (here := content_hash(checkpoint)) != manifest.checkpoint_hash:
        differences.append(
            f"built from another checkpoint than {checkpoint.directory}: {manifest.checkpoint_hash[:12]}, not {here[:12]}"
        )
    if differences:
        raise OtherError(f"{engines} holds engines that do not fit: {'; '.join(differences)}")
    return manifest


def content_hash(checkpoint: Checkpoint) -> str:
    """`Checkpoint.content_hash`, without reading what `fetch` has read and nobody touched since."""
    record = Record.read(checkpoint.directory)
    return checkpoint.content_hash(record.digest) if record else checkpoint.content_hash()


def _asked(manifest: Manifest, request: BuildRequest, checkpoint: Checkpoint | None) -> Iterator[str]:
    pairs: dict[str, tuple[object, object]] = {
        "target": (manifest.target, request.target),
        "weights": (manifest.weights, request.weights),
        "adapters": (list(manifest.adapters), list(request.lora)),
    }
    limits = choose_limits(checkpoint.text if checkpoint else manifest.text, request.limits)
    pairs |= {name: (getattr(manifest.limits, name), wanted) for name, wanted in vars(limits).items()}
    return (f"{name} {built}, not {wanted}" for name, (built, wanted) in pairs.items() if built != wanted)


def _engine_options(engines: Path, request: BuildRequest) -> Iterator[str]:
    if request.engine is None or not (engines / "language_model" / ENGINE_CONFIG).is_file():
        return
    try:
        built = EngineConfig.read(engines / "language_model" / ENGINE_CONFIG)
    except EngineConfigError as error:
        yield str(error)
        return
    cache = (built.kv_cache_quant_algo or "auto").lower()
    if cache != request.engine.kv_cache_dtype:
        yield f"kv_cache_dtype {cache}, not {request.engine.kv_cache_dtype}"
    if built.tp_size != request.engine.tp_size:
        yield f"tp_size {built.tp_size}, not {request.engine.tp_size}"
    if built.max_lora_rank < request.engine.max_lora_rank:
        yield f"max_lora_rank {built.max_lora_rank}, not {request.engine.max_lora_rank}"


def _machine(manifest: Manifest) -> Iterator[str]:
    for name in _TIED.get(manifest.target, ()):
        built, here = manifest.versions.get(name), _installed(name)
        if built != here:
            yield f"{name} {built}, here is {here or 'none'}"
    built = manifest.versions.get(COMPUTE_CAPABILITY)
    # A container that only checks may have no GPU; engines of before it was recorded do not say.
    if built is not None and (gpu := compute_capability()) not in (None, built):
        yield f"compute capability {built}, this GPU has {gpu}"


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
