import json
import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, Struct

from dwsps_channels.protocol.surrogates import decode, is_text
from tests.core.strategies import json_texts


class Message(Struct):
    message: Raw
    topic: str = ""


one = msgspec.json.Decoder(Message)
many = msgspec.json.Decoder(list[Message])

# Whatever follows whatever: escapes of both halves, of the backslash, and what looks like an escape.
_pieces = st.lists(
    st.sampled_from([r"\ud83d", r"\uDE00", r"\\", r"\"", r"\n", "ud83d", "ude00", "☃", "x"]),
    max_size=8,
).map("".join)


@given(json_texts())
def test_what_it_reads_is_kept_byte_for_byte(text: str) -> None:
    for data in (f'{{"message":{text}}}', f'{{"message":{text}}}'.encode()):
        assert bytes(decode(one, data).message) == text.encode()


@given(_pieces, _pieces)
def test_texts_are_what_the_standard_library_reads(message: str, topic: str) -> None:
    found = decode(one, f'{{"message":"{message}","topic":"{topic}"}}')
    assert bytes(found.message).decode() == f'"{message}"'
    assert found.topic == json.loads(f'"{topic}"')
    assert is_text(found.topic) == all(unicodedata.category(each) != "Cs" for each in found.topic)


@given(st.lists(json_texts(), max_size=4))
def test_so_it_reads_a_list(texts: list[str]) -> None:
    data = "[" + ",".join(f'{{"message":{text}}}' for text in texts) + "]"
    assert [bytes(each.message).decode() for each in decode(many, data)] == texts


@pytest.mark.parametrize(
    "data",
    [
        "",
        r'{"message":\ud800}',
        r'{"message":"\ud800',
        r'{"message":"\ud8"}',
        r'{"message":"\ud800\udc"}',
        r'{"message":"\ud800","topic":5}',
        '{"message":"\\ud800\t"}',
    ],
)
def test_what_is_no_json_is_refused_as_ever(data: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(one, data)
