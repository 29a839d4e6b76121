"""A library in a folder of its own, and the shipped articles in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.knowledge.library import SAMPLE, Library


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    made = Library(tmp_path / "knowledge.db")
    yield made
    made.close()


@pytest.fixture(scope="package")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    made = Library(tmp_path_factory.mktemp("sample") / "knowledge.db")
    made.add(SAMPLE)
    yield made
    made.close()
