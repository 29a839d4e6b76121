"""What the client writes on the wire, from text, chats, media and options."""

from __future__ import annotations

import base64
import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from qwen3vl_client.errors import InvalidImage, InvalidMessages, InvalidOption, InvalidVideo
from qwen3vl_client.request import MODEL, build, goodbye
from qwen3vl_client.request import Options as ClientOptions

from ensemble import contract
from ensemble.options import CANCEL, Options

PNG = b"\x89PNG picture"


def tensors(request: Any) -> dict[str, list[bytes]]:
    found = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        items, position = [], 0
        while position < len(raw):
            (length,) = struct.unpack_from("<I", raw, position)
            items.append(raw[position + 4 : position + 4 + length])
            position += 4 + length
        assert list(tensor.shape) == [len(items)]
        assert tensor.datatype == "BYTES"
        found[tensor.name] = items
    return found


def chat_of(request: Any) -> Any:
    return json.loads(tensors(request)["messages"][0])


def parameters(request: Any) -> dict[str, Any]:
    return {n: getattr(p, p.WhichOneof("parameter_choice")) for n, p in request.parameters.items()}


def test_names_of_model_inputs_and_options_are_those_of_the_contract() -> None:
    request = build("Hi", images=[PNG], videos=[b"mp4"])
    assert request.model_name == MODEL == contract.ENTRY
    assert list(tensors(request)) == [tensor.name for tensor in contract.REQUEST]
    # The key is the client's own business.
    assert ClientOptions.__annotations__.keys() == Options.__dataclass_fields__.keys() - {"cancel_key"}


def test_goodbye_names_the_key_of_the_request_and_asks_nothing() -> None:
    request = build("Hi", images=[PNG], request_id="q")
    farewell = goodbye(request)
    key = parameters(request)["cancel_key"]
    assert parameters(farewell) == {"cancel": key, "triton_enable_empty_final_response": True}
    assert (farewell.model_name, farewell.id, tensors(farewell)) == (MODEL, "q-goodbye", {"messages": [b""]})
    assert Options.from_parameters({"cancel_key": key}).cancel_key == key
    assert CANCEL in parameters(farewell)


def test_plain_question_is_one_user_message_without_media_tensors() -> None:
    request = build("我的手机打不开，怎么办？")
    assert chat_of(request) == [{"role": "user", "content": "我的手机打不开，怎么办？"}]
    assert list(tensors(request)) == ["messages"]
    assert parameters(request) == {"triton_enable_empty_final_response": True}


def test_media_of_a_plain_question_stand_before_the_text() -> None:
    request = build("Compare.", images=[b"a", b"b"], videos=b"c")
    kinds = [part["type"] for part in chat_of(request)[0]["content"]]
    assert kinds == ["image", "image", "video", "text"]
    assert tensors(request)["images"] == [b"a", b"b"]
    assert tensors(request)["videos"] == [b"c"]


def test_media_inside_messages_travel_in_order_and_leave_bare_parts() -> None:
    uri = "data:image/png;base64," + base64.b64encode(b"second").decode()
    request = build(
        [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": b"first"},
                    {"type": "text", "text": "and"},
                    {"type": "image_url", "image_url": {"url": uri, "detail": "high"}},
                    {"type": "video", "video": b"clip"},
                ],
            },
            {"role": "assistant", "content": "Two."},
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": uri}, {"type": "text", "text": "?"}],
            },
        ]
    )
    assert tensors(request)["images"] == [b"first", b"second", b"second"]
    assert tensors(request)["videos"] == [b"clip"]
    assert chat_of(request)[1]["content"] == [
        {"type": "image"},
        {"type": "text", "text": "and"},
        {"type": "image"},
        {"type": "video"},
    ]
    assert chat_of(request)[3]["content"][0] == {"type": "image"}


def test_bare_parts_take_the_images_of_the_argument_in_turn() -> None:
    content = [{"type": "image"}, {"type": "image", "image": b"inline"}, {"type": "image"}]
    request = build([{"role": "user", "content": content}], images=[b"1", b"2", b"left over"])
    assert tensors(request)["images"] == [b"1", b"inline", b"2", b"left over"]


def test_callers_messages_are_not_changed() -> None:
    messages = [{"role": "user", "content": [{"type": "image", "image": b"x"}]}]
    build(messages)
    assert messages == [{"role": "user", "content": [{"type": "image", "image": b"x"}]}]


def test_what_only_the_server_can_judge_passes_unchanged() -> None:
    odd = [
        {"role": "wizard", "content": None, "extra": 1},
        {"role": "user", "content": [{"type": "smell"}, 3]},
    ]
    assert chat_of(build(odd)) == odd


def test_image_may_be_path_text_bytes_file_or_data_uri(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(PNG)
    uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
    with path.open("rb") as file:
        forms: list[Any] = [path, str(path), PNG, bytearray(PNG), memoryview(PNG), file, uri]
        assert tensors(build("?", images=forms))["images"] == [PNG] * len(forms)


def test_lone_image_needs_no_list(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(PNG)
    with path.open("rb") as file:
        for form in (path, str(path), PNG, file, Image.new("L", (2, 2))):
            assert len(tensors(build("?", images=form))["images"]) == 1


def test_data_uri_without_base64_is_percent_decoded() -> None:
    assert tensors(build("?", images="data:image/svg+xml,%3Csvg%3E"))["images"] == [b"<svg>"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_pil_picture_travels_as_a_lossless_png(mode: str) -> None:
    picture = (
        Image.linear_gradient("L").convert("RGB").convert(mode) if mode != "I;16" else Image.new(mode, (3, 5))
    )
    picture.info["exif"] = b"Exif\x00\x00stale"
    (file,) = tensors(build("?", images=picture))["images"]
    with Image.open(io.BytesIO(file)) as read:
        assert read.format == "PNG"
        assert "exif" not in read.info
        expected = picture if mode not in ("CMYK", "YCbCr") else picture.convert("RGB")
        assert read.convert("RGBA").tobytes() == expected.convert("RGBA").tobytes()


@pytest.mark.parametrize("uri", ["data:image/png;base64", "data:image/png;base64,a", "data:;base64,???="])
def test_broken_data_uri_is_refused_with_the_field(uri: str) -> None:
    with pytest.raises(InvalidImage, match=r"images\[1\]") as caught:
        build("?", images=[PNG, uri])
    assert caught.value.field == "images[1]"


def test_addresses_of_the_web_are_refused_with_advice() -> None:
    with pytest.raises(InvalidImage, match="download it first"):
        build("?", images="https://example.org/a.png")
    with pytest.raises(InvalidVideo, match="download it first"):
        build([{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "http://a/b.mp4"}}]}])


def test_half_a_character_is_refused() -> None:
    with pytest.raises(InvalidMessages, match="valid Unicode"):
        build("half: \ud83d")


def test_missing_file_is_an_ordinary_file_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.png"):
        build("?", images=tmp_path / "no.png")


@pytest.mark.parametrize("wrong", [3, object(), [3.5]])
def test_image_of_a_wrong_type_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="allowed: path, bytes, PIL picture"):
        build("?", images=wrong)


def test_message_of_a_wrong_type_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="mappings"):
        build(["Hi"])  # type: ignore[list-item]


def test_options_keep_their_types_and_none_is_left_out() -> None:
    request = build(
        "?",
        options={
            "max_tokens": 5, "temperature": 0.5, "logprobs": True, "enhance": "auto", "top_p": None,
            "stop": ["\n\n", "终"], "seed": (1 << 63) - 1, "from_the_future": -1,
        },
    )  # fmt: skip
    chosen = {name: p.WhichOneof("parameter_choice") for name, p in request.parameters.items()}
    assert chosen == {
        "triton_enable_empty_final_response": "bool_param",
        "max_tokens": "int64_param",
        "temperature": "double_param",
        "logprobs": "bool_param",
        "enhance": "string_param",
        "stop": "string_param",
        "seed": "int64_param",
        "from_the_future": "int64_param",
    }
    assert json.loads(request.parameters["stop"].string_param) == ["\n\n", "终"]


def test_server_reads_the_same_options_back() -> None:
    options = Options(
        max_tokens=9, temperature=0.25, top_k=3, seed=1, stop=("a", "b"), fps=2.0, logprobs=True
    )
    sent = parameters(build("?", options={**options.to_parameters(), "stop": ["a", "b"]}))
    assert Options.from_parameters(sent) == options


def test_lone_stop_string_becomes_a_list() -> None:
    assert json.loads(parameters(build("?", options={"stop": "END"}))["stop"]) == ["END"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1 << 63, -(1 << 63) - 1, {"a": 1}, b"x"])
def test_value_that_no_parameter_can_hold_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidOption) as caught:
        build("?", options={"top_p": value})
    assert caught.value.field == "top_p"


def test_request_id_is_random_unless_given() -> None:
    assert build("?", request_id="mine").id == "mine"
    assert len({build("?").id for _ in range(100)}) == 100
