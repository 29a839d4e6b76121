"""Media at rest: a directory, or a bucket."""

from gateway.objects.objects import Objects, name_here

__all__ = ["Objects", "name_here"]
