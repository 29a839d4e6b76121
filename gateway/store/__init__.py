"""Tickets, answers, feedback and hand-offs in a SQL database."""

from gateway.store.store import Store

__all__ = ["Store"]
