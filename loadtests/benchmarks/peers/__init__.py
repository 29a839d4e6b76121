"""Peers: other CPU runtimes at the same text shape, each in a process of its own interpreter, beside ours in the rounds.

process     starts a peer, asks it over a pipe, and is a Decoder
answers     the other end of the pipe
qwen3       the text part of a Qwen3-VL checkpoint as a Qwen3ForCausalLM, which every peer can read
genai       OpenVINO GenAI, its continuous batching
vllm        vLLM for CPUs
llama_cpp   llama.cpp

The last three run in other interpreters than this project's: they and `answers` import nothing else of it.
"""
