"""Called once per process, before anything else writes a log line."""

from __future__ import annotations

from gateway.settings import Telemetry
from gateway.telemetry import logs, tracing


def setup(settings: Telemetry, service: str) -> None:
    """Logs of this process as JSON on standard error, and its spans to the collector if there is one.

    Args:
        settings: the section `telemetry`.
        service: "gateway" or "worker", in every line and span.
    """
    logs.install(settings.log_level, service)
    if settings.otlp_endpoint:
        tracing.install(settings.otlp_endpoint, service)
