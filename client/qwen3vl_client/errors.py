"""Errors by cause: what a caller can do about it decides the class.

::

    ClientError
    ├── InvalidRequest          change the request (field, got, allowed)
    │   ├── InvalidMessages  InvalidImage  InvalidVideo  InvalidOption  PromptTooLong
    ├── Unavailable             try again later or elsewhere; tried again already, `retries` times
    │   ├── Overloaded          the server has as many requests as it admits
    │   ├── Draining            the server is shutting down
    │   └── Unreachable         no connection
    ├── TimedOut                `which`: connect | first_token | idle | total
    ├── Cancelled               this side or the server cancelled the request
    ├── Interrupted             the answer broke off after it had begun
    └── ServerFault             a fault of the server, or an answer that makes no sense

gRPC's UNAVAILABLE means overloaded, expired in a queue, shutting down, dead or not authorised, and an error
inside a stream is text alone. So `classify` goes by the name that the server put into the text, then by
Triton's own words, then by the code. The original text is always kept.
"""

from __future__ import annotations

import re

_FIELD = re.compile(r"field '([^']*)': got (.*?); allowed: (.*)", re.DOTALL)


class ClientError(Exception):
    """Base of all errors of this library.

    Attributes:
        request_id: id under which the server logged the request; "" if none was sent.
        partial_text: what had arrived of the answer.
        partial_tokens: tokens behind `partial_text`.
        attempts: how often the request was tried.
    """

    request_id = ""
    partial_text = ""
    partial_tokens = 0
    attempts = 0


class InvalidRequest(ClientError):
    """The request is wrong; sent again it fails again.

    Attributes:
        field, got, allowed: the part of the request, its value and what may stand there; None where not said.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        found = _FIELD.search(message)
        self.field: str | None = found[1] if found else None
        self.got: str | None = found[2] if found else None
        self.allowed: str | None = found[3] if found else None


class InvalidMessages(InvalidRequest):
    """The messages are no chat, or do not match the media."""


class InvalidImage(InvalidRequest):
    """A picture cannot be used."""


class InvalidVideo(InvalidRequest):
    """A video cannot be used."""


class InvalidOption(InvalidRequest):
    """An option is unknown, of a wrong type, or out of range."""


class PromptTooLong(InvalidRequest):
    """Text and media together are more tokens than the engine was built for."""


class Unavailable(ClientError):
    """The server cannot take the request now."""


class Overloaded(Unavailable):
    """The server has as many requests as it admits."""


class Draining(Unavailable):
    """The server is shutting down."""


class Unreachable(Unavailable):
    """No connection to the server."""


class TimedOut(ClientError):
    """A limit of `Timeout` has passed; `which` is its name: connect, first_token, idle or total."""

    def __init__(self, message: str, which: str = "total") -> None:
        super().__init__(message)
        self.which = which


class Cancelled(ClientError):
    """The request was cancelled."""


class Interrupted(ClientError):
    """The answer broke off after it had begun: `partial_text` and `partial_tokens` say what had arrived.

    It is not tried again, since a second answer may differ from the first. `__cause__` is the error behind.
    """


class ServerFault(ClientError):
    """A fault of the server; its log has the rest, under `request_id`."""


# The names that the server writes before its message, longest first where one ends in another.
_BY_NAME: dict[str, type[ClientError]] = {
    "InvalidMessages": InvalidMessages,
    "InvalidImage": InvalidImage,
    "InvalidVideo": InvalidVideo,
    "InvalidOption": InvalidOption,
    "PromptTooLong": PromptTooLong,
    "RequestError": InvalidRequest,
    "Overloaded": Overloaded,
    "Draining": Draining,
    "Unavailable": Unavailable,
    "Cancelled": Cancelled,
    "EngineFailure": ServerFault,
}
_NAME = re.compile(rf"\b({'|'.join(_BY_NAME)}): ")

# Triton's own words, lower case.
_BY_WORDS: tuple[tuple[str, type[ClientError]], ...] = (
    ("exceeds maximum queue size", Overloaded),
    ("request timeout expired", Overloaded),
    ("server is stopping", Draining),
    ("server exiting", Draining),
    ("stopped accepting new inference requests", Draining),
    ("has no available versions", Unavailable),
    ("is not at ready state", Unavailable),
    ("unknown model", ServerFault),
    ("protocol is restricted", InvalidRequest),
    ("message larger than max", InvalidRequest),
)

_BY_CODE: dict[str, type[ClientError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "UNAVAILABLE": Unreachable,
    "RESOURCE_EXHAUSTED": Overloaded,
    "UNAUTHENTICATED": InvalidRequest,
    "PERMISSION_DENIED": InvalidRequest,
    "CANCELLED": Cancelled,
}


def classify(text: str, code: str | None = None) -> ClientError:
    """The error behind a text of the server and, where there is one, the name of a gRPC status code."""
    if named := _NAME.search(text):
        return _BY_NAME[named[1]](text[named.end() :])
    lowered = text.lower()
    for words, kind in _BY_WORDS:
        if words in lowered:
            return kind(text)
    if code == "DEADLINE_EXCEEDED":
        return TimedOut(text, "total")
    return _BY_CODE.get(code or "", ServerFault)(f"{code}: {text}" if code else text)
