"""The connections of peers end when their rows say so, whoever changed them, and however."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from channels.db import database_sync_to_async
from django.conf import settings
from django.db import DatabaseError
from django.db.models import QuerySet
from django.test import override_settings

from dwsps_channels.core.timings import Timings
from dwsps_channels.models import Peer
from dwsps_channels.peering.inbound import accepted as accepted_peers
from dwsps_channels.peering.inbound.accepted import AcceptedPeers
from dwsps_channels.server import runtime
from dwsps_channels.testing import Closed, PubSubCommunicator
from tests.peering.inbound.test_authentication import OTHER, SECRET, bearer, create
from tests.processes import wait_until_async

pytestmark = pytest.mark.django_db(transaction=True)

POLL_INTERVAL = 0.02


@pytest.fixture(autouse=True)
def polls_often() -> Iterator[None]:
    assert Timings().PEER_POLL_INTERVAL <= 1.0  # two seconds, with the query and the closing
    with override_settings(
        DWSPS={**settings.DWSPS, "TIMINGS": {"PEER_POLL_INTERVAL": POLL_INTERVAL}}
    ):
        yield


@pytest.fixture
async def peer() -> Peer:
    return await create()


@pytest.fixture
async def link(peer: Peer) -> AsyncIterator[PubSubCommunicator]:
    link = PubSubCommunicator(headers=bearer(SECRET))
    accepted, _ = await link.connect()
    assert accepted
    assert (await link.receive_json_from(5))["type"] == "hello"
    yield link
    await link.disconnect()


async def update(**values: Any) -> None:
    # As an admin's action does: no save, no signal.
    await Peer.objects.aupdate(**values)


def changes(**values: Any) -> Callable[[], Awaitable[None]]:
    return lambda: update(**values)


async def has_new_secret() -> None:
    peer = await Peer.objects.aget()
    peer.secret = OTHER
    await peer.asave()


async def removes() -> None:
    await Peer.objects.all().adelete()


async def is_closed(link: PubSubCommunicator) -> str:
    """Wait for the close; the reason that was given for it."""
    final_frame = await link.receive_json_from(20)
    assert (final_frame["type"], final_frame["code"], final_frame["retryable"]) == (
        "error",
        "forbidden",
        False,
    )
    event = await link.receive_output(5)
    assert (event["type"], event["code"]) == ("websocket.close", 4003)
    return str(final_frame["reason"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changes(enabled=False), "the peer was disabled"),
        (changes(accept=False), "the peer is not accepted from any more"),
        (has_new_secret, "the peer has a new secret"),
        (removes, "the peer was removed"),
    ],
)
async def test_a_change_of_the_row_closes_the_connection_and_says_why(
    change: Callable[[], Awaitable[None]],
    reason: str,
    link: PubSubCommunicator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    await change()
    assert await is_closed(link) == f"not allowed to stay connected: {reason}"
    await link.disconnect()
    told = [r.getMessage() for r in caplog.records if r.name == accepted_peers.logger.name]
    assert told == [f"peer 'far' disconnected: {reason}"]
    assert SECRET not in caplog.text
    assert OTHER not in caplog.text


@pytest.mark.parametrize(
    "values", [{"forward": False}, {"topics": "news"}, {"url": "ws://far.example/elsewhere/"}]
)
async def test_what_concerns_the_other_direction_closes_nothing(
    values: dict[str, Any], link: PubSubCommunicator
) -> None:
    await update(**values)
    await looked(3)
    await link.subscribe("news")


async def test_what_a_peer_sends_after_that_is_not_delivered(link: PubSubCommunicator) -> None:
    async with PubSubCommunicator() as client:
        await client.subscribe("news")
        await update(enabled=False)
        await is_closed(link)
        await link.send_json_to(
            {"type": "publish", "topic": "news", "message": 1, "fromPeerServer": True}
        )
        assert await client.received_nothing()


async def test_others_stay(link: PubSubCommunicator) -> None:
    await create("other", secret=OTHER)
    async with PubSubCommunicator(headers=bearer(OTHER)) as other, PubSubCommunicator() as client:
        assert (await other.receive_json_from(5))["type"] == "hello"
        await Peer.objects.filter(name="far").aupdate(enabled=False)
        await is_closed(link)
        await looked(2)
        await other.subscribe("news")
        await client.subscribe("news")


async def test_who_comes_while_the_rows_are_looked_at_stays(link: PubSubCommunicator) -> None:
    await create("other", secret=OTHER)
    looking, go_on = threading.Event(), threading.Event()
    in_bulk = QuerySet.in_bulk

    def slow(self: QuerySet[Peer], *arguments: Any) -> Any:
        found = in_bulk(self, *arguments)
        looking.set()
        assert go_on.wait(20)
        return found

    with mock.patch.object(QuerySet, "in_bulk", slow):
        await wait_until_async(looking.is_set)
        watched = (await runtime.obtain())._accepted_peers
        peer = await database_sync_to_async(Peer.objects.get, thread_sensitive=False)(name="other")
        session = mock.Mock()
        watched.add(session, peer)
        go_on.set()
        await looked(1)
    session.close.assert_not_called()
    watched.discard(session)


async def test_the_database_is_asked_only_while_a_peer_is_connected(peer: Peer) -> None:
    async with PubSubCommunicator() as client:
        watched = (await runtime.obtain())._accepted_peers
        assert not watches(watched)
        async with PubSubCommunicator(headers=bearer(SECRET)):
            assert watches(watched)
        await wait_until_async(lambda: not watches(watched))
        async with PubSubCommunicator(headers=bearer(SECRET)) as link:
            await link.receive_json_from(5)
            await update(enabled=False)
            await is_closed(link)
        await client.subscribe("a")


async def test_a_database_that_is_away_closes_nothing(
    link: PubSubCommunicator, caplog: pytest.LogCaptureFixture
) -> None:
    with mock.patch.object(QuerySet, "in_bulk", side_effect=DatabaseError("away")) as asked:
        await wait_until_async(lambda: asked.call_count >= 3)
        await link.subscribe("news")
    assert "their connections stay" in caplog.text
    await update(enabled=False)
    assert "disabled" in await is_closed(link)


async def test_a_peer_may_come_back_once_its_row_allows_it(link: PubSubCommunicator) -> None:
    await update(enabled=False)
    await is_closed(link)
    with pytest.raises(Closed):
        async with PubSubCommunicator(headers=bearer(SECRET)):
            pass
    await update(enabled=True)
    async with PubSubCommunicator(headers=bearer(SECRET)) as again:
        assert (await again.receive_json_from(5))["type"] == "hello"


def watches(watched: AcceptedPeers) -> bool:
    return watched._watch is not None


async def looked(times: int) -> None:
    """Wait until the rows were looked at so often."""
    in_bulk = QuerySet.in_bulk
    done = 0

    def counting(self: QuerySet[Peer], *arguments: Any) -> Any:
        nonlocal done
        done += 1
        return in_bulk(self, *arguments)

    with mock.patch.object(QuerySet, "in_bulk", counting):
        await wait_until_async(lambda: done >= times)
    # What was found is acted upon in the turn that follows.
    await database_sync_to_async(lambda: None)()
    await asyncio.sleep(0)
