"""The logic behind the Triton models of Qwen3-VL, importable and testable without a server."""

__version__ = "0.1.0"
