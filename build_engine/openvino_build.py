"""Writes the OpenVINO engines of a checkpoint: the vision encoder from its ONNX model, the language model
directly.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import openvino as ov

from build_engine.checkpoint import Checkpoint
from build_engine.language_model import Decoder
from build_engine.openvino_ir import LANGUAGE_MODEL, VISION_ENCODER, VISION_ENCODER_ONNX
from build_engine.vision import write_onnx
from build_engine.weights import BITS_PER_WEIGHT, Weights

# Measured on the demo checkpoint at int8: an int8 tower has 2.5 times the error of a bfloat16 one (1.2 % against
# 0.5 % of a row's deviation) and adds a tenth to the error of the logits, where a bfloat16 one adds nothing. It
# encodes many patches at once, so smaller weights would not make it faster either.
VISION_SCHEME = {"f32": "f32", "bf16": "bf16", "int8": "bf16", "int4": "bf16"}


def write_vision_encoder(
    checkpoint: Checkpoint, weights: str, directory: Path, progress: Callable[[], None] = lambda: None
) -> None:
    """Write model.onnx (float32) and model.xml, model.bin (`weights`); `progress` once per block."""
    onnx_path = directory / VISION_ENCODER_ONNX
    onnx_path.parent.mkdir(parents=True)
    write_onnx(checkpoint, onnx_path, progress)
    model = ov.Core().read_model(onnx_path)
    kept = Weights(checkpoint.shards)
    _compress(model, kept, VISION_SCHEME[weights])
    ov.save_model(model, directory / VISION_ENCODER, compress_to_fp16=False)


def write_language_model(
    checkpoint: Checkpoint, weights: str, directory: Path, progress: Callable[[], None] = lambda: None
) -> None:
    """Write model.xml and model.bin; `progress` once per decoder layer."""
    path = directory / LANGUAGE_MODEL
    path.parent.mkdir(parents=True)
    decoder = Decoder(checkpoint, weights)
    decoder.build(progress)
    ov.save_model(decoder.model, path, compress_to_fp16=False)


def estimate_bytes(checkpoint: Checkpoint, weights: str) -> int:
    """Disk that the engines will take, a little on the safe side."""
    count = {
        part: sum(checkpoint.shards.stored(name).size for name in names)
        for part, names in (("vision", checkpoint.vision_tensors()), ("text", checkpoint.text_tensors()))
    }
    vision = count["vision"] * (4 + BITS_PER_WEIGHT[VISION_SCHEME[weights]] / 8)
    embedding = checkpoint.text.vocab_size * checkpoint.text.hidden_size
    matrices = 1 if checkpoint.architecture.tie_word_embeddings else 2
    vocabulary = matrices * embedding * BITS_PER_WEIGHT["int8" if weights == "int4" else weights] / 8
    text = (count["text"] - matrices * embedding) * BITS_PER_WEIGHT[weights] / 8
    copied = sum(path.stat().st_size for path in checkpoint.served_files())
    return int(1.05 * (vision + vocabulary + text)) + copied + (16 << 20)


def _compress(model: ov.Model, weights: Weights, scheme: str) -> None:
    """Store the constant weights of all linear layers in `scheme`; biases, norms and tables stay float32."""
    if scheme == "f32":
        return
    for node in model.get_ops():
        if node.get_type_name() != "MatMul":
            continue
        source = node.input_value(1).get_node()
        if source.get_type_name() == "Constant" and node.get_attributes()["transpose_b"]:
            node.input(1).replace_source_output(weights.compressed(source.data, scheme).output(0))
