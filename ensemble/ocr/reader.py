"""Finds and reads text with PP-OCRv6, on the models inside rapidocr's wheel: nothing is ever downloaded.

It knows rapidocr. It does not know Triton, nor what is private about a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.errors import InvalidImage

MAX_RATIO = 8
"""Of the sides: rapidocr enlarges a picture until its short side is normal, which takes minutes for a thin strip."""
MAX_SIDE = 2000
"""Larger pictures are read at this size; the boxes are those of the picture that came."""


@dataclass(frozen=True)
class Lines:
    """What was read: corners float32 [n,4,2] in pixels (x, y), texts, and how sure each is, float32 [n]."""

    boxes: npt.NDArray[np.float32]
    texts: tuple[str, ...]
    scores: npt.NDArray[np.float32]


class Reader:
    """Not safe for two threads at once: an instance of the model has one of its own. `threads`: of the engine."""

    def __init__(self, threads: int) -> None:
        from rapidocr import RapidOCR

        options: dict[str, Any] = {
            "Global.log_level": "error",
            "Global.max_side_len": MAX_SIDE,
            # Half-read lines may hold digits too: who masks wants to see them.
            "Global.text_score": 0.2,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
        self._engine = RapidOCR(params=options)

    def read(self, image: npt.NDArray[np.uint8]) -> Lines:
        """Text of an RGB picture [H,W,3]; InvalidImage if it is none."""
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InvalidImage("image", f"shape {list(image.shape)}", "[height, width, 3]")
        if max(image.shape[:2]) > MAX_RATIO * min(image.shape[:2]):
            raise InvalidImage(
                "image", f"shape {list(image.shape)}", f"sides in a ratio of at most {MAX_RATIO}"
            )
        # rapidocr takes the channels as OpenCV has them. All flags every time: one left out keeps its last value.
        found = self._engine(np.ascontiguousarray(image[..., ::-1]), use_det=True, use_cls=True, use_rec=True)
        if found.boxes is None or found.txts is None:
            return Lines(np.zeros((0, 4, 2), np.float32), (), np.zeros(0, np.float32))
        boxes = np.asarray(found.boxes, np.float32).reshape(-1, 4, 2)
        return Lines(boxes, tuple(found.txts), np.asarray(found.scores, np.float32))
