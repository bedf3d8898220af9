"""Sub-topics that a policy leaves out, on real connections: many of each kind, so that broadcasts are shared by some."""

from contextlib import AsyncExitStack
from typing import Any

import pytest

from dwsps_channels.core.audience import MIN_BROADCAST
from tests.processes import Redis, Server, ServerFactory
from tests.wire.client import WireClient, connected

TOPICS = ["news", "news.staff", "news.uk", "news.staff.rota", "news.staffroom"]
OPEN = ["news", "news.uk", "news.staffroom"]
POLICY = "tests.wire.policies.StaffNews"

SECRET = "the-secret-of-a-peer"
ADD_PEER = (
    "from dwsps_channels.models import Peer\n"
    f"Peer.objects.create(name='far', url='ws://far.example/', secret={SECRET!r}, forward=False)\n"
)


@pytest.fixture
def server(server_kind: str, start_server: ServerFactory) -> Server:
    return start_server(server_kind, dwsps={"POLICY": POLICY})


async def publish_all(client: WireClient, *messages: tuple[str, Any], **fields: object) -> None:
    """Publish without waiting for each ack: deliveries are gathered in batches."""
    for topic, message in messages:
        await client.send({"type": "publish", "topic": topic, "message": message, **fields})
    for _ in messages:
        assert (await client.receive())["type"] == "ack"


async def received(client: WireClient) -> list[tuple[str, Any]]:
    """Return what comes up to the end of what was published: topics and messages."""
    found = []
    while (frame := await client.receive())["topic"] != "news.end":
        found.append((frame["topic"], frame["message"]))
    return found


async def replayed(client: WireClient, **request: Any) -> list[str]:
    await client.send({"type": "subscribe", "topic": "news", **request})
    topics = []
    while (frame := await client.receive())["type"] == "publish":
        topics.append(frame["topic"])
    assert frame["type"] == "ack", frame
    assert frame.get("recovered", True), frame
    return topics


async def test_each_reader_gets_what_it_is_not_denied(server: Server) -> None:
    published = [(topic, number) for number in range(15) for topic in TOPICS]
    allowed = [(topic, number) for topic, number in published if topic in OPEN]
    async with AsyncExitStack() as stack:

        async def connect(*topics: str) -> WireClient:
            client = await stack.enter_async_context(connected(server.url))
            for topic in topics:
                await client.subscribe(topic)
            return client

        readers = [await connect("news") for _ in range(MIN_BROADCAST + 2)]
        staff = [await connect("staff", "news") for _ in range(MIN_BROADCAST + 2)]
        writer = await connect()
        start = (await writer.call("unsubscribe", "nothing"))["cursor"]
        await publish_all(writer, *published, ("news.end", None))

        assert [await received(client) for client in readers] == [allowed] * len(readers)
        assert [await received(client) for client in staff] == [published] * len(staff)

        # What is replayed, and what is delivered after it.
        late, late_staff = await connect(), await connect("staff")
        everything = [topic for topic, _ in published] + ["news.end"]
        without = [topic for topic, _ in allowed] + ["news.end"]
        assert await replayed(late, last=4) == ["news", "news.uk", "news.staffroom", "news.end"]
        assert await replayed(late, since=start) == without
        assert await replayed(late_staff, since=start) == everything
        refusal = await late.call("subscribe", "news.staff.rota", since=start)
        assert refusal["reason"].endswith(": news.staff is for staff")
        await publish_all(writer, ("news.staff", 1), ("news.end", None))
        assert await received(late) == []
        assert await received(late_staff) == [("news.staff", 1)]


async def recovered(server: Server, since: str) -> list[str]:
    """Resume on a new connection, and return the topics of what is replayed."""
    async with connected(server.url) as client:
        await client.send({"type": "resume", "since": since, "topics": ["news"]})
        topics = []
        while (frame := await client.receive())["type"] == "publish":
            topics.append(frame["topic"])
        assert frame["topics"] == {"news": {"recovered": True}}, frame
        return topics


async def latest(server: Server) -> list[str]:
    async with connected(server.url) as client:
        return await replayed(client, last=100)


async def test_a_peers_messages_are_left_out_at_every_process_and_after_a_restart(
    start_server: ServerFactory, redis: Redis
) -> None:
    env = {"REDIS_URL": redis.url}
    one, two = (
        start_server(kind, env=env, dwsps={"POLICY": POLICY}) for kind in ("daphne", "fastlane")
    )
    one.manage("shell", "-v", "0", "-c", ADD_PEER)
    everything = [(topic, number) for number in range(3) for topic in TOPICS]
    allowed = [(topic, number) for topic, number in everything if topic in OPEN]
    topics = [topic for topic, _ in allowed] + ["news.end"]
    async with (
        connected(one.url) as here,
        connected(two.url) as there,
        connected(two.url, additional_headers={"Authorization": f"Bearer {SECRET}"}) as peer,
    ):
        assert (await peer.receive())["type"] == "hello"
        since = (await here.call("subscribe", "news", last=0))["cursor"]
        await there.subscribe("news")
        await publish_all(peer, *everything, ("news.end", None), fromPeerServer=True)
        assert await received(here) == allowed
        assert await received(there) == allowed

    for server in (one, two):
        assert await recovered(server, since) == topics
        assert await latest(server) == topics
    two.kill()
    two.start()
    assert await recovered(two, since) == topics
    assert await latest(two) == topics


async def test_what_the_database_keeps_is_left_out_after_a_restart(
    start_server: ServerFactory,
) -> None:
    backend = {"BACKEND": "dwsps_channels.broker.backends.DatabaseBackend"}
    server = start_server("uvicorn", dwsps={"POLICY": POLICY, "BROKER": backend})
    async with connected(server.url) as writer:
        since = (await writer.call("unsubscribe", "nothing"))["cursor"]
        await publish_all(writer, *((topic, None) for topic in TOPICS))
    server.kill()
    server.start()
    assert await recovered(server, since) == OPEN
    assert await latest(server) == OPEN
    async with connected(server.url) as staff:
        await staff.subscribe("staff")
        assert await replayed(staff, since=since) == TOPICS
