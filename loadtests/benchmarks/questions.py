"""The requests that servers are measured with: a drawn picture of a faulty phone and a question, each picture another one."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from build_engine.demo.cases import Case, cases


@dataclass(frozen=True)
class Question:
    """One request. `picture` is a JPEG file; `case` knows the right answer."""

    text: str
    picture: bytes
    case: Case

    @property
    def messages(self) -> list[dict[str, Any]]:
        """As the clients of both servers write it."""
        return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": self.text}]}]

    def predict(self, max_new_tokens: int) -> bytes:
        """The body of the tutorial server's request, greedy."""
        picture = {"image": f"data:image/jpeg;base64,{base64.b64encode(self.picture).decode()}"}
        return json.dumps({"data": [picture, self.text, 0.0, 1.0, max_new_tokens]}).encode()


def questions(seed: int, count: int) -> list[Question]:
    """`count` questions about faults; equal for equal seeds."""
    return [_question(case) for case in cases(seed, count, ["fault"])]


def _question(case: Case) -> Question:
    file = io.BytesIO()
    case.images[0].save(file, "JPEG", quality=90)
    return Question(_text(case.messages[0]), file.getvalue(), case)


def _text(message: Mapping[str, Any]) -> str:
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")
