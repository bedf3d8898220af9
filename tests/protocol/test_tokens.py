"""The form of tokens."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.models.secrets import generate
from dwsps_channels.protocol.messages import MAX_TOKEN
from dwsps_channels.protocol.tokens import PREFIX, is_signed, is_well_formed


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


JWT = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'user_id': 1})}.c2lnbmF0dXJl"


@pytest.mark.parametrize("token", ["a", "~" * MAX_TOKEN, JWT, "a+/=.-_:!"])
def test_a_token_is_visible_ascii(token: str) -> None:
    assert is_well_formed(token)


@pytest.mark.parametrize(
    "token", ["", " ", "a b", "a\n", "\x00", "é", "\ud800", "\x7f", "x" * (MAX_TOKEN + 1)]
)
def test_anything_else_is_none(token: str) -> None:
    assert not is_well_formed(token)


@pytest.mark.parametrize(
    "token",
    [
        PREFIX,
        f"{PREFIX}anything",
        JWT,
        f"{part({'alg': 'none'})}..",
        f"{part({'enc': 'A128GCM', 'alg': 'dir'})}....",
        f"{part({'alg': 'ES256', 'kid': 'ü>?'})}.a.b",
    ],
)
def test_what_is_signed_has_a_form_of_its_own(token: str) -> None:
    assert is_signed(token)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "secret",
        "DWSPST_abc",
        "9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b",
        "eyJ",
        "a.b.c",
        "..",
        f"{part({'typ': 'JWT'})}.a.b",
        f"{part(['alg'])}.a.b",
        f"{part({'alg': 'HS256'})}.a",
        f"{part({'alg': 'HS256'})}.a.b.c",
        f"{part({'alg': 'x' * 4000})}.a.b",
        "[" * 1500 + ".a.b",
        base64.urlsafe_b64encode(b"[" * 1500).decode() + ".a.b",
        base64.urlsafe_b64encode(b"\xff\xfe").decode() + ".a.b",
    ],
)
def test_what_may_be_a_secret_has_not(token: str) -> None:
    assert not is_signed(token)


@given(st.text() | st.from_regex(r"\A[!-~]{0,40}(\.[!-~]{0,20}){0,5}\Z"))
def test_no_text_trips_it(text: str) -> None:
    assert is_signed(text) in (True, False)
    assert is_well_formed(text) in (True, False)


def test_a_generated_secret_is_never_taken_for_a_token() -> None:
    assert not any(is_signed(generate()) for _ in range(1000))
