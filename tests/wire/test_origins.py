"""Web pages of other sites are refused at the handshake, by every server."""

import pytest
from websockets.exceptions import InvalidStatus

from tests.processes import Server, ServerFactory
from tests.wire.client import connected


async def is_refused(server: Server, origin: str | None, **options: object) -> bool:
    """Return whether a page of this origin is refused; assert that an accepted one works."""
    headers = {} if origin is None else {"Origin": origin}
    try:
        async with connected(server.url, additional_headers=headers, **options) as client:
            await client.subscribe("news")
    except InvalidStatus as error:
        # 400: autobahn, and so Daphne, looks at the form of an origin before it asks us.
        return error.response.status_code in (400, 403)
    return False


async def test_own_page_connects_and_another_site_s_is_refused(server: Server) -> None:
    assert not await is_refused(server, server.http_url)
    for origin in (
        "http://evil.example",
        f"https://127.0.0.1:{server.port + 1}",
        "http://127.0.0.1",
        f"{server.http_url}.evil.example",
        "null",
        "",
    ):
        assert await is_refused(server, origin), origin


async def test_client_without_an_origin_is_no_browser_and_connects(server: Server) -> None:
    assert not await is_refused(server, None)


async def test_refusal_is_logged_with_its_reason(server: Server) -> None:
    assert await is_refused(server, "http://evil.example")
    assert "origin 'http://evil.example' is not the server's own" in server.log


async def test_named_origins_connect_and_no_others(
    start_server: ServerFactory, server_kind: str
) -> None:
    server = start_server(
        server_kind, env={"DWSPS_ALLOWED_ORIGINS": "https://app.example,http://localhost:3000"}
    )
    assert not await is_refused(server, "https://app.example")
    assert not await is_refused(server, "http://localhost:3000")
    for origin in (
        "http://app.example",
        "https://app.example:8443",
        "http://localhost",
        server.http_url,
    ):
        assert await is_refused(server, origin), origin


@pytest.mark.parametrize("origin", ["http://[", "%00", "http://a:b:c", "x" * 5000])
async def test_nonsense_for_an_origin_is_refused_and_harms_nobody(
    server: Server, origin: str
) -> None:
    assert await is_refused(server, origin)
    assert "Traceback" not in server.log
