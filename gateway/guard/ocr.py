"""The Triton model `ocr`: text in a picture, with its place. It knows gRPC; it does not know what is private."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import aio as triton
from tritonclient.utils import InferenceServerException

from gateway.errors import Unavailable

_OPTIONS: Final = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@dataclass(frozen=True, eq=False)
class Line:
    """One line of text. `box`: corners float32 [4,2], x and y in pixels, clockwise from the top left."""

    box: npt.NDArray[np.float32]
    text: str
    score: float


class Ocr:
    """A connection to the model. It connects with the first call.

    Args:
        url: HOST:PORT of Triton's gRPC port.
        model: its name.
        timeout_s: for one picture, the wait in the queue included.
    """

    def __init__(self, url: str, model: str, timeout_s: float) -> None:
        self._url, self._model, self._timeout_s = url, model, timeout_s
        self._client: Any = None

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.close()

    async def read(self, image: npt.NDArray[np.uint8]) -> list[Line]:
        """Lines of an RGB picture [H,W,3]; Unavailable when the model is away or its queue is full."""
        if self._client is None:
            self._client = triton.InferenceServerClient(self._url, channel_args=_OPTIONS)
        given = triton.InferInput("image", [1, *image.shape], "UINT8")
        given.set_data_from_numpy(np.ascontiguousarray(image)[None])
        try:
            found = await self._client.infer(self._model, [given], client_timeout=self._timeout_s)
        except InferenceServerException as error:
            raise Unavailable(
                "pictures cannot be checked for private data now, and none is taken unchecked; try again later"
            ) from error
        boxes, texts, scores = (found.as_numpy(name)[0] for name in ("boxes", "texts", "scores"))
        return [
            Line(box, text.decode(errors="replace"), float(score))
            for box, text, score in zip(boxes, texts, scores, strict=True)
        ]
