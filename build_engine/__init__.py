"""Compiles a Qwen3-VL checkpoint into a vision encoder engine and a language model engine."""
