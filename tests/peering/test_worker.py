"""The worker, on a real server and the project's database, with a peer that does what a test tells it."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from channels.db import database_sync_to_async
from django.conf import settings
from django.db import DatabaseError
from django.test import override_settings
from django.utils import timezone

from dwsps_channels import signals
from dwsps_channels.core.log_source import LogSource
from dwsps_channels.models import Lease, Peer, PeerStatus, ServerIdentity
from dwsps_channels.peering import lease, store, worker
from dwsps_channels.peering.outbound.link import Link
from dwsps_channels.peering.worker import Worker
from tests.peering.far_server import FarServer
from tests.peering.site import id_of
from tests.processes import Server, wait_until_async
from tests.wire.client import WireClient, connected

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "the-secret-of-this-peer"

# A lease ends when a test says so, and not while a busy machine has other things to do.
TIMINGS = {
    "LEASE_TIMEOUT": 600.0,
    "LEASE_RENEW_INTERVAL": 0.05,
    "PEER_POLL_INTERVAL": 0.05,
    "LINK_BACKOFF_BASE": 0.01,
}


@pytest.fixture(scope="module")
def server_kind() -> str:
    return "daphne"


@pytest.fixture(autouse=True)
def same_project(server: Server, transactional_db: None) -> Iterator[None]:
    """The worker is of the project that the server runs, though its database is another one."""
    ServerIdentity.objects.create(pk=1, server_id=id_of(server))
    with override_settings(
        SECRET_KEY=server.env["SECRET_KEY"], DWSPS={**settings.DWSPS, "TIMINGS": TIMINGS}
    ):
        yield


@pytest.fixture(autouse=True)
def long_graces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait at the end until everything is done, on a busy machine as well."""
    monkeypatch.setattr(worker, "FLUSH_GRACE", 60.0)
    monkeypatch.setattr(worker, "SIGNALS_GRACE", 60.0)


@pytest.fixture
async def far() -> AsyncIterator[FarServer]:
    server = await FarServer().start()
    yield server
    await server.stop()


@pytest.fixture
async def peer(far: FarServer) -> Peer:
    return await Peer.objects.acreate(name="far", url=far.url, secret=SECRET)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[WireClient]:
    async with connected(server.url) as client:
        yield client


class Running:
    def __init__(self, server: Server) -> None:
        self.worker = Worker(server.url)
        self.task = asyncio.create_task(self.worker.run())

    async def stop(self) -> None:
        self.worker.stop()
        async with asyncio.timeout(20):
            await self.task


@pytest.fixture
async def start_worker(server: Server) -> AsyncIterator[Callable[[], Running]]:
    started = []

    def start() -> Running:
        started.append(Running(server))
        return started[-1]

    yield start
    for running in started:
        if not running.task.done():
            await running.stop()


async def holder() -> str:
    lease = await Lease.objects.filter(expires_at__gt=timezone.now()).afirst()
    return lease.holder if lease else ""


async def is_held_by(running: Running) -> bool:
    return await holder() == running.worker._holder


async def gets(far: FarServer, *messages: object) -> None:
    def got() -> list[object]:
        return [frame["message"] for frame in far.frames]

    await wait_until_async(lambda: len(got()) >= len(messages), 20, f"{messages[-1]} comes")
    assert got() == list(messages)


StartWorker = Callable[[], Running]


class TestForwarding:
    async def test_what_is_published_goes_to_the_peers_in_the_database(
        self, far: FarServer, peer: Peer, start_worker: StartWorker, client: WireClient
    ) -> None:
        start_worker()
        await client.publish("news", {"a": 1})
        await gets(far, {"a": 1})
        assert far.requests[0].headers["Authorization"] == f"Bearer {SECRET}"

        async def told() -> PeerStatus | None:
            return await PeerStatus.objects.filter(peer=peer, acked=1).afirst()

        status = await wait_until_async(told)
        assert status is not None
        assert status.state == "connected"
        assert status.position.partition(":")[2] == "1"
        assert time.time() - 60 < status.position_at < time.time() + 60
        assert status.lag == 0

    async def test_a_change_takes_effect_without_a_word(
        self, far: FarServer, peer: Peer, start_worker: StartWorker, client: WireClient
    ) -> None:
        """An admin's action changes rows in another process, and sends no signal."""
        start_worker()
        await wait_until_async(lambda: far.sessions, 20)
        await Peer.objects.filter(pk=peer.pk).aupdate(enabled=False)
        await wait_until_async(lambda: not far.sessions)
        await Peer.objects.filter(pk=peer.pk).aupdate(enabled=True)
        await wait_until_async(lambda: bool(far.sessions))
        await client.publish("news", 1)
        await gets(far, 1)


class TestLease:
    async def test_one_forwards_and_the_other_takes_over_at_its_end(
        self,
        far: FarServer,
        peer: Peer,
        start_worker: StartWorker,
        client: WireClient,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.INFO)
        first = start_worker()
        await wait_until_async(partial(is_held_by, first), 20)
        second = start_worker()
        await wait_until_async(lambda: "standing by" in caplog.text)
        await client.publish("news", 1)
        await gets(far, 1)
        assert len(far.sessions) == 1
        await first.stop()
        # It was given back: its time need not pass.
        await wait_until_async(partial(is_held_by, second))
        await client.publish("news", 2)
        await gets(far, 1, 2)
        await wait_until_async(lambda: len(far.sessions) == 1)

    async def test_who_loses_it_stops_forwarding_and_writes_no_more(
        self,
        far: FarServer,
        peer: Peer,
        start_worker: StartWorker,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.INFO)
        first = start_worker()
        await wait_until_async(lambda: far.sessions, 20)
        until = timezone.now() + timedelta(seconds=60)
        await Lease.objects.aupdate(holder="somebody else", expires_at=until)
        await wait_until_async(lambda: not far.sessions)
        await wait_until_async(lambda: "the lease was lost to another worker" in caplog.text)
        # How far it got is for the other one to say by now.
        status = await PeerStatus.objects.filter(peer=peer).afirst()
        assert status is None or status.last_error == ""
        assert await holder() == "somebody else"
        # Its time is over, and nobody renewed it.
        await Lease.objects.aupdate(expires_at=timezone.now())
        await wait_until_async(partial(is_held_by, first))
        await wait_until_async(lambda: bool(far.sessions))

    async def test_a_lease_that_nobody_renews_is_waited_for_without_a_word(
        self,
        far: FarServer,
        peer: Peer,
        start_worker: StartWorker,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It is that of a predecessor, killed a moment ago, and not of another worker."""
        caplog.set_level(logging.INFO)
        asked = Counting(monkeypatch, "acquire")
        assert await database_sync_to_async(lease.acquire)("the predecessor", 60)
        running = start_worker()
        await wait_until_async(lambda: asked.count >= 5, 20)
        assert not [r for r in caplog.records if r.name == worker.logger.name]
        await Lease.objects.aupdate(expires_at=timezone.now())
        await wait_until_async(partial(is_held_by, running))
        assert "another worker" not in caplog.text

    async def test_without_a_peer_nothing_is_written(
        self,
        far: FarServer,
        start_worker: StartWorker,
        client: WireClient,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        caplog.set_level(logging.INFO)
        peer = await Peer.objects.acreate(
            name="far", url=far.url, secret=SECRET, enabled=False, forward=True
        )
        looked = Counting(monkeypatch, "has_peers")
        running = start_worker()
        await wait_until_async(lambda: looked.count >= 5, 20)
        assert not await Lease.objects.aexists()
        assert not await PeerStatus.objects.aexists()
        assert caplog.text.count("no peer to forward to") == 1
        # Once there is one all goes its way, and what was published meanwhile too.
        await Peer.objects.filter(pk=peer.pk).aupdate(enabled=True)
        await client.publish("news", 1)
        await gets(far, 1)
        await wait_until_async(PeerStatus.objects.filter(acked=1).aexists)
        # And when it is gone the lease is given back.
        await Peer.objects.filter(pk=peer.pk).aupdate(enabled=False)
        await wait_until_async(lambda: not far.sessions)

        async def is_given_back() -> bool:
            return await holder() == ""

        await wait_until_async(is_given_back)
        assert (await PeerStatus.objects.aget(peer=peer)).state == "disabled"
        await running.stop()
        assert "another worker" not in caplog.text
        assert "WARNING" not in caplog.text

    async def test_a_worker_that_cannot_begin_to_forward_gives_it_back(
        self, peer: Peer, caplog: pytest.LogCaptureFixture
    ) -> None:
        failed = asyncio.Event()

        def make_source() -> LogSource:
            failed.set()
            raise ValueError("no such log")

        failing = Worker(make_source)
        running = asyncio.create_task(failing.run())
        await failed.wait()
        failing.stop()
        async with asyncio.timeout(20):
            await running
        assert "forwarding is not possible for now" in caplog.text
        assert await Lease.objects.aexists()
        assert await holder() == ""

    async def test_a_standby_can_be_stopped(
        self, peer: Peer, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        first = start_worker()
        await wait_until_async(partial(is_held_by, first), 20)
        second = start_worker()
        await wait_until_async(lambda: "standing by" in caplog.text)
        await second.stop()
        assert await is_held_by(first)


class TestStopping:
    async def test_it_waits_for_what_was_sent(
        self, far: FarServer, peer: Peer, start_worker: StartWorker, client: WireClient
    ) -> None:
        far.answer = lambda frame: None
        running = start_worker()
        for number in range(3):
            await client.publish("news", number)
        await gets(far, 0, 1, 2)
        running.worker.stop()
        for frame in far.frames:
            assert not running.task.done()
            await far.say(far.ack(frame))
        await running.task
        status = await PeerStatus.objects.aget(peer=peer)
        assert status.acked == 3
        assert (status.lag, status.oldest_at) == (0, None)
        assert await holder() == ""

    async def test_what_another_one_sends_by_now_is_not_waited_for(
        self,
        far: FarServer,
        peer: Peer,
        start_worker: StartWorker,
        client: WireClient,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        far.answer = lambda frame: None
        running = start_worker()
        await client.publish("news", 1)
        await gets(far, 1)
        running.worker.stop()
        until = timezone.now() + timedelta(seconds=600)
        await Lease.objects.aupdate(holder="somebody else", expires_at=until)
        async with asyncio.timeout(worker.FLUSH_GRACE / 2):
            await running.task
        assert "the lease was lost to another worker while stopping" in caplog.text
        assert await holder() == "somebody else"
        assert not await PeerStatus.objects.filter(last_error="the worker has stopped").aexists()

    async def test_what_cannot_be_sent_is_left_for_the_next_one(
        self,
        far: FarServer,
        peer: Peer,
        start_worker: StartWorker,
        client: WireClient,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.INFO)
        monkeypatch.setattr(worker, "FLUSH_GRACE", 0.1)
        far.answer = lambda frame: None
        first = start_worker()
        await client.publish("news", 1)
        await gets(far, 1)
        await first.stop()
        assert "stopping with 1 messages" in caplog.text
        far.answer = far.ack
        start_worker()
        await gets(far, 1, 1)
        assert far.frames[0] == far.frames[1]


class Counting:
    """Stands in for a function of the store or the lease, and counts its calls."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str) -> None:
        module = lease if hasattr(lease, name) else store
        self._function = getattr(module, name)
        self.count = 0
        patch.setattr(module, name, self)

    def __call__(self, *arguments: Any) -> Any:
        self.count += 1
        return self._function(*arguments)


class Failing:
    """Stands in for a function of the store or the lease that raises for some time."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str) -> None:
        module = lease if hasattr(lease, name) else store
        self._function = getattr(module, name)
        self.fails = True
        self.failed = 0
        patch.setattr(module, name, self)

    def __call__(self, *arguments: Any) -> Any:
        if self.fails:
            self.failed += 1
            raise DatabaseError("the database is away")
        return self._function(*arguments)


class TestADatabaseThatIsAway:
    @pytest.mark.parametrize("name", ["acquire", "load_peers", "load_position"])
    async def test_at_the_start(
        self,
        name: str,
        far: FarServer,
        peer: Peer,
        start_worker: StartWorker,
        client: WireClient,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        failing = Failing(monkeypatch, name)
        start_worker()
        await wait_until_async(lambda: failing.failed >= 2, 20)
        failing.fails = False
        await wait_until_async(lambda: far.sessions, 20)
        await client.publish("news", 1)
        await gets(far, 1)

    @pytest.mark.parametrize("name", ["acquire", "load_peers", "write_statuses"])
    async def test_meanwhile_what_is_connected_goes_on(
        self,
        name: str,
        far: FarServer,
        peer: Peer,
        start_worker: StartWorker,
        client: WireClient,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        running = start_worker()
        await wait_until_async(lambda: far.sessions, 20)
        failing = Failing(monkeypatch, name)
        await wait_until_async(lambda: failing.failed >= 2)
        await client.publish("news", 1)
        await gets(far, 1)
        failing.fails = False
        await client.publish("news", 2)
        await gets(far, 1, 2)
        assert len(far.requests) == 1
        assert not running.task.done()

    async def test_at_the_end(
        self,
        far: FarServer,
        peer: Peer,
        start_worker: StartWorker,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        running = start_worker()
        await wait_until_async(lambda: far.sessions, 20)
        for name in ("acquire", "load_peers", "write_statuses", "release"):
            Failing(monkeypatch, name)
        await running.stop()
        assert "the lease could not be released" in caplog.text


class TestSignals:
    @pytest.fixture
    def told(self) -> Iterator[list[tuple[str, str]]]:
        found: list[tuple[str, str]] = []

        def connected(sender: type[Link], peer: str, **rest: Any) -> None:
            assert sender is Link
            found.append(("connected", peer))

        def disconnected(sender: type[Link], peer: str, **rest: Any) -> None:
            assert sender is Link
            found.append(("disconnected", peer))

        signals.peer_connected.connect(connected)
        signals.peer_disconnected.connect(disconnected)
        yield found
        signals.peer_connected.disconnect(connected)
        signals.peer_disconnected.disconnect(disconnected)

    async def test_links_that_are_made_and_lost_are_told(
        self, far: FarServer, peer: Peer, start_worker: StartWorker, told: list[tuple[str, str]]
    ) -> None:
        running = start_worker()
        pair = [("connected", "far"), ("disconnected", "far")]
        await wait_until_async(lambda: told == pair[:1], 20)
        far.cut()
        await wait_until_async(lambda: told == [*pair, *pair[:1]])
        await Peer.objects.filter(pk=peer.pk).aupdate(enabled=False)
        await wait_until_async(lambda: told == pair * 2)
        await Peer.objects.filter(pk=peer.pk).aupdate(enabled=True)
        await wait_until_async(lambda: told == [*pair * 2, *pair[:1]])
        await running.stop()
        assert told == pair * 3

    async def test_a_receiver_that_raises_or_asks_the_database_disturbs_nobody(
        self,
        far: FarServer,
        peer: Peer,
        start_worker: StartWorker,
        client: WireClient,
        told: list[tuple[str, str]],
    ) -> None:
        found: list[str] = []

        def raises(**rest: Any) -> None:
            raise ValueError

        async def asks(peer: str, **rest: Any) -> None:
            found.append((await Peer.objects.aget(name=peer)).url)

        signals.peer_connected.connect(raises)
        signals.peer_connected.connect(asks)
        try:
            running = start_worker()
            await wait_until_async(lambda: found == [far.url], 20)
            await client.publish("news", 1)
            await gets(far, 1)
            await running.stop()
        finally:
            signals.peer_connected.disconnect(raises)
            signals.peer_connected.disconnect(asks)
        assert told == [("connected", "far"), ("disconnected", "far")]
