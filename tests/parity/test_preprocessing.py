"""Every tensor of preprocessing beside what transformers makes of the same request."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

from build_engine.manifest import TextFacts
from ensemble.config import MediaLimits
from ensemble.preprocessing.image_processor import ImageProcessor
from ensemble.preprocessing.images import decode_image, open_image
from ensemble.preprocessing.mrope import RotaryTable
from ensemble.preprocessing.patches import PatchLayout
from ensemble.preprocessing.preprocessor import Preprocessor, Prompt
from ensemble.preprocessing.resample import resize_bicubic
from ensemble.preprocessing.video_processor import VideoProcessor
from tests.conversations import IMAGE, VIDEO, conversations, moving, said, user
from tests.demo_preprocessor import DEMO, manifest, prepare, preprocessor
from tests.reference import Conversation, Inputs, Reference, clip, jpeg, png

CONVERSATIONS = conversations()
FACTS = manifest()
LAYOUT = PatchLayout(16, 2, 2)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(DEMO)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Preprocessor:
    return preprocessor(tmp_path_factory.mktemp("engines"))


def placeholders(prompt: Prompt, kinds: Sequence[int]) -> list[int]:
    """Our ids with each run of visual tokens turned back into the checkpoint's placeholder."""
    ids = prompt.input_ids[0].tolist()
    return [kind or token for token, kind in zip(ids, kinds, strict=True)]


def normalised(patches: np.ndarray) -> np.ndarray:
    """What the encoder sees: (x * rescale_factor - mean) / std, float32."""
    vision = FACTS.vision
    mean, std = (
        np.array(values, dtype=np.float32)[:, None] for values in (vision.image_mean, vision.image_std)
    )
    values = patches.reshape(len(patches), vision.in_channels, -1).astype(np.float32)
    return ((values * np.float32(vision.rescale_factor) - mean) / std).reshape(patches.shape)


def in_prompt_order(made: Inputs, conversation: Conversation) -> tuple[np.ndarray, np.ndarray]:
    """transformers packs pixels and grids by kind; the contract packs them in the order of the prompt."""
    queues = {
        "image": _split(made.pixel_values, made.image_grid_thw),
        "video": _split(made.pixel_values_videos, made.video_grid_thw),
    }
    parts = [part for m in conversation.messages if isinstance(m["content"], list) for part in m["content"]]
    items = [queues[part["type"]].pop(0) for part in parts if part["type"] in queues]
    return np.concatenate([pixels for pixels, _ in items]), np.array([grid for _, grid in items])


def _split(pixels: torch.Tensor | None, grids: torch.Tensor | None) -> list[tuple[np.ndarray, list[int]]]:
    if pixels is None or grids is None:
        return []
    sizes = grids.prod(-1).tolist()
    return [(p.numpy(), g) for p, g in zip(pixels.split(sizes), grids.tolist(), strict=True)]


def check(ours: Preprocessor, reference: Reference, conversation: Conversation) -> None:
    made = reference.inputs(conversation)
    prompt = prepare(ours, list(conversation.messages), conversation.images, conversation.videos)
    kinds = made.mm_token_type_ids[0]
    expected_ids = made.input_ids[0].tolist()
    assert prompt.input_ids.shape[1] == len(expected_ids)
    visual = torch.where(kinds > 0, made.input_ids[0], 0).tolist()
    assert placeholders(prompt, visual) == expected_ids

    first, step = FACTS.text.vocab_size, FACTS.rows_per_visual_token
    count = int((kinds > 0).sum())
    assert prompt.input_ids[0][kinds.numpy() > 0].tolist() == [first + step * i for i in range(count)]

    model = reference.model.model
    positions, delta = model.get_rope_index(
        made.input_ids, made.mm_token_type_ids, made.image_grid_thw, made.video_grid_thw
    )
    assert prompt.mrope_position_deltas.item() == delta.item()
    length = len(expected_ids)
    tokens = length + prompt.request_output_len.item()
    tail = torch.arange(length, tokens).expand(3, 1, -1) + delta
    cos, sin = model.language_model.rotary_emb(torch.zeros(1), torch.cat([positions, tail], dim=-1))
    half = FACTS.text.head_dim // 2
    rotary = prompt.mrope_rotary_cos_sin.reshape(tokens, half, 2)
    np.testing.assert_allclose(rotary[..., 0], cos[0, :, :half], rtol=0, atol=1e-6)
    np.testing.assert_allclose(rotary[..., 1], sin[0, :, :half], rtol=0, atol=1e-6)

    if not count:
        assert prompt.pixel_patches.shape == (1, 0, FACTS.vision.patch_values)
        return
    pixels, grids = in_prompt_order(made, conversation)
    assert prompt.grid_thw[0].tolist() == grids.tolist()
    np.testing.assert_allclose(normalised(prompt.pixel_patches[0]), pixels, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_kind_of_conversation_gives_transformers_tensors(
    name: str, ours: Preprocessor, reference: Reference
) -> None:
    check(ours, reference, CONVERSATIONS[name])


def test_media_of_all_kinds_at_any_place_give_transformers_tensors(
    ours: Preprocessor, reference: Reference
) -> None:
    messages = (
        {"role": "system", "content": [said("You look at videos "), said("and pictures.")]},
        user(VIDEO, IMAGE, said(" first?\n")),
        {"role": "assistant", "content": "Yes."},
        user(said("3"), IMAGE, said("4"), VIDEO, VIDEO, said("")),
    )
    clips = (
        clip(moving(3, 7, 50, 70), 3),
        clip(moving(4, 31, 180, 64), 12, codec="libvpx-vp9", form="webm"),
        clip(moving(5, 4, 64, 240), 30),
    )
    check(ours, reference, Conversation(messages, (jpeg(33, 250, 1), png(70, 44, 2)), clips))


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Co", "Cn"]), max_size=40) | st.sampled_from(
    [
        "\n",
        "  \n\n x",
        " 12 seconds>",
        "<",
        "<0.3 seconds>",
        "é",
        "e\u0301",
        "\u0338",
        "한글",
        "👩‍👩‍👧",
        "'s it's",
        "　",
        "\r\n",
        "<|",
        "|>",
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_chats_give_transformers_ids(
    data: st.DataObject, ours: Preprocessor, reference: Reference
) -> None:
    picture = png(40, 40, 1)
    parts = st.lists(st.one_of(TEXTS.map(said), st.just(IMAGE)), max_size=4)
    turns = data.draw(st.lists(st.tuples(parts | TEXTS, TEXTS), min_size=1, max_size=3))
    system = data.draw(st.none() | TEXTS)
    messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    for asked, answered in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    messages.pop()
    texts = [
        part["text"]
        for m in messages
        if isinstance(m["content"], list)
        for part in m["content"]
        if "text" in part
    ]
    joined = "".join([*texts, *(m["content"] for m in messages if isinstance(m["content"], str))])
    if any(token in joined for token in reference.tokenizer.added_tokens_encoder):
        return
    images = sum(part == IMAGE for m in messages if isinstance(m["content"], list) for part in m["content"])
    conversation = Conversation(tuple(messages), (picture,) * images)
    made = reference.inputs(conversation)
    prompt = prepare(ours, messages, conversation.images)
    visual = torch.where(made.mm_token_type_ids[0] > 0, made.input_ids[0], 0).tolist()
    assert placeholders(prompt, visual) == made.input_ids[0].tolist()


@pytest.mark.parametrize(
    "size",
    [
        (37, 53),
        (1, 199),
        (1000, 6),
        (1023, 1025),
        (640, 360),
        (31, 33),
        (16, 16),
        (1, 1),
        (2000, 3000),
        (64, 96),
    ],
)
def test_image_patches_equal_the_pil_processor_bit_for_bit(size: tuple[int, int]) -> None:
    height, width = size
    bounds = {"shortest_edge": 64 * 64, "longest_edge": 700 * 700}
    theirs = Qwen2VLImageProcessorPil(
        patch_size=16, temporal_patch_size=2, merge_size=2, size=bounds, do_rescale=False, do_normalize=False
    )
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    made = theirs([Image.fromarray(pixels)], return_tensors="np")
    processor = ImageProcessor(LAYOUT, bounds["shortest_edge"], bounds["longest_edge"])
    resized = processor.resize(Image.fromarray(pixels), *processor.resized(height, width, "images[0]"))
    frames = np.concatenate(list(processor.strips(resized)), axis=2)
    patches = np.empty(made["pixel_values"].shape, dtype=np.uint8)
    LAYOUT.write_patches(frames, patches)
    assert [list(LAYOUT.grid(1, *frames.shape[2:]))] == made["image_grid_thw"].tolist()
    np.testing.assert_array_equal(patches, made["pixel_values"])


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF"])
def test_transparent_pictures_equal_transformers_convert_rgb(form: str) -> None:
    pixels = np.random.default_rng(7).integers(0, 256, (40, 60, 4), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    theirs = Qwen2VLImageProcessorPil().convert_to_rgb(Image.open(io.BytesIO(out.getvalue())))
    np.testing.assert_array_equal(decode_image(open_image(out.getvalue(), 0, MediaLimits()), 0), theirs)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_frames_are_resized_as_torch_does_bit_for_bit(
    height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
    size = (32 * rows, 32 * columns)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(frame)[None], size, mode="bicubic", antialias=True
    )
    np.testing.assert_array_equal(resize_bicubic(frame, *size), theirs[0])


@settings(max_examples=300, deadline=None)
@given(
    st.integers(2, 768),
    st.integers(20, 4000),
    st.integers(20, 4000),
    st.integers(1, 4000),
    st.integers(1, 30000),
)
def test_video_sizes_follow_transformers_smart_resize(
    frames: int, height: int, width: int, low_tokens: int, more_tokens: int
) -> None:
    low, high = 1024 * low_tokens, 1024 * (low_tokens + more_tokens)
    theirs = smart_resize(frames, height, width, 2, 32, low, high)
    assert VideoProcessor(LAYOUT, low, high).resized(frames, height, width, "videos[0]") == theirs


@pytest.mark.parametrize("theta", [5e6, 1e6, 1e5, 1e4])
@pytest.mark.parametrize(("head_dim", "sections"), [(128, (24, 20, 20)), (64, (12, 10, 10)), (32, (8, 4, 4))])
def test_rotary_tables_equal_transformers_at_far_positions(
    theta: float, head_dim: int, sections: tuple[int, int, int]
) -> None:
    from transformers import Qwen3VLTextConfig

    rope = {
        "rope_type": "default",
        "rope_theta": theta,
        "mrope_section": list(sections),
        "mrope_interleaved": True,
    }
    config = Qwen3VLTextConfig(
        head_dim=head_dim, hidden_size=4 * head_dim, num_attention_heads=4, rope_parameters=rope
    )
    theirs = Qwen3VLTextRotaryEmbedding(config)
    facts = TextFacts(
        100, 4 * head_dim, 1, 4, 4, head_dim, theta, sections, 8192, tuple(theirs.inv_freq.tolist())
    )
    table = RotaryTable(facts, max_seq_len=8192)
    positions = np.sort(np.random.default_rng(0).integers(0, 8000, (3, 500)), axis=1)
    rotary = table.gather(positions, delta=-100, count=8192).reshape(8192, head_dim // 2, 2)
    cos, sin = theirs(torch.zeros(1), torch.from_numpy(positions)[:, None])
    np.testing.assert_allclose(rotary[:500, :, 0], cos[0, :, : head_dim // 2], rtol=0, atol=1e-6)
    np.testing.assert_allclose(rotary[:500, :, 1], sin[0, :, : head_dim // 2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|image_pad|>", "<|endoftext|>"])
def test_a_special_token_alone_in_a_text_part_is_sanitised_as_transformers_does(
    token: str, ours: Preprocessor, reference: Reference
) -> None:
    messages = [{"role": "user", "content": f"\n\n{token}\n\n"}]
    theirs = reference.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False, sanitize_control_tokens=True
    )
    mine = prepare(ours, messages).input_ids[0].tolist()
    assert reference.tokenizer.decode(mine) == reference.tokenizer.decode(theirs)
    control = set(reference.tokenizer.added_tokens_encoder.values())
    assert [token for token in mine if token in control] == [token for token in theirs if token in control]


def test_equal_pictures_have_equal_digests_and_different_ones_do_not(ours: Preprocessor) -> None:
    same, other = png(50, 50, 1), png(50, 50, 2)
    made = prepare(ours, [user(IMAGE, IMAGE, IMAGE, said("?"))], [same, other, same])
    digests = [tuple(words) for words in made.media_digest[0].tolist()]
    assert digests[0] == digests[2] != digests[1]
    runs = [int(a) for a, b in pairwise([0, *made.prompt_table_extra_ids[0].tolist()]) if b == 0 and a]
    assert runs == [digests[0][0], digests[1][0], digests[2][0]]
