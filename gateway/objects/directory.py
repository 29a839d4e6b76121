"""Objects as files of one directory, which may be a network volume that gateways and workers share."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.errors import NotFound, Unavailable

_PART: Final = ".part"


class Directory:
    """See `objects.Backend`. Files lie in ROOT/TENANT/first two digits/ID."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, data: bytes, mime: str) -> None:
        """See Backend. A crash leaves no half file under the name, only a *.part that `names` does not list."""
        file = self._file(name)
        part = file.with_name(f"{file.name}.{secrets.token_hex(4)}{_PART}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("xb") as opened:
                    opened.write(data)
                    opened.flush()
                    os.fsync(opened.fileno())
                part.replace(file)
                _flush(file.parent)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable("media cannot be stored") from error

    def get(self, name: str) -> bytes:
        """See Backend."""
        try:
            return self._file(name).read_bytes()
        except FileNotFoundError:
            raise NotFound("there is no such object") from None
        except OSError as error:
            raise Unavailable("media cannot be read") from error

    def delete(self, name: str) -> None:
        """See Backend."""
        try:
            self._file(name).unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable("media cannot be deleted") from error

    def names(self) -> Iterator[tuple[str, float]]:
        """See Backend."""
        for file in self._root.glob("*/*/*"):
            if file.suffix == _PART:
                continue
            try:
                at_s = file.stat().st_mtime
            except FileNotFoundError:  # deleted since
                continue
            except OSError as error:
                raise Unavailable("media cannot be listed") from error
            yield f"{file.parent.parent.name}/{file.name}", at_s

    def tidy(self, before_s: float) -> None:
        """See Backend."""
        for file in self._root.glob(f"*/*/*{_PART}"):
            try:
                if file.stat().st_mtime < before_s:
                    file.unlink(missing_ok=True)
            except FileNotFoundError:  # its writer ended well
                continue
            except OSError as error:
                raise Unavailable("media cannot be deleted") from error

    def _file(self, name: str) -> Path:
        tenant, _, object_id = name.partition("/")
        return self._root / tenant / object_id[:2] / object_id


def _flush(directory: Path) -> None:
    """Write a directory's entries to the disk: what was accepted outlives the power."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
