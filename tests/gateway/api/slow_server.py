"""`python -m gateway serve` with an assistant that needs 2 s for its answer."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

from gateway.api import serve
from gateway.assistant.assistant import Assistant
from gateway.parts import Parts, open_parts
from gateway.settings import Settings
from tests.gateway.api.scripted import Scripted


@asynccontextmanager
async def _slow(settings: Settings) -> AsyncIterator[Parts]:
    scripted: Any = Scripted(pieces=("x",) * 20, pause_s=0.1)
    async with open_parts(settings) as parts:
        yield replace(parts, assistant=cast(Assistant, scripted))


if __name__ == "__main__":
    serve.open_parts = _slow
    sys.exit(serve.main(sys.argv[1:]))
