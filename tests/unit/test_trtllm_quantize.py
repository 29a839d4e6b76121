"""What surrounds ModelOpt: prompts, its configuration, the model it gets, and the checks of what it exported.

ModelOpt itself is not installed here; docs/gpu.md tells what of it ran where.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

from build_engine.checkpoint import Checkpoint
from build_engine.lora import merge
from build_engine.trtllm import quantize as module
from build_engine.trtllm.calibration import SHIPPED, CalibrationError, Prompt, encode, expand, read
from build_engine.trtllm.options import EngineOptions, quantization
from build_engine.trtllm.quantize import (
    QuantizeError,
    check_tensors,
    hf_config,
    modelopt_config,
    needs_quantize,
    patched,
)
from tests.adapters import make_adapter
from tests.reference import Conversation, Reference

FP8 = EngineOptions("fp8", "fp8")


@pytest.fixture(scope="module")
def checkpoint(demo_checkpoint: Path) -> Checkpoint:
    return Checkpoint.read(demo_checkpoint)


@pytest.fixture(scope="module")
def groupable(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Widths are multiples of 128, as in every public size."""
    from tests.checkpoints import make_checkpoint

    text = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 128, "num_attention_heads": 2}
    directory = tmp_path_factory.mktemp("groupable")
    return Checkpoint.read(make_checkpoint(directory, text=text | {"mrope_section": [24, 20, 20], "num_hidden_layers": 2},
                                           vision={"out_hidden_size": 128}))  # fmt: skip


def _exported(checkpoint: Checkpoint, options: EngineOptions) -> dict[str, Any]:
    """The fields of ModelOpt 0.37's config.json that matter, as it wrote them for a Qwen3."""
    text = checkpoint.text
    return {
        "architecture": "Qwen3ForCausalLM", "dtype": "bfloat16", "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads, "num_key_value_heads": text.num_key_value_heads,
        "hidden_size": text.hidden_size, "norm_epsilon": checkpoint.architecture.rms_norm_eps,
        "vocab_size": text.vocab_size, "max_position_embeddings": text.max_position_embeddings, "head_size": text.head_dim,
        "intermediate_size": checkpoint.architecture.text_intermediate_size,
        "position_embedding_type": "rope_gpt_neox", "use_parallel_embedding": True, "embedding_sharding_dim": 0,
        "mapping": {"world_size": options.tp_size, "tp_size": options.tp_size, "pp_size": 1},
        "quantization": {**quantization(options), "exclude_modules": ["lm_head"]},
    }  # fmt: skip


def test_the_exported_config_becomes_that_of_qwen3_vl(checkpoint: Checkpoint) -> None:
    made = patched(_exported(checkpoint, FP8), checkpoint, FP8)
    assert made["architecture"] == "Qwen3VLForConditionalGeneration"
    assert made["qwen_type"] == "qwen3"
    assert (made["position_embedding_type"], made["rotary_scaling"]) == ("mrope", {"type": "mrope"})
    assert made["rotary_base"] == checkpoint.text.rope_theta
    assert made["rotary_embedding_dim"] == made["head_size"] == checkpoint.text.head_dim
    assert made["quantization"]["exclude_modules"] == ["lm_head"]
    assert made["quantization"]["kv_cache_quant_algo"] == "FP8"
    assert (made["use_parallel_embedding"], made["embedding_sharding_dim"]) == (True, 0)
    json.dumps(made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_size": 56}, r"head_size is 56, not \d+"),
        ({"norm_epsilon": 1e-5}, "norm_epsilon is 1e-05, not 1e-06"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3"),
        ({"mapping": {"tp_size": 2}}, "tp_size is 2, not 1"),
        (
            {"quantization": {"quant_algo": "W8A16", "kv_cache_quant_algo": "FP8"}},
            "quant_algo is 'W8A16', not 'FP8'",
        ),
        (
            {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None}},
            "kv_cache_quant_algo is None, not 'FP8'",
        ),
        ({"quantization": None}, "quant_algo is None"),
    ],
)
def test_an_export_of_another_network_is_refused(
    change: dict[str, Any], message: str, checkpoint: Checkpoint
) -> None:
    with pytest.raises(QuantizeError, match=message):
        patched(_exported(checkpoint, FP8) | change, checkpoint, FP8)


def test_another_group_size_is_refused(checkpoint: Checkpoint) -> None:
    options = EngineOptions("int4_awq")
    exported = _exported(checkpoint, options)
    assert patched(exported, checkpoint, options)["quantization"]["group_size"] == 128
    exported["quantization"]["group_size"] = 64
    with pytest.raises(QuantizeError, match="group_size is 64, not 128"):
        patched(exported, checkpoint, options)


def _rank_file(
    checkpoint: Checkpoint, tp_size: int, is_grouped: bool, scaled: bool
) -> dict[str, torch.Tensor]:
    """Names and shapes of a rank file as ModelOpt 0.37 wrote them (two int4 rows a byte)."""
    t, inner = checkpoint.text, checkpoint.architecture.text_intermediate_size // tp_size
    queries, keys = (
        heads * t.head_dim // tp_size for heads in (t.num_attention_heads, t.num_key_value_heads)
    )
    made = {"transformer.ln_f.weight": torch.zeros(t.hidden_size)}
    for i in range(t.num_hidden_layers):
        layer = f"transformer.layers.{i}"
        for name, rows, width in (
            ("attention.qkv", queries + 2 * keys, t.hidden_size), ("attention.dense", t.hidden_size, queries),
            ("mlp.fc", inner, t.hidden_size), ("mlp.gate", inner, t.hidden_size), ("mlp.proj", t.hidden_size, inner),
        ):  # fmt: skip
            made[f"{layer}.{name}.weight"] = torch.zeros(
                rows // 2 if is_grouped else rows, width, dtype=torch.int8
            )
            if is_grouped:
                made[f"{layer}.{name}.weights_scaling_factor"] = torch.zeros(rows, width // 128)
        for name, width in (
            ("input_layernorm", t.hidden_size), ("post_layernorm", t.hidden_size),
            ("attention.q_layernorm", t.head_dim), ("attention.k_layernorm", t.head_dim),
        ):  # fmt: skip
            made[f"{layer}.{name}.weight"] = torch.zeros(width)
        if scaled:
            made[f"{layer}.attention.kv_cache_scaling_factor"] = torch.zeros(1)
    return made


@pytest.mark.parametrize(
    "options", [FP8, EngineOptions("int4_awq"), EngineOptions("fp8", tp_size=2), EngineOptions("bf16", "fp8")]
)
def test_the_tensors_of_every_rank_are_checked(
    options: EngineOptions, groupable: Checkpoint, tmp_path: Path
) -> None:
    tensors = _rank_file(
        groupable, options.tp_size, options.weights == "int4_awq", options.kv_cache_dtype != "auto"
    )
    for rank in range(options.tp_size):
        save_file(tensors, tmp_path / f"rank{rank}.safetensors")
    check_tensors(tmp_path, groupable, options)
    last = tmp_path / f"rank{options.tp_size - 1}.safetensors"

    def broken(change: Callable[[dict[str, torch.Tensor]], Any], message: str) -> None:
        changed = load_file(last)
        change(changed)
        save_file(changed, last)
        with pytest.raises(QuantizeError, match=message):
            check_tensors(tmp_path, groupable, options)
        save_file(tensors, last)

    broken(
        lambda t: t.pop("transformer.layers.1.attention.q_layernorm.weight"), "q_layernorm.weight is missing"
    )
    broken(
        lambda t: t.update({"transformer.layers.0.mlp.fc.weight": torch.zeros(3, 3)}),
        r"mlp.fc.weight is \[3, 3\]",
    )
    last.unlink()
    with pytest.raises(QuantizeError, match=f"{last.name} is missing"):
        check_tensors(tmp_path, groupable, options)


def test_modelopt_gets_its_own_configuration_and_the_cache_beside_it() -> None:
    known = SimpleNamespace(
        **{
            name: {"quant_cfg": {"*weight_quantizer": {"num_bits": name}}, "algorithm": "max"}
            for name in ("FP8_DEFAULT_CFG", "INT8_SMOOTHQUANT_CFG", "INT4_AWQ_CFG", "W4A8_AWQ_BETA_CFG")
        }
    )
    for weights, name in (("fp8", "FP8_DEFAULT_CFG"), ("int8_sq", "INT8_SMOOTHQUANT_CFG"),
                          ("int4_awq", "INT4_AWQ_CFG"), ("w4a8_awq", "W4A8_AWQ_BETA_CFG")):  # fmt: skip
        assert modelopt_config(known, EngineOptions(weights)) == getattr(known, name)
    both = modelopt_config(known, FP8)["quant_cfg"]
    assert both["*[kv]_bmm_quantizer"] == {"num_bits": (4, 3), "axis": None, "enable": True}
    assert both["*weight_quantizer"] == {"num_bits": "FP8_DEFAULT_CFG"}
    assert "*[kv]_bmm_quantizer" not in known.FP8_DEFAULT_CFG["quant_cfg"]  # a copy was changed
    alone = modelopt_config(known, EngineOptions("bf16", "int8"))["quant_cfg"]
    assert alone["*weight_quantizer"] == alone["*input_quantizer"] == {"enable": False}
    assert alone["*[kv]_bmm_quantizer"]["num_bits"] == 8


def test_only_what_modelopt_makes_goes_through_it() -> None:
    assert [weights for weights in ("bf16", "fp16", "int8", "int4", "fp8", "int8_sq", "int4_awq", "w4a8_awq", "gptq")
            if needs_quantize(EngineOptions(weights))] == ["fp8", "int8_sq", "int4_awq", "w4a8_awq"]  # fmt: skip
    assert needs_quantize(EngineOptions("bf16", "fp8"))


def test_config_json_is_given_to_transformers_in_both_spellings() -> None:
    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    }
    made = hf_config({"text_config": {"rope_parameters": rope}})["text_config"]
    assert made["rope_theta"] == 5e6
    assert made["rope_scaling"] == {name: value for name, value in rope.items() if name != "rope_theta"}
    assert made["rope_parameters"] == rope
    old = {"text_config": {"rope_theta": 1e6, "rope_scaling": {"rope_type": "default"}}}
    assert hf_config(old) == old


def test_the_model_that_is_calibrated_has_the_merged_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    name = "model.language_model.layers.0.mlp.up_proj"
    merged = merge(checkpoint, make_adapter(tmp_path / "adapter", checkpoint, [name]))
    made = module._load(merged, torch.float32, "cpu")
    plain = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint.directory, dtype=torch.float32)
    expected = torch.from_numpy(merged.shards.float32(f"{name}.weight"))
    assert torch.equal(made.get_submodule(name).weight, expected)
    assert not torch.equal(plain.get_submodule(name).weight, expected)
    others = {key: value for key, value in plain.state_dict().items() if key != f"{name}.weight"}
    state = made.state_dict()
    assert all(torch.equal(state[key], value) for key, value in others.items())
    inv_freq = "model.language_model.rotary_emb.inv_freq"
    assert torch.equal(made.get_buffer(inv_freq), plain.get_buffer(inv_freq))


def test_the_text_half_that_is_exported_is_a_qwen3_with_the_same_layers(checkpoint: Checkpoint) -> None:
    model = module._load(checkpoint, torch.float32, "cpu")
    made = module._as_qwen3(model, checkpoint)
    assert type(made).__name__ == "Qwen3ForCausalLM"
    assert made.config.architectures == ["Qwen3ForCausalLM"]
    assert made.config.head_dim == checkpoint.text.head_dim
    assert made.model.layers is model.model.language_model.layers
    assert not [name for name, tensor in made.named_parameters() if tensor.is_meta]
    ours = {name.replace("model.language_model.", "model.") for name in checkpoint.text_tensors()}
    assert {name for name, _ in made.named_parameters()} == ours


def test_the_shipped_prompts_can_be_read_and_show_pictures(checkpoint: Checkpoint) -> None:
    prompts = read(SHIPPED)
    assert len(prompts) >= 24
    assert sum(bool(prompt.images) for prompt in prompts) >= 6
    assert all(prompt.messages[-1]["role"] == "assistant" for prompt in prompts)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "2: not JSON"),
        ("[1]", 'an object with "text" or "messages"'),
        ("{}", 'an object with "text" or "messages"'),
        ('{"messages": []}', "at least one message"),
        ('{"messages": [{"content": "hi"}]}', "a role and a content"),
        ('{"text": ""}', "a role and a content"),
        ('{"messages": [{"role": "user", "content": [{"type": "video"}]}]}', "type text or image"),
        ('{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "1 image parts, but 0 images"),
        ('{"text": "hi", "images": ["a.png"]}', "0 image parts, but 1 images"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image"}]}], "images": ["a.png"]}',
            "a.png is missing",
        ),
    ],
)
def test_a_prompt_that_cannot_be_used_is_named_by_line(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(CalibrationError, match=f"prompts.jsonl:2: .*{message.removeprefix('2: ')}"):
        read(path)


def test_files_without_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="is missing"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(CalibrationError, match="holds no prompt"):
        read(tmp_path / "empty.jsonl")


def test_each_image_place_is_repeated_for_its_own_picture() -> None:
    pad = "<|image_pad|>"
    assert expand(f"a{pad}b{pad}c", [2, 3]) == f"a{pad * 2}b{pad * 3}c"
    with pytest.raises(CalibrationError, match="made 1 image places of 2 images"):
        expand(f"a{pad}", [1, 1])


def test_prompts_become_the_inputs_that_transformers_makes(checkpoint: Checkpoint) -> None:
    prompts = read(SHIPPED)
    chosen = [
        Prompt(prompt.messages[:1], prompt.images) for prompt in (prompts[6], prompts[7])
    ]  # two pictures, none
    reference = Reference(checkpoint.directory)
    for prompt, made in zip(chosen, encode(tuple(chosen), checkpoint, "cpu"), strict=True):
        images = tuple(path.read_bytes() for path in prompt.images)
        expected = reference.inputs(Conversation(prompt.messages, images))
        assert torch.equal(made["input_ids"], expected.input_ids)
        assert ("pixel_values" in made) == bool(images)
        if images:
            assert torch.equal(made["pixel_values"], expected.pixel_values)
            assert torch.equal(made["image_grid_thw"], expected.image_grid_thw)


def test_a_prompt_that_ends_with_an_answer_keeps_it_and_asks_for_no_other(checkpoint: Checkpoint) -> None:
    prompt = read(SHIPPED)[8]
    (whole,) = encode((prompt,), checkpoint, "cpu")
    (asked,) = encode((Prompt(prompt.messages[:1]),), checkpoint, "cpu")
    start = asked["input_ids"].shape[1]
    assert torch.equal(whole["input_ids"][:, :start], asked["input_ids"])
    assert whole["input_ids"].shape[1] > start + 20
    assert whole["input_ids"][0, -10:].tolist().count(checkpoint.tokens.eos[0]) == 1
