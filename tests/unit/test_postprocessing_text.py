"""Detokenizer, stop strings, confidence: how tokens become text."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from ensemble.postprocessing.confidence import Confidence
from ensemble.postprocessing.detokenizer import Detokenizer, Vocabulary
from ensemble.postprocessing.stop import StopStrings

TEXTS = [
    "我的手机打不开，怎么办？ 请长按电源键十秒。",
    "The screen is black: hold the power key for 10 s, then charge it.\n\n",
    "Ünïcödé, naïve café, 日本語, русский, עברית, 😀👩‍👩‍👧‍👦🇨🇳, é (decomposed), \t tabs",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Vocabulary]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(
        [AddedToken("<|im_end|>", special=True), AddedToken("<|im_start|>", special=True)]
    )
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False), AddedToken("工具 调用", special=False)])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return tokenizer, Vocabulary.read(path)


def pieces(vocabulary: Vocabulary, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(vocabulary)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_add_up_to_the_text(
    tokenizer: tuple[Tokenizer, Vocabulary], text: str
) -> None:
    reference, vocabulary = tokenizer
    ids = reference.encode(text).ids
    got = pieces(vocabulary, ids)
    assert "".join(got) == text == reference.decode(ids)
    assert all("�" not in piece for piece in got)
    assert len(ids) > len(text) / 4
    if any(ord(character) > 0x7FF for character in text):
        assert "" in got[:-1], "no token of this text splits a character: the test shows nothing"


def test_any_sequence_of_ids_decodes_as_tokenizers_decodes_the_whole(
    tokenizer: tuple[Tokenizer, Vocabulary],
) -> None:
    reference, vocabulary = tokenizer
    size = reference.get_vocab_size()
    dice = random.Random(1)
    for _ in range(2000):
        ids = [dice.randrange(size) for _ in range(dice.randrange(1, 30))]
        assert "".join(pieces(vocabulary, ids)) == reference.decode(ids, skip_special_tokens=True), ids


def test_special_tokens_and_ids_beyond_the_vocabulary_have_no_text(
    tokenizer: tuple[Tokenizer, Vocabulary],
) -> None:
    reference, vocabulary = tokenizer
    end = reference.token_to_id("<|im_end|>")
    ids = [end, *reference.encode("ok").ids, end, len(vocabulary), len(vocabulary) + 99, 10**6]
    assert "".join(pieces(vocabulary, ids)) == "ok"
    assert "".join(pieces(vocabulary, [reference.token_to_id("工具 调用")])) == "工具 调用"


def test_an_answer_that_ends_inside_a_character_ends_with_one_replacement_character(
    tokenizer: tuple[Tokenizer, Vocabulary],
) -> None:
    _, vocabulary = tokenizer
    half = [i for i in range(len(vocabulary)) if vocabulary.bytes_of(i) in (b"\xf0", b"\x9f")]
    assert len(half) == 2
    first, second = sorted(half, key=lambda i: vocabulary.bytes_of(i), reverse=True)
    assert pieces(vocabulary, [first, second]) == ["", "", "�"]


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(path))
    with pytest.raises(ValueError, match="only byte-level BPE"):
        Vocabulary.read(path)


def run_stop(strings: list[str], cut: list[str]) -> tuple[str, bool]:
    stop = StopStrings(strings)
    text = "".join(stop.push(piece) for piece in cut)
    return (text, True) if stop.found else (text + stop.flush(), False)


@pytest.mark.parametrize(
    ("strings", "text", "expected"),
    [
        (["END"], "abc END def", "abc "),
        (["END"], "abc EN", "abc EN"),
        (["END"], "EEND", "E"),
        (["aab"], "aaab", "a"),
        (["\n\n", "END"], "one\ntwo\n\nEND", "one\ntwo"),
        (["bc", "abcd"], "xabcd", "xa"),  # "bc" is complete first
        (["c", "abc"], "xabcd", "x"),  # complete together: the longer one
        (["。"], "好的。再见", "好的"),
        (["x"], "x", ""),
        ([], "END", "END"),
    ],
)
def test_the_text_ends_at_the_stop_string_however_it_is_cut(
    strings: list[str], text: str, expected: str
) -> None:
    dice = random.Random(2)
    for _ in range(50):
        cuts = sorted(dice.sample(range(len(text) + 1), dice.randrange(len(text) + 1)))
        cut = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert run_stop(strings, cut) == (expected, expected != text)


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.text("ab", max_size=5), max_size=12),
)
def test_stop_strings_do_not_depend_on_the_cut_and_hold_back_no_more_than_needed(
    strings: list[str], cut: list[str]
) -> None:
    assert run_stop(strings, cut) == run_stop(strings, list("".join(cut)))
    stop, seen, given_out = StopStrings(strings), "", ""
    for piece in cut:
        seen += piece
        given_out += stop.push(piece)
        if stop.found:
            break
        held = seen[len(given_out) :]
        assert seen.startswith(given_out)
        assert not held or any(string.startswith(held) for string in strings)


def test_nothing_follows_a_stop_string() -> None:
    stop = StopStrings(["END"])
    assert [stop.push("a EN"), stop.push("D b"), stop.push("c"), stop.flush()] == ["a ", "", "", ""]
    assert stop.found


def test_confidence_is_the_geometric_mean_of_the_probabilities() -> None:
    confidence = Confidence()
    assert confidence.value == 0.0
    for probability in (0.5, 0.25, 1.0):
        confidence.add(math.log(probability))
    assert confidence.value == pytest.approx((0.5 * 0.25) ** (1 / 3))
    confidence.add(-math.inf)
    assert confidence.value == 0.0
