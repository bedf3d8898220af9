"""Validation of the URL of a peer, and its token."""

import re

import pytest
from django.core.exceptions import ValidationError
from hypothesis import example, given
from hypothesis import strategies as st

from dwsps_channels.models.urls import split_token, validate_url, with_token

SECRET = "correct-horse-battery-staple"


@pytest.mark.parametrize(
    "url",
    [
        "ws://b.example",
        "wss://b.example/ws/pubsub/",
        "ws://127.0.0.1:8001/",
        "ws://[::1]:8001/",
        "ws://10.0.0.7/",
        "ws://b.example/?room=5&x",
        "ws://b.example/?room=5&token=" + SECRET,
        "WSS://b.example/",
    ],
)
def test_a_link_may_connect_to(url: str) -> None:
    validate_url(url)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", "scheme"),
        ("b.example", "scheme"),
        ("http://b.example/", "scheme"),
        ("https://b.example/", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("ws:///path", "url"),
        ("ws://", "url"),
        ("ws://b.example:0x50/", "url"),
        ("ws://b.example:99999/", "url"),
        ("ws://[::1/", "url"),
        ("ws://b .example/", "url"),
        ("ws://b.example/\n", "url"),
        ("ws://user@b.example/", "userinfo"),
        ("ws://user:password@b.example/", "userinfo"),
        ("ws://@b.example/", "userinfo"),
        ("ws://b.example/#", "fragment"),
        ("ws://b.example/?token=x#part", "fragment"),
        ("ws://b.example/?access_token=x", "credential"),
        ("ws://b.example/?a=b&API-key=x", "credential"),
        ("ws://b.example/?%70assword=x", "credential"),
        ("ws://b.example/?Token=x", "credential"),
        ("ws://b.example/?key=x", "credential"),
        ("ws://169.254.169.254/", "link_local"),
        ("ws://[fe80::1]/", "link_local"),
        ("ws://[fe80::1%25eth0]/", "link_local"),
        ("ws://[::ffff:169.254.169.254]/", "link_local"),
        ("ws://2852039166/", "link_local"),
        ("ws://0xa9fea9fe/", "link_local"),
        ("ws://0251.0376.0251.0376/", "link_local"),
        ("ws://169.254.43518/", "link_local"),
    ],
)
def test_a_link_does_not_connect_to(url: str, code: str) -> None:
    with pytest.raises(ValidationError) as caught:
        validate_url(url)
    assert caught.value.code == code


@given(
    st.one_of(
        st.text(),
        st.from_regex(r"wss?://[^/]{0,20}/.{0,20}"),
        st.builds(
            "{}://{}{}{}".format,
            st.sampled_from(["ws", "wss"]),
            st.text(st.sampled_from("[]:%@.0x9ab\u0661/\\ \n"), max_size=20),
            st.sampled_from(["", ":", ":\u0663", ":-1", ":99999"]),
            st.text(st.sampled_from("?&=#token%/"), max_size=20),
        ),
    )
)
@example("ws://\ud800/")
@example("ws://[v1.x]/")
@example("ws://x/?" + "&" * 1000)
def test_whatever_is_typed_as_a_url_is_valid_or_a_validation_error(url: str) -> None:
    try:
        validate_url(url)
    except ValidationError:
        pass
    else:
        assert re.match("wss?://", url, re.I)
        without, _ = split_token(url)
        assert split_token(without) == (without, None)


@given(st.text(st.sampled_from("?&=#token%74/:ab +"), max_size=40))
def test_nothing_is_left_of_a_token_that_was_taken_out(text: str) -> None:
    without, token = split_token("ws://b.example/" + text)
    assert split_token(without) == (without, None)
    assert (token is None) == (without == "ws://b.example/" + text)


@given(
    st.sampled_from(["ws://b.example", "ws://b.example/", "ws://b.example/?a=%20b&c"]),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1),
)
def test_a_token_that_is_put_back_is_the_one_that_was_taken_out(url: str, token: str) -> None:
    assert split_token(with_token(url, token)) == (url, token)


def test_a_url_error_repeats_no_password() -> None:
    for url in ("ws://me:hunter2hunter2@b/", "ws://b:hunter2hunter2/", "ws://b/?password=hunter2"):
        with pytest.raises(ValidationError) as caught:
            validate_url(url)
        assert "hunter2" not in str(caught.value)
