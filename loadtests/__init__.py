"""Benchmarks and load tests: what is fast, and how many users a deployment holds. Nothing here is imported by serving."""
