"""Tests of gateway/confidence."""
