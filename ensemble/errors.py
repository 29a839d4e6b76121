"""The errors of the serving path, and how each reads on the wire.

::

    ServingError
    ├── RequestError            the request is wrong; this request alone fails (INVALID_ARGUMENT)
    │   ├── InvalidMessages     not OpenAI chat JSON, unknown role, parts that do not match the media
    │   ├── InvalidImage        bytes that are no picture, broken, or beyond a limit
    │   ├── InvalidVideo        the same for videos
    │   ├── InvalidOption       a sampling or processing option out of range, of a wrong type, or unknown
    │   └── PromptTooLong       more prompt tokens or visual tokens than the engine holds
    ├── Unavailable             try again elsewhere or later (UNAVAILABLE)
    │   ├── Overloaded          admission is full
    │   └── Draining            the server is shutting down
    ├── Cancelled               the caller went away (CANCELLED)
    └── EngineFailure           ours; logged with the request id (INTERNAL)

A request error says the field, what it got, what is allowed, and what to do. On the wire an error is
``NAME: text``; the client turns NAME back into its own class (`parse`).
"""

from __future__ import annotations

from typing import ClassVar

_GOT_LIMIT = 120


class ServingError(Exception):
    """Base of all errors that a caller may see. `code` is the name of the gRPC status."""

    code: ClassVar[str] = "INTERNAL"

    @property
    def wire(self) -> str:
        """The text sent to the caller: ``NAME: message``."""
        return f"{type(self).__name__}: {self}"


class RequestError(ServingError):
    """The request is wrong. Nothing else is affected."""

    code = "INVALID_ARGUMENT"

    def __init__(self, field: str, got: object, allowed: str, advice: str = "") -> None:
        self.field, self.got, self.allowed, self.advice = field, got, allowed, advice
        shown = got if isinstance(got, str) else repr(got)
        if len(shown) > _GOT_LIMIT:
            shown = f"{shown[:_GOT_LIMIT]}... ({len(shown)} characters)"
        text = f"field {field!r}: got {shown}; allowed: {allowed}"
        super().__init__(f"{text}. {advice}" if advice else text)


class InvalidMessages(RequestError):
    """`messages` is not the chat JSON that the contract describes."""


class InvalidImage(RequestError):
    """An item of `images` cannot be used."""


class InvalidVideo(RequestError):
    """An item of `videos` cannot be used."""


class InvalidOption(RequestError):
    """A request parameter is unknown, of a wrong type, or out of range."""


class PromptTooLong(RequestError):
    """The prompt has more tokens than the engine was built for."""


class Unavailable(ServingError):
    """The server cannot take the request now."""

    code = "UNAVAILABLE"


class Overloaded(Unavailable):
    """As many requests as the deployment admits are in flight."""


class Draining(Unavailable):
    """The server is shutting down and takes no new requests."""


class Cancelled(ServingError):
    """The caller cancelled or disconnected."""

    code = "CANCELLED"


class EngineFailure(ServingError):
    """A fault of ours. The text carries the request id to look up in the log."""


_BY_NAME = {
    kind.__name__: kind
    for kind in (
        InvalidMessages, InvalidImage, InvalidVideo, InvalidOption, PromptTooLong, RequestError,
        Unavailable, Overloaded, Draining, Cancelled, EngineFailure,
    )
}  # fmt: skip


def parse(text: str) -> tuple[type[ServingError], str] | None:
    """Find ``NAME: message`` in an error text that other layers may have wrapped.

    Triton and the ensemble scheduler put their own words before a model's message, so the name is searched
    for, not expected at the start. Returns None when no name of ours is in the text.
    """
    found = [(position, name) for name in _BY_NAME if (position := text.find(f"{name}: ")) >= 0]
    if not found:
        return None
    position, name = min(found, key=lambda item: (item[0], -len(item[1])))
    return _BY_NAME[name], text[position + len(name) + 2 :]
