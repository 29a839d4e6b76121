"""Media at rest: a directory, or a bucket."""

from gateway.objects.objects import Objects

__all__ = ["Objects"]
