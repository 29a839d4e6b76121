"""Kafka: tickets on their way to a worker, and notices of what the store has."""

from gateway.queue.tickets import Tickets

__all__ = ["Tickets"]
