"""The arrays of a step: the same ones as before while their shapes are the same, with what is new in them."""

from __future__ import annotations

import numpy as np

from ensemble.language_model.batch import Packer
from ensemble.language_model.scheduler import Chunk
from ensemble.language_model.sequence import Sequence
from tests import fakes


def decoding(name: str, past: int) -> Chunk:
    """A sequence of one block that is fed its last token, `past` itself."""
    sequence = Sequence(fakes.request(name, [past + 1]))
    sequence.token_ids[: past + 1] = range(past + 1)
    sequence.take([7])
    sequence.num_computed = past
    return Chunk(sequence, past, past + 1)


def test_steps_of_equal_shapes_share_a_batch_and_each_finds_its_own_numbers_in_it() -> None:
    packer = Packer(fakes.manifest())
    first = packer.pack([decoding("a", 4)])
    assert (first.input_ids.tolist(), first.past_lens.tolist()) == ([4], [4])
    second = packer.pack([decoding("a", 5)])
    assert second is first
    assert (second.input_ids.tolist(), second.past_lens.tolist(), int(second.max_context_len)) == (
        [5],
        [5],
        6,
    )


def test_another_shape_is_another_batch() -> None:
    packer = Packer(fakes.manifest())
    one = decoding("a", 4)
    alone = packer.pack([one])
    both = packer.pack([one, decoding("b", 9)])
    assert both is not alone
    assert both.input_ids.tolist() == [4, 9]
    again = packer.pack([one])
    assert again is not alone
    assert np.array_equal(again.input_ids, [4])
    longer = packer.pack([Chunk(one.sequence, 0, 4)])
    assert longer.input_ids.tolist() == [0, 1, 2, 3]


def test_logits_are_wanted_of_those_that_go_on_and_of_no_unfinished_prompt() -> None:
    packer = Packer(fakes.manifest())
    prompt = Sequence(fakes.request("long", [40]))
    prompt.take([3, 4])
    part = Chunk(prompt, 0, 16)
    assert packer.pack([part]).logits_index.tolist() == []
    assert packer.pack([decoding("a", 4), part, decoding("b", 9)]).logits_index.tolist() == [0, 17]
    assert packer.pack([Chunk(prompt, 16, 40)]).logits_index.tolist() == [23]
