"""HTTP: the OpenAI routes, tickets, feedback, hand-offs, the tutorial's /api/predict. Only this folder knows of HTTP."""

from gateway.api.app import create_app

__all__ = ["create_app"]
