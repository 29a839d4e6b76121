"""The packing contract as TensorRT-LLM's C++ runtime would read it, against transformers: our preprocessing's tensors go
through an emulation of its prompt table, rotary inputs and block keys into the checkpoint's own decoder, and the greedy
tokens must be transformers'. What the runtime would not forgive is refused before it.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from build_engine.checkpoint import Checkpoint
from build_engine.manifest import Limits
from build_engine.trtllm.build import table_rows
from build_engine.trtllm.config import model_config
from build_engine.trtllm.options import EngineOptions
from build_engine.verify import Transformers
from ensemble.contract import LANGUAGE_MODEL, PREPROCESSING, TENSORRT_LLM, contract
from ensemble.errors import PromptTooLong
from ensemble.vision_encoder.batch import BatchEncoder, VisionRequest
from ensemble.vision_encoder.embedding_cache import EmbeddingCache
from tests import prompt_slots
from tests.conversations import IMAGE, conversations, said, user
from tests.demo_preprocessor import manifest, prepare, preprocessor
from tests.inflight_batch import InflightBatch, Running
from tests.packed_decoder import PackedDecoder
from tests.prompt_slots import EngineConfig, OutOfBounds, PromptTable, Request, RequestFailed, StepFailed
from tests.reference import Conversation, Reference, png

Tensors = dict[str, NDArray[Any]]
# Of the GPU target, but for the table's type: a float32 engine compares exactly.
CONTRACT = contract(TENSORRT_LLM, "FP32")
CONVERSATIONS = conversations()
LIMITS = Limits(
    max_batch_size=5, max_input_len=512, max_seq_len=640, max_num_tokens=400, max_visual_tokens=192
)
NEW_TOKENS = 40
EXACT = 1e-4  # of the standard deviation of the logits; float32 noise is up to 5e-6
TEXT, THREE, VIDEO = "text only", "three images between text", "video"
SYSTEM = {
    "role": "system",
    "content": "You help customers of a phone shop. Look at every picture closely, name the fault that you see, and say "
    "what to do about it in one short sentence. If you are not sure, ask for another picture.",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """Greedy tokens, and the logits [tokens, vocab_size] that chose them."""

    tokens: list[int]
    logits: NDArray[np.float32]


class World:
    """A checkpoint: our preprocessing, transformers, and the decoder of its engine."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.checkpoint, self.folder = checkpoint, folder
        self.manifest = manifest(checkpoint, LIMITS, TENSORRT_LLM)
        self.engine = EngineConfig.of(self.manifest)
        self.reference = Reference(checkpoint)
        self.decoder = PackedDecoder(self.reference.model, self.manifest.vision.deepstack_levels)
        self._preprocessor = preprocessor(folder, limits=LIMITS, checkpoint=checkpoint, target=TENSORRT_LLM)
        tower = Transformers(checkpoint, self.manifest.vision)
        self._encoder = BatchEncoder(tower, self.manifest, EmbeddingCache(1 << 26))
        self._tensors: dict[str, Tensors] = {}
        self._expected: dict[str, Answer] = {}

    def tensors(self, asked: str | Conversation) -> Tensors:
        """What preprocessing and the vision encoder send to the language model."""
        if not isinstance(asked, str):
            return self._prepare(asked)
        if asked not in self._tensors:
            self._tensors[asked] = self._prepare(CONVERSATIONS[asked])
        return dict(self._tensors[asked])

    def _prepare(self, conversation: Conversation) -> Tensors:
        prompt = prepare(
            self._preprocessor,
            list(conversation.messages),
            conversation.images,
            conversation.videos,
            max_tokens=NEW_TOKENS,
        )
        made: Tensors = dict(prompt.tensors(CONTRACT[PREPROCESSING]))
        (table,) = self._encoder.encode_batch([VisionRequest.read(made)])
        assert not isinstance(table, Exception)
        return made | {"prompt_embedding_table": table}

    def expected(self, asked: str | Conversation) -> Answer:
        """What transformers' greedy `generate` says, the end token included."""
        if not isinstance(asked, str):
            return self._generate(asked)
        if asked not in self._expected:
            self._expected[asked] = self._generate(CONVERSATIONS[asked])
        return self._expected[asked]

    @torch.no_grad()
    def _generate(self, conversation: Conversation) -> Answer:
        made = self.reference.inputs(conversation)
        given = {name: value for name, value in vars(made).items() if value is not None}
        out = self.reference.model.generate(
            **given,
            attention_mask=torch.ones_like(made.input_ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        return Answer(out.sequences[0, made.input_ids.shape[1] :].tolist(), torch.cat(out.logits).numpy())

    def batch(self, chunk: int | None = None, reuse: bool = False, **changes: Any) -> InflightBatch:
        """A running engine; `changes` of its configuration."""
        return InflightBatch(dataclasses.replace(self.engine, **changes), self.decoder, chunk, reuse)

    def answer(self, running: Running) -> Answer:
        """Up to the first end token. The backend knows one end_id; the entry model knows the others."""
        assert running.failure is None
        ends = [at for at, token in enumerate(running.answer, 1) if token in self.manifest.tokens.eos]
        length = ends[0] if ends else len(running.answer)
        return Answer(running.answer[:length], np.stack(running.logits[:length]))

    def agrees(self, asked: str | Conversation, running: Running) -> bool:
        """Whether tokens and logits are transformers'. Logits see what a sure answer hides."""
        got, expected = self.answer(running), self.expected(asked)
        if got.tokens != expected.tokens:
            return False
        return bool(np.abs(got.logits - expected.logits).max() < EXACT * expected.logits.std())


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The matrices are tiny: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world_of(
    demo_checkpoint: Path,
    random_checkpoint: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], World]:
    made: dict[str, World] = {}

    def get(name: str) -> World:
        if name not in made:
            checkpoint = demo_checkpoint if name == "demo" else random_checkpoint(name)
            made[name] = World(checkpoint, tmp_path_factory.mktemp("engines"))
        return made[name]

    return get


@pytest.fixture(scope="module")
def demo(world_of: Callable[[str], World]) -> World:
    return world_of("demo")


def staggered(batch: InflightBatch, requests: Sequence[Tensors], every: int = 3) -> list[Running]:
    """Run requests of which one arrives every so many steps."""
    running = []
    for tensors in requests:
        running.append(batch.submit(tensors))
        for _ in range(every):
            batch.step()
    batch.run()
    return running


def check_answers(world: World, names: Sequence[str], running: Sequence[Running]) -> None:
    wrong = [name for name, one in zip(names, running, strict=True) if not world.agrees(name, one)]
    assert not wrong


# --- whatever else runs, in whichever chunks, in whichever slot


SHAPES = (
    "demo",
    "base",
    "one_level",
    "three_levels",
    "no_level",
    "swapped_levels",
    "wide_heads",
    "other_patches",
)


@pytest.mark.parametrize("name", SHAPES)
def test_every_conversation_alone_and_all_in_one_batch_equal_transformers(
    name: str, world_of: Callable[[str], World]
) -> None:
    world = world_of(name)
    asked = [world.tensors(conversation) for conversation in CONVERSATIONS]
    alone = []
    for tensors in asked:
        alone.append((batch := world.batch()).submit(tensors))
        batch.run()
    check_answers(world, list(CONVERSATIONS), alone)

    together = staggered(world.batch(), asked)
    check_answers(world, list(CONVERSATIONS), together)
    assert {slot for one in together for slot in one.slots} == set(range(LIMITS.max_batch_size))
    moved = [one for one in together if len(one.slots) > 2]
    assert len(moved) > len(together) // 3, "requests kept their slots: nothing was tried"
    assert len({tuple(one.answer) for one in together}) > len(together) // 2, "the model always says the same"


@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("name", ["demo", "three_levels", "wide_heads"])
def test_chunked_prompts_equal_transformers(name: str, chunk: int, world_of: Callable[[str], World]) -> None:
    world = world_of(name)
    running = staggered(world.batch(chunk), [world.tensors(conversation) for conversation in CONVERSATIONS])
    check_answers(world, list(CONVERSATIONS), running)


def test_a_token_budget_below_the_prompts_equals_transformers(demo: World) -> None:
    running = staggered(demo.batch(max_num_tokens=48), [demo.tensors(name) for name in CONVERSATIONS])
    check_answers(demo, list(CONVERSATIONS), running)


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("name", ["demo", "three_levels"])
def test_a_paused_request_goes_on_where_it_was(
    name: str, reuse: bool, world_of: Callable[[str], World]
) -> None:
    """Its answer so far is computed again as prompt, with rotary rows from behind the prompt's."""
    world, other = world_of(name), "image 360x640"
    for conversation in (THREE, VIDEO, TEXT):
        batch = world.batch(16, reuse)
        running = [batch.submit(world.tensors(asked)) for asked in (conversation, other)]
        paused: set[int] = set()
        while batch.active or batch.waiting:
            batch.step()
            answered = len(running[0].answer)
            if answered in {3, 6} - paused:
                paused.add(answered)
                batch.pause(running[0])
        assert paused == {3, 6}
        check_answers(world, [conversation, other], running)


def test_each_step_has_its_own_slots_and_tasks(demo: World) -> None:
    engine = dataclasses.replace(
        demo.engine, max_batch_size=3, max_prompt_embedding_table_size=20, hidden_size=2
    )
    table = PromptTable(engine)
    text, small, large = (
        Request(np.zeros(4, np.int32), 1, 0, None if not rows else np.full((rows, 2), rows, np.float32))
        for rows in (0, 2, 6)
    )
    assert table.stride == 6  # 20 // 3
    assert table.fill([(large, 3), (text, 2)], [small]).tolist() == [0, 0, 0, 0, 0, 2]
    assert table.rows[:, 0].tolist() == [6] * 6 + [0] * 6 + [2] * 2 + [0] * 6
    assert table.fill([], [small, large]).tolist() == [0, 1]
    assert table.rows[:, 0].tolist() == [2] * 2 + [0] * 4 + [6] * 6 + [0] * 8


# --- what two requests may share


def test_an_equal_request_reuses_all_but_its_last_token(demo: World) -> None:
    batch = demo.batch(reuse=True)
    for name in ("image 360x640", THREE, VIDEO, TEXT):
        first, again = (staggered(batch, [demo.tensors(name)])[0] for _ in range(2))
        assert again.reused == again.prompt_len - 1
        check_answers(demo, [name, name], [first, again])


def test_a_request_reuses_the_full_blocks_of_one_that_still_runs(demo: World) -> None:
    batch = demo.batch(reuse=True)
    tensors = demo.tensors(THREE)
    first, second = staggered(batch, [tensors, tensors], every=2)
    assert (first.reused, second.reused) == (0, first.prompt_len // 32 * 32)
    check_answers(demo, [THREE, THREE], [first, second])


@pytest.mark.parametrize("name", ["demo", "three_levels"])
def test_different_pictures_of_one_size_share_only_the_text_before_them(
    name: str, world_of: Callable[[str], World]
) -> None:
    world, batch = world_of(name), world_of(name).batch(reuse=True)
    asked = [
        Conversation((SYSTEM, user(said("Look: "), IMAGE, said("What is it?"))), (png(200, 200, seed),))
        for seed in range(3)
    ]
    answers = []
    for number, conversation in enumerate(asked):
        tensors = world.tensors(conversation)
        (running,) = staggered(batch, [tensors])
        assert running.reused == (visual(world, tensors)[0] if number else 0)
        assert world.agrees(conversation, running)
        answers.append(running.logits[0])
    assert len({answer.tobytes() for answer in answers}) == len(asked)


def test_another_second_picture_shares_only_what_stands_before_it(demo: World) -> None:
    batch = demo.batch(reuse=True)
    for number, second in enumerate([png(200, 200, 2), png(200, 200, 3)]):
        conversation = Conversation(
            (user(IMAGE, said("and "), IMAGE, said("What is it?")),), (png(200, 200, 1), second)
        )
        tensors = demo.tensors(conversation)
        pictures = visual(demo, tensors)
        (running,) = staggered(batch, [tensors])
        assert running.reused == (pictures[len(pictures) // 2] if number else 0)
        assert demo.agrees(conversation, running)


def test_equal_pixels_on_another_grid_share_nothing(demo: World) -> None:
    batch = demo.batch(reuse=True)
    for number, size in enumerate([(384, 96), (96, 384)]):
        conversation = Conversation((user(IMAGE, said("What is it?")),), (black(*size),))
        tensors = demo.tensors(conversation)
        assert tensors["pixel_patches"].max() == 0
        assert len(visual(demo, tensors)) == 36
        (running,) = staggered(batch, [tensors])
        assert running.reused == (visual(demo, tensors)[0] if number else 0)
        assert demo.agrees(conversation, running)


def test_text_requests_share_a_system_prompt_with_picture_requests(demo: World) -> None:
    """For that they bring a dummy table and zero extra ids."""
    text = Conversation((SYSTEM, {"role": "user", "content": "My phone does not start."}))
    picture = Conversation((SYSTEM, user(IMAGE, said("What is it?"))), (png(200, 200, 1),))
    both = [demo.tensors(conversation)["input_ids"][0].tolist() for conversation in (text, picture)]
    common = next(at for at, (one, other) in enumerate(zip(*both, strict=False)) if one != other)
    assert common > 32
    for order in ((text, picture), (picture, text)):
        batch = demo.batch(reuse=True)
        for number, conversation in enumerate(order):
            (running,) = staggered(batch, [demo.tensors(conversation)])
            assert running.reused == common * number
            assert demo.agrees(conversation, running)

    (running,) = staggered(batch, [without(demo.tensors(text), "prompt_embedding_table")])
    assert running.reused == 0
    assert demo.agrees(text, running)


def test_the_next_turn_reuses_the_picture_and_the_answer(demo: World) -> None:
    first = Conversation((user(IMAGE, said("What is it?")),), (png(200, 200, 5),))
    batch = demo.batch(reuse=True)
    (running,) = staggered(batch, [demo.tensors(first)])
    said_before = {"role": "assistant", "content": demo.reference.text(demo.answer(running).tokens)}
    turn = Conversation(
        (*first.messages, said_before, {"role": "user", "content": "Are you sure?"}), first.images
    )
    (follow_up,) = staggered(batch, [demo.tensors(turn)])
    assert follow_up.reused >= running.prompt_len + len(running.answer) - 1
    assert demo.agrees(turn, follow_up)


def test_requests_of_two_adapters_share_nothing(demo: World) -> None:
    batch, tensors = demo.batch(reuse=True), demo.tensors(THREE)
    for task, reused in ((1, False), (2, False), (1, True)):
        (running,) = staggered(batch, [tensors | {"lora_task_id": np.full((1, 1), task, np.uint64)}])
        assert bool(running.reused) is reused


@pytest.mark.parametrize("name", ["demo", "three_levels"])
def test_all_conversations_twice_with_reuse_and_chunks_equal_transformers(
    name: str, world_of: Callable[[str], World]
) -> None:
    world = world_of(name)
    running = staggered(world.batch(7, reuse=True), [world.tensors(c) for c in [*CONVERSATIONS] * 2])
    check_answers(world, [*CONVERSATIONS] * 2, running)
    assert all(one.reused == one.prompt_len - 1 for one in running[len(CONVERSATIONS) :])


# --- limits: the runtime's checks end every request in flight, so ours come first


def test_a_table_as_large_as_its_slot_is_served(demo: World, tmp_path: Path) -> None:
    tensors = demo.tensors(THREE)
    tokens = len(visual(demo, tensors))
    limits = dataclasses.replace(LIMITS, max_visual_tokens=tokens)
    engine = EngineConfig.of(manifest(demo.checkpoint, limits))
    batch = InflightBatch(engine, demo.decoder)
    assert batch.table.stride == tensors["prompt_embedding_table"].shape[1]
    ask(demo, tmp_path, THREE, limits)
    running = staggered(batch, [tensors] * LIMITS.max_batch_size, every=1)
    check_answers(demo, [THREE] * LIMITS.max_batch_size, running)


def test_one_visual_token_more_would_end_everybody_and_is_refused_before(demo: World, tmp_path: Path) -> None:
    tensors = demo.tensors(THREE)
    tokens = len(visual(demo, tensors)) - 1
    limits = dataclasses.replace(LIMITS, max_visual_tokens=tokens)
    batch = InflightBatch(EngineConfig.of(manifest(demo.checkpoint, limits)), demo.decoder)
    innocent, guilty = staggered(batch, [demo.tensors(TEXT), tensors])
    assert len(innocent.answer) == 3
    assert isinstance(innocent.failure, StepFailed)
    assert isinstance(guilty.failure, StepFailed)

    with pytest.raises(PromptTooLong, match=f"at most {tokens}"):
        ask(demo, tmp_path, THREE, limits)


def test_a_prompt_beyond_the_engine_is_refused_before(demo: World, tmp_path: Path) -> None:
    length = demo.tensors(THREE)["input_ids"].size
    limits = dataclasses.replace(LIMITS, max_input_len=length - 1)
    with pytest.raises(RequestFailed, match="max_input_len"):
        demo.batch(max_input_len=length - 1).submit(demo.tensors(THREE))
    with pytest.raises(PromptTooLong, match=f"at most {length - 1}"):
        ask(demo, tmp_path, THREE, limits)


FATAL: Mapping[str, Callable[[Tensors], Tensors]] = {
    "no cos and sin": lambda made: without(made, "mrope_rotary_cos_sin"),
    "no delta": lambda made: without(made, "mrope_position_deltas"),
    "cos and sin of another P": lambda made: made | {"mrope_rotary_cos_sin": made["mrope_rotary_cos_sin"][:, :-64]},
    "a table of another type": lambda made: made | {
        "prompt_embedding_table": made["prompt_embedding_table"].astype(np.float16)
    },
    "a table of another width": lambda made: made | {
        "prompt_embedding_table": made["prompt_embedding_table"][..., :-1]
    },
}  # fmt: skip


@pytest.mark.parametrize("fault", FATAL)
def test_a_text_request_with_wrong_tensors_would_end_everybody(fault: str, demo: World) -> None:
    batch = demo.batch()
    innocent, guilty = staggered(batch, [demo.tensors(VIDEO), FATAL[fault](demo.tensors(TEXT))])
    assert isinstance(innocent.failure, StepFailed)
    assert isinstance(guilty.failure, StepFailed)


@pytest.mark.parametrize("extra_ids", [None, 1])
def test_without_an_extra_id_for_each_token_a_request_fails_alone(extra_ids: int | None, demo: World) -> None:
    made = demo.tensors(THREE)
    short = (
        {} if extra_ids is None else {"prompt_table_extra_ids": made["prompt_table_extra_ids"][:, extra_ids:]}
    )
    with pytest.raises(RequestFailed, match="extra ids"):
        demo.batch(reuse=True).submit(without(made, "prompt_table_extra_ids") | short)
    demo.batch(reuse=False).submit(without(made, "prompt_table_extra_ids"))


def test_a_slot_smaller_than_one_visual_token_reads_beyond_the_table(demo: World) -> None:
    rows = demo.manifest.rows_per_visual_token
    for size, fits in ((rows, True), (rows - 1, False)):
        batch = demo.batch(max_batch_size=1, max_prompt_embedding_table_size=size)
        running = batch.submit(without(demo.tensors(TEXT), "prompt_embedding_table"))
        if fits:
            batch.run()
            check_answers(demo, [TEXT], [running])
        else:
            with pytest.raises(OutOfBounds):
                batch.run()


def test_a_context_beyond_p_would_take_the_rotary_rows_of_its_neighbours(demo: World) -> None:
    request = Request.read(demo.tensors(THREE))
    constants = prompt_slots.constant_rotary(demo.engine)
    positions, length = len(constants), len(request.input_ids)
    right = prompt_slots.context_rotary(request, constants, 0, length, positions)
    trapped = prompt_slots.context_rotary(request, constants, 0, length, positions + 1)
    assert np.array_equal(trapped, constants[:length])
    assert np.abs(right - trapped).max() > 1
    # No engine of ours can get there: a context never exceeds max_seq_len.
    assert demo.engine.max_seq_len <= demo.engine.max_position_embeddings


# --- the tensors themselves

# Data type and shape as the C++ backend reads them; the table's type is the engine's.
BACKEND: Mapping[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "input_ids": (np.int32, (1, -1)),
    "input_lengths": (np.int32, (1, 1)),
    "request_output_len": (np.int32, (1, 1)),
    "end_id": (np.int32, (1, 1)),
    "pad_id": (np.int32, (1, 1)),
    "prompt_embedding_table": (np.float32, (1, -1, -1)),
    "prompt_table_extra_ids": (np.uint64, (1, -1)),
    "mrope_rotary_cos_sin": (np.float32, (1, -1)),
    "mrope_position_deltas": (np.int64, (1, 1)),
    "streaming": (np.bool_, (1, 1)),
    "exclude_input_in_output": (np.bool_, (1, 1)),
    "return_log_probs": (np.bool_, (1, 1)),
    "return_num_input_tokens": (np.bool_, (1, 1)),
    "return_perf_metrics": (np.bool_, (1, 1)),
    "runtime_top_k": (np.int32, (1, 1)),
    "runtime_top_p": (np.float32, (1, 1)),
    "temperature": (np.float32, (1, 1)),
    "repetition_penalty": (np.float32, (1, 1)),
    "presence_penalty": (np.float32, (1, 1)),
    "frequency_penalty": (np.float32, (1, 1)),
    "seed": (np.uint64, (1, 1)),
}


@pytest.mark.parametrize("name", ["demo", "no_level", "other_patches"])
def test_our_tensors_are_what_the_backend_reads(name: str, world_of: Callable[[str], World]) -> None:
    world = world_of(name)
    owned, vocab_size = world.manifest.rows_per_visual_token, world.manifest.text.vocab_size
    for conversation in CONVERSATIONS:
        made = world.tensors(conversation)
        sent = {tensor.name for tensor in CONTRACT[LANGUAGE_MODEL].inputs} & set(made)
        assert sent == set(BACKEND)
        for tensor, (dtype, shape) in BACKEND.items():
            assert made[tensor].dtype == dtype, tensor
            assert len(made[tensor].shape) == len(shape), tensor
            assert all(want in (-1, got) for want, got in zip(shape, made[tensor].shape, strict=True)), tensor
        ids, extra_ids, table = (
            made[tensor][0] for tensor in ("input_ids", "prompt_table_extra_ids", "prompt_embedding_table")
        )
        pictures = visual(world, made)
        assert made["input_lengths"].item() == len(ids) == len(extra_ids)
        assert np.array_equal(ids[pictures], vocab_size + owned * np.arange(len(pictures)))
        assert np.array_equal(np.flatnonzero(extra_ids), pictures)
        assert table.shape == (owned * max(1, len(pictures)), world.manifest.text.hidden_size)
        assert len(pictures) > 0 or not table.any()
        assert made["mrope_rotary_cos_sin"].size == LIMITS.max_seq_len * world.manifest.text.head_dim
        assert Request.read(made).delta == made["mrope_position_deltas"].item()


@pytest.mark.parametrize("name", ["demo", "no_level", "three_levels", "wide_heads"])
def test_our_builder_asks_for_the_engine_of_these_tests(name: str, world_of: Callable[[str], World]) -> None:
    world = world_of(name)
    asked = model_config(Checkpoint.read(world.checkpoint), EngineOptions(), LIMITS.max_seq_len)
    for field in (
        "vocab_size",
        "hidden_size",
        "rotary_embedding_dim",
        "rotary_base",
        "max_position_embeddings",
    ):
        assert getattr(world.engine, field) == asked[field], field
    levels = world.manifest.vision.deepstack_levels
    assert world.engine.max_prompt_embedding_table_size == table_rows(LIMITS, levels)


# --- that all this can fail


def row_off_by_one(made: Tensors, world: World) -> Tensors:
    ids = made["input_ids"].copy()
    ids[ids >= world.manifest.text.vocab_size] += 1
    return made | {"input_ids": ids}


def one_id_per_visual_token(made: Tensors, world: World) -> Tensors:
    ids, vocab_size = made["input_ids"], world.manifest.text.vocab_size
    packed = vocab_size + (ids - vocab_size) // world.manifest.rows_per_visual_token
    return made | {"input_ids": np.where(ids >= vocab_size, packed, ids)}


def planes_instead_of_rows(made: Tensors, world: World) -> Tensors:
    table = made["prompt_embedding_table"]
    planes = table.reshape(-1, world.manifest.rows_per_visual_token, table.shape[-1]).swapaxes(0, 1)
    return made | {"prompt_embedding_table": planes.reshape(table.shape)}


def delta_with_the_other_sign(made: Tensors, world: World) -> Tensors:
    return made | {"mrope_position_deltas": -made["mrope_position_deltas"]}


def no_tail(made: Tensors, world: World) -> Tensors:
    rotary = made["mrope_rotary_cos_sin"].reshape(LIMITS.max_seq_len, -1, 2).copy()
    rotary[made["input_ids"].size :] = (1, 0)
    return made | {"mrope_rotary_cos_sin": rotary.reshape(1, -1)}


def tail_without_delta(made: Tensors, world: World) -> Tensors:
    rotary = made["mrope_rotary_cos_sin"].reshape(LIMITS.max_seq_len, -1, 2).copy()
    length = made["input_ids"].size
    rotary[length:] = prompt_slots.constant_rotary(world.engine)[length:]
    return made | {"mrope_rotary_cos_sin": rotary.reshape(1, -1)}


@pytest.mark.parametrize(
    "fault",
    [
        None,
        row_off_by_one,
        one_id_per_visual_token,
        planes_instead_of_rows,
        delta_with_the_other_sign,
        no_tail,
        tail_without_delta,
    ],
)
def test_a_fault_in_our_tensors_changes_greedy_tokens(
    fault: Callable[[Tensors, World], Tensors] | None, demo: World
) -> None:
    assert tokens_differ(demo, fault) is (fault is not None)


def tasks_forgotten(ids: Any, tasks: Any, stride: int, vocab_size: int) -> Any:
    return np.where(ids >= vocab_size, ids - vocab_size, 0)


def tasks_without_stride(ids: Any, tasks: Any, stride: int, vocab_size: int) -> Any:
    return np.where(ids >= vocab_size, ids - vocab_size, 0) + tasks


def stride_without_tasks(ids: Any, tasks: Any, stride: int, vocab_size: int) -> Any:
    return np.where(ids >= vocab_size, ids - vocab_size, 0) + stride


def rows_counted_from_the_chunk(ids: Any, tasks: Any, stride: int, vocab_size: int) -> Any:
    """As the runtime's offloading of the prompt table does: consecutive rows, one a visual token."""
    seen = ids >= vocab_size
    return np.where(seen, np.cumsum(seen) - 1, 0) + tasks * stride


def rotary_counted_from_the_chunk(request: Any, constants: Any, first: int, count: int, longest: int) -> Any:
    return request.rotary.reshape(constants.shape)[:count]


def delta_forgotten(request: Any, constants: Any, index: int) -> Any:
    return constants[[index]]


def one_level_late(ids: Any, table: Any, rows: Any, level: int, vocab_size: int) -> Any:
    return np.where((ids >= vocab_size)[:, None], table[rows + level], np.float32(0))


def text_gets_rows_too(ids: Any, table: Any, rows: Any, level: int, vocab_size: int) -> Any:
    return table[rows + level + 1]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("prompt_rows", tasks_forgotten),
        ("prompt_rows", tasks_without_stride),
        ("prompt_rows", stride_without_tasks),
        ("prompt_rows", rows_counted_from_the_chunk),
        ("context_rotary", rotary_counted_from_the_chunk),
        ("generation_rotary", delta_forgotten),
        ("deepstack", one_level_late),
        ("deepstack", text_gets_rows_too),
    ],
)
def test_a_fault_in_the_runtime_or_the_graph_would_change_greedy_tokens(
    name: str, fault: Callable[..., Any], demo: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_slots, name, fault)
    assert tokens_differ(demo)


def test_one_extra_id_for_all_pictures_would_mix_them_up(world_of: Callable[[str], World]) -> None:
    world = world_of("three_levels")
    batch = world.batch(reuse=True)
    for seed, right in ((1, True), (2, False)):
        conversation = Conversation((user(IMAGE, said("What is it?")),), (png(200, 200, seed),))
        made = world.tensors(conversation)
        made["prompt_table_extra_ids"] = np.minimum(made["prompt_table_extra_ids"], 1)
        (running,) = staggered(batch, [made])
        assert world.agrees(conversation, running) is right


def tokens_differ(world: World, fault: Callable[[Tensors, World], Tensors] | None = None) -> bool:
    """Whether any answer is not transformers' in a busy run with chunks and a pause, of tensors with a fault.

    On the demo checkpoint, which was trained: random ones hide a wrong delta, their next token hardly depends on it.
    """
    names = (THREE, "image 360x640", VIDEO, TEXT)
    batch = world.batch(chunk=7)
    running = []
    for name in names:
        made = world.tensors(name)
        running.append(batch.submit(fault(made, world) if fault else made))
        batch.step()
    try:
        while len(running[0].answer) < 5:
            batch.step()
        batch.pause(running[0])
        batch.run()
    except OutOfBounds:
        return True
    answers = zip(names, running, strict=True)
    return any(world.answer(one).tokens != world.expected(name).tokens for name, one in answers)


# --- pieces


def visual(world: World, made: Tensors) -> NDArray[np.intp]:
    """Where the visual tokens of a prompt are."""
    return np.flatnonzero(made["input_ids"][0] >= world.manifest.text.vocab_size)


def without(made: Tensors, name: str) -> Tensors:
    return {key: array for key, array in made.items() if key != name}


def ask(world: World, folder: Path, name: str, limits: Limits) -> None:
    """Preprocess a conversation under other limits."""
    conversation = CONVERSATIONS[name]
    made = preprocessor(folder, limits=limits, checkpoint=world.checkpoint, target=TENSORRT_LLM)
    prepare(
        made, list(conversation.messages), conversation.images, conversation.videos, max_tokens=NEW_TOKENS
    )


def black(height: int, width: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, "PNG")
    return out.getvalue()
