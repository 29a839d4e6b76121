"""Objects of JSON files whose missing or wrong fields are reported by file and full name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class CheckpointError(ValueError):
    """The checkpoint cannot be built from: what is wrong, where, and what to do."""


class Section:
    """An object of a JSON file whose missing or wrong fields are reported by their full name."""

    def __init__(self, plain: dict[str, Any], where: str) -> None:
        self.plain, self.where = plain, where

    @classmethod
    def read(cls, path: Path) -> Section:
        """Read a file; CheckpointError when it is missing or no JSON object."""
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; is {path.parent} a Hugging Face checkpoint?")
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} is not JSON ({error})") from error
        if not isinstance(plain, dict):
            raise CheckpointError(f"{path} holds no JSON object")
        return cls(plain, path.name)

    def section(self, name: str) -> Section:
        """The object called `name`."""
        return Section(self._get(name, dict), f"{self.where}: {name}")

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive whole number; a list of equal ones (``patch_size: [16, 16]``) counts as that number."""
        value = self.plain.get(name, default)
        if isinstance(value, list) and value and len(set(value)) == 1:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise CheckpointError(f"{self.where}: {name} is {value!r}; a positive whole number is needed")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number."""
        value = self.plain.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{self.where}: {name} is {value!r}; a number is needed")
        return float(value)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """Exactly `count` numbers."""
        values = self._get(name, list)
        if len(values) != count or not all(isinstance(value, int | float) for value in values):
            raise CheckpointError(f"{self.where}: {name} is {values!r}; {count} numbers are needed")
        return tuple(float(value) for value in values)

    def _get(self, name: str, kind: type) -> Any:
        value = self.plain.get(name)
        if not isinstance(value, kind):
            raise CheckpointError(f"{self.where}: {name} is missing or no {kind.__name__}")
        return value
