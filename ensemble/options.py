"""The options of a request: names and ranges of the OpenAI API, read from Triton request parameters.

Both the entry model and preprocessing read them, from the same parameters and with this one function.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ensemble.errors import InvalidOption

DEFAULT_MAX_TOKENS = 512
CANCEL = "cancel"
"""Parameter of a request that asks nothing: it ends the answer whose request came with this `cancel_key`."""
_MIN_KEY_CHARACTERS = 16
_MAX_STOP_STRINGS = 4
_MAX_STOP_CHARACTERS = 256
TRACE_HEADERS = ("traceparent", "tracestate")
"""Headers of W3C Trace Context, which Triton hands on as parameters where traces are wanted."""
# Parameters that Triton itself adds to a request; they are not options of ours.
_FOREIGN_PREFIXES = ("triton_",)
_FOREIGN = {
    *("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output"),
    *TRACE_HEADERS,
}


@dataclass(frozen=True)
class Options:
    """Options of one request, checked.

    Attributes:
        max_tokens: most tokens of the answer. None: as many as fit, at most DEFAULT_MAX_TOKENS.
        temperature: 0 is greedy. top_p, top_k (0: all), min_p narrow the choice, in the order of transformers.
        seed: None draws one. The same seed gives the same answer whatever else runs in the batch.
        stop: strings that end the answer; they are not part of it.
        min_pixels, max_pixels: bounds of a resized picture, pixels; None keeps the checkpoint's.
        fps: frames taken per second of video; None keeps the checkpoint's.
        enhance: "none" (default), "auto": denoise and contrast for poor photos before the resize.
        lora_name: adapter; only what the engines were built with.
        logprobs: also return the log-probability of each token.
        cancel_key: a secret of the caller; a later request with the parameter `cancel` of this value ends the answer.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    min_pixels: int | None = None
    max_pixels: int | None = None
    fps: float | None = None
    enhance: str = "none"
    lora_name: str = ""
    logprobs: bool = False
    cancel_key: str = field(default="", repr=False)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0 or self.top_k == 1 or self.top_p == 0.0

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Options:
        """Read and check Triton request parameters; InvalidOption names the field, the value and the range."""
        values: dict[str, Any] = {}
        for name, value in parameters.items():
            if name in _FOREIGN or name.startswith(_FOREIGN_PREFIXES):
                continue
            if name not in _RULES:
                raise InvalidOption(name, value, f"one of {', '.join(sorted(_RULES))}", "Check the spelling.")
            values[name] = _RULES[name](name, value)
        options = cls(**values)
        low, high = options.min_pixels, options.max_pixels
        if low is not None and high is not None and low > high:
            raise InvalidOption("min_pixels", low, f"at most max_pixels = {high}")
        return options

    def to_parameters(self) -> dict[str, Any]:
        """Parameters that read back to the same options; defaults are left out."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        changed = {name: value for name, value in plain.items() if value != _DEFAULTS[name]}
        if "stop" in changed:
            changed["stop"] = json.dumps(changed["stop"], ensure_ascii=False)
        return changed


def _number(name: str, value: Any, low: float, high: float) -> float:
    allowed = f"a number from {low:g} to {high:g}"
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise InvalidOption(name, value, allowed) from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidOption(name, value, allowed)
    number = float(value)
    if not math.isfinite(number) or not low <= number <= high:
        raise InvalidOption(name, value, allowed)
    return number


def _integer(name: str, value: Any, low: int, high: int) -> int:
    allowed = f"an integer from {low} to {high}"
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            raise InvalidOption(name, value, allowed) from None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidOption(name, value, allowed)
    return int(value)


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise InvalidOption(name, value, "true or false")


def _stop(name: str, value: Any) -> tuple[str, ...]:
    allowed = (
        f"a JSON list of 1 to {_MAX_STOP_STRINGS} strings of 1 to {_MAX_STOP_CHARACTERS} characters, "
        'for example ["\\n\\n", "END"]'
    )
    if not isinstance(value, str):
        raise InvalidOption(name, value, allowed)
    try:
        strings = json.loads(value)
    except json.JSONDecodeError:
        raise InvalidOption(name, value, allowed) from None
    if not isinstance(strings, list) or not 1 <= len(strings) <= _MAX_STOP_STRINGS:
        raise InvalidOption(name, value, allowed)
    for string in strings:
        if not isinstance(string, str) or not 1 <= len(string) <= _MAX_STOP_CHARACTERS:
            raise InvalidOption(name, value, allowed)
    return tuple(strings)


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise InvalidOption(name, value, " or ".join(repr(c) for c in choices))
    return str(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_STOP_CHARACTERS:
        raise InvalidOption(name, value, f"a string of at most {_MAX_STOP_CHARACTERS} characters")
    return value


def _key(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _MIN_KEY_CHARACTERS <= len(value) <= _MAX_STOP_CHARACTERS:
        allowed = f"a random string of {_MIN_KEY_CHARACTERS} to {_MAX_STOP_CHARACTERS} characters"
        # The value stays untold: a short key is a key.
        raise InvalidOption(name, f"a {type(value).__name__} of {len(str(value))} characters", allowed)
    return value


_RULES = {
    "max_tokens": lambda n, v: _integer(n, v, 1, 1 << 20),
    "temperature": lambda n, v: _number(n, v, 0.0, 2.0),
    "top_p": lambda n, v: _number(n, v, 0.0, 1.0),
    "top_k": lambda n, v: _integer(n, v, 0, 1 << 20),
    "min_p": lambda n, v: _number(n, v, 0.0, 1.0),
    "seed": lambda n, v: _integer(n, v, 0, (1 << 63) - 1),
    "presence_penalty": lambda n, v: _number(n, v, -2.0, 2.0),
    "frequency_penalty": lambda n, v: _number(n, v, -2.0, 2.0),
    "repetition_penalty": lambda n, v: _number(n, v, 0.1, 10.0),
    "stop": _stop,
    "min_pixels": lambda n, v: _integer(n, v, 1, 1 << 30),
    "max_pixels": lambda n, v: _integer(n, v, 1, 1 << 30),
    "fps": lambda n, v: _number(n, v, 0.01, 60.0),
    "enhance": lambda n, v: _choice(n, v, ("none", "auto")),
    "lora_name": _text,
    "logprobs": _boolean,
    "cancel_key": _key,
}
_DEFAULTS = {f.name: f.default for f in dataclasses.fields(Options)}
assert _RULES.keys() == _DEFAULTS.keys()
