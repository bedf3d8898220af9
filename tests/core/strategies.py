"""Strategies for what clients send: topics, JSON as text, and frames from valid to senseless."""

import json
from typing import Any

from hypothesis import strategies as st

# Few, and each a prefix or a look-alike of another, so that subscriptions meet.
_levels = st.sampled_from(["a", "b", "aa", "☃", "__proto__"])


def topics() -> st.SearchStrategy[str]:
    """Valid topics that are often related."""
    return st.lists(_levels, min_size=1, max_size=4).map(".".join)


def topic_like() -> st.SearchStrategy[str]:
    """Texts on both sides of each clause of the grammar."""
    odd = st.characters(categories=["Cc", "Cf", "Cs", "Zs", "Zl", "Zp", "Lo", "So", "Mn"])
    short = st.text(st.one_of(st.sampled_from(".aZ9_☃😀 "), odd), max_size=12)
    long = st.builds(
        lambda head, length, tail: head * length + tail,
        st.sampled_from(["a", "é", "☃", "😀"]),
        st.sampled_from([31, 32, 63, 64, 84, 85, 86, 127, 128, 254, 255, 256]),
        st.sampled_from(["", "a", "é", ".a", "\n"]),
    )
    deep = st.builds(
        lambda levels, tail: ".".join(["a"] * levels) + tail,
        st.integers(30, 34),
        st.sampled_from(["", ".", "a"]),
    )
    reserved = st.sampled_from(["$dwsps", "$dwsps.notice", "$dwsps.a.b", "$dwspsx", "a.$dwsps"])
    return st.one_of(short, topics(), long, deep, reserved)


_white_space = st.text(" \t\r\n", max_size=2)

_number_texts = st.one_of(
    st.integers().map(str),
    st.integers(10**29, 10**30 - 1).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(json.dumps),
    st.sampled_from(
        ["-0", "1e999", "-1E+999", "1e-999", "0.10", "1.000000000000000000000000001", "2E0"]
    ),
)

_string_parts = st.one_of(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'),
    st.sampled_from(
        [
            '\\"',
            "\\\\",
            "\\/",
            "\\b",
            "\\n",
            "\\u0000",
            "\\u2603",
            "\\uD83D\\uDE00",
            "\\ud800",
            "\\uDC00",
            "\x7f",
            "\u2028",
            "😀",
        ]
    ),
)

_string_texts = st.lists(_string_parts, max_size=6).map(lambda parts: '"' + "".join(parts) + '"')


def _containers(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    spaced = st.builds(
        lambda before, value, after: before + value + after, _white_space, values, _white_space
    )
    # Names may well come twice.
    names = st.one_of(st.sampled_from(['"a"', '"type"', '"topic"', '"__proto__"']), _string_texts)
    members = st.builds(
        lambda before, name, after, value: f"{before}{name}{after}:{value}",
        _white_space,
        names,
        _white_space,
        spaced,
    )
    return st.one_of(
        st.lists(spaced, max_size=4).map(lambda items: "[" + ",".join(items) + "]"),
        st.lists(members, max_size=4).map(lambda items: "{" + ",".join(items) + "}"),
    )


def json_texts() -> st.SearchStrategy[str]:
    """JSON as somebody else's encoder, or nobody's, might write it."""
    return st.recursive(
        st.one_of(st.sampled_from(["null", "true", "false"]), _number_texts, _string_texts),
        _containers,
        max_leaves=8,
    )


_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


def _signed(length: int) -> st.SearchStrategy[str]:
    return st.sampled_from(["t", "", "x" * length, "x" * (length + 1), "\ud800"])


_requests = st.fixed_dictionaries(
    {},
    optional={
        "type": st.one_of(
            st.sampled_from(["subscribe", "unsubscribe", "publish", "resume", "authenticate"] * 3),
            _values,
        ),
        "topic": st.one_of(topics(), topics(), topic_like(), _values),
        "message": _values,
        "timestamp": st.one_of(
            st.sampled_from(
                ["2020-01-21T17:03:13.625Z", "2020-01-21T17:03:13.625Z\n", "yesterday"]
            ),
            _values,
        ),
        "id": st.one_of(
            st.integers(),
            st.text(max_size=66),
            st.sampled_from([2**53 - 1, 2**53, "", "x" * 64, "x" * 65]),
            _values,
        ),
        "fromPeerServer": st.one_of(st.booleans(), _values),
        "since": st.one_of(
            st.sampled_from(["log:0", "log:1", "", "x" * 128, "x" * 129, "\ud800"]), _values
        ),
        "last": st.one_of(st.integers(-1, 3), st.sampled_from([2**53 - 1, 2**53]), _values),
        "topics": st.one_of(
            st.lists(st.one_of(topics(), topic_like()), max_size=3), st.lists(_values, max_size=2)
        ),
        "key": st.one_of(st.sampled_from(["k", "", "x" * 64, "x" * 65, "\ud800"]), _values),
        "token": st.one_of(_signed(8192), _values),
        "grant": st.one_of(_signed(2048), _values),
        "grants": st.one_of(
            st.dictionaries(topics(), st.one_of(_signed(2048), _values), max_size=2), _values
        ),
        "context": _values,
        "else": _values,
    },
)


@st.composite
def _mutated(draw: st.DrawFn, frames: st.SearchStrategy[str]) -> bytes:
    """A frame with some of its bytes dropped, doubled, replaced or added."""
    data = bytearray(draw(frames).encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 6)))
        data[start:end] = draw(
            st.one_of(
                st.just(b""),
                st.just(bytes(data[start:end]) * 2),
                st.sampled_from(
                    [
                        b"{",
                        b"}",
                        b'"',
                        b"\\",
                        b",",
                        b":",
                        b"[",
                        b"0",
                        b"\\ud800",
                        b"\xff",
                        b"\xef\xbb\xbf",
                    ]
                ),
                st.binary(max_size=3),
            )
        )
    return bytes(data)


def frames() -> st.SearchStrategy[str | bytes]:
    """Text and binary messages: requests, what looks like requests, other JSON, and noise."""
    requests = st.builds(
        lambda request, ensure_ascii: json.dumps(request, ensure_ascii=ensure_ascii),
        _requests,
        st.booleans(),
    )
    return st.one_of(
        requests,
        requests.map(lambda text: text.encode("utf-8", "surrogatepass")),
        _mutated(requests),
        json_texts(),
        st.text(st.characters(), max_size=20),
        st.binary(max_size=40),
    )
