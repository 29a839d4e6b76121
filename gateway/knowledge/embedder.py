"""The plug for an embedding model, and how its ranking joins the lexical one. There is no model here: bring your own class."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from gateway.errors import InvalidInput

Vectors = npt.NDArray[np.float32]
_RANK_OFFSET: Final = 60  # of reciprocal rank fusion, Cormack et al. 2009


class Embedder(Protocol):
    """Text to vectors whose dot product is their likeness, so of length 1. Called from several threads."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32 [len(texts), D]."""
        ...


def load(name: str) -> Embedder | None:
    """The embedder of settings.knowledge.embedder, MODULE:CLASS, made without arguments; None for ""."""
    if not name:
        return None
    module, _, kind = name.partition(":")
    try:
        made = getattr(import_module(module), kind)()
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInput(
            "knowledge.embedder", f"{name!r} ({error})", "MODULE:CLASS that can be imported"
        ) from error
    if not callable(getattr(made, "embed", None)):
        raise InvalidInput("knowledge.embedder", repr(name), "a class with embed(texts) -> float32 [N,D]")
    loaded: Embedder = made
    return loaded


def fused(lexical: Vectors, likeness: Vectors) -> Vectors:
    """Scores [N] in the order of reciprocal rank fusion, the best as high as the best of `lexical`.

    What only the embedder finds keeps a place: a passage without any common word has a rank in `likeness` still.
    """
    order = 1 / (_RANK_OFFSET + _ranks(lexical)) * (lexical > 0) + 1 / (_RANK_OFFSET + _ranks(likeness))
    scale = max(float(lexical.max(initial=0)), 10 * float(likeness.max(initial=0)))
    scores: Vectors = (scale * order / order.max(initial=1e-9)).astype(np.float32)
    return scores


def _ranks(scores: Vectors) -> npt.NDArray[np.int64]:
    ranks = np.empty(len(scores), np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks
