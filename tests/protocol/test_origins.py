"""The grammar of origins."""

import pytest

from dwsps_channels.protocol.origins import is_origin, parse


class TestIsOrigin:
    @pytest.mark.parametrize(
        "text", ["https://example.com", "http://[::1]", "HTTP://A.b:1", "app://local"]
    )
    def test_scheme_host_and_perhaps_a_port_are_one(self, text: str) -> None:
        assert is_origin(text)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "*",
            "null",
            "example.com",
            "https://",
            "https:///path",
            "https://*.example.com",
            "https://example.com/",
            "https://a@example.com",
            "https://example.com:port",
            "https://example.com:65536",
            "https://example.com:0",
            "https://[::1",
            "https://[not-an-address]",
            "https://example.com ",
            "https://bücher.example",
        ],
    )
    def test_all_else_is_none(self, text: str) -> None:
        assert not is_origin(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://example.com", "https://example.com"),
        ("https://example.com:443", "https://example.com"),
        ("http://example.com:8000", "http://example.com:8000"),
        ("http://[::1]:80", "http://[::1]"),
        ("app://local", "app://local"),
    ],
)
def test_an_origin_is_shown_without_its_default_port(text: str, shown: str) -> None:
    assert str(parse(text)) == shown
