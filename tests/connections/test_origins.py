"""Which web pages may connect: the scope as the servers make it, and the reason or ``None``."""

from collections.abc import Iterator

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.connections.origins import refusal


def scope(
    origin: str | bytes | None = None,
    *,
    host: str = "example.com",
    scheme: str | None = "wss",
    **more: str,
) -> dict[str, object]:
    """A handshake; ``more`` are headers, ``scheme=None`` is how Daphne makes it."""
    headers = [(b"host", host.encode("latin-1"))]
    if origin is not None:
        headers.append((b"origin", origin if isinstance(origin, bytes) else origin.encode()))
    headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in more.items()]
    made: dict[str, object] = {"type": "websocket", "headers": headers}
    if scheme is not None:
        made["scheme"] = scheme
    return made


def is_accepted(origin: str | bytes, allowed: str) -> bool:
    return refusal(scope(origin), [allowed]) is None


class TestLength:
    """An origin that is too long is neither parsed nor logged: ``urlsplit`` caches its arguments."""

    @pytest.mark.parametrize("allowed", [None, ["https://example.com"], ["*"]])
    def test_an_origin(self, allowed: list[str] | None) -> None:
        reason = refusal(scope("https://" + "a" * 1_000_000), allowed)
        assert reason == "its origin has 1000008 characters, and none has more than 300"

    @override_settings(ALLOWED_HOSTS=["*"])
    def test_a_host(self) -> None:
        reason = refusal(scope("https://example.com", host="a" * 1_000_000), None)
        assert reason == "the requested host has 1000000 characters"


class TestAllowedOrigins:
    @pytest.mark.parametrize(
        ("origin", "allowed"),
        [
            ("https://example.com", "https://example.com"),
            ("https://example.com:443", "https://example.com"),
            ("https://example.com", "https://example.com:443"),
            ("http://example.com:80", "http://example.com"),
            ("https://example.com:8443", "https://example.com:8443"),
            ("https://EXAMPLE.com", "https://example.com"),
            ("https://example.com", "HTTPS://Example.COM"),
            ("http://[::1]:8000", "http://[::1]:8000"),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
            ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ],
    )
    def test_the_same_scheme_host_and_port_may_connect(self, origin: str, allowed: str) -> None:
        assert is_accepted(origin, allowed)

    @pytest.mark.parametrize(
        ("origin", "allowed"),
        [
            ("http://example.com", "https://example.com"),
            ("https://example.com", "http://example.com"),
            ("https://example.com:8443", "https://example.com"),
            ("https://example.com:80", "https://example.com"),
            ("https://example.com:0", "https://example.com"),
            ("https://www.example.com", "https://example.com"),
            ("https://example.com", "https://www.example.com"),
            ("https://example.com.evil.com", "https://example.com"),
            ("https://evilexample.com", "https://example.com"),
            ("https://example.com.", "https://example.com"),
            ("http://[::1]:8000", "http://[::2]:8000"),
            ("https://example.com@evil.com", "https://example.com"),
            ("https://evil.com@example.com", "https://example.com"),
            ("https://example.com/", "https://example.com"),
            ("https://example.com/path", "https://example.com"),
            ("https://example.com?", "https://example.com"),
            ("https://example.com#", "https://example.com"),
            ("//example.com", "https://example.com"),
            ("example.com", "https://example.com"),
            ("https://example.com\\@evil.com", "https://example.com"),
            (" https://example.com", "https://example.com"),
            ("https://example.com ", "https://example.com"),
            ("https://example.com https://evil.com", "https://example.com"),
            ("https://example.com, https://evil.com", "https://example.com"),
            ("https://exam\tple.com", "https://example.com"),
            ("https://*", "https://example.com"),
            ("null", "https://example.com"),
            ("", "https://example.com"),
            (b"\xff\xfe", "https://example.com"),
        ],
    )
    def test_anything_else_is_refused(self, origin: str | bytes, allowed: str) -> None:
        assert not is_accepted(origin, allowed)

    def test_each_of_several_may_connect(self) -> None:
        allowed = ["https://one.example", "https://two.example:8443"]
        assert refusal(scope("https://one.example"), allowed) is None
        assert refusal(scope("https://two.example:8443"), allowed) is None
        assert refusal(scope("https://three.example"), allowed) is not None

    def test_an_empty_list_refuses_every_page_its_own_included(self) -> None:
        assert refusal(scope("https://example.com"), []) is not None

    @pytest.mark.parametrize("origin", ["https://anywhere.example", "null", "", "file://", b"\xff"])
    def test_a_star_takes_every_page(self, origin: str | bytes) -> None:
        assert refusal(scope(origin), ["https://example.com", "*"]) is None

    def test_the_reason_names_the_origin_and_the_setting(self) -> None:
        assert refusal(scope("https://evil.example"), ["https://example.com"]) == (
            "origin 'https://evil.example' is not in DWSPS['ALLOWED_ORIGINS']"
        )

    def test_the_reason_keeps_a_line_break_out_of_the_log(self) -> None:
        reason = refusal(
            scope(b"https://evil.example\r\nINFO all is well"), ["https://example.com"]
        )
        assert reason is not None
        assert "\n" not in reason

    def test_the_host_asked_for_does_not_matter(self) -> None:
        with override_settings(ALLOWED_HOSTS=[]):
            assert (
                refusal(scope("https://example.com", host="10.0.0.1"), ["https://example.com"])
                is None
            )


class TestWithoutOrigin:
    @pytest.mark.parametrize("allowed", [None, [], ["https://example.com"], ["*"]])
    def test_a_client_that_is_no_browser_passes(self, allowed: list[str] | None) -> None:
        with override_settings(ALLOWED_HOSTS=[]):
            assert refusal(scope(None), allowed) is None
            assert refusal({"type": "websocket", "headers": []}, allowed) is None


class TestSameOrigin:
    @pytest.fixture(autouse=True)
    def our_hosts(self) -> Iterator[None]:
        with override_settings(ALLOWED_HOSTS=["example.com", "[::1]"]):
            yield

    @pytest.mark.parametrize(
        ("origin", "host", "scheme"),
        [
            ("https://example.com", "example.com", "wss"),
            ("https://example.com", "EXAMPLE.com", "wss"),
            ("https://EXAMPLE.com", "example.com", "wss"),
            ("https://example.com", "example.com:443", "wss"),
            ("http://example.com", "example.com", "ws"),
            ("http://example.com:8000", "example.com:8000", "ws"),
            ("http://[::1]:8000", "[::1]:8000", "ws"),
        ],
    )
    def test_the_servers_own_pages_may_connect(self, origin: str, host: str, scheme: str) -> None:
        assert refusal(scope(origin, host=host, scheme=scheme), None) is None

    @pytest.mark.parametrize(
        ("origin", "host", "scheme"),
        [
            ("http://example.com", "example.com", "wss"),
            ("https://example.com", "example.com", "ws"),
            ("http://example.com:8000", "example.com:8001", "ws"),
            ("http://example.com", "example.com:8000", "ws"),
            ("http://evil.example", "example.com", "ws"),
            ("null", "example.com", "ws"),
            ("", "example.com", "ws"),
            ("example.com", "example.com", "ws"),
        ],
    )
    def test_every_other_page_is_refused(self, origin: str, host: str, scheme: str) -> None:
        assert refusal(scope(origin, host=host, scheme=scheme), None) is not None

    def test_the_reason_names_both(self) -> None:
        assert refusal(scope("https://evil.example"), None) == (
            "origin 'https://evil.example' is not the server's own, 'https://example.com'"
        )
        assert refusal(scope("http://[::1]:8000"), None) == (
            "origin 'http://[::1]:8000' is not the server's own, 'https://example.com'"
        )

    @pytest.mark.parametrize("origin", ["http://example.com", "https://example.com"])
    def test_without_a_scheme_known_both_schemes_are_the_servers_own(self, origin: str) -> None:
        """Daphne tells none."""
        assert refusal(scope(origin, scheme=None), None) is None

    @pytest.mark.parametrize(
        "origin",
        ["http://evil.example", "http://example.com:8000", "https://example.com:80", "null"],
    )
    def test_without_a_scheme_known_host_and_port_are_still_compared(self, origin: str) -> None:
        assert refusal(scope(origin, scheme=None), None) is not None

    def test_a_connection_without_a_host_has_no_own_origin(self) -> None:
        asked = {"headers": [(b"origin", b"https://example.com")], "scheme": "wss"}
        assert refusal(asked, None) is not None


class TestBehindProxy:
    @pytest.fixture(autouse=True)
    def proxy(self) -> Iterator[None]:
        told = ("HTTP_X_FORWARDED_PROTO", "https")
        with override_settings(ALLOWED_HOSTS=["example.com"], SECURE_PROXY_SSL_HEADER=told):
            yield

    @pytest.mark.parametrize("scheme", ["ws", None])
    def test_the_scheme_is_the_one_that_the_proxy_tells(self, scheme: str | None) -> None:
        def ask(origin: str, told: str) -> str | None:
            return refusal(scope(origin, scheme=scheme, x_forwarded_proto=told), None)

        assert ask("https://example.com", "https") is None
        assert ask("https://example.com", "https, http") is None
        assert ask("http://example.com", "http") is None
        assert ask("http://example.com", "https") is not None
        assert ask("https://example.com", "http") is not None
        assert ask("https://example.com", "http, https") is not None

    def test_without_the_header_it_is_the_servers(self) -> None:
        assert refusal(scope("https://example.com", scheme="wss"), None) is None
        assert refusal(scope("https://example.com", scheme="ws"), None) is not None

    @override_settings(USE_X_FORWARDED_HOST=True, USE_X_FORWARDED_PORT=True)
    def test_host_and_port_are_those_that_the_proxy_tells_where_django_believes_it(self) -> None:
        def ask(origin: str, **told: str) -> str | None:
            return refusal(scope(origin, host="backend:8001", **told), None)

        assert ask("https://example.com", x_forwarded_host="example.com") is None
        assert ask("https://backend:8001", x_forwarded_host="example.com") is not None
        told = {"x_forwarded_host": "example.com", "x_forwarded_port": "8443"}
        assert ask("https://example.com:8443", **told) is None
        assert ask("https://example.com", **told) is not None

    def test_host_and_port_of_a_client_are_not_believed(self) -> None:
        told = scope("https://example.com", host="other.com", x_forwarded_host="example.com")
        assert refusal(told, None) is not None

    @override_settings(SECURE_PROXY_SSL_HEADER=None)
    def test_the_header_of_a_client_is_not_believed(self) -> None:
        told = scope("https://example.com", scheme="ws", x_forwarded_proto="https")
        assert refusal(told, None) is not None


class TestAllowedHosts:
    """A name of an attacker's own that points to this server makes the page and the server one origin."""

    @override_settings(ALLOWED_HOSTS=["example.com"])
    def test_a_host_that_is_not_ours_has_no_own_origin(self) -> None:
        assert refusal(
            scope("http://rebound.example", host="rebound.example", scheme="ws"), None
        ) == ("the requested host, 'rebound.example', is not in ALLOWED_HOSTS")

    @override_settings(ALLOWED_HOSTS=[".example.com"])
    def test_patterns_are_djangos(self) -> None:
        assert refusal(scope("https://a.example.com", host="a.example.com"), None) is None
        assert refusal(scope("https://example.org", host="example.org"), None) is not None

    @override_settings(ALLOWED_HOSTS=["*"])
    def test_a_star_takes_every_host(self) -> None:
        assert refusal(scope("https://any.example", host="any.example"), None) is None
        assert refusal(scope("https://any.example", host="other.example"), None) is not None

    @pytest.mark.parametrize(
        "host", ["localhost:8000", "app.localhost:8000", "127.0.0.1:8000", "[::1]:8000"]
    )
    def test_with_debug_on_this_machine_needs_no_setting(self, host: str) -> None:
        asked = scope(f"http://{host}", host=host, scheme=None)
        with override_settings(DEBUG=True, ALLOWED_HOSTS=[]):
            assert refusal(asked, None) is None
        with override_settings(DEBUG=False, ALLOWED_HOSTS=[]):
            assert refusal(asked, None) is not None
        with override_settings(DEBUG=True, ALLOWED_HOSTS=["example.com"]):
            assert refusal(asked, None) is not None

    @override_settings(DEBUG=True, ALLOWED_HOSTS=[])
    def test_with_debug_on_another_host_is_still_refused(self) -> None:
        assert (
            refusal(scope("http://rebound.example", host="rebound.example", scheme=None), None)
            is not None
        )


header = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(str.encode),
    st.text("htps:/[]@.%*\\1é#? \t", max_size=30).map(lambda text: f"https://{text}".encode()),
)


@given(
    origin=header,
    host=header,
    forwarded=header,
    scheme=st.sampled_from(["ws", "wss", "http", "", None]),
    allowed=st.sampled_from([None, (), ("https://example.com",), ("*",)]),
)
@override_settings(ALLOWED_HOSTS=["*"], SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"))
def test_no_header_makes_it_raise(
    origin: bytes,
    host: bytes,
    forwarded: bytes,
    scheme: str | None,
    allowed: tuple[str, ...] | None,
) -> None:
    asked = {
        "headers": [(b"host", host), (b"origin", origin), (b"x-forwarded-proto", forwarded)],
        "scheme": scheme,
    }
    reason = refusal(asked, allowed)
    assert reason is None or reason


@given(origin=header)
def test_only_a_spelling_of_the_allowed_origin_is_accepted(origin: bytes) -> None:
    if refusal(scope(origin), ["https://example.com"]) is None:
        assert origin.lower() in (
            b"https://example.com",
            b"https://example.com:443",
            b"https://example.com:",
        )
