"""llama.cpp as a peer: `python -m loadtests.benchmarks.peers.llama_cpp CHECKPOINT SCHEME`, in llama-cpp-python's interpreter.

It knows the GGUF names of Qwen3 and llama.cpp's batches; one logit row of each sequence is asked for, and argmax is taken.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from loadtests.benchmarks.peers.answers import Model, serve

_SEQUENCES: Final = 16
_CONTEXT: Final = 1024
"""Tokens that a sequence may have."""
_BATCH: Final = 1024
_NAMES: Final = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class LlamaCpp(Model):
    """llama.cpp's library on all cores. Its KV cache is float16, as it chooses."""

    packages = ("llama-cpp-python", "gguf")

    def __init__(self, model: Path, vocabulary: int) -> None:
        self._cpp: Any = import_module("llama_cpp")
        self._numpy: Any = import_module("numpy")
        self._vocabulary = vocabulary
        self._silence = self._cpp.llama_log_callback(lambda level, text, data: None)
        self._cpp.llama_log_set(self._silence, ctypes.c_void_p(0))
        given = self._cpp.llama_model_default_params()
        loaded = self._cpp.llama_model_load_from_file(str(model).encode(), given)
        context = self._cpp.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch = _SEQUENCES * _CONTEXT, _BATCH, 512
        context.n_seq_max = _SEQUENCES
        context.n_threads = context.n_threads_batch = len(os.sched_getaffinity(0))
        self._context = self._cpp.llama_init_from_model(loaded, context)
        if not self._context:
            raise RuntimeError(f"llama.cpp made no context for {model}")
        self._batch = self._cpp.llama_batch_init(_BATCH, 0, 1)

    def decode_seconds(self, prompts: Sequence[Sequence[int]], steps: int) -> float:
        """See Model."""
        newest = self._first(prompts)
        start = time.perf_counter()
        for step in range(steps):
            newest = self._forward([[token] for token in newest], len(prompts[0]) + step)
        return time.perf_counter() - start

    def prefill_seconds(self, prompts: Sequence[Sequence[int]]) -> float:
        """See Model."""
        start = time.perf_counter()
        self._first(prompts)
        return time.perf_counter() - start

    def _first(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        self._cpp.llama_memory_clear(self._cpp.llama_get_memory(self._context), False)
        return self._forward(prompts, 0)

    def _forward(self, tokens: Sequence[Sequence[int]], position: int) -> list[int]:
        """Feed the next tokens of each sequence; its next one."""
        batch, last, filled = self._batch, [], 0
        for sequence, row in enumerate(tokens):
            for offset, token in enumerate(row):
                batch.token[filled] = token
                batch.pos[filled] = position + offset
                batch.n_seq_id[filled] = 1
                batch.seq_id[filled][0] = sequence
                batch.logits[filled] = offset == len(row) - 1
                filled += 1
            last.append(filled - 1)
        batch.n_tokens = filled
        if code := self._cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode answered {code}")
        return [int(self._logits(index).argmax()) for index in last]

    def _logits(self, index: int) -> Any:
        row = self._cpp.llama_get_logits_ith(self._context, index)
        return self._numpy.ctypeslib.as_array(
            ctypes.cast(row, ctypes.POINTER(ctypes.c_float)), (self._vocabulary,)
        )


def converted(checkpoint: Path, scheme: str) -> Path:
    """The model as a GGUF file, made on first use beside `checkpoint`; embedding and head are Q8_0 in both."""
    path = checkpoint.with_name(f"{checkpoint.name}-{scheme}.gguf")
    if path.is_file():
        return path
    gguf: Any = import_module("gguf")
    kinds = gguf.GGMLQuantizationType
    body = {"q8": kinds.Q8_0, "q4": kinds.Q4_0}[scheme]
    unfinished = path.with_suffix(".part")
    text = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(str(unfinished), "qwen3")
    _describe(writer, text)
    for name, values in tensors(checkpoint / "model.safetensors"):
        if values.ndim == 1:
            writer.add_tensor(name, values)
            continue
        kind = kinds.Q8_0 if name == "token_embd.weight" else body
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(path)
    return path


def _describe(writer: Any, text: dict[str, Any]) -> None:
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_key_length(text["head_dim"])
    writer.add_value_length(text["head_dim"])
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_freq_base(text["rope_theta"])
    writer.add_vocab_size(text["vocab_size"])
    writer.add_tokenizer_model("none")


def tensors(path: Path) -> Iterator[tuple[str, Any]]:
    """GGUF name and float32 values of each tensor of a bfloat16 file."""
    numpy: Any = import_module("numpy")
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        for name, facts in header.items():
            begin, end = facts["data_offsets"]
            file.seek(8 + size + begin)
            bits = numpy.frombuffer(file.read(end - begin), numpy.uint16).astype(numpy.uint32) << 16
            yield _name(name), bits.view(numpy.float32).reshape(facts["shape"])


def _name(name: str) -> str:
    if not name.startswith("model.layers."):
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[
            name
        ]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest.removesuffix('.weight')]}.weight"


if __name__ == "__main__":
    source, weights = Path(sys.argv[1]), sys.argv[2]
    size = json.loads((source / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    serve(lambda: LlamaCpp(converted(source, weights), size), size)
