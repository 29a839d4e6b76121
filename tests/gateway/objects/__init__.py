"""Tests of gateway/objects."""
