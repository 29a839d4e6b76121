"""What comes in: files that are what they say, within limits, without metadata and private data."""

from gateway.guard.guard import Guard
from gateway.guard.private import Masked

__all__ = ["Guard", "Masked"]
