"""Subscriptions that are rechecked all the time, on every kind of server: what stands misses nothing."""

import asyncio
from contextlib import AsyncExitStack

from tests.processes import ServerFactory
from tests.wire.client import WireClient, connected

# So many are delivered to by a broadcaster.
READERS = 12
MESSAGES = 80


async def read(client: WireClient) -> list[dict[str, object]]:
    """Return what comes until ``news`` is over and ``brief`` has ended."""
    got: list[dict[str, object]] = []
    over = ended = False
    while not (over and ended):
        told = await client.receive()
        over = over or told.get("message") == "over"
        ended = ended or told["type"] == "unsubscribed"
        got.append(told)
    return got


async def test_what_stands_misses_nothing_and_what_has_ended_gets_nothing(
    server_kind: str, start_server: ServerFactory
) -> None:
    server = start_server(server_kind, dwsps={"POLICY": "tests.wire.policies.Rechecked"})
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(connected(server.url)) for _ in range(READERS)]
        publisher = await stack.enter_async_context(connected(server.url))
        for reader in readers:
            await reader.subscribe("news")
        # The first ones are being rechecked by now: the ack may come after deliveries that were held back.
        for reader in readers:
            await reader.send({"type": "subscribe", "topic": "brief"})
        reading = [asyncio.ensure_future(read(each)) for each in readers]
        for number in range(MESSAGES):
            for topic in ("news.uk", "news.staff.menu", "brief"):
                await publisher.publish(topic, number)
        # Longer than it takes to end all.
        while not all(each.done() for each in reading):
            await publisher.publish("brief", "more")
            await publisher.publish("news", "over")
            await asyncio.wait(reading, timeout=0.05)
        for got in await asyncio.gather(*reading):
            deliveries = [told for told in got if told["type"] == "publish"]
            news = [told["message"] for told in deliveries if told["context"] == "news"]
            assert news[: MESSAGES + 1] == [*range(MESSAGES), "over"]
            assert not any(str(told["topic"]).startswith("news.staff") for told in deliveries)
            # Rechecks are on their way all the time, and the order of the log is kept.
            offsets = [told["offset"] for told in deliveries]
            assert offsets == sorted(offsets)  # type: ignore[type-var]
            brief = [told for told in got if told.get("context", told.get("topic")) == "brief"]
            (end,) = [told for told in got if told["type"] == "unsubscribed"]
            assert (end["topic"], end["code"]) == ("brief", "forbidden")
            assert str(end["reason"]).endswith("the time is up")
            assert brief[-1] is end
            assert brief[0]["type"] == "ack"
