"""A project's other consumers on the fast lane, and ASGI as uvicorn has it."""

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.connections.fastlane.raw import CLOSE, TEXT, close, frame, raw_client
from tests.processes import Server, ServerFactory, wait_until, wait_until_async
from tests.wire.client import connected


class TestEcho:
    @pytest.mark.parametrize("path", ["/echo/", "/blocking/"])
    async def test_text_and_binary_come_back_in_order(self, server: Server, path: str) -> None:
        async with connect(server.url + path) as client:
            for number in range(200):
                await client.send(f"ü{number}")
                await client.send(b"\xff" * number)
            for number in range(200):
                assert await client.recv() == f"ü{number}"
                assert await client.recv() == b"\xff" * number

    async def test_large_messages_come_back(self, server: Server) -> None:
        async with connect(server.url + "/echo/", max_size=None) as client:
            await client.send("x" * 900_000)
            assert await client.recv() == "x" * 900_000

    async def test_client_that_reads_late_loses_nothing(self, server: Server) -> None:
        """It sends more than the buffers hold; the server stops reading it until it reads."""
        async with connect(server.url + "/echo/", max_queue=None) as client:
            sending = asyncio.create_task(self.send_all(client, 200))
            for number in range(200):
                message = await client.recv()
                assert isinstance(message, str)
                assert message.startswith(f"{number}:")
            await sending

    async def send_all(self, client: ClientConnection, count: int) -> None:
        for number in range(count):
            await client.send(f"{number}:".ljust(100_000))

    async def test_a_group_hears_each_other(self, server: Server) -> None:
        async with connect(server.url + "/group/") as one, connect(server.url + "/group/") as two:
            await one.send("hello")
            assert await asyncio.wait_for(one.recv(), 30) == "hello"
            assert await asyncio.wait_for(two.recv(), 30) == "hello"


class TestOpening:
    async def test_a_subprotocol_is_chosen_and_headers_are_added(self, server: Server) -> None:
        url = server.url + "/subprotocol/"
        offered = [Subprotocol("one"), Subprotocol("two")]
        async with connect(url, subprotocols=offered) as client:
            assert client.subprotocol == "two"
            assert client.response is not None
            assert client.response.headers["X-A"] == "1"
            assert client.response.headers["Server"] == "uvicorn"

    async def test_queries_are_in_no_log(self, server: Server) -> None:
        """A peer's secret may be in one."""
        async with connect(server.url + "/echo/?token=a-secret-of-a-peer"):
            pass
        with pytest.raises(InvalidStatus):
            async with connect(server.url + "/refusing/?token=a-secret-of-a-peer"):
                pass
        wait_until(lambda: '"WebSocket /refusing/" 403' in server.log)
        assert '"WebSocket /echo/" [accepted]' in server.log
        assert "a-secret-of-a-peer" not in server.log

    async def test_an_accept_by_exception_works(self, server: Server) -> None:
        async with connect(server.url + "/accepting/"):
            pass

    @pytest.mark.parametrize(
        ("path", "status"),
        [("/refusing/", 403), ("/raising-before/", 500), ("/returning/", 500), ("/misusing/", 500)],
    )
    async def test_what_was_not_accepted_is_a_response(
        self, server: Server, path: str, status: int
    ) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(server.url + path):
                pass
        assert refused.value.response.status_code == status

    async def test_a_response_of_the_application_s_own(self, server: Server) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(server.url + "/denying/"):
                pass
        response = refused.value.response
        assert (response.status_code, response.body) == (429, b'{"later":true}')
        assert response.headers["X-Why"] == "because"
        assert response.headers["Content-Type"] == "application/json"

    async def test_a_header_with_a_line_break_is_refused(self, server: Server) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(server.url + "/injecting/"):
                pass
        assert refused.value.response.status_code == 500

    async def test_http_is_served_as_ever(self, server: Server) -> None:
        with raw_client(server.port) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert client.response()[0] in (200, 404)


class TestEnd:
    async def test_code_and_reason_are_the_application_s(self, server: Server) -> None:
        async with connect(server.url + "/closing/") as client:
            await client.send("close")
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4321, "as you said")

    @pytest.mark.parametrize(
        ("path", "code"), [("/raising-after/", 1011), ("/returning-after/", 1000)]
    )
    async def test_an_application_that_ends_closes(
        self, server: Server, path: str, code: int
    ) -> None:
        async with connect(server.url + path) as client:
            with suppress(ConnectionClosed):
                await client.send("hello")
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code

    def test_what_was_not_fetched_yet_comes_before_the_disconnect(self, server: Server) -> None:
        with raw_client(server.port) as client:
            client.open("/sleeping/")
            client.send(frame(TEXT, b"x") * 3 + close(4000))
            assert client.receive().opcode == CLOSE
        wait_until(lambda: "disconnected 3 4000" in server.log)

    def test_a_client_that_vanishes_is_1006(self, server: Server) -> None:
        with raw_client(server.port) as client:
            client.open("/sleeping/")
        wait_until(lambda: "disconnected 0 1006" in server.log)

    def test_an_application_that_sends_without_end_waits_for_its_client(
        self, server: Server
    ) -> None:
        with raw_client(server.port) as client:
            client.open("/flooding/")
            client.receive()
            count, since = 0, time.monotonic()

            def is_stuck() -> bool:
                nonlocal count, since
                if (now := server.log.count("sent ")) > count:
                    count, since = now, time.monotonic()
                return count > 0 and time.monotonic() - since > 0.3

            wait_until(is_stuck, what="the application waits")
            assert count < 500
            for _ in range(1023):
                assert len(client.receive().payload) == 64 * 1024


class TestScope:
    async def scope(self, url: str, **options: Any) -> dict[str, Any]:
        async with connect(url, **options) as client:
            found: dict[str, Any] = json.loads(await client.recv())
            return found

    async def test_it_is_uvicorn_s_own_and_our_extension(self, start_server: ServerFactory) -> None:
        """But for what differs from connection to connection."""
        found = []
        for kind in ("uvicorn", "fastlane"):
            server = start_server(
                kind,
                "--root-path",
                "/mounted",
                application="tests.connections.fastlane.applications:application",
            )
            scope = await self.scope(
                server.url + "/scope/%C3%BC%20/?a=%20&b=ü".replace("ü", "%C3%BC"),
                additional_headers={"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"},
                subprotocols=["a", "b"],
                user_agent_header="test",
                compression=None,
            )
            assert scope["client"][0] == "192.0.2.7"
            assert scope["scheme"] == "wss"
            assert scope["server"] == ["127.0.0.1", server.port]
            extensions = scope.pop("extensions")
            found.append((scope, extensions))
            headers = dict(map(tuple, scope["headers"]))
            assert headers.pop("host") == f"127.0.0.1:{server.port}"
            assert len(headers.pop("sec-websocket-key")) == 24
            scope["headers"] = headers
            del scope["client"], scope["server"]
        (one, plain), (two, extended) = found
        assert one == two
        assert extended.pop("dwsps.fastlane") == "ConnectionTakeover"
        assert plain == extended


class TestOurs:
    async def test_a_middleware_that_waits_after_the_accept_loses_nothing(
        self, server: Server
    ) -> None:
        async with connected(server.url + "/tired/") as client:
            for id in range(100):
                await client.send({"type": "subscribe", "topic": "a", "id": id})
            assert [(await client.receive())["id"] for _ in range(100)] == list(range(100))

    async def test_a_client_that_leaves_meanwhile_leaves_nothing(self, server: Server) -> None:
        with raw_client(server.port) as gone:
            gone.open("/tired/")
            gone.send(frame(TEXT, b'{"type":"subscribe","topic":"gone"}'))
        async with connected(server.url + "/pubsub/") as client:
            await client.publish("gone", 1)

    async def test_a_middleware_may_decline_the_offer(self, server: Server) -> None:
        async with connected(server.url + "/declining/") as client:
            await client.subscribe("declined")
            await client.publish_and_receive("declined", 1)
        assert server.log.count("seen websocket.receive") == 2


async def test_defects_of_applications_are_logged_once_each(server: Server) -> None:
    async with connect(server.url + "/raising-after/") as client:
        before = server.log.count("RuntimeError: after the accept")
        await client.send("hello")
        with pytest.raises(ConnectionClosed):
            await client.recv()

    def is_logged() -> bool:
        return server.log.count("RuntimeError: after the accept") == before + 1

    await wait_until_async(is_logged)
