"""Writes the OpenVINO engines of a checkpoint: the vision encoder from its ONNX model, the language model
directly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import openvino as ov

from build_engine.checkpoint import Checkpoint
from build_engine.language_model import Decoder
from build_engine.manifest import Limits
from build_engine.openvino_ir import LANGUAGE_MODEL, VISION_ENCODER, VISION_ENCODER_ONNX
from build_engine.target import Progress
from build_engine.vision import write_onnx
from build_engine.weights import BITS_PER_WEIGHT, Weights

# Measured on the demo checkpoint at int8: an int8 tower has 2.5 times the error of a bfloat16 one (1.2 % against
# 0.5 % of a row's deviation) and adds a tenth to the error of the logits, where a bfloat16 one adds nothing. It
# encodes many patches at once, so smaller weights would not make it faster either.
VISION_SCHEME = {"f32": "f32", "bf16": "bf16", "int8": "bf16", "int4": "bf16"}


@dataclass(frozen=True)
class OpenVino:
    """The target openvino.

    Args:
        weights: "f32", "bf16", "int8" or "int4".
    """

    weights: str
    name: str = "openvino"
    table_dtype: str = "FP32"
    packages: tuple[str, ...] = ("openvino", "onnx", "numpy")
    adapters: tuple[str, ...] = ()

    def machine(self) -> dict[str, str]:
        """Nothing: one processor's engines run on another's."""
        return {}

    def check(self, checkpoint: Checkpoint, limits: Limits) -> None:
        """Every checkpoint that can be read can be built."""

    def estimate_bytes(self, checkpoint: Checkpoint) -> int:
        """See `Target`."""
        count = {
            part: sum(checkpoint.shards.stored(name).size for name in names)
            for part, names in (("vision", checkpoint.vision_tensors()), ("text", checkpoint.text_tensors()))
        }
        vision = count["vision"] * (4 + BITS_PER_WEIGHT[VISION_SCHEME[self.weights]] / 8)
        embedding = checkpoint.text.vocab_size * checkpoint.text.hidden_size
        matrices = 1 if checkpoint.architecture.tie_word_embeddings else 2
        vocabulary = BITS_PER_WEIGHT["int8" if self.weights == "int4" else self.weights]
        text = (count["text"] - matrices * embedding) * BITS_PER_WEIGHT[self.weights] / 8
        return int(1.05 * (vision + matrices * embedding * vocabulary / 8 + text)) + (16 << 20)

    def write_vision_encoder(
        self, checkpoint: Checkpoint, limits: Limits, directory: Path, progress: Progress
    ) -> None:
        """Write model.onnx (float32) and model.xml, model.bin."""
        onnx_path = directory / VISION_ENCODER_ONNX
        onnx_path.parent.mkdir(parents=True)
        write_onnx(checkpoint, onnx_path, progress)
        model = ov.Core().read_model(onnx_path)
        kept = Weights(
            checkpoint.shards
        )  # its arrays are the model's constants: they must live until it is saved
        _compress(model, kept, VISION_SCHEME[self.weights])
        ov.save_model(model, directory / VISION_ENCODER, compress_to_fp16=False)

    def write_language_model(
        self, checkpoint: Checkpoint, limits: Limits, directory: Path, progress: Progress
    ) -> None:
        """Write model.xml and model.bin."""
        path = directory / LANGUAGE_MODEL
        path.parent.mkdir(parents=True)
        decoder = Decoder(checkpoint, self.weights)
        decoder.build(progress)
        ov.save_model(decoder.model, path, compress_to_fp16=False)


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
