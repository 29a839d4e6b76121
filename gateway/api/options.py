"""A chat request's options: sampling, the model's name, and what is known and not offered."""

from __future__ import annotations

import re
from typing import Final

from gateway.api.schema import ChatIn
from gateway.errors import InvalidInput, NotFound, Unsupported
from gateway.records import Sampling

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}\Z")
_MOST_STOPS: Final = 4
_MOST_NAMED: Final = 16


def refuse_unsupported(chat: ChatIn) -> None:
    """Unsupported for what would be answered wrongly if it were ignored."""
    form = (chat.response_format or {}).get("type", "text")
    wanted = {
        "response_format": (form != "text", f"type {form!r}"[:60], '{"type": "text"}'),
        "n": (chat.n not in (None, 1), chat.n, "1"),
        "logprobs": (bool(chat.logprobs), True, "false; see customer_service.confidence"),
        "top_logprobs": (bool(chat.top_logprobs), chat.top_logprobs, "nothing"),
        "logit_bias": (bool(chat.logit_bias), "a map", "nothing"),
        "modalities": (chat.modalities not in (None, ["text"]), "others", '["text"]'),
        "audio": (chat.audio is not None, "an object", "nothing"),
        "prediction": (chat.prediction is not None, "an object", "nothing"),
        "functions": (bool(chat.functions), "a list", "nothing; use tools"),
        "function_call": (chat.function_call is not None, "a value", "nothing; use tool_choice"),
        "web_search_options": (chat.web_search_options is not None, "an object", "nothing"),
        "tool_choice": (chat.tool_choice not in (None, "auto", "none"), "another value", '"auto" or "none"'),
    }
    for field, (asked, got, allowed) in wanted.items():
        if asked:
            raise Unsupported(field, got, allowed)


def ignored(chat: ChatIn) -> list[str]:
    """Names of unknown fields, as far as they are fit for a header."""
    names = [*(chat.model_extra or {})]
    if chat.stream_options is not None:
        names += [f"stream_options.{name}" for name in chat.stream_options.model_extra or {}]
    return [name for name in names if _NAME.match(name)][:_MOST_NAMED]


def adapter(name: str | None, model: str) -> str:
    """The adapter of a model's name: "MODEL", or "MODEL:ADAPTER". NotFound for another model."""
    known, _, wanted = (name or model).partition(":")
    if known != model or (wanted and not _NAME.match(wanted)):
        raise NotFound(f"model: there is no such model, use {model!r} or '{model}:ADAPTER'")
    return wanted


def sampling(chat: ChatIn) -> Sampling:
    """What the request says of sampling."""
    stop = (chat.stop,) if isinstance(chat.stop, str) else tuple(chat.stop or ())
    if len(stop) > _MOST_STOPS or not all(stop) or any(len(text) > 200 for text in stop):
        raise InvalidInput("stop", f"{len(stop)} texts", f"up to {_MOST_STOPS} of 1 to 200 characters")
    return Sampling(
        max_tokens=chat.max_completion_tokens or chat.max_tokens,
        temperature=chat.temperature,
        top_p=chat.top_p,
        top_k=chat.top_k,
        seed=chat.seed,
        presence_penalty=chat.presence_penalty,
        frequency_penalty=chat.frequency_penalty,
        stop=stop,
    )
