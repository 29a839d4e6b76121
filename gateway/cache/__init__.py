"""Answers that were given before."""

from gateway.cache.answers import AnswerCache, Lead

__all__ = ["AnswerCache", "Lead"]
