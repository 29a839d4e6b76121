"""Where the server is and how to speak to it: one place for the sync and the async client.

Knows addresses, TLS and channel options; makes no decision about a request.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
GOODBYE_S = 1.0
"""How long a call may take to end after its answer, or after the server was asked to end it, before it is cut."""
GRACE_S = 0.25
"""The same when a limit of the caller has passed."""
FRESH_S = 10.0
"""A connection that carried a message within these seconds counts as alive; an older one is asked first."""

CHANNEL_OPTIONS = (
    # Pictures and videos are large, and gRPC's own limit is 4 MB; the server has limits of its own.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A restarted server is found again soon: gRPC's own pauses grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A name with several addresses (dns:///SERVICE:8001 of a headless service) is all of them, in turn.
    ("grpc.lb_policy_name", "round_robin"),
)
# Keepalive stays off: Triton answers more than one ping in five minutes by closing the connection.


@dataclass(frozen=True)
class TLS:
    """Certificates as paths or PEM bytes. Without `root_certificates` the system's are used."""

    root_certificates: str | os.PathLike[str] | bytes | None = None
    private_key: str | os.PathLike[str] | bytes | None = field(default=None, repr=False)
    certificate_chain: str | os.PathLike[str] | bytes | None = None

    def credentials(self) -> Any:
        """What gRPC wants. OSError if a path cannot be read."""
        return grpc.ssl_channel_credentials(
            _pem(self.root_certificates), _pem(self.private_key), _pem(self.certificate_chain)
        )


def credentials(tls: TLS | bool) -> Any:
    """Channel credentials, None for plain text."""
    if isinstance(tls, TLS):
        return tls.credentials()
    return TLS().credentials() if tls else None


def _pem(value: str | os.PathLike[str] | bytes | None) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else Path(value).read_bytes()


def target(url: str) -> str:
    """The gRPC target of `url`; ValueError for an address that gRPC would misread."""
    if url.startswith(("http://", "https://")):
        raise ValueError(
            f"url: got {url}; allowed: HOST:PORT of the gRPC port, usually 8001, without http://"
        )
    return url.removeprefix("grpc://").rstrip("/")


def headers(metadata: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """The caller's headers.

    Not among them: triton_grpc_error, which asks Triton for real status codes. Triton 2.51 dies (SIGSEGV in its stream
    handler) of a request with that header that is refused at once: 4 of 6 servers within 60 of them. Errors come as text in
    the stream.
    """
    return tuple((name.lower(), value) for name, value in (metadata or {}).items())


def stream_of(channel: Any) -> Any:
    """The call of ModelStreamInfer: requests out, responses in."""
    return channel.stream_stream(
        _STREAM,
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
    )


def is_last(message: Any) -> bool:
    """Whether a response is the last one about its request."""
    return bool(message.error_message) or is_final(message.infer_response)


def is_final(response: Any) -> bool:
    """Whether a response carries Triton's final marker. It rides on the last piece or comes alone; both happen."""
    return "triton_final_response" in response.parameters and bool(
        response.parameters["triton_final_response"].bool_param
    )


def deadline(seconds: float) -> float | None:
    """Seconds as gRPC wants them: None for no limit."""
    return None if seconds == math.inf else max(0.0, seconds)
