"""The rows that tell operators who is connected to a process, and how much came."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.db import DatabaseError
from django.db.models import QuerySet
from django.utils import timezone

from dwsps_channels.models import Peer, PeerInbound
from dwsps_channels.models.peer_inbound import ALIVE_TIMEOUT, RETENTION
from dwsps_channels.peering.inbound import reporter
from dwsps_channels.peering.inbound.reporter import InboundReporter, Report, write_reports
from dwsps_channels.server import runtime
from dwsps_channels.testing import PubSubCommunicator
from tests.peering.inbound.test_authentication import OTHER, SECRET, bearer, create
from tests.processes import wait_until_async

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def reports_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "FIRST_INTERVAL", 0.01)
    monkeypatch.setattr(reporter, "REPORT_INTERVAL", 0.02)


@pytest.fixture
async def ended() -> AsyncIterator[None]:
    """Before the tables are emptied, the last report is written."""
    yield
    reporting = (await runtime.obtain())._inbound
    await wait_until_async(lambda: reporting._reporting is None)


@pytest.fixture
async def peer(ended: None) -> Peer:
    return await create()


@pytest.fixture
async def link(peer: Peer) -> AsyncIterator[PubSubCommunicator]:
    async with linked() as link:
        yield link


def linked(secret: str = SECRET) -> PubSubCommunicator:
    link = PubSubCommunicator(headers=bearer(secret))
    link.scope["client"] = ("192.0.2.7", 40_000)
    return link


async def forward(link: PubSubCommunicator, *numbers: int, topic: str = "news") -> None:
    """Forward messages as a server of ours does, and wait for the answers."""
    for number in numbers:
        await link.send_json_to(
            {
                "type": "publish",
                "topic": topic,
                "message": number,
                "fromPeerServer": True,
                "id": number,
                "origin": "far",
            }
        )
        while (await link.receive_json_from(5)).get("id") != number:
            pass


async def rows() -> list[PeerInbound]:
    return [row async for row in PeerInbound.objects.order_by("pk")]


async def row_that(**values: Any) -> PeerInbound:
    """Wait for the row with these values."""
    async with asyncio.timeout(20):
        while True:
            if found := [row async for row in PeerInbound.objects.filter(**values)]:
                [row] = found
                return row
            await asyncio.sleep(0.01)


async def test_a_peer_that_connects_is_reported_and_what_it_sends_is_counted(
    peer: Peer, link: PubSubCommunicator
) -> None:
    before = timezone.now()
    row = await row_that(connections=1)
    assert (row.peer_id, row.received, row.duplicates, row.refused) == (peer.pk, 0, 0, 0)
    assert row.address == "192.0.2.7"
    assert row.since is not None
    assert row.since < before
    await forward(link, 1, 2, 3, 2)
    await forward(link, 4, topic="a..b")
    row = await row_that(received=3, duplicates=1, refused=1)
    assert row.is_connected
    assert [each.pk for each in await rows()] == [row.pk]


async def test_what_connections_that_are_gone_have_sent_still_counts(peer: Peer) -> None:
    async with linked() as first:
        await forward(first, 1, 2)
        async with linked() as second:
            await forward(second, 3)
            since = (await row_that(connections=2, received=3)).since
            assert since is not None
        assert (await row_that(connections=1)).since == since
    row = await row_that(connections=0)
    assert (row.received, row.since, row.is_connected) == (3, None, False)
    async with linked() as third:
        await forward(third, 1, 4)
        row = await row_that(connections=1, received=4)
        assert row.duplicates == 1
        assert row.since is not None
        assert row.since > since


async def test_each_peer_has_a_row(peer: Peer, link: PubSubCommunicator) -> None:
    other = await create("other", secret=OTHER)
    async with linked(OTHER) as second:
        await forward(second, 1)
        await forward(link, 2, 3)
        assert (await row_that(received=2)).peer_id == peer.pk
        assert (await row_that(received=1)).peer_id == other.pk


async def test_nothing_is_written_without_a_peer_or_without_news(peer: Peer) -> None:
    async with PubSubCommunicator() as client:
        await client.subscribe("news")
        reporting = (await runtime.obtain())._inbound
        assert reporting._reporting is None
        async with linked():
            written = (await row_that(connections=1)).seen_at
            with mock.patch.object(reporter, "write_reports") as write:
                for _ in range(10):
                    await asyncio.sleep(0)
                    await client.subscribe("news")
                await waited(reporting)
            write.assert_not_called()
            assert (await row_that(connections=1)).seen_at == written
        await row_that(connections=0)
        # Once it is written that the last one left, nobody looks any more.
        await wait_until_async(lambda: reporting._reporting is None)


async def waited(reporting: InboundReporter, times: int = 3) -> None:
    """Wait until the reporter has looked so often for something to write."""
    due = reporting._due
    seen = 0

    def counting() -> dict[int, Report]:
        nonlocal seen
        seen += 1
        return due()

    with mock.patch.object(reporting, "_due", counting):
        await wait_until_async(lambda: seen >= times)


async def test_a_connection_without_news_is_confirmed_now_and_then(
    link: PubSubCommunicator, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (await row_that(connections=1)).seen_at
    monkeypatch.setattr(reporter, "HEARTBEAT_INTERVAL", 0.05)
    assert (await row_that(connections=1, seen_at__gt=first)).is_connected


async def test_a_database_that_is_away_is_logged_once_and_disturbs_nothing(
    link: PubSubCommunicator, caplog: pytest.LogCaptureFixture
) -> None:
    await row_that(connections=1)
    update = QuerySet.update

    def away(self: QuerySet[Any], **values: Any) -> int:
        if self.model is PeerInbound:
            asked.append(values)
            raise DatabaseError("away")
        return update(self, **values)

    asked: list[Any] = []
    with caplog.at_level(logging.WARNING), mock.patch.object(QuerySet, "update", away):
        await forward(link, 1)
        await wait_until_async(lambda: len(asked) >= 3)
        await forward(link, 2)
        said = [r for r in caplog.records if "cannot be recorded" in r.getMessage()]
        assert len(said) == 1
    await row_that(received=2)


async def test_the_end_of_the_process_is_reported(link: PubSubCommunicator) -> None:
    await forward(link, 1, 2)
    await row_that(connections=1)
    server = await runtime.obtain()
    with mock.patch.object(reporter, "REPORT_INTERVAL", 3600):
        await forward(link, 3)
        await server._inbound.stop(20)
    [row] = await rows()
    assert (row.connections, row.received, row.since) == (0, 3, None)
    assert server._inbound._reporting is None


async def test_an_end_does_not_wait_for_a_database_that_hangs(peer: Peer) -> None:
    reporting = InboundReporter()
    begun, over = asyncio.Event(), asyncio.Event()

    async def hang(*_: Any) -> None:
        begun.set()
        await over.wait()

    session = mock.Mock(received=1, duplicates=0, refused=0)
    with mock.patch.object(reporter, "in_background", hang):
        reporting.add(session, peer.pk, "")
        await begun.wait()
        await reporting.stop(0.05)
        await wait_until_async(lambda: reporting._reporting is None)
    assert await rows() == []


@pytest.fixture
def report() -> Report:
    return Report(1, "192.0.2.1", 5, 4, 3, timezone.now())


def test_a_row_is_of_one_run_of_one_process(report: Report) -> None:
    peer = Peer.objects.create(name="b", url="ws://b.example/", secret=SECRET)
    for process in ("one", "two", "one"):
        write_reports(process, {peer.pk: report})
    written = PeerInbound.objects.order_by("process")
    assert [row.process for row in written] == ["one", "two"]
    assert written[0].address == "192.0.2.1"
    assert (written[0].received, written[0].duplicates, written[0].refused) == (5, 4, 3)


def test_of_a_peer_that_is_gone_nothing_is_written_and_the_others_are(report: Report) -> None:
    gone, there = (
        Peer.objects.create(name=name, url="ws://b.example/", secret=SECRET)
        for name in ("gone", "there")
    )
    gone_id = gone.pk
    write_reports("one", {gone_id: report})
    gone.delete()
    write_reports("one", {gone_id: report, there.pk: report})
    assert [row.peer_id for row in PeerInbound.objects.all()] == [there.pk]


def test_rows_of_runs_that_ended_long_ago_are_deleted(report: Report) -> None:
    peer = Peer.objects.create(name="b", url="ws://b.example/", secret=SECRET)
    for process, age in (("old", RETENTION), ("young", RETENTION - timedelta(minutes=1))):
        write_reports(process, {peer.pk: report})
        PeerInbound.objects.filter(process=process).update(seen_at=timezone.now() - age)
    assert [row.process for row in PeerInbound.objects.kept()] == ["young"]
    write_reports("new", {peer.pk: report})
    assert {row.process for row in PeerInbound.objects.all()} == {"young", "new"}


def test_a_row_that_a_killed_process_left_is_recognised_by_its_age(report: Report) -> None:
    peer = Peer.objects.create(name="b", url="ws://b.example/", secret=SECRET)
    write_reports("killed", {peer.pk: report})
    assert PeerInbound.objects.get().is_connected
    PeerInbound.objects.update(seen_at=timezone.now() - ALIVE_TIMEOUT)
    assert not PeerInbound.objects.get().is_connected
