"""What can go wrong for a caller. Each knows its HTTP status and OpenAI's name for it; the text says what to do."""

from __future__ import annotations

from typing import ClassVar


class GatewayError(Exception):
    """Base class. `retry_after_s`: when trying again makes sense, None if never."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal"
    retry_after_s: float | None = None
    field: str | None = None


class InvalidInput(GatewayError):
    """The caller's fault: says field, what was got, and what is allowed."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_value"

    def __init__(self, field: str, got: object, allowed: str) -> None:
        super().__init__(f"{field}: got {got}, allowed: {allowed}")
        self.field = field


class TooLarge(InvalidInput):
    """A body, file, picture or recording over a limit."""

    status = 413
    code = "too_large"


class Unsupported(InvalidInput):
    """A feature that is known and not offered."""

    code = "unsupported"


class Unauthorized(GatewayError):
    """No key, or an unknown one."""

    status = 401
    kind = "authentication_error"
    code = "invalid_api_key"


class Forbidden(GatewayError):
    """A known key that may not do this."""

    status = 403
    kind = "permission_error"
    code = "forbidden"


class NotFound(GatewayError):
    """There is no such thing, or it belongs to another tenant; the two look alike."""

    status = 404
    kind = "invalid_request_error"
    code = "not_found"


class Conflict(GatewayError):
    """It was done already, or somebody else has it."""

    status = 409
    kind = "invalid_request_error"
    code = "conflict"


class RateLimited(GatewayError):
    """More requests than the tenant may send."""

    status = 429
    kind = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(GatewayError):
    """Something behind the gateway is down or full; the same request may succeed later."""

    status = 503
    kind = "server_error"
    code = "unavailable"

    def __init__(self, message: str, retry_after_s: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
