"""Private data in text: what is masked, and what must stay."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.guard.private import find, is_card, is_id, mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("身份证11010519491231002X，谢谢", "身份证[ID]，谢谢"),
        ("身份证 11010519491231002x", "身份证 [ID]"),
        ("110105 19491231 002X", "[ID]"),
        ("１１０１０５１９４９１２３１００２Ｘ", "[ID]"),
        ("卡号6222 0212 3456 7890 128在这里", "卡号[CARD]在这里"),
        ("card 4111-1111-1111-1111.", "card [CARD]."),
        ("4111111111111111", "[CARD]"),
        ("打13812345678找我", "打[PHONE]找我"),
        ("+86 138 1234 5678", "[PHONE]"),
        ("138-1234-5678", "[PHONE]"),
        ("call +1 415 555 2671 now", "call [PHONE] now"),
        ("call 010-87654321", "call [PHONE]"),
        ("mail li.ming+shop@mail.example.cn please", "mail [EMAIL] please"),
        ("ｌｉ＠ｅｘａｍｐｌｅ．ｃｏｍ", "[EMAIL]"),
        ("IMEI 356938035643809", "IMEI [CARD]"),
        ("13812345678和13912345678", "[PHONE]和[PHONE]"),
        ("card 6222021234567890thanks", "card [NUMBER]thanks"),
        ("11010519491231002X13812345678", "[ID][PHONE]"),
        ("6222\u200b0212\u20093456_7890", "[NUMBER]"),
        ("110105 1949-12-31 002X", "[ID]"),
    ],
)
def test_private_data_is_masked(text: str, masked: str) -> None:
    assert mask(text).text == masked
    assert mask(text).spans == masked.count("[")


@pytest.mark.parametrize(
    "text",
    [
        "错误代码 4071",
        "订单号 20231201123456",
        "2023-12-01 12:30:45",
        "价格 1299.00 元，原价 1599",
        "iPhone 15 Pro Max 256GB",
        "版本 10.0.19045.3693",
        "0x0000007B 蓝屏",
        "电量 17%，温度 45 度",
        "192.168.1.1",
        "请拨打 400-123-4567",
        "10086",
        "@support 你好",
        "1 2 3 4 5 6",
        "12345678901",
        "保修 2023.12.01-2024.11.30",
        "from 2023-12-01 to 2024-11-30",
        "2023-12-01 - 2024-11-30",
    ],
)
def test_ordinary_numbers_stay(text: str) -> None:
    assert mask(text) == type(mask(text))(text, 0)


def test_a_wrong_check_digit_is_masked_all_the_same() -> None:
    assert mask("110105194912310021").spans == 1
    assert mask("4111111111111112").text == "[NUMBER]"


@pytest.mark.parametrize(
    ("number", "right"), [("11010519491231002X", True), ("110105194912310021", False), ("x", False)]
)
def test_the_check_digit_of_an_identity_number(number: str, right: bool) -> None:
    assert is_id(number) is right


@pytest.mark.parametrize(
    ("number", "right"), [("4111111111111111", True), ("4111111111111112", False), ("411", False)]
)
def test_the_check_digit_of_a_card(number: str, right: bool) -> None:
    assert is_card(number) is right


@pytest.mark.parametrize("piece", ["a", "a.", "a@", "1 ", "1_", "+1", "13812345678 ", "a@b.cd "])
def test_the_time_of_a_long_text_is_that_of_its_length(piece: str) -> None:
    """A search that begins anew at every letter, or looks through all that was found, would take minutes."""
    start = time.process_time()
    mask(piece * (1_000_000 // len(piece)))
    assert time.process_time() - start < 10


@given(st.text(alphabet="0123456789Xx -+@.a中", max_size=60))
def test_masking_leaves_nothing_to_mask(text: str) -> None:
    assert find(mask(text).text) == []


@given(
    st.from_regex(r"[1-9][0-9]{16}[0-9X]", fullmatch=True),
    st.sampled_from(["", "号码", "n: "]),
    st.sampled_from(["", "。", " ok"]),
)
def test_every_eighteen_digits_are_found_whatever_stands_around(number: str, before: str, after: str) -> None:
    masked = mask(before + number + after)
    assert number not in masked.text
    assert masked.text.startswith(before)
    assert masked.text.endswith(after)
