"""The pool of KV blocks: nothing is lost, nothing in use is given away, the oldest goes first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ensemble.language_model.block_manager import BLOCK_SIZE, ROOT, BlockManager, hash_block


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


def cached(manager: BlockManager, *numbers: int) -> list[int]:
    """Allocate, publish and release one block for each number, as one sequence."""
    blocks = manager.allocate(len(numbers))
    for block, number in zip(blocks, numbers, strict=True):
        manager.publish(block, key(number))
    manager.release(blocks)
    return blocks


def test_the_hash_depends_on_everything_that_the_keys_and_values_depend_on() -> None:
    ids, extra_ids = np.arange(BLOCK_SIZE, dtype=np.int32), np.zeros(BLOCK_SIZE, np.uint64)
    rows = np.zeros((BLOCK_SIZE, 4, 2), np.float32)
    hashes = {
        hash_block(ROOT, ids, extra_ids, rows),
        hash_block(key(1), ids, extra_ids, rows),
        hash_block(ROOT, ids + 1, extra_ids, rows),
        hash_block(ROOT, ids, extra_ids + np.uint64(1), rows),
        hash_block(ROOT, ids, extra_ids, rows + 1),
    }
    assert len(hashes) == 5
    assert all(len(h) == 32 for h in hashes)
    assert hash_block(ROOT, ids.copy(), extra_ids, rows) in hashes


def test_a_published_block_is_found_after_its_release_and_counts_as_in_use_when_acquired() -> None:
    manager = BlockManager(4)
    blocks = cached(manager, 1, 2)
    assert manager.match([key(1), key(2), key(3)]) == blocks
    assert (manager.num_in_use, manager.num_cached, manager.num_available) == (0, 2, 4)
    manager.acquire(blocks)
    assert (manager.num_in_use, manager.num_cached, manager.num_available) == (2, 0, 2)


def test_a_match_ends_at_the_first_unknown_block() -> None:
    manager = BlockManager(4)
    cached(manager, 1, 2)
    assert manager.match([key(9), key(2)]) == []


def test_the_tail_of_the_least_recently_released_prefix_is_overwritten_first() -> None:
    manager = BlockManager(4)
    old, new = cached(manager, 1, 2), cached(manager, 3, 4)
    assert manager.allocate(1) == [old[1]]
    assert manager.allocate(1) == [old[0]]
    assert manager.match([key(3), key(4)]) == new


def test_a_shared_block_stays_in_use_until_its_last_reader_releases_it() -> None:
    manager = BlockManager(2)
    blocks = cached(manager, 1)
    manager.acquire(blocks)
    manager.acquire(blocks)
    manager.release(blocks)
    assert manager.num_in_use == 1
    assert not manager.can_allocate(2)
    manager.release(blocks)
    assert manager.can_allocate(2)


def test_matched_blocks_do_not_count_as_room_for_new_ones() -> None:
    manager = BlockManager(3)
    matched = cached(manager, 1, 2)
    assert manager.can_allocate(3)
    assert manager.can_allocate(1, beside=matched)
    assert not manager.can_allocate(2, beside=matched)


def test_of_two_equal_blocks_the_first_is_shared_and_the_other_is_freed() -> None:
    manager = BlockManager(2)
    first, second = manager.allocate(2)
    manager.publish(first, key(1))
    manager.publish(second, key(1))
    manager.release([second])
    assert (manager.num_cached, manager.match([key(1)])) == (0, [first])


def test_a_withdrawn_block_is_never_found_again() -> None:
    manager = BlockManager(2)
    held = manager.allocate(1)
    manager.publish(held[0], key(1))
    idle = cached(manager, 2)
    manager.withdraw(held + idle)
    manager.release(held)
    assert manager.match([key(1)]) == manager.match([key(2)]) == []
    assert manager.num_cached == 0
    manager.check()


def test_releasing_a_block_that_is_not_held_is_noticed() -> None:
    manager = BlockManager(2)
    with pytest.raises(AssertionError, match="not held"):
        manager.release([0])


def test_the_check_notices_a_lost_block() -> None:
    manager = BlockManager(2)
    manager._free.pop()
    with pytest.raises(AssertionError):
        manager.check()


class AnyUse(RuleBasedStateMachine):
    """Sequences of random prefixes come and go; a written block must keep its content while it is known."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = BlockManager(12)
        self.content: dict[int, bytes] = {}
        self.held: list[tuple[list[int], list[bytes]]] = []

    @rule(prefix=st.lists(st.integers(0, 2), min_size=1, max_size=5))
    def start(self, prefix: list[int]) -> None:
        hashes = [bytes(prefix[: i + 1]).ljust(16, b"-") for i in range(len(prefix))]
        matched = self.manager.match(hashes)
        assert [self.content[b] for b in matched] == hashes[: len(matched)]
        missing = len(prefix) - len(matched)
        if not self.manager.can_allocate(missing, beside=matched):
            return
        self.manager.acquire(matched)
        in_use = {block for blocks, _ in self.held for block in blocks} | set(matched)
        fresh = self.manager.allocate(missing)
        assert not in_use & set(fresh)
        for block, digest in zip(fresh, hashes[len(matched) :], strict=True):
            self.content[block] = digest
            self.manager.publish(block, digest)
        self.held.append((matched + fresh, hashes))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        blocks, hashes = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        assert [self.content[block] for block in blocks] == hashes
        self.manager.release(blocks)

    @precondition(lambda self: self.held)
    @rule()
    def distrust(self) -> None:
        self.manager.withdraw(self.held[0][0])

    @invariant()
    def books_add_up(self) -> None:
        self.manager.check()
        assert self.manager.num_in_use == len({block for blocks, _ in self.held for block in blocks})


TestAnyUse = AnyUse.TestCase
TestAnyUse.settings = settings(max_examples=50, stateful_step_count=30, deadline=None, derandomize=True)
