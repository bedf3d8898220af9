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

from dwsps_channels.core.log_source import SourceUnavailable
from dwsps_channels.core.page import Logged, Page, Position
from dwsps_channels.peering.inbound.worker_credentials import Purpose, sign_worker
from dwsps_channels.peering.outbound import server_feed as module
from dwsps_channels.peering.outbound.server_feed import ServerFeed
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


@pytest.fixture(autouse=True)
async def nothing_left_running() -> AsyncIterator[None]:
    yield
    await wait_until_async(lambda: asyncio.all_tasks() == {asyncio.current_task()})


OpenFeed = Callable[..., ServerFeed]


@pytest.fixture
async def open_feed() -> AsyncIterator[OpenFeed]:
    opened = []

    def open(url: str, sign: Callable[[], str] = lambda: "signed") -> ServerFeed:
        opened.append(ServerFeed(url, sign))
        return opened[-1]

    yield open
    for feed in opened:
        await feed.close()


class Reader:
    """Reads on from a position, as a link does, and never gives up."""

    def __init__(self, feed: ServerFeed, position: Position) -> None:
        self.position = position
        self.pages: list[Page] = []
        self.problems: list[str] = []
        self.task = asyncio.create_task(self._read(feed))

    async def _read(self, feed: ServerFeed) -> None:
        while True:
            try:
                page = await feed.read(self.position)
            except SourceUnavailable as error:
                self.problems.append(error.problem)
                await asyncio.sleep(0.01)
                continue
            self.pages.append(page)
            self.position = page.position

    @property
    def entries(self) -> list[Logged]:
        return [each for page in self.pages for each in page.entries]

    @property
    def messages(self) -> list[Any]:
        return [json.loads(bytes(each.publication.message)) for each in self.entries]

    async def gets(self, *messages: Any) -> None:
        """Wait until it has got exactly these so far."""
        await wait_until_async(
            lambda: len(self.messages) >= len(messages), 20, f"{messages[-1]} comes"
        )
        assert self.messages == list(messages)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


StartReader = Callable[..., Reader]


@pytest.fixture
async def start_reader(open_feed: OpenFeed) -> AsyncIterator[StartReader]:
    started = []

    def start(
        url: str, sign: Callable[[], str] = lambda: "signed", position: Position | None = None
    ) -> Reader:
        started.append(Reader(open_feed(url, sign), position or Position(at=time.time())))
        return started[-1]

    yield start
    for reader in started:
        await reader.end()


class TestOfAServer:
    async def test_it_gives_each_byte_for_byte_that_a_client_may_publish(
        self, server: Server, start_reader: StartReader
    ) -> None:
        reader = start_reader(server.url, signer(server))
        texts = [r'"\ud83d"', r'{"\udc00\\ud83d":["\ud83d\ude00"]}', "[" * 128 + "]" * 128]
        async with connected(server.url) as client:
            for text in texts:
                frame = '{"type":"publish","topic":"news","message":' + text + "}"
                await client.connection.send(frame)
            await wait_until_async(lambda: len(reader.entries) >= len(texts), 20)
        for text, each in zip(texts, reader.entries, strict=True):
            assert bytes(each.publication.message).decode() == text

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
            await wait_until_async(
                lambda: (
                    reader.entries
                    and bytes(reader.entries[-1].publication.message) == b'"the next"'
                ),
                20,
            )

    async def test_the_log_of_a_server_that_is_restarted_begins_again(
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
        assert any(page.restarted for page in reader.pages[1:])

    async def test_a_false_credential_is_tried_again(
        self, server: Server, start_reader: StartReader, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "dwsps_channels")
        sign = signer(server)
        asked = 0

        def falsely() -> str:
            nonlocal asked
            asked += 1
            return "worker.dwsps:1:false" if asked <= 3 else sign()

        reader = start_reader(server.url, falsely)
        async with connected(server.url) as client:
            await wait_until_async(lambda: reader.problems, 20)
            await client.publish("a", 1)
            await wait_until_async(lambda: "connected to the server" in caplog.text, 20)
        problem = f"no connection to the server at {server.url}: the server refused the connection with HTTP 403"
        assert set(reader.problems) == {problem}
        assert "false" not in caplog.text


FIRST = {"type": "feed", "cursor": "e:3", "at": 5.0, "messages": 256, "size": 4194304, "id": 1}
START = Position("e:3", 5.0)


def entry(offset: int, message: object = 1) -> dict[str, Any]:
    return {
        "type": "entry",
        "offset": offset,
        "at": 6.0,
        "origin": "o",
        "sequence": offset,
        "publisher": "p",
        "topic": "a",
        "timestamp": "t",
        "message": message,
    }


def ack(id: object, offset: int, *, end: int | None = None, **fields: Any) -> dict[str, Any]:
    end = offset if end is None else end
    found = {"type": "ack", "action": "feed", "id": id, "cursor": f"e:{offset}", "end": end}
    return found | {"at": 7.0, "missed": 0, "restarted": False} | fields


async def reads_on(far: FarServer, connections: int) -> None:
    """Wait until something was requested on the last one of so many connections."""
    await wait_until_async(lambda: len(far.connections) == connections and far.connections[-1])


class TestOfAScriptedServer:
    @pytest.fixture
    async def far(self) -> AsyncIterator[FarServer]:
        server = FarServer(old=True)
        server.answer = lambda frame: None
        await server.start()
        yield server
        await server.stop()

    @pytest.fixture(autouse=True)
    def short_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "WAIT", 0.05)

    async def test_it_requests_what_follows_and_gives_what_comes(
        self, far: FarServer, open_feed: OpenFeed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "WAIT", 20.0)
        reading = asyncio.create_task(open_feed(far.url).read(START))
        await wait_until_async(lambda: far.frames == [FIRST])
        assert far.requests[0].headers["Authorization"] == "Bearer signed"
        for frame in (
            entry(5, {"b": 1}),
            entry(6),
            ack(1, 8, end=9, missed=1, restarted=True),
        ):
            await far.say(frame)
        page = await reading
        assert (page.cursor, page.at, page.end) == ("e:8", 7.0, 9)
        assert (page.missed, page.restarted) == (1, True)
        first, second = page.entries
        assert (first.offset, second.offset, first.at) == (5, 6, 6.0)
        publication = first.publication
        assert (publication.origin, publication.sequence) == ("o", 5)
        assert (publication.topic, publication.timestamp) == ("a", "t")
        assert bytes(publication.message) == b'{"b": 1}'
        assert publication.publisher == "p"
        assert not publication.from_peer_server

    async def test_while_nothing_follows_it_is_told_how_far_the_log_goes_once_the_wait_is_over(
        self, far: FarServer, open_feed: OpenFeed
    ) -> None:
        far.answer = lambda frame: None if frame.get("wait", True) else ack(frame["id"], 9)
        page = await open_feed(far.url).read(START)
        assert page == Page([], "e:9", 7.0, 9)
        assert far.frames == [FIRST, FIRST | {"wait": False}]

    async def test_a_reply_that_comes_twice_counts_once(
        self, far: FarServer, open_feed: OpenFeed
    ) -> None:
        """A message is published while the worker asks whether there is one."""
        feed = open_feed(far.url)
        reading = asyncio.create_task(feed.read(START))
        await wait_until_async(lambda: len(far.frames) == 2)
        for frame in (entry(4), ack(1, 4), entry(4), ack(1, 4)):
            await far.say(frame)
        assert [each.offset for each in (await reading).entries] == [4]
        reading = asyncio.create_task(feed.read(Position("e:4", 7.0)))
        await wait_until_async(lambda: len(far.frames) >= 3)
        await far.say(entry(5))
        await far.say(ack(2, 5))
        assert [each.offset for each in (await reading).entries] == [5]

    async def test_several_reads_share_the_connection(
        self, far: FarServer, open_feed: OpenFeed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "WAIT", 20.0)
        feed = open_feed(far.url)
        reads = [asyncio.create_task(feed.read(Position(f"e:{offset}"))) for offset in (10, 20, 30)]
        await wait_until_async(lambda: len(far.frames) == 3)
        ids = {frame["cursor"]: frame["id"] for frame in far.frames}
        for offset in (30, 10, 20):
            await far.say(entry(offset + 1))
            await far.say(ack(ids[f"e:{offset}"], offset + 1))
        pages = [await read for read in reads]
        assert [page.entries[0].offset for page in pages] == [11, 21, 31]
        assert len(far.requests) == 1

    async def test_a_read_that_is_cancelled_disturbs_no_other(
        self, far: FarServer, open_feed: OpenFeed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "WAIT", 20.0)
        feed = open_feed(far.url)
        for turns in range(10):
            reading = asyncio.create_task(feed.read(Position(f"e:{turns}")))
            for _ in range(turns):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
        cancelled = asyncio.create_task(feed.read(Position("e:50")))
        staying = asyncio.create_task(feed.read(Position("e:60")))
        await wait_until_async(lambda: {"e:50", "e:60"} <= {f["cursor"] for f in far.frames})
        cancelled.cancel()
        ids = {frame["cursor"]: frame["id"] for frame in far.frames}
        await far.say(entry(51))
        await far.say(ack(ids["e:50"], 51))
        await far.say(entry(61))
        await far.say(ack(ids["e:60"], 61))
        assert [each.offset for each in (await staying).entries] == [61]

    async def test_a_read_that_is_cancelled_waits_no_more_at_the_server(
        self, far: FarServer, open_feed: OpenFeed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "WAIT", 20.0)
        reading = asyncio.create_task(open_feed(far.url).read(START))
        await wait_until_async(lambda: far.frames == [FIRST])
        reading.cancel()
        await asyncio.wait([reading])
        await wait_until_async(
            lambda: far.frames == [FIRST, FIRST | {"messages": 0, "wait": False}]
        )

    async def test_a_connection_that_is_lost_ends_the_reads_and_the_next_one_connects(
        self, far: FarServer, open_feed: OpenFeed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "WAIT", 20.0)
        feed = open_feed(far.url)
        reading = asyncio.create_task(feed.read(START))
        await wait_until_async(lambda: far.frames)
        await far.say(entry(4))  # without the reply: it comes again
        far.cut()
        with pytest.raises(SourceUnavailable, match="no connection to the server at ws://"):
            await reading
        far.answer = lambda frame: ack(frame["id"], 4)
        page = await feed.read(START)
        assert (page.cursor, page.entries) == ("e:4", [])

    async def test_each_connection_is_signed_anew(
        self, far: FarServer, start_reader: StartReader
    ) -> None:
        signed = iter(["first", "second"])
        start_reader(far.url, lambda: next(signed))
        await reads_on(far, 1)
        far.cut()
        await reads_on(far, 2)
        assert [each.headers["Authorization"] for each in far.requests] == [
            "Bearer first",
            "Bearer second",
        ]

    @pytest.mark.parametrize("nonsense", ["no json", "{}", "[" * 50_000, b"\xff", '{"type":"new"}'])
    async def test_what_it_does_not_understand_is_passed_over(
        self,
        nonsense: str | bytes,
        far: FarServer,
        start_reader: StartReader,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        reader = start_reader(far.url)
        await wait_until_async(lambda: far.frames)
        await far.say(nonsense)
        await far.say(entry(1))
        await far.say(ack(1, 1))
        await reader.gets(1)
        assert reader.pages[-1].missed == 0
        assert "does not understand" in caplog.text

    async def test_an_entry_that_it_does_not_understand_counts_as_missing(
        self, far: FarServer, start_reader: StartReader
    ) -> None:
        reader = start_reader(far.url)
        await wait_until_async(lambda: far.frames)
        await far.say('{"type":"entry","offset":1}')
        await far.say(entry(2))
        await far.say(ack(1, 2))
        await reader.gets(1)
        assert reader.pages[-1].missed == 1

    async def test_a_server_that_refuses_the_feed_is_asked_again(
        self, far: FarServer, start_reader: StartReader, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "dwsps_channels")
        far.answer = lambda frame: {
            "type": "error",
            "action": "feed",
            "code": "forbidden",
            "reason": "not a worker's",
            "retryable": False,
            "id": frame["id"],
        }
        reader = start_reader(far.url)
        await wait_until_async(lambda: len(far.frames) >= 3)
        assert set(reader.problems) == {"the server refuses this worker the feed: not a worker's"}
        assert "connected to the server" not in caplog.text
        far.answer = lambda frame: ack(frame["id"], 4)
        await wait_until_async(lambda: "connected to the server" in caplog.text)

    async def test_the_query_of_the_url_is_shown_nowhere(
        self, far: FarServer, start_reader: StartReader, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "dwsps_channels")
        await far.stop()
        reader = start_reader(f"{far.url}?key=hidden")
        await wait_until_async(lambda: reader.problems)
        far.answer = lambda frame: ack(frame["id"], 4)
        await far.start()
        await wait_until_async(lambda: "connected to the server" in caplog.text)
        assert far.url in caplog.text
        assert "hidden" not in caplog.text + "".join(reader.problems)

    @pytest.mark.parametrize("code", [1000, 1001, 4003, 4100, 4200])
    async def test_it_comes_back_whatever_it_was_closed_with(
        self, code: int, far: FarServer, start_reader: StartReader
    ) -> None:
        start_reader(far.url)
        await reads_on(far, 1)
        await far.close(code)
        await reads_on(far, 2)

    async def test_a_credential_that_cannot_be_made_is_a_problem_like_others(
        self, open_feed: OpenFeed
    ) -> None:
        def sign() -> str:
            raise ZeroDivisionError

        with pytest.raises(SourceUnavailable, match="no token: ZeroDivisionError"):
            await open_feed("ws://localhost:9/", sign).read(START)

    async def test_it_can_be_closed_while_it_is_read_and_before(
        self, far: FarServer, open_feed: OpenFeed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "WAIT", 20.0)
        feed = open_feed(far.url)
        await feed.close()
        reading = asyncio.create_task(feed.read(START))
        await wait_until_async(lambda: far.frames)
        await feed.close()
        with pytest.raises(SourceUnavailable):
            await reading


async def test_a_credential_opens_one_connection_and_in_a_header_only(server: Server) -> None:
    """On every server; whoever finds one in a log or on the wire gains nothing."""
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


@pytest.mark.parametrize("url", ["", "ftp://example.org", "ws://", "ws://user:pw@example.org/"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        ServerFeed(url, lambda: "signed")
