import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.protocol.depth import is_deeper
from tests.core.strategies import json_texts


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


_strings = st.text(st.sampled_from('[]{}"\\a☃\ud800'), max_size=6)

_nested = st.recursive(
    st.one_of(_strings, st.integers()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(_strings, inner, max_size=3)
    ),
    max_leaves=20,
)


@given(_nested, st.booleans(), st.integers(1, 6))
def test_it_counts_what_a_decoder_finds(value: Any, ascii: bool, levels: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii)
    assert is_deeper(text, levels) == (depth(value) > levels)
    assert is_deeper(text.encode("utf-8", "replace"), levels) == (depth(value) > levels)


@given(json_texts(), st.integers(1, 4))
def test_whoever_wrote_it(text: str, levels: int) -> None:
    # Names may come twice, and the first one's value counts as well.
    found = json.loads(text, object_pairs_hook=lambda pairs: [value for _, value in pairs])
    assert is_deeper(text, levels) == (depth(found) > levels)


@pytest.mark.parametrize(
    "text", ["]" * 300, "[" * 300, '"' * 300 + "[" * 300, "\\" * 301 + '"' + "{" * 300, ""]
)
def test_what_is_no_json_does_no_harm(text: str) -> None:
    is_deeper(text, 128)
    is_deeper(text.encode(), 128)
