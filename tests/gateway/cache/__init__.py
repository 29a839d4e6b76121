"""Tests of gateway/cache."""
