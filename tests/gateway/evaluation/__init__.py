"""Tests of gateway/evaluation."""
