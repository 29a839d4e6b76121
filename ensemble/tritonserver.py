"""Finds a tritonserver on this machine and what it needs to run: libraries, the Python stub, an environment.

Two kinds are known. The nvidia-pytriton wheel in this interpreter's site-packages, whose stubs are one per
Python version and embed *this* interpreter; and a system installation (NVIDIA's container), which brings its
own Python.

How the wheel's stub finds our packages: it runs an isolated interpreter, which ignores PYTHONPATH and
PYTHONHOME, but still looks for `python3` on PATH to find its prefix. So PATH begins with the directory of
this interpreter, and the stub sees this virtual environment as `python3` itself would, editable installs
included.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

SYSTEM = Path("/opt/tritonserver")
_STUB = "triton_python_backend_stub"


class MissingError(RuntimeError):
    """Something that the server needs is not on this machine; the text says what and how to get it."""


@dataclass(frozen=True)
class TritonServer:
    """An installation.

    Attributes:
        binary: the tritonserver program.
        backends: directory with one directory per backend.
        libraries: directory of the shared libraries that come with it.
        stub: the program that runs model.py, if it has to be put beside the Python backend.
        libpython: the shared library that the stub embeds, if the loader has to be led to it.
        search_path: directories to put at the front of PATH.
    """

    binary: Path
    backends: Path
    libraries: Path
    stub: Path | None = None
    libpython: Path | None = None
    search_path: Path | None = None

    def prepare(self, directory: Path) -> tuple[Path, dict[str, str]]:
        """Lay out in `directory` what has to be linked together.

        Returns the directory to give Triton as --backend-directory, and the environment to start it in.
        """
        environment = dict(os.environ)
        libraries = [self.libraries]
        backends = self.backends
        if self.libpython is not None:
            # A link to this one file: its own directory may hold other versions of the system's libraries (conda).
            (directory / "lib").mkdir()
            (directory / "lib" / self.libpython.name).symlink_to(self.libpython)
            libraries.insert(0, directory / "lib")
        if self.stub is not None:
            backends = directory / "backends"
            (backends / "python").mkdir(parents=True)
            for file in (*(self.backends / "python").iterdir(), self.stub):
                if file.is_file():
                    (backends / "python" / file.name).symlink_to(file)
        _put_in_front(environment, "LD_LIBRARY_PATH", libraries)
        if self.search_path is not None:
            _put_in_front(environment, "PATH", [self.search_path])
        return backends, environment


def find(binary: Path | None = None) -> TritonServer:
    """The tritonserver to use: `binary` if given, else the wheel's, else a system one. MissingError if none works."""
    if binary is not None:
        return _system(binary)
    if find_spec("pytriton") is not None:
        return _wheel()
    on_path = shutil.which("tritonserver")
    for candidate in (Path(on_path) if on_path else None, SYSTEM / "bin" / "tritonserver"):
        if candidate is not None and candidate.is_file():
            return _system(candidate)
    raise MissingError(
        "no tritonserver: neither the nvidia-pytriton wheel in this Python, nor `tritonserver` on PATH, nor "
        f"{SYSTEM}. Install the wheel with: pip install 'qwen3-vl-triton[serve]'"
    )


def _system(binary: Path) -> TritonServer:
    home = binary.resolve().parent.parent
    for file in (binary, home / "backends" / "python"):
        if not file.exists():
            raise MissingError(f"{file} does not exist; {binary} is not in a complete Triton installation")
    return TritonServer(binary, home / "backends", home / "lib")


def _wheel() -> TritonServer:
    spec = find_spec("pytriton")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    home = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = home / "python_backend_stubs" / version / _STUB
    if not (home / "bin" / "tritonserver").is_file():
        raise MissingError(
            f"{home} has no tritonserver; nvidia-pytriton is published for Linux on x86_64 and arm64"
        )
    if not stub.is_file():
        offered = ", ".join(sorted(path.name for path in (home / "python_backend_stubs").iterdir()))
        raise MissingError(f"nvidia-pytriton has no stub for Python {version}; it has them for {offered}")
    numpy = metadata.version("numpy")
    if int(numpy.split(".")[0]) >= 2:
        raise MissingError(
            f"numpy {numpy} is installed, but the stub of nvidia-pytriton {metadata.version('nvidia-pytriton')} is built "
            "against numpy 1 and would send empty outputs. Install: pip install 'numpy>=1.26,<2'"
        )
    return TritonServer(
        home / "bin" / "tritonserver",
        home / "backends",
        package.parent / "nvidia_pytriton.libs",
        stub,
        _libpython(version),
        Path(sys.executable).parent,
    )


def _put_in_front(environment: dict[str, str], name: str, directories: list[Path]) -> None:
    rest = [environment[name]] if environment.get(name) else []
    environment[name] = os.pathsep.join([*map(str, directories), *rest])


def _libpython(version: str) -> Path:
    """The shared library of this interpreter's version, this interpreter's own one first."""
    name = f"libpython{version}.so.1.0"
    directories = [Path(sys.base_prefix) / "lib", Path(str(sysconfig.get_config_var("LIBDIR") or "/usr/lib"))]
    for directory in directories:
        if (directory / name).is_file():
            return directory / name
    for line in _loader_cache():
        if line.startswith(f"{name} ") and (file := Path(line.rsplit("=> ", 1)[-1])).is_file():
            return file
    raise MissingError(
        f"{name} is not on this machine (looked in {', '.join(map(str, directories))} and the loader's cache), and "
        f"Triton's Python stub needs it. On Debian and Ubuntu: apt install libpython{version}; with pyenv: "
        f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force {version}"
    )


def _loader_cache() -> list[str]:
    for ldconfig in (shutil.which("ldconfig"), "/sbin/ldconfig"):
        if ldconfig and Path(ldconfig).is_file():
            listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False).stdout
            return [line.strip() for line in listing.splitlines()]
    return []
