"""Steps with a rounded number of tokens: few sizes, little added, and the real tokens untouched."""

from __future__ import annotations

import numpy as np
import pytest

from ensemble.language_model.batch import Batch
from ensemble.language_model.padding import padded, rounded

SCRATCH = 99


def batch(tokens: int) -> Batch:
    """Two sequences: one that decodes, and a prompt with the rest of the tokens."""
    random = np.random.default_rng(tokens)
    prompt = tokens - 1
    blocks = np.arange(3 + -(-prompt // 32), dtype=np.int32)
    return Batch(
        input_ids=random.integers(1, 50, tokens).astype(np.int32),
        prompt_embedding_table=random.standard_normal((4, 8), np.float32),
        rotary_cos=random.standard_normal((tokens, 1, 4), np.float32),
        rotary_sin=random.standard_normal((tokens, 1, 4), np.float32),
        past_lens=np.array([70, 0], np.int32),
        subsequence_begins=np.array([0, 1, tokens], np.int32),
        block_indices=blocks,
        block_indices_begins=np.array([0, 3, len(blocks)], np.int32),
        max_context_len=np.array(max(71, prompt), np.int32),
        logits_index=np.array([0, tokens - 1], np.int32),
    )


def test_there_are_few_sizes_and_little_is_added() -> None:
    sizes = {rounded(tokens) for tokens in range(1, 4097)}
    assert len(sizes) <= 16 + 8 * 8
    for tokens in range(1, 4097):
        assert tokens <= rounded(tokens) <= tokens * 1.125
        assert rounded(rounded(tokens)) == rounded(tokens)
    assert [rounded(tokens) for tokens in (1, 7, 16)] == [1, 7, 16]


@pytest.mark.parametrize("tokens", [17, 57, 75, 1025])
def test_the_added_tokens_are_a_sequence_of_their_own_in_the_scratch_block(tokens: int) -> None:
    given = batch(tokens)
    made = padded(given, SCRATCH)
    size = rounded(tokens)
    assert size > tokens
    for name in ("input_ids", "rotary_cos", "rotary_sin", "past_lens", "subsequence_begins", "block_indices"):
        before, after = getattr(given, name), getattr(made, name)
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after[: len(before)], before)
    assert len(made.input_ids) == len(made.rotary_cos) == len(made.rotary_sin) == size
    assert made.subsequence_begins.tolist() == [0, 1, tokens, size]
    assert made.past_lens.tolist() == [70, 0, 0]
    own = made.block_indices[made.block_indices_begins[2] : made.block_indices_begins[3]]
    assert set(own.tolist()) == {SCRATCH}
    assert len(own) == -(-(size - tokens) // 32)
    assert made.block_indices_begins[-1] == len(made.block_indices)
    assert made.max_context_len.shape == ()
    assert made.max_context_len == given.max_context_len
    assert made.logits_index is given.logits_index
    assert made.prompt_embedding_table is given.prompt_embedding_table


@pytest.mark.parametrize("tokens", [2, 16, 80, 128])
def test_a_step_of_a_size_that_is_used_anyway_is_left_alone(tokens: int) -> None:
    given = batch(tokens)
    assert padded(given, SCRATCH) is given


def test_the_context_is_long_enough_for_the_added_tokens() -> None:
    given = batch(1025)
    short = Batch(**(vars(given) | {"max_context_len": np.array(1, np.int32)}))
    assert padded(short, SCRATCH).max_context_len == rounded(1025) - 1025
