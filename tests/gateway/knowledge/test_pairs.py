"""Latin words side by side: what tells phrasal verbs apart, and how the index uses it."""

from __future__ import annotations

from gateway.knowledge import index, terms
from gateway.knowledge.article import Article


def test_a_word_and_its_neighbour_are_one_term() -> None:
    assert terms.pairs("Turning  on") == ["turn on"]
    assert terms.pairs("won't turn on") == ["wont turn", "turn on"]


def test_two_common_words_say_nothing() -> None:
    assert terms.pairs("how are you, it is on my desk") == ["my desk"]


def test_pairs_end_at_marks_lines_and_chinese() -> None:
    assert terms.pairs("black screen, laptop\nheadset 手机 router") == ["black screen"]


def test_the_particle_decides_between_two_articles() -> None:
    """Without pairs, "on" and "off" are as good as absent and the shorter article wins both times."""
    given = [
        Article("on", "Power", "What to try.", "en", ("does not turn on", "cannot be started at all today")),
        Article("off", "Power", "What to try.", "en", ("does not turn off",)),
    ]
    built = index.Index(index.entries(given))
    assert built.search("my phone will not turn on", "en", "", 1)[0].article_id == "on"
    assert built.search("my phone will not turn off", "en", "", 1)[0].article_id == "off"
