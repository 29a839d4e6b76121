"""What goes out: blocked words, never in part, and the disclaimer, once."""

from gateway.policy.filter import Filter, Verdict
from gateway.policy.policy import Policy

__all__ = ["Filter", "Policy", "Verdict"]
