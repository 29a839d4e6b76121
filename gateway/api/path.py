"""Parts of a path."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

IdPath = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$", description="as another reply gave it")
]
