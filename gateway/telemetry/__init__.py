"""Logs as JSON, and traces where a collector is configured. Metrics are each part's own, in prometheus_client's registry."""

from gateway.telemetry.logs import bound, request_id
from gateway.telemetry.setup import setup
from gateway.telemetry.tracing import carried, flush, inject, instrument, span, trace_id

__all__ = ["bound", "carried", "flush", "inject", "instrument", "request_id", "setup", "span", "trace_id"]
