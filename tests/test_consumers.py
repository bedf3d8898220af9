"""The ASGI door, without a server: what one connection gets and leaves behind."""

import asyncio
import json
import logging
from typing import Any

import pytest
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.test import override_settings
from django.urls import path, re_path

from dwsps_channels import apublish
from dwsps_channels.connections.servers import detection
from dwsps_channels.consumers import PubSubConsumer
from dwsps_channels.routing import URLRouter, websocket_urlpatterns
from dwsps_channels.server import runtime
from dwsps_channels.testing import Closed, PubSubCommunicator
from tests.connections.transports.contract import until
from tests.reached import reached

# Without the mark django_db pytest refuses every query: no test of this module touches the database.


@pytest.fixture(autouse=True)
def a_server_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A communicator stands in for a server, which is said once in each process: not in a log that a test reads."""
    monkeypatch.setattr(detection, "_warned", True)


def communicator(
    application: Any = None, url: str = "/ws/pubsub/", **headers: str
) -> WebsocketCommunicator:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return WebsocketCommunicator(application or PubSubConsumer.as_asgi(), url, pairs)


async def connected(client: WebsocketCommunicator) -> WebsocketCommunicator:
    assert await client.connect(20) == (True, None)
    return client


async def answer(client: WebsocketCommunicator) -> Any:
    return await client.receive_json_from(20)


async def sessions() -> int:
    return len((await runtime.obtain()).sessions)


class TestRoutes:
    @pytest.mark.parametrize("url", ["/ws/pubsub/", "/", "/any/where", "/?a=b"])
    async def test_it_serves_wherever_it_is_mounted(self, url: str) -> None:
        client = await connected(communicator(url=url))
        await client.send_json_to({"type": "subscribe", "topic": "a"})
        assert (await answer(client))["type"] == "ack"
        await client.disconnect(timeout=20)

    async def test_the_apps_route_works(self) -> None:
        async with PubSubCommunicator(URLRouter(websocket_urlpatterns), "/ws/pubsub/") as client:
            await client.subscribe("a")

    async def test_a_path_that_no_route_knows_is_refused_and_nothing_is_raised(self) -> None:
        mine: Any = path("mine/", PubSubConsumer.as_asgi())
        router = URLRouter([*websocket_urlpatterns, mine])
        async with PubSubCommunicator(router, "/mine/") as client:
            await client.subscribe("a")
        unknown = communicator(router, "/nowhere/")
        assert await unknown.connect(5) == (False, 4003)
        await unknown.wait(20)  # raises what the application does

    async def test_routes_share_one_hub(self) -> None:
        one: Any = path("one/", PubSubConsumer.as_asgi())
        rest: Any = re_path("", PubSubConsumer.as_asgi())
        router = URLRouter([one, rest])
        async with (
            PubSubCommunicator(router, "/one/") as a,
            PubSubCommunicator(router, "/two/") as b,
        ):
            await a.subscribe("topic")
            await b.publish("topic", 1)
            assert (await a.receive())["message"] == 1


class TestFrames:
    async def test_text_and_binary_are_both_taken_and_text_is_sent(self) -> None:
        client = await connected(communicator())
        request = json.dumps({"type": "subscribe", "topic": "größe"}, ensure_ascii=False)
        await client.send_to(text_data=request)
        assert isinstance(await client.receive_from(5), str)
        await client.send_to(bytes_data=request.encode())
        reply = await client.receive_from(5)
        assert isinstance(reply, str)
        assert json.loads(reply)["topic"] == "größe"
        await client.disconnect(timeout=20)

    @pytest.mark.parametrize(
        "event",
        [
            {"text": None, "bytes": None},
            {"text": None, "bytes": b""},
            {"text": "", "bytes": None},
            {"text": ""},
            {"bytes": b""},
            {"text": None},
            {},
            {"bytes": b"\xff"},
            {"text": "\ud800"},
        ],
    )
    async def test_an_event_that_holds_nothing_to_read_is_an_error_like_any_other(
        self, event: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        client = await connected(communicator())
        await client.send_input({"type": "websocket.receive", **event})
        assert (await answer(client))["code"] == "invalid_json"
        await client.send_json_to({"type": "subscribe", "topic": "a"})
        assert (await answer(client))["type"] == "ack"
        await client.disconnect(timeout=20)
        assert caplog.records == []

    async def test_frames_are_answered_in_order(self) -> None:
        client = await connected(communicator())
        for id in range(200):
            await client.send_json_to({"type": "subscribe", "topic": f"t{id % 7}", "id": id})
        assert [(await answer(client))["id"] for _ in range(200)] == list(range(200))
        await client.disconnect(timeout=20)

    @override_settings(DWSPS={"MAX_MESSAGE_BYTES": 100})
    async def test_the_limits_are_those_of_the_settings(self) -> None:
        client = await connected(communicator())
        await client.send_json_to({"type": "publish", "topic": "a", "message": "x" * 100})
        assert (await answer(client))["code"] == "message_too_large"
        await client.disconnect(timeout=20)


class TestOrigins:
    @override_settings(DWSPS={"ALLOWED_ORIGINS": ["https://example.com"]})
    async def test_a_foreign_page_is_refused_and_the_reason_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = communicator(origin="https://evil.example")
        client.scope["client"] = ("192.0.2.1", 4711)
        assert await client.connect(20) == (False, 4003)
        await client.wait(20)
        [record] = caplog.records
        assert (record.levelno, record.name) == (logging.WARNING, "dwsps_channels.consumers")
        assert record.getMessage() == (
            "connection from 192.0.2.1:4711 refused: "
            "origin 'https://evil.example' is not in DWSPS['ALLOWED_ORIGINS']"
        )

    @override_settings(DWSPS={"ALLOWED_ORIGINS": ["https://example.com"]})
    async def test_a_refused_page_has_no_session(self) -> None:
        await communicator(origin="https://evil.example").connect(5)
        assert await sessions() == 0

    @override_settings(DWSPS={}, ALLOWED_HOSTS=["example.com"])
    async def test_by_default_the_servers_own_page_connects_and_no_other(self) -> None:
        own = await connected(communicator(origin="https://example.com", host="example.com"))
        await own.disconnect(timeout=20)
        foreign = communicator(origin="https://evil.example", host="example.com")
        assert await foreign.connect(5) == (False, 4003)

    @override_settings(DWSPS={"ALLOWED_ORIGINS": []})
    async def test_a_client_that_is_no_browser_connects(self) -> None:
        await (await connected(communicator())).disconnect()


class TestCosts:
    async def test_no_channel_of_the_layer_is_taken(self) -> None:
        layer: Any = get_channel_layer()
        async with PubSubCommunicator() as client:
            await client.subscribe("a")
            assert layer.channels == {}
            assert layer.groups == {}

    @override_settings(CHANNEL_LAYERS={})
    async def test_no_layer_is_needed(self) -> None:
        async with PubSubCommunicator() as client:
            await client.subscribe("a")

    async def test_no_thread_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: Any) -> None:
            raise AssertionError("a thread was asked for")

        monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse)
        async with PubSubCommunicator() as client:
            await client.subscribe("a")
            await client.publish("a", 1)
            await client.receive()

    async def test_a_connection_is_two_tasks(self) -> None:
        before = len(asyncio.all_tasks())
        async with PubSubCommunicator() as client:
            await client.subscribe("a")
            assert len(asyncio.all_tasks()) == before + 2
        await until(lambda: len(asyncio.all_tasks()) == before)


class TestEnd:
    async def test_a_session_ends_with_its_connection(self) -> None:
        client = await connected(communicator())
        await client.send_json_to({"type": "subscribe", "topic": "a"})
        await answer(client)
        assert (await sessions(), reached(await apublish("a", 1))) == (1, 1)
        await client.disconnect(timeout=20)
        assert (await sessions(), reached(await apublish("a", 1))) == (0, 0)

    async def test_a_session_ends_with_an_exception_of_the_servers(self) -> None:
        served = asyncio.Event()

        async def broken(scope: Any, receive: Any, send: Any) -> None:
            async def receive_once() -> Any:
                event = await receive()
                if event["type"] == "websocket.receive" and event.get("text") == "break":
                    raise ConnectionError("the server's defect")
                return event

            try:
                await PubSubConsumer.as_asgi()(scope, receive_once, send)
            finally:
                served.set()

        client = await connected(communicator(broken))
        assert await sessions() == 1
        await client.send_to(text_data="break")
        await asyncio.wait_for(served.wait(), 20)
        assert await sessions() == 0
        with pytest.raises(ConnectionError, match="the server's defect"):
            await client.wait(20)

    async def test_a_connection_that_the_server_cancels_is_told_to_come_back(self) -> None:
        """Daphne's way to end."""
        client = await connected(communicator())
        await client.send_json_to({"type": "subscribe", "topic": "a"})
        await answer(client)
        client.future.cancel()
        final_frame = await answer(client)
        assert (final_frame["type"], final_frame["code"], final_frame["retryable"]) == (
            "error",
            "unavailable",
            True,
        )
        assert await client.receive_output(20) == {"type": "websocket.close", "code": 4200}
        assert not client.future.done()  # the close handshake is waited for
        await client.send_input({"type": "websocket.disconnect", "code": 4200})
        await asyncio.wait({client.future}, timeout=20)
        assert client.future.cancelled()
        assert await sessions() == 0

    async def test_a_cancelled_connection_does_not_wait_for_ever(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dwsps_channels.connections.transports.closing.CLOSE_TIMEOUT", 0.01)
        client = await connected(communicator())
        client.future.cancel()
        await asyncio.wait({client.future}, timeout=20)
        assert client.future.cancelled()
        assert await sessions() == 0

    async def test_a_drain_sends_every_client_away(self) -> None:
        clients = [await connected(communicator()) for _ in range(3)]
        drain = asyncio.create_task((await runtime.obtain()).drain())
        for client in clients:
            assert (await answer(client))["code"] == "unavailable"
            assert (await client.receive_output(20))["code"] == 4200
            assert not drain.done()
            await client.disconnect(timeout=20)
        await asyncio.wait_for(drain, 5)

    async def test_who_comes_during_a_drain_is_refused(self) -> None:
        await (await runtime.obtain()).drain()
        with pytest.raises(Closed):
            async with PubSubCommunicator():
                pytest.fail("was connected")

    async def test_who_is_being_accepted_when_a_drain_begins_is_sent_away(self) -> None:
        server = await runtime.obtain()

        async def draining(scope: Any, receive: Any, send: Any) -> None:
            async def send_slowly(event: Any) -> None:
                if event["type"] == "websocket.accept":
                    await server.drain()
                await send(event)

            await PubSubConsumer.as_asgi()(scope, receive, send_slowly)

        client = await connected(communicator(draining))
        assert (await answer(client))["code"] == "unavailable"
        assert (await client.receive_output(20))["code"] == 4200
        await client.disconnect(timeout=20)

    async def test_a_client_that_leaves_while_its_policy_thinks_leaves_nothing(self) -> None:
        with override_settings(DWSPS={"POLICY": "tests.test_consumers.Thinking"}):
            Thinking.decided = asyncio.Event()
            client = await connected(communicator())
            await client.send_json_to({"type": "subscribe", "topic": "a"})
            await client.send_input({"type": "websocket.disconnect", "code": 1001})
            await asyncio.sleep(0)
            Thinking.decided.set()
            await client.wait(20)
        assert (await sessions(), reached(await apublish("a", 1))) == (0, 0)


class Thinking:
    decided: asyncio.Event

    async def may_subscribe(self, identity: Any, topic: str) -> bool:
        return await self.decided.wait()

    async def may_publish(self, identity: Any, topic: str) -> bool:
        return True


class TestDraining:
    @pytest.mark.parametrize(
        ("extensions", "answer"),
        [
            ({}, {"type": "websocket.close", "code": 4003}),
            (
                {"websocket.http.response": {}},
                {"type": "websocket.http.response.start", "status": 503, "headers": []},
            ),
        ],
    )
    async def test_who_comes_then_is_told_that_it_is_for_now(
        self, extensions: dict[str, Any], answer: dict[str, Any]
    ) -> None:
        server = await runtime.obtain()
        await server.drain()
        communicator = PubSubCommunicator()
        communicator.scope["extensions"] = extensions
        await communicator.send_input({"type": "websocket.connect"})
        assert await communicator.receive_output(20) == answer
