"""The other design: transformers behind `POST /api/predict`, one request at a time, as tutorials put a model on the web.

    python -m loadtests.benchmarks.tutorial_server --checkpoint DIR [--port 7860] [--dtype float32]

A request is `{"data": [{"image": "data:image/jpeg;base64,..."}, prompt, temperature, top_p, max_new_tokens]}`, where the
picture may be null, and its answer `{"data": [text]}`, whole. It is made as well as this design allows: the model is loaded
once, gradients are off, the KV cache is on, every core works. It does not batch and does not stream.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from PIL import Image

PATH: Final = "/api/predict"
DTYPES: Final = ("float32", "bfloat16")
_FIELDS: Final = 5


class BadRequest(ValueError):
    """The body is not what the module's docstring says."""


class Predictor:
    """A checkpoint under transformers. Answers of two threads are computed one after the other.

    Args:
        checkpoint: Hugging Face directory of a Qwen3-VL.
        dtype: of weights and arithmetic, one of DTYPES.
    """

    def __init__(self, checkpoint: Path, dtype: str) -> None:
        import torch
        from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self._pictures = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)
        model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=getattr(torch, dtype))
        self._model: Any = model.eval()
        self._image_token = self._tokenizer.convert_ids_to_tokens(model.config.image_token_id)
        self._lock = threading.Lock()

    def predict(self, data: list[Any]) -> str:
        """The answer to the five items of `data`; BadRequest says what is wrong with them."""
        if len(data) != _FIELDS or not isinstance(data[1], str):
            raise BadRequest(
                f"data has {len(data)} items; picture, prompt, temperature, top_p, max_new_tokens are wanted"
            )
        given, prompt, temperature, top_p, max_new_tokens = data
        picture = None if given is None else _decode(given)
        with self._lock, self._torch.inference_mode():
            return self._generate(picture, prompt, float(temperature), float(top_p), int(max_new_tokens))

    def _generate(
        self, picture: Image.Image | None, prompt: str, temperature: float, top_p: float, max_new_tokens: int
    ) -> str:
        content: list[dict[str, Any]] = [] if picture is None else [{"type": "image"}]
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}],
            tokenize=False,
            add_generation_prompt=True,
        )
        inputs: dict[str, Any] = {}
        if picture is not None:
            made = self._pictures([picture], return_tensors="pt")
            grid = made["image_grid_thw"]
            inputs = {"pixel_values": made["pixel_values"].to(self._model.dtype), "image_grid_thw": grid}
            visual_tokens = int(grid.prod()) // self._pictures.merge_size**2
            text = text.replace(self._image_token, self._image_token * visual_tokens)
        ids = self._tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        inputs["mm_token_type_ids"] = (ids == self._model.config.image_token_id).int()
        chosen: dict[str, Any] = (
            {"do_sample": True, "temperature": temperature, "top_p": top_p}
            if temperature
            else {"do_sample": False}
        )
        out = self._model.generate(
            input_ids=ids,
            attention_mask=self._torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            **inputs,
            **chosen,
        )
        return str(self._tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def server(predictor: Predictor, port: int) -> ThreadingHTTPServer:
    """A server on 127.0.0.1 that is not yet serving; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path != PATH:
                self._answer(404, {"error": f"only {PATH} is here"})
                return
            try:
                text = predictor.predict(_data(body))
            except BadRequest as error:
                self._answer(400, {"error": str(error)})
            else:
                self._answer(200, {"data": [text]})

        def log_message(self, *_: Any) -> None:
            """Nothing: a line per request would cost time that is measured."""

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content, ensure_ascii=False).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # many users wait here; the usual 5 would refuse them

    return Server(("127.0.0.1", port), Handler)


def main(arguments: list[str]) -> int:
    """Serve until the process is ended; prints the URL first."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.benchmarks.tutorial_server", description=__doc__
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--port", type=int, default=7860, help="0: any free one")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    given = parser.parse_args(arguments)
    with server(Predictor(given.checkpoint, given.dtype), given.port) as http:
        print(f"http://127.0.0.1:{http.server_address[1]}{PATH}", flush=True)
        http.serve_forever()
    return 0


def _data(body: bytes) -> list[Any]:
    try:
        data = json.loads(body)["data"]
    except (ValueError, TypeError, KeyError) as error:
        raise BadRequest(f"the body is no JSON object with `data` ({error!r})") from error
    if not isinstance(data, list):
        raise BadRequest(f"data is {type(data).__name__}, a list is wanted")
    return data


def _decode(given: Any) -> Image.Image:
    try:
        text = given["image"].partition(",")[2]
        return Image.open(io.BytesIO(base64.b64decode(text, validate=True))).convert("RGB")
    except (TypeError, KeyError, AttributeError, ValueError, OSError) as error:
        raise BadRequest(f"the picture is no data URI of an image ({error!r})") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
