"""What the public model needs of Triton for one request.

It knows shapes of calls only; `ensemble.triton_io` implements them over the Python backend, tests in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from ensemble.errors import ServingError

Tensors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Failure:
    """An error response of the ensemble: its text as it came."""

    message: str


class Call(Protocol):
    """One request to the public model, and the calls it makes.

    A call is ended once, by `send(..., final=True)`, by `fail` or by `end`. After that `is_cancelled`, `send`, `fail`
    are not used again (the request behind them is gone), while the iterator of `generate` is still read to
    its end and `stop` may still be called. The exception: when a `send` raises, `fail` is still tried.

    Every method may raise. Methods are called from several threads; `is_cancelled`, `send`, `fail` and `end`
    never at the same time.
    """

    @property
    def request_id(self) -> str:
        """The id that the client chose, "" if none: for the log only, never for routing."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The request parameters."""
        ...

    def is_cancelled(self) -> bool:
        """Whether the caller cancelled or disconnected."""
        ...

    def send(self, tensors: Tensors, final: bool) -> None:
        """Send one chunk: outputs of `contract.REPLY` by name (strings as object arrays of UTF-8 bytes)."""
        ...

    def fail(self, error: ServingError) -> None:
        """Send the error (`error.wire`, `error.code`) as the last response."""
        ...

    def end(self) -> None:
        """Send the last response without anything in it: to a request that asks for no answer."""
        ...

    def generate(self, inner_id: str, adapter: Tensors) -> Iterator[Tensors | Failure]:
        """Call the ensemble with this request's tensors and parameters, and with the tensors of an adapter (often none),
        under the request id `inner_id`.

        Yields per response the outputs of `contract.GENERATED` by name, or a Failure; responses without
        outputs are left out. The iterator goes on after a Failure until the stream ends.
        """
        ...

    def stop(self, inner_id: str) -> None:
        """Send the language model a stop request for `inner_id` and wait until it is taken."""
        ...
