"""Positions and rotary tables on cases small enough to check by hand."""

from __future__ import annotations

import numpy as np

from build_engine.manifest import TextFacts
from ensemble.preprocessing.mrope import RotaryTable, inverse_frequencies, position_ids
from ensemble.preprocessing.prompt import Span


def facts(**changes: object) -> TextFacts:
    values: dict[str, object] = {
        "vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1, "head_dim": 16, "rope_theta": 10000.0, "mrope_section": (4, 2, 2),
        "max_position_embeddings": 64,
    }  # fmt: skip
    return TextFacts(**{**values, **changes})  # type: ignore[arg-type]


def test_text_alone_counts_up_on_every_axis() -> None:
    positions, delta = position_ids(5, ())
    assert positions.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert delta == 0


def test_grids_count_rows_and_columns_and_text_goes_on_after_the_longer_side() -> None:
    positions, delta = position_ids(10, (Span(start=2, item=0, height=2, width=3),))
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]
    assert delta == -3


def test_interleaved_frequencies_take_their_own_axis() -> None:
    table = RotaryTable(facts(), max_seq_len=20)
    positions = np.array([[3], [5], [7]])
    angles = np.arctan2(*np.moveaxis(table.gather(positions, 0, 20).reshape(20, 8, 2)[0, :, ::-1], -1, 0))
    axis = [
        0,
        1,
        2,
        0,
        1,
        2,
        0,
        0,
    ]  # section 2: only the first two frequencies with j % 3 == 1 (2) turn by H (W)
    expected = positions[axis, 0] * inverse_frequencies(facts())
    np.testing.assert_allclose(np.cos(angles), np.cos(expected), atol=1e-6)
    np.testing.assert_allclose(np.sin(angles), np.sin(expected), atol=1e-6)


def test_rows_of_the_answer_go_on_at_index_plus_delta() -> None:
    table = RotaryTable(facts(), max_seq_len=20)
    positions, delta = position_ids(10, (Span(2, 0, 2, 3),))
    rows = table.gather(positions, delta, 20).reshape(20, 8, 2)
    plain = table.gather(*position_ids(20, ()), 20).reshape(20, 8, 2)
    np.testing.assert_array_equal(rows[10:], plain[7:17])
    np.testing.assert_array_equal(rows[8:10], plain[5:7])
    for count in (10, 13):
        np.testing.assert_array_equal(
            table.gather(positions, delta, count).reshape(count, 8, 2), rows[:count]
        )


def test_frequencies_of_the_manifest_win() -> None:
    given = tuple(float(value) for value in np.linspace(1, 0.1, 8, dtype=np.float32))
    assert inverse_frequencies(facts(inv_freq=given)).tolist() == list(given)
