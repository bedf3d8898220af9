"""The server feed, on a real server and on one that does what a test tells it."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from django.test import override_settings
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from dwsps_channels.peering.inbound.worker_credentials import Purpose, sign_worker
from dwsps_channels.peering.outbound import server_feed as module
from dwsps_channels.peering.outbound.message import ForwardedMessage
from dwsps_channels.peering.outbound.server_feed import FeedStart, ServerFeed
from tests.peering.far_server import FarServer
from tests.peering.site import id_of
from tests.processes import Server, ServerFactory, wait_until_async
from tests.wire.client import connected


def signer(server: Server) -> Callable[[], str]:
    """Return a signer of the project that ``server`` runs."""

    own_id = id_of(server)

    def sign() -> str:
        with override_settings(SECRET_KEY=server.env["SECRET_KEY"]):
            return sign_worker(own_id, Purpose.FORWARD)

    return sign


class Reader:
    """Reads the feed, and remembers how far it got, as a worker does."""

    def __init__(self, url: str, sign: Callable[[], str], since: float) -> None:
        self.cursor: dict[str, int] = {}
        self.since = since
        self.got: list[ForwardedMessage] = []
        self.starts = 0
        self.began: Mapping[str, int] = {}
        self.caught_up: list[Mapping[str, int]] = []
        self.feed = ServerFeed(url, sign, self)
        self.task = asyncio.create_task(self._read())

    def start(self) -> FeedStart:
        self.starts += 1
        return FeedStart(dict(self.cursor), self.since)

    def begin(self, began: Mapping[str, int]) -> None:
        self.began = began

    def catch_up(self, cursor: Mapping[str, int]) -> None:
        self.caught_up.append(cursor)

    async def _read(self) -> None:
        async for message in self.feed.messages():
            self.got.append(message)
            self.cursor[message.origin] = message.sequence

    @property
    def messages(self) -> list[Any]:
        return [json.loads(each.frame)["message"] for each in self.got]

    async def gets(self, *messages: Any) -> None:
        """Wait until it has got exactly these so far."""
        await wait_until_async(lambda: len(self.got) >= len(messages), 20, f"{messages[-1]} comes")
        assert self.messages == list(messages)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


StartReader = Callable[..., Reader]


@pytest.fixture
async def start_reader() -> AsyncIterator[StartReader]:
    started = []

    def start(url: str, sign: Callable[[], str], *, since: float | None = None) -> Reader:
        started.append(Reader(url, sign, time.time() if since is None else since))
        return started[-1]

    yield start
    for reader in started:
        await reader.end()


class TestOfAServer:
    async def test_it_gives_what_is_published_ready_for_peers(
        self, server: Server, start_reader: StartReader
    ) -> None:
        reader = start_reader(server.url, signer(server))
        async with connected(server.url) as client:
            await client.send(
                {
                    "type": "publish",
                    "topic": "news.uk",
                    "message": {"b": 10**29, "a": None},
                    "timestamp": "2020-01-21T17:03:13.625Z",
                    "id": "mine",
                }
            )
            await reader.gets({"b": 10**29, "a": None})
        [message] = reader.got
        assert message.topic == "news.uk"
        assert abs(message.at - time.time()) < 60
        assert json.loads(message.frame) == {
            "type": "publish",
            "topic": "news.uk",
            "message": {"b": 10**29, "a": None},
            "timestamp": "2020-01-21T17:03:13.625Z",
            "fromPeerServer": True,
            "id": message.sequence,
            "origin": message.origin,
        }

    async def test_it_gives_each_byte_for_byte_that_a_client_may_publish(
        self, server: Server, start_reader: StartReader
    ) -> None:
        reader = start_reader(server.url, signer(server))
        texts = [r'"\ud83d"', r'{"\udc00\\ud83d":["\ud83d\ude00"]}', "[" * 128 + "]" * 128]
        async with connected(server.url) as client:
            for text in texts:
                frame = '{"type":"publish","topic":"news","message":' + text + "}"
                await client.connection.send(frame)
            await wait_until_async(lambda: len(reader.got) >= len(texts))
        for text, message in zip(texts, reader.got, strict=True):
            assert f'"message":{text},' in message.frame.decode()

    async def test_it_begins_with_what_came_since(
        self, server: Server, start_reader: StartReader
    ) -> None:
        async with connected(server.url) as client:
            await client.publish("a", "before")
            # Two clocks of one machine: what lies between is more than their grain.
            since = time.time()
            await wait_until_async(lambda: time.time() > since + 0.005)
            await client.publish("a", "since")
            reader = start_reader(server.url, signer(server), since=since)
            await reader.gets("since")
            await client.publish("a", "then")
            await reader.gets("since", "then")

    async def test_it_begins_anew_with_what_start_says_then(
        self, server: Server, start_reader: StartReader
    ) -> None:
        reader = start_reader(server.url, signer(server))
        async with connected(server.url) as client:
            for number in range(5):
                await client.publish("a", number)
            await reader.gets(0, 1, 2, 3, 4)
            reader.cursor = {origin: number - 2 for origin, number in reader.cursor.items()}
            reader.feed.restart()
            await reader.gets(0, 1, 2, 3, 4, 3, 4)
            await client.publish("a", 5)
            await reader.gets(0, 1, 2, 3, 4, 3, 4, 5)
        assert reader.starts == 2

    async def test_it_says_how_far_the_server_was_once_all_that_it_had_has_come(
        self, start_server: ServerFactory, start_reader: StartReader
    ) -> None:
        server = start_server("fastlane", dwsps={"TAIL_MESSAGES": 3})
        since = time.time()
        async with connected(server.url) as client:
            for number in range(5):
                await client.publish("a", number)
        reader = start_reader(server.url, signer(server), since=since)
        await wait_until_async(lambda: reader.caught_up, 20)
        assert reader.messages == [2, 3, 4]
        [origin] = reader.cursor
        assert (reader.began, reader.caught_up) == ({origin: 1}, [{origin: 5}])
        assert reader.cursor == {origin: 5}

    async def test_what_is_on_its_way_is_not_ahead_of_what_comes_again(
        self, server: Server, start_reader: StartReader
    ) -> None:
        """Else somebody who is there from now on would take it for the first."""
        reader = start_reader(server.url, signer(server))
        await wait_until_async(lambda: reader.feed.connected, 20)
        async with connected(server.url) as client:
            await client.publish("a", 0)
            await reader.gets(0)
            begin = dict(reader.cursor)
            for number in range(1, 400):
                await client.send({"type": "publish", "topic": "a", "message": number})
                if number == 200:
                    await wait_until_async(lambda: len(reader.got) > 20)
                    reader.got.clear()
                    reader.cursor = begin
                    reader.feed.restart()
            for _ in range(1, 400):
                assert (await client.receive())["type"] == "ack"
            await reader.gets(*range(1, 400))

    async def test_the_feed_of_a_server_that_is_restarted_is_read_again(
        self, start_server: ServerFactory, start_reader: StartReader
    ) -> None:
        server = start_server("daphne")
        reader = start_reader(server.url, signer(server))
        async with connected(server.url) as client:
            await client.publish("a", "one")
            await reader.gets("one")
        # Started again from this very thread: it dies with it.
        server.restart()
        async with connected(server.url) as client:
            await client.publish("a", "two")
            await reader.gets("one", "two")
        assert len({each.origin for each in reader.got}) == 2

    async def test_a_message_nested_as_deep_as_can_be_ends_nothing(
        self, server: Server, start_reader: StartReader
    ) -> None:
        reader = start_reader(server.url, signer(server))
        async with connected(server.url) as client:
            for depth in range(900, 1000, 3):
                nested = "[" * depth + "]" * depth
                await client.connection.send(f'{{"type":"publish","topic":"a","message":{nested}}}')
                assert (await client.receive())["type"] in ("ack", "error")
            await client.publish("a", "the next")
            await wait_until_async(lambda: reader.got and reader.got[-1].frame.count(b"next"))

    async def test_a_false_credential_is_logged_once_and_tried_again(
        self,
        server: Server,
        start_reader: StartReader,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(module, "BACKOFF_CAP", 0.02)
        sign = signer(server)
        asked = 0

        def falsely() -> str:
            nonlocal asked
            asked += 1
            return "worker.dwsps:1:false" if asked <= 3 else sign()

        reader = start_reader(server.url, falsely)
        await wait_until_async(lambda: "connected to the server" in caplog.text, 20)
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert warnings == [
            f"no connection to the server at {server.url}: the server refused the connection with HTTP 403; "
            "trying again"
        ]
        assert not reader.task.done()
        assert "false" not in caplog.text

    async def test_it_leaves_when_it_is_cancelled(
        self, server: Server, start_reader: StartReader
    ) -> None:
        reader = start_reader(server.url, signer(server))
        await wait_until_async(lambda: reader.feed.connected, 20)
        await reader.end()
        assert not reader.feed.connected
        assert asyncio.all_tasks() == {asyncio.current_task()}


ENTRY = {"type": "entry", "origin": "o", "at": 1.0, "topic": "a", "timestamp": "t"}


def ack(frame: dict[str, Any]) -> dict[str, Any]:
    return {"type": "ack", "action": "feed", "timestamp": "t"}


class TestOfAScriptedServer:
    @pytest.fixture
    async def far(self) -> AsyncIterator[FarServer]:
        server = FarServer(old=True)
        server.answer = ack
        await server.start()
        yield server
        await server.stop()

    async def test_it_asks_for_what_start_says_on_each_connection(
        self, far: FarServer, start_reader: StartReader
    ) -> None:
        reader = start_reader(far.url, lambda: "signed", since=5.0)
        reader.cursor = {"o": 1}
        await wait_until_async(lambda: len(far.frames) == 1)
        await far.say(ENTRY | {"sequence": 2, "message": 1})
        await reader.gets(1)
        far.cut()
        await wait_until_async(lambda: len(far.frames) == 2)
        assert far.frames == [
            {"type": "feed", "cursor": {"o": 1}, "since": 5.0},
            {"type": "feed", "cursor": {"o": 2}, "since": 5.0},
        ]
        assert far.requests[0].headers["Authorization"] == "Bearer signed"

    async def test_each_connection_is_signed_anew(
        self, far: FarServer, start_reader: StartReader
    ) -> None:
        signed = iter(["first", "second"])
        start_reader(far.url, lambda: next(signed))
        await wait_until_async(lambda: len(far.frames) == 1)
        far.cut()
        await wait_until_async(lambda: len(far.frames) == 2)
        assert [each.headers["Authorization"] for each in far.requests] == [
            "Bearer first",
            "Bearer second",
        ]

    @pytest.mark.parametrize(
        "nonsense", ["no json", "{}", '{"type":"entry"}', "[" * 50_000, b"\xff", '{"type":"new"}']
    )
    async def test_what_it_does_not_understand_is_passed_over(
        self,
        nonsense: str | bytes,
        far: FarServer,
        start_reader: StartReader,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        reader = start_reader(far.url, lambda: "signed")
        await wait_until_async(lambda: far.frames)
        await far.say(nonsense)
        await far.say(ENTRY | {"sequence": 1, "message": 1})
        await reader.gets(1)
        assert "does not understand" in caplog.text

    async def test_a_server_that_refuses_the_feed_is_asked_again(
        self, far: FarServer, start_reader: StartReader, caplog: pytest.LogCaptureFixture
    ) -> None:
        far.answer = lambda frame: {
            "type": "error",
            "action": "feed",
            "code": "forbidden",
            "reason": "not a worker's",
            "retryable": False,
        }
        reader = start_reader(far.url, lambda: "signed")
        await wait_until_async(lambda: len(far.frames) == 3)
        assert caplog.text.count("refuses this worker the feed: not a worker's") == 1
        assert "connected" not in caplog.text
        far.answer = ack
        await wait_until_async(lambda: "connected to the server" in caplog.text)
        assert not reader.task.done()

    async def test_the_query_of_the_url_is_not_logged(
        self, far: FarServer, start_reader: StartReader, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "dwsps_channels")
        await far.stop()
        start_reader(f"{far.url}/?key=hidden", lambda: "signed")
        await wait_until_async(lambda: "no connection to the server" in caplog.text)
        await far.start()
        await wait_until_async(lambda: "connected to the server" in caplog.text)
        assert f"{far.url}/" in caplog.text
        assert "hidden" not in caplog.text

    @pytest.mark.parametrize("code", [1000, 1001, 4003, 4100, 4200])
    async def test_it_comes_back_whatever_it_was_closed_with(
        self, code: int, far: FarServer, start_reader: StartReader
    ) -> None:
        start_reader(far.url, lambda: "signed")
        await wait_until_async(lambda: len(far.frames) == 1)
        await far.close(code)
        await wait_until_async(lambda: len(far.frames) == 2)

    async def test_beginning_anew_without_a_server_is_not_hasty(
        self, far: FarServer, start_reader: StartReader
    ) -> None:
        await far.stop()
        tried = 0

        def sign() -> str:
            nonlocal tried
            tried += 1
            return "signed"

        reader = start_reader(far.url, sign)
        await wait_until_async(lambda: tried >= 1)
        reader.feed.restart()
        await wait_until_async(lambda: tried >= 3)
        await far.start()
        await wait_until_async(lambda: len(far.frames) == 1)
        assert tried < 20


async def test_a_credential_opens_one_connection_and_in_a_header_only(
    start_server: ServerFactory, server_kind: str
) -> None:
    """On every server; whoever finds one in a log or on the wire gains nothing."""
    server = start_server(server_kind)
    credential = signer(server)()

    async def status(url: str, headers: Mapping[str, str]) -> int:
        try:
            async with connect(url, additional_headers=headers):
                return 101
        except InvalidStatus as error:
            return error.response.status_code

    assert await status(f"{server.url}/?token={credential}", {}) == 403
    header = {"Authorization": f"Bearer {credential}"}
    assert [await status(server.url, header) for _ in range(2)] == [101, 403]
    assert "a worker's credential that was used before" in server.log
    assert "it comes in a header only" in server.log
