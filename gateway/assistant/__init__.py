"""From a question to an answer: draft, articles, grounded answer, checks."""

from gateway.assistant.assistant import Assistant

__all__ = ["Assistant"]
