"""build_engine/trtllm/model.py itself, on a strict eager stand-in for TensorRT-LLM, against transformers at every layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from build_engine.trtllm.build import _load, weights
from build_engine.trtllm.config import model_config
from build_engine.trtllm.options import EngineOptions
from tests.checkpoints import make_checkpoint
from tests.trtllm import strict_tensorrt_llm as strict
from tests.trtllm.packed_steps import EXACT, POSITIONS, Batch, Part, Scene


@pytest.fixture(scope="module")
def demo(demo_checkpoint: Path) -> Scene:
    return Scene.make(demo_checkpoint)


def load(scene: Scene, dtype: str = "float32") -> Any:
    config = model_config(scene.checkpoint, EngineOptions(), POSITIONS)
    return _load(weights(scene.checkpoint, EngineOptions()), {**config, "dtype": dtype}, rank=0)


def batch(scene: Scene, dtype: str = "float32", tolerance: float = EXACT) -> Batch:
    return Batch(scene, load(scene, dtype), dtype, tolerance)


@pytest.mark.usefixtures("model_module")
def test_packed_steps_equal_transformers_at_every_layer(demo: Scene) -> None:
    batch(demo).run()


@pytest.mark.usefixtures("model_module")
@pytest.mark.parametrize("variant", ["untied", "three_levels", "no_level", "wide_heads", "one_kv_head"])
def test_other_shapes_equal_transformers(variant: str, random_checkpoint: Callable[[str], Path]) -> None:
    batch(Scene.make(random_checkpoint(variant))).run()


@pytest.mark.usefixtures("model_module")
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.08), ("float16", 0.02)])
def test_every_operation_of_a_16_bit_engine_has_operands_of_one_type(
    dtype: str, tolerance: float, demo: Scene
) -> None:
    batch(demo, dtype, tolerance).run()


@pytest.mark.usefixtures("model_module")
def test_the_norms_of_queries_and_keys_use_the_checkpoints_eps(tmp_path: Path) -> None:
    scene = Scene.make(make_checkpoint(tmp_path / "checkpoint", text={"rms_norm_eps": 0.05}))
    batch(scene).run()
    forgetful = batch(scene)
    for layer in forgetful.model.transformer.layers:
        layer.attention.q_layernorm.eps = layer.attention.k_layernorm.eps = 1e-5  # Attention's own default
    with pytest.raises(AssertionError, match="standard deviations"):
        forgetful.run()


@pytest.mark.usefixtures("model_module")
def test_an_engine_without_a_table_is_a_text_decoder(demo: Scene) -> None:
    model = load(demo)
    request = demo.fresh()["text"]
    count = request.prompt_len
    logits = model(
        strict.Tensor(request.ids[:count]),
        kv_cache_params=strict.KeyValueCacheParams([[cache] for cache in request.caches]),
        attention_params=strict.AttentionParams([(0, count)], 1),
        mrope_params=strict.MropeParams(
            strict.Tensor(request.cos_sin[None]), strict.Tensor(torch.zeros((0, 1), dtype=torch.int32))
        ),
    )
    expected = request.logits[:count]
    assert (logits.value - expected).abs().max() < EXACT * expected.std()


@pytest.mark.usefixtures("model_module")
def test_lora_parameters_reach_every_layer(demo: Scene) -> None:
    made = batch(demo)
    made.step(Part("text", made.requests["text"].prompt_len), lora_params=strict.LoraParams([8]))
    for index, layer in enumerate(made.model.transformer.layers):
        wanted = f"LoRA parameters of layer {index}"
        assert (layer.attention.lora_layer_params, layer.mlp.lora_layer_params) == (wanted, wanted)


@pytest.mark.usefixtures("model_module")
def test_the_engine_asks_for_mrope_inputs_of_its_own_length(demo: Scene) -> None:
    sizes = {"max_batch_size": 2, "max_input_len": 100, "max_seq_len": POSITIONS, "max_num_tokens": 100}
    inputs = load(demo).prepare_inputs(**sizes, use_cache=True, prompt_embedding_table_size=600)
    assert inputs == {
        "prompt_embedding_table": 600,
        "mrope_params": POSITIONS * demo.checkpoint.text.head_dim,
    }


@pytest.mark.parametrize("parallel", ["pp_size", "cp_size"])
def test_other_parallelism_is_refused(parallel: str, demo: Scene, model_module: ModuleType) -> None:
    config = model_config(demo.checkpoint, EngineOptions(), POSITIONS)
    config["mapping"] = {**config["mapping"], parallel: 2}
    with pytest.raises(ValueError, match=f"{parallel} 2.*both must be 1"):
        model_module.Qwen3VLForCausalLM(strict.QWenConfig(**config))


# Faults put into the graph code on purpose: the comparison above must notice each.


def _python_zero(module: ModuleType) -> None:
    _after_init(module, lambda rows: setattr(rows, "_zero", 0))


def _float32_zero(module: ModuleType) -> None:
    _after_init(module, lambda rows: setattr(rows, "_zero", strict.constant(0.0)))


def _next_row(module: ModuleType) -> None:
    _change_level(module, +1)


def _row_before(module: ModuleType) -> None:
    _change_level(module, -1)


def _first_slot_for_all(module: ModuleType) -> None:
    original = module.expand
    module.expand = lambda slots, wanted: original(slots * 0, wanted)


def _text_tokens_too(module: ModuleType) -> None:
    _after_init(module, lambda rows: rows._is_visual.value.fill_(True))


def _before_the_layer(module: ModuleType) -> None:
    def forward(self: Any, hidden_states: Any, **kwargs: Any) -> Any:
        if self.deepstack is not None:
            hidden_states = self.deepstack.add_to(hidden_states, self.layer_idx)
        return strict.QWenDecoderLayer.forward(self, hidden_states, **kwargs)

    module.Qwen3VLDecoderLayer.forward = forward


def _one_layer_late(module: ModuleType) -> None:
    class Late(strict.DecoderLayerList):
        def __getitem__(self, index: Any) -> Any:  # only the hand-out of the rows asks by index
            return super().__getitem__(index + 1)

    module.DecoderLayerList = Late


def _no_deepstack(module: ModuleType) -> None:
    module.Qwen3VLModel = strict.QWenModel


def _one_level_too_few(module: ModuleType) -> None:
    original = module.Qwen3VLModel.__init__

    def fewer(self: Any, config: Any) -> None:
        original(self, config)
        self.deepstack_levels -= 1

    module.Qwen3VLModel.__init__ = fewer


def _after_init(module: ModuleType, change: Callable[[Any], Any]) -> None:
    original = module.DeepstackRows.__init__

    def init(self: Any, *args: Any) -> None:
        original(self, *args)
        change(self)

    module.DeepstackRows.__init__ = init


def _change_level(module: ModuleType, by: int) -> None:
    original = module.DeepstackRows.add_to
    module.DeepstackRows.add_to = lambda self, hidden, level: original(self, hidden, level + by)


@pytest.mark.parametrize("fault", [_python_zero, _float32_zero])
def test_a_zero_of_another_type_is_refused(
    fault: Callable[[ModuleType], None], demo: Scene, model_module: ModuleType
) -> None:
    fault(model_module)
    with pytest.raises(strict.StrictTypeError, match=r"bfloat16 and torch\.(int32|float32)"):
        batch(demo, "bfloat16", 1.0).run()


@pytest.mark.parametrize(
    "fault",
    [
        _next_row,
        _row_before,
        _first_slot_for_all,
        _text_tokens_too,
        _before_the_layer,
        _one_layer_late,
        _no_deepstack,
        _one_level_too_few,
    ],
)
def test_a_fault_in_the_lookup_shows(
    fault: Callable[[ModuleType], None], demo: Scene, model_module: ModuleType
) -> None:
    fault(model_module)
    with pytest.raises(AssertionError, match="standard deviations"):
        batch(demo).run()
