"""`.fetched.json`: what a directory was fetched from, and every file with its size and sha256.

It is written last, so a directory that has it is whole. The digests spare later readers the work of reading the weights
again, as long as a file's size and time are those that were recorded.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

FILE_NAME: Final = ".fetched.json"


@dataclass(frozen=True)
class FetchedFile:
    """A file as it was checked. `mtime_ns`: its time on the volume then."""

    size: int
    sha256: str
    mtime_ns: int


@dataclass(frozen=True)
class Record:
    """Where a directory comes from.

    Attributes:
        source: as the command line spells it, without the revision.
        revision: the branch, tag or commit that was asked for; "" for sources that have none.
        commit: what it was at that time.
    """

    source: str
    revision: str
    commit: str
    files: dict[str, FetchedFile]

    @property
    def origin(self) -> str:
        """For people: source and revision."""
        return f"{self.source}@{self.revision}" if self.revision else self.source

    def missing(self, directory: Path) -> list[str]:
        """Names of files that are not there in their full size."""
        return [name for name, file in self.files.items() if _size(directory / name) != file.size]

    def digest(self, path: Path) -> str | None:
        """The recorded sha256 of a file of the directory, if it was not touched since."""
        recorded, stat = self.files.get(path.name), path.stat()
        if recorded and (recorded.size, recorded.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return recorded.sha256
        return None

    def write(self, directory: Path) -> None:
        """Write it whole or not at all."""
        whole = directory / f"{FILE_NAME}.new"
        whole.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        whole.replace(directory / FILE_NAME)

    @classmethod
    def read(cls, directory: Path) -> Record | None:
        """None when the directory has none, or one that this version does not understand."""
        try:
            plain = json.loads((directory / FILE_NAME).read_text(encoding="utf-8"))
            files = {name: FetchedFile(**file) for name, file in plain.pop("files").items()}
            return cls(**plain, files=files)
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError, AttributeError):
            return None


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
