"""A directory that appears whole or not at all.

The work happens in a hidden sibling of the output, which is renamed at the end: on the same file system, so
the rename is atomic. A builder holds a lock on its sibling; one that no living process locks is left over
from a killed build, and the next build removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from build_engine.manifest import FILE_NAME


class OutputError(ValueError):
    """The output directory cannot be written: it exists, is something else, or the disk is too small."""


def check_output(output: Path, force: bool) -> None:
    """OutputError unless `output` may be created, or with `force` replaced."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise OutputError(f"{output} exists and is no directory; choose another --output")
    if not output.exists() or not any(output.iterdir()):
        return
    if not (output / FILE_NAME).is_file():
        raise OutputError(
            f"{output} holds files but no {FILE_NAME}: not an engine directory, it is left alone"
        )
    if not force:
        raise OutputError(
            f"{output} already holds engines; use --force to replace them, or choose another --output"
        )


def check_disk(output: Path, needed_bytes: int) -> None:
    """OutputError when the file system of `output` has less than `needed_bytes` free."""
    free = shutil.disk_usage(existing_parent(output)).free
    if free < needed_bytes:
        raise OutputError(
            f"too little disk for {output}: about {_gigabytes(needed_bytes)} are needed, "
            f"{_gigabytes(free)} are free"
        )


def existing_parent(path: Path) -> Path:
    """The nearest ancestor of `path` that exists."""
    return next(parent for parent in path.absolute().parents if parent.is_dir())


@contextmanager
def staged(output: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Give a fresh sibling directory and a function that makes it the `output`; otherwise it is removed."""
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(output)
    work = Path(tempfile.mkdtemp(prefix=_prefix(output), dir=output.parent))
    work.chmod(0o755)  # mkdtemp is private; engines are read by the server's user
    lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some network file systems have no flock; what a killed build leaves there is not recognised.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield work, lambda: _publish(work, output)
    finally:
        os.close(lock)
        shutil.rmtree(work, ignore_errors=True)


def _prefix(output: Path) -> str:
    return f".{output.name}.building-"


def _publish(work: Path, output: Path) -> None:
    if not output.exists():
        work.rename(output)
        return
    # Rename cannot replace a full directory. The old engines step aside under the staging name, so that a
    # kill between the two renames leaves them to the next build's clean-up and never half engines under
    # `output`.
    aside = Path(tempfile.mkdtemp(prefix=_prefix(output), dir=output.parent))
    output.rename(aside / "replaced")
    work.rename(output)
    shutil.rmtree(aside)


def _remove_abandoned(output: Path) -> None:
    for left in output.parent.glob(f"{_prefix(output)}*"):
        try:
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue  # another user's, or gone meanwhile
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        except OSError:
            pass  # a living build, or a file system that cannot tell
        finally:
            os.close(lock)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
