"""All links together, with a log in memory, and peers that do what a test tells them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytest

from dwsps_channels.client import Connection, connection
from dwsps_channels.core.page import Position
from dwsps_channels.core.timings import Timings
from dwsps_channels.peering.outbound import link, shared_source
from dwsps_channels.peering.outbound.config import PeerConfig
from dwsps_channels.peering.outbound.forwarder import Forwarder
from dwsps_channels.peering.outbound.link import Link
from dwsps_channels.peering.outbound.link_status import LinkState, LinkStatus
from dwsps_channels.peering.outbound.send_gate import SendGate
from tests.peering.far_server import SERVER_ID, FarServer
from tests.peering.outbound.log import LogInMemory, publication
from tests.processes import wait_until_async

OWN_ID = "a" * 32


class MemoryStore:
    """Rows and statuses in memory; ``away``: as a database that is not there."""

    def __init__(self) -> None:
        self.rows: dict[int, PeerConfig] = {}
        self.statuses: dict[int, LinkStatus] = {}
        self.away = False
        self.calls = 0

    def add(self, far: FarServer, name: str = "far", **row: object) -> PeerConfig:
        id = len(self.statuses) + len(self.rows) + 1
        config = PeerConfig(id, name, far.url, "secret", enabled_at=time.time())
        self.rows[id] = replace(config, **row)  # type: ignore[arg-type]
        return self.rows[id]

    def change(self, id: int, **row: object) -> None:
        self.rows[id] = replace(self.rows[id], **row)  # type: ignore[arg-type]

    def has_acked(self, id: int, count: int) -> bool:
        return id in self.statuses and self.statuses[id].stats.acked == count

    def says(self, state: LinkState) -> bool:
        return {status.state for status in self.statuses.values()} == {state}

    async def peers(self) -> Sequence[PeerConfig]:
        self._reach()
        return list(self.rows.values())

    async def position(self, peer: PeerConfig) -> Position:
        self._reach()
        await asyncio.sleep(0)
        if peer.id in self.statuses:
            return self.statuses[peer.id].position
        return Position(at=peer.enabled_at)

    async def write(self, statuses: Mapping[int, LinkStatus]) -> None:
        self._reach()
        self.statuses |= statuses

    def _reach(self) -> None:
        self.calls += 1
        if self.away:
            raise ConnectionError("the database is away")


class Running:
    """A forwarder that runs."""

    def __init__(self, store: MemoryStore, log: LogInMemory) -> None:
        self.changes: list[tuple[str, LinkState]] = []
        self.forwarder = Forwarder(
            store,
            server_id=OWN_ID,
            source=log,
            gate=SendGate(60.0),
            timings=TIMINGS,
            on_change=lambda link: self.changes.append((link.config.name, link.state)),
        )
        self.task = asyncio.create_task(self.forwarder.run())

    def link(self, name: str = "far") -> Link | None:
        return next((each for each in self.forwarder.links if each.config.name == name), None)

    def is_at(self, state: LinkState, name: str = "far") -> bool:
        link = self.link(name)
        return link is not None and link.state is state

    async def has(self, state: LinkState, name: str = "far") -> None:
        await wait_until_async(partial(self.is_at, state, name), 20, f"{name} {state}")

    async def end(self) -> None:
        if not self.task.done():
            self.task.cancel()
            await asyncio.wait([self.task])
            await self.forwarder.close()


TIMINGS = Timings(PEER_POLL_INTERVAL=0.02, LINK_BACKOFF_BASE=0.01)

StartForwarder = Callable[[], Running]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "LOOP_RETRY_INTERVAL", 0.02)
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.3)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def log() -> LogInMemory:
    return LogInMemory()


@pytest.fixture
async def start_forwarder(store: MemoryStore, log: LogInMemory) -> AsyncIterator[StartForwarder]:
    started = []

    def start() -> Running:
        started.append(Running(store, log))
        return started[-1]

    yield start
    for running in started:
        await running.end()


@pytest.fixture
async def fars() -> AsyncIterator[list[FarServer]]:
    """Two servers to forward to."""
    servers = [await FarServer().start() for _ in range(2)]
    assert isinstance(servers[1].greeting, dict)
    servers[1].greeting |= {"server_id": "e" * 32}
    yield servers
    for server in servers:
        await server.stop()


class Publisher:
    """Publishes on this server."""

    def __init__(self, log: LogInMemory) -> None:
        self._log = log

    def publish(self, topic: str, message: object) -> None:
        self._log.append(publication(self._log.end + 1, topic, message))


@pytest.fixture
def client(log: LogInMemory) -> Publisher:
    return Publisher(log)


def messages(far: FarServer) -> list[object]:
    """Return the messages that it received, without repetitions."""
    return list({(f["origin"], f["id"]): f["message"] for f in far.frames}.values())


async def gets(far: FarServer, *expected: object) -> None:
    await wait_until_async(lambda: len(messages(far)) >= len(expected), 20, f"{expected[-1]} comes")
    assert messages(far) == list(expected)


class Traffic:
    """Publishes numbers from 1 on until it is stopped."""

    def __init__(self, client: Publisher) -> None:
        self.last = 0
        self._stopping = False
        self._task = asyncio.create_task(self._publish(client))

    async def _publish(self, client: Publisher) -> None:
        while not self._stopping:
            client.publish("news.traffic", self.last + 1)
            self.last += 1
            await asyncio.sleep(0.001)

    async def goes_on(self) -> None:
        """Wait for some more."""
        enough = self.last + 25
        await wait_until_async(lambda: self.last > enough, 20)

    async def stop(self) -> list[object]:
        """All that was published."""
        self._stopping = True
        await self._task
        return list(range(1, self.last + 1))


class TestRows:
    async def test_each_message_goes_to_each_peer(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
    ) -> None:
        for far, name in zip(fars, ("one", "two"), strict=True):
            store.add(far, name)
        start_forwarder()
        for number in range(50):
            client.publish("a", number)
        for far in fars:
            await gets(far, *range(50))
        assert fars[0].frames == fars[1].frames

    async def test_a_row_that_is_added_under_load_misses_nothing_since_it_was_enabled(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
    ) -> None:
        store.add(fars[0], "one")
        running = start_forwarder()
        traffic = Traffic(client)
        await traffic.goes_on()
        missed = traffic.last
        store.add(fars[1], "two", enabled_at=time.time())
        await traffic.goes_on()
        await running.has(LinkState.CONNECTED, "two")
        await traffic.goes_on()
        published = await traffic.stop()
        await gets(fars[0], *published)
        await wait_until_async(lambda: traffic.last in messages(fars[1]), 20)
        # At most one was published in the moment of the count.
        first = messages(fars[1])[0]
        assert first in (missed + 1, missed + 2)
        assert messages(fars[1]) == published[published.index(first) :]

    async def test_two_rows_that_are_added_at_once_under_load_get_the_same(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
    ) -> None:
        running = start_forwarder()
        traffic = Traffic(client)
        await traffic.goes_on()
        since = time.time()
        for far, name in zip(fars, ("one", "two"), strict=True):
            store.add(far, name, enabled_at=since)
        await running.has(LinkState.CONNECTED, "one")
        await running.has(LinkState.CONNECTED, "two")
        await traffic.goes_on()
        await traffic.stop()
        for far in fars:
            await wait_until_async(partial(has_got, far, traffic.last), 20)
        assert messages(fars[0]) == messages(fars[1])
        first, last = messages(fars[0])[0], messages(fars[0])[-1]
        assert isinstance(first, int)
        assert messages(fars[0]) == list(range(first, traffic.last + 1))
        assert last == traffic.last

    async def test_a_row_that_changes_under_load_loses_nothing(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
    ) -> None:
        row = store.add(fars[0])
        running = start_forwarder()
        await running.has(LinkState.CONNECTED)
        traffic = Traffic(client)
        for topics in (("news",), ("news", "sport"), ()):
            # Its goodbye takes a while: the server does not answer it.
            for session in fars[0].sessions:
                session.transport.pause_reading()
            await traffic.goes_on()
            before = len(fars[0].requests)
            store.change(row.id, topics=topics)
            await wait_until_async(partial(came_again, fars[0], before), 20)
            await traffic.goes_on()
        await gets(fars[0], *await traffic.stop())
        for session in fars[0].sessions:
            session.transport.abort()

    async def test_a_row_that_changes_twice_before_the_link_has_ended(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # The link ends when its connection is broken.
        monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 60.0)
        row = store.add(fars[0])
        running = start_forwarder()
        await running.has(LinkState.CONNECTED)
        fars[0].answer = lambda frame: None
        client.publish("a", 1)
        await wait_until_async(lambda: len(fars[0].frames) == 1, 20)
        [session] = fars[0].sessions
        session.transport.pause_reading()
        fars[0].answer = fars[0].ack
        for name in ("second", "third"):
            store.change(row.id, name=name)
            await wait_until_async(partial(running.link, name))
        session.transport.abort()
        await running.has(LinkState.CONNECTED, "third")
        client.publish("a", 2)
        await gets(fars[0], 1, 2)
        assert len(fars[0].requests) == 2

    async def test_a_row_that_is_removed_ends_its_link_only(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
    ) -> None:
        rows = [store.add(far, name) for far, name in zip(fars, ("one", "two"), strict=True)]
        running = start_forwarder()
        await running.has(LinkState.CONNECTED, "one")
        await running.has(LinkState.CONNECTED, "two")
        del store.rows[rows[0].id]
        await wait_until_async(lambda: not fars[0].sessions)
        client.publish("a", 1)
        await gets(fars[1], 1)
        assert fars[0].frames == []
        await wait_until_async(lambda: running.changes[-1] == ("one", LinkState.DISABLED))

    async def test_those_that_are_removed_at_once_do_not_wait_for_each_other(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        closing, let_go = 0, asyncio.Event()
        close = Connection.close

        async def slowly(connection: Connection) -> None:
            nonlocal closing
            closing += 1
            await let_go.wait()
            await close(connection)

        for far, name in zip(fars, ("one", "two"), strict=True):
            store.add(far, name)
        running = start_forwarder()
        await running.has(LinkState.CONNECTED, "one")
        await running.has(LinkState.CONNECTED, "two")
        monkeypatch.setattr(Connection, "close", slowly)
        store.rows.clear()
        await wait_until_async(lambda: closing == 2)
        let_go.set()
        await wait_until_async(lambda: not any(far.sessions for far in fars))


def has_got(far: FarServer, message: object) -> bool:
    return message in messages(far)


def came_again(far: FarServer, before: int) -> bool:
    return len(far.requests) > before


class TestResuming:
    async def test_a_second_run_goes_on_where_the_first_one_stopped(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
    ) -> None:
        store.add(fars[0])
        first = start_forwarder()
        for number in range(10):
            client.publish("a", number)
        await gets(fars[0], *range(10))
        await wait_until_async(partial(store.has_acked, 1, 10))
        await first.end()
        for number in range(10, 20):
            client.publish("a", number)
        start_forwarder()
        await gets(fars[0], *range(20))
        assert len(fars[0].frames) == 20

    async def test_what_was_not_acknowledged_in_the_first_run_is_sent_again(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
    ) -> None:
        store.add(fars[0])
        fars[0].answer = lambda frame: fars[0].ack(frame) if frame["message"] < 3 else None
        first = start_forwarder()
        for number in range(6):
            client.publish("a", number)
        await wait_until_async(lambda: len(fars[0].frames) == 6, 20)
        await wait_until_async(partial(store.has_acked, 1, 3))
        await first.end()
        fars[0].answer = fars[0].ack
        start_forwarder()
        await wait_until_async(lambda: len(fars[0].frames) == 9, 20)
        assert [frame["message"] for frame in fars[0].frames] == [0, 1, 2, 3, 4, 5, 3, 4, 5]

    async def test_each_peer_goes_on_from_its_own_position(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
    ) -> None:
        one = store.add(fars[0], "one")
        store.add(fars[1], "two")
        first = start_forwarder()
        client.publish("a", 1)
        for far in fars:
            await gets(far, 1)
        for id in store.rows:
            await wait_until_async(partial(store.has_acked, id, 1))
        await fars[1].stop()
        client.publish("a", 2)
        await gets(fars[0], 1, 2)
        await wait_until_async(partial(store.has_acked, one.id, 2))
        await first.end()
        await fars[1].start()
        start_forwarder()
        await gets(fars[1], 1, 2)
        client.publish("a", 3)
        for far in fars:
            await gets(far, 1, 2, 3)
            assert len(far.frames) == 3


class TestTheLog:
    async def test_what_it_no_longer_has_is_counted_for_each_peer_and_logged_once(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        log: LogInMemory,
        start_forwarder: StartForwarder,
        client: Publisher,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        store.add(fars[0], "one")
        store.add(fars[1], "two", topics=("elsewhere",))
        first = start_forwarder()
        client.publish("elsewhere", 0)
        for number in range(1, 21):
            client.publish("a", number)
        await gets(fars[0], *range(21))
        await gets(fars[1], 0)
        await first.end()
        for number in range(21, 41):
            client.publish("a", number)
        log.trim(36)
        second = start_forwarder()
        await gets(fars[0], *range(21), *range(36, 41))
        line = "15 messages are lost to 'one', 'two': the log no longer had them"
        await wait_until_async(lambda: line in caplog.text)
        await wait_until_async(
            lambda: [status.stats.dropped for status in store.statuses.values()] == [15, 15]
        )
        stats = second.forwarder.stats()
        assert {name: link.missed for name, link in stats.links.items()} == {"one": 15, "two": 15}
        # A peer that is enabled again begins to count again.
        rows, store.rows = store.rows, {}
        await wait_until_async(lambda: not second.forwarder.links)
        store.rows = rows
        await wait_until_async(lambda: len(second.forwarder.links) == len(rows))
        await second.end()
        assert [status.stats.dropped for status in store.statuses.values()] == [0, 0]
        assert caplog.text.count("messages are lost") == 1

    async def test_another_one_that_has_nothing_from_before_is_logged_once(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        log: LogInMemory,
        start_forwarder: StartForwarder,
        client: Publisher,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.INFO)
        # Enabled at the same moment, they read the same pages at the same time.
        now = time.time()
        store.add(fars[0], "one", enabled_at=now)
        store.add(fars[1], "two", enabled_at=now)
        start_forwarder()
        client.publish("a", 1)
        for far in fars:
            await gets(far, 1)
        log.begin_again("another")
        await wait_until_async(lambda: "the old one was read to its end" in caplog.text)
        assert "lost" not in caplog.text
        assert caplog.text.count("has begun again") == 1

    async def test_another_one_may_have_lost_what_was_not_read_of_the_first(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        log: LogInMemory,
        start_forwarder: StartForwarder,
        client: Publisher,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        fars[0].answer = lambda frame: None
        store.add(fars[0])
        running = start_forwarder()
        for number in range(1000):
            client.publish("a", number)
        await wait_until_async(lambda: len(fars[0].frames) == 256, 20)
        link = running.link()
        assert link is not None
        await wait_until_async(lambda: not link.window.room.is_set())
        unread = link.window.lag - len(link.window)
        log.begin_again("another")
        fars[0].answer = fars[0].ack
        fars[0].cut()
        line = f"{unread} messages of the old one that were not read may be lost to 'far'"
        await wait_until_async(lambda: line in caplog.text)

    async def test_another_one_since_the_last_worker_may_have_lost_messages_as_well(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        log: LogInMemory,
        start_forwarder: StartForwarder,
        client: Publisher,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        store.add(fars[0])
        first = start_forwarder()
        client.publish("a", 1)
        await gets(fars[0], 1)
        await first.end()
        log.begin_again("another")
        start_forwarder()
        line = "the messages of the old one that were not read may be lost to 'far'"
        await wait_until_async(lambda: line in caplog.text)

    async def test_while_it_cannot_be_read_each_peer_says_so(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        log: LogInMemory,
        start_forwarder: StartForwarder,
        client: Publisher,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(shared_source, "ROUTINE_GRACE", 0.1)
        monkeypatch.setattr(shared_source, "BACKOFF_CAP", 0.05)
        store.add(fars[0])
        running = start_forwarder()
        await running.has(LinkState.CONNECTED)
        log.problem = "Redis is away"
        await wait_until_async(lambda: store.says(LinkState.BACKING_OFF), 20)
        assert store.statuses[1].last_error == "this worker cannot read the log: Redis is away"
        client.publish("a", 1)
        log.problem = None
        await gets(fars[0], 1)
        await wait_until_async(lambda: store.says(LinkState.CONNECTED), 20)
        assert store.statuses[1].last_error == ""
        assert running.forwarder.stats().links["far"].reconnects == 0


class TestAStoreThatIsAway:
    async def test_what_is_connected_goes_on_and_changes_count_afterwards(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        store.add(fars[0], "one")
        running = start_forwarder()
        await running.has(LinkState.CONNECTED, "one")
        store.away = True
        called = store.calls
        await wait_until_async(lambda: store.calls > called + 5)
        store.add(fars[1], "two")
        client.publish("a", 1)
        await gets(fars[0], 1)
        store.away = False
        await gets(fars[1], 1)
        assert caplog.text.count("the peers' rows cannot be read or written") == 1
        assert caplog.text.count("can be read and written again") == 1
        assert not running.task.done()

    async def test_it_can_be_closed(
        self, store: MemoryStore, fars: list[FarServer], start_forwarder: StartForwarder
    ) -> None:
        store.add(fars[0])
        running = start_forwarder()
        await running.has(LinkState.CONNECTED)
        store.away = True
        await running.end()
        await wait_until_async(lambda: not fars[0].sessions)


class TestLoops:
    async def test_a_link_to_this_server_itself_is_not_used(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
    ) -> None:
        fars[0].greeting = {"type": "hello", "server_id": OWN_ID}
        row = store.add(fars[0])
        running = start_forwarder()
        await running.has(LinkState.LOOP)
        client.publish("a", 1)
        await wait_until_async(lambda: row.id in store.statuses)
        await wait_until_async(lambda: store.statuses[row.id].state is LinkState.LOOP)
        assert store.statuses[row.id].last_error == "leads to this server itself"
        assert fars[0].frames == []

    async def test_of_two_links_to_one_server_one_is_used(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
    ) -> None:
        store.add(fars[0], "one")
        running = start_forwarder()
        await running.has(LinkState.CONNECTED, "one")
        fars[1].greeting = fars[0].greeting
        store.add(fars[1], "two")
        await running.has(LinkState.LOOP, "two")
        link = running.link("two")
        assert link is not None
        await wait_until_async(lambda: link.status().last_error)
        assert link.status().last_error == "leads to the same server as 'one'"
        client.publish("a", 1)
        await gets(fars[0], 1)
        assert fars[1].frames == []

    async def test_the_second_takes_nothing_over_while_the_first_is_away(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
    ) -> None:
        """Else what the first still has to send would be lost."""
        store.add(fars[0], "one")
        running = start_forwarder()
        await running.has(LinkState.CONNECTED, "one")
        fars[1].greeting = fars[0].greeting
        store.add(fars[1], "two")
        await running.has(LinkState.LOOP, "two")
        await fars[0].stop()
        client.publish("a", 1)
        tried = len(fars[1].requests)
        await wait_until_async(partial(came_again, fars[1], tried + 2))
        await fars[0].start()
        await gets(fars[0], 1)
        assert fars[1].frames == []

    async def test_when_the_first_is_removed_the_second_is_used(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
    ) -> None:
        one = store.add(fars[0], "one")
        running = start_forwarder()
        await running.has(LinkState.CONNECTED, "one")
        fars[1].greeting = {"type": "hello", "server_id": SERVER_ID}
        store.add(fars[1], "two")
        await running.has(LinkState.LOOP, "two")
        del store.rows[one.id]
        await running.has(LinkState.CONNECTED, "two")
        client.publish("a", 1)
        await gets(fars[1], 1)


class TestFlush:
    async def test_it_waits_for_those_that_are_connected(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
    ) -> None:
        for far, name in zip(fars, ("one", "two"), strict=True):
            store.add(far, name)
        running = start_forwarder()
        await running.has(LinkState.CONNECTED, "one")
        await running.has(LinkState.CONNECTED, "two")
        await fars[1].stop()
        fars[0].answer = lambda frame: None
        for number in range(5):
            client.publish("a", number)
        await wait_until_async(lambda: len(fars[0].frames) == 5, 20)
        flushing = asyncio.create_task(running.forwarder.flush(20))
        for frame in fars[0].frames:
            assert not flushing.done()
            await fars[0].say(fars[0].ack(frame))
        assert await flushing == 5  # those for the other one

    async def test_it_reads_to_the_end_of_the_log_first(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
    ) -> None:
        store.add(fars[0])
        running = start_forwarder()
        await running.has(LinkState.CONNECTED)
        fars[0].answer = lambda frame: None
        for number in range(2000):
            client.publish("a", number)
        await wait_until_async(lambda: len(fars[0].frames) == 256, 20)
        flushing = asyncio.create_task(running.forwarder.flush(20))
        await asyncio.sleep(0)
        fars[0].answer = fars[0].ack
        for frame in list(fars[0].frames):
            await fars[0].say(fars[0].ack(frame))
        assert await flushing == 0
        assert messages(fars[0]) == list(range(2000))
        # What is published from then on is the next worker's.
        client.publish("a", 2000)
        link = running.link()
        assert link is not None
        assert link.is_finished

    async def test_but_not_for_ever(
        self,
        store: MemoryStore,
        fars: list[FarServer],
        start_forwarder: StartForwarder,
        client: Publisher,
    ) -> None:
        store.add(fars[0])
        running = start_forwarder()
        await running.has(LinkState.CONNECTED)
        fars[0].answer = lambda frame: None
        client.publish("a", 1)
        await wait_until_async(lambda: len(fars[0].frames) == 1, 20)
        assert await running.forwarder.flush(0.05) == 1


async def test_what_is_on_file_after_the_end_says_so(
    store: MemoryStore, fars: list[FarServer], start_forwarder: StartForwarder, client: Publisher
) -> None:
    row = store.add(fars[0])
    running = start_forwarder()
    client.publish("a", 1)
    await gets(fars[0], 1)
    await running.end()
    status = store.statuses[row.id]
    assert status.last_error == "the worker has stopped"
    assert status.position.cursor == "log:1"
