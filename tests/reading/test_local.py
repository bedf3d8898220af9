"""``history`` in a process that serves: from its event loop, and from any thread."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.test import override_settings

from dwsps_channels import ahistory, apublish, history
from dwsps_channels.broker.backends import MemoryBackend
from dwsps_channels.broker.channel_layer.broker import ChannelLayerBroker
from dwsps_channels.broker.memory import MemoryBroker
from dwsps_channels.core.broker import Receiver
from dwsps_channels.exceptions import NoLog
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.reading import History, acursor, api, cursor, local
from dwsps_channels.server import runtime
from dwsps_channels.testing import PubSubCommunicator
from tests.connections.transports.contract import until


@pytest.fixture
async def client() -> AsyncIterator[PubSubCommunicator]:
    """A client of the server that the test's own process is."""
    async with PubSubCommunicator() as client:
        yield client


async def in_thread(function: Callable[[], Any]) -> Any:
    return await sync_to_async(function)()


def texts(found: History) -> list[Any]:
    return [message.message for message in found.messages]


class TestFromAnywhere:
    @pytest.fixture(autouse=True)
    async def published(self, client: PubSubCommunicator) -> None:
        for number in range(3):
            await apublish("chat.lobby", number)

    async def test_async_code_of_the_loop(self) -> None:
        assert texts(await ahistory("chat", last=2)) == [1, 2]

    async def test_plain_code_of_the_loop(self) -> None:
        assert texts(history("chat", last=2)) == [1, 2]

    async def test_a_thread(self) -> None:
        assert texts(await in_thread(lambda: history("chat", last=2))) == [1, 2]

    async def test_async_code_of_another_loop(self) -> None:
        found = await asyncio.to_thread(lambda: asyncio.run(ahistory("chat", last=2)))
        assert texts(found) == [1, 2]

    async def test_async_code_that_plain_code_calls(self) -> None:
        found = await in_thread(lambda: async_to_sync(ahistory)("chat", last=2))
        assert texts(found) == [1, 2]


async def test_a_message_is_as_it_was_published(client: PubSubCommunicator) -> None:
    await client.subscribe("chat")
    result = await apublish("chat.lobby", {"text": "Hello", "n": 10**30})
    delivery = await client.receive()
    [message] = (await ahistory("chat")).messages
    assert (message.topic, message.message) == ("chat.lobby", {"text": "Hello", "n": 10**30})
    assert message.timestamp == delivery["timestamp"]
    assert message.offset == result.offset == delivery["offset"]
    assert not message.from_peer_server


async def test_a_subscription_from_its_cursor_has_the_rest_and_repeats_nothing(
    client: PubSubCommunicator,
) -> None:
    await apublish("chat", "shown")
    found = await ahistory("chat", last=10)
    await apublish("chat", "meanwhile")
    assert await client.subscribe("chat", since=found.cursor)
    await apublish("chat", "live")
    assert texts(found) == ["shown"]
    assert [(await client.receive())["message"] for _ in range(2)] == ["meanwhile", "live"]
    assert texts(await ahistory("chat", since=found.cursor)) == ["meanwhile", "live"]


async def test_what_is_not_kept_any_more_is_not_recovered(client: PubSubCommunicator) -> None:
    for since in ("", "another:0", "x" * 200):
        found = await ahistory("chat", since=since)
        assert (found.messages, found.recovered) == ([], False)
        assert found.cursor == (await ahistory("chat")).cursor


async def test_a_cursor_that_this_process_has_not_reached_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another process may have given it."""
    monkeypatch.setattr(MemoryBackend, "joins_processes", True)
    epoch = (await runtime.obtain()).node.epoch
    reading = asyncio.create_task(ahistory("chat", since=f"{epoch}:2"))
    for number in range(3):
        await apublish("chat", number)
    found = await reading
    assert (texts(found), found.recovered) == ([2], True)
    monkeypatch.setattr(local, "CATCH_UP_TIMEOUT", 0.02)
    assert not (await ahistory("chat", since=f"{epoch}:99")).recovered


async def test_none_at_all(client: PubSubCommunicator) -> None:
    await apublish("chat", 1)
    assert texts(await ahistory("chat", last=0)) == []
    assert texts(await ahistory("chats")) == []


class Unready(MemoryBroker):
    """Has not read its log yet, as one whose Redis is away."""

    async def start(self, receiver: Receiver) -> None:
        pass


class Hanging(MemoryBroker):
    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()

    async def start(self, receiver: Receiver) -> None:
        await self.go_on.wait()
        await super().start(receiver)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Callable[[MemoryBroker], None]:
    """Call it with the broker of the next server."""

    def use(broker: MemoryBroker) -> None:
        monkeypatch.setattr(
            "dwsps_channels.broker.backends.MemoryBackend.make_broker", lambda self: broker
        )

    return use


async def test_a_log_that_was_not_read_yet(broker: Callable[[MemoryBroker], None]) -> None:
    broker(Unready())
    await runtime.obtain()
    with pytest.raises(Unavailable, match="this process has not read the log yet"):
        await ahistory("chat")


@override_settings(DWSPS={"PUBLISH_TIMEOUT": 60})
async def test_pages_that_are_made_while_the_server_starts_have_a_cursor(
    broker: Callable[[MemoryBroker], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "CURSOR_TIMEOUT", 60)
    hanging = Hanging()
    broker(hanging)
    starting = asyncio.create_task(runtime.obtain())
    await until(lambda: runtime.current() is not None)
    begun: list[None] = []

    def in_a_view() -> str:
        begun.append(None)
        return cursor()

    async def elsewhere() -> str:
        begun.append(None)
        return await acursor()

    reading = [
        asyncio.create_task(each)
        for each in (
            elsewhere(),
            asyncio.to_thread(in_a_view),
            asyncio.to_thread(lambda: asyncio.run(elsewhere())),
        )
    ]
    await until(lambda: len(begun) == 3)
    hanging.go_on.set()
    server = await starting
    assert await asyncio.gather(*reading) == [server.node.cursor] * 3
    assert server.node.cursor


@override_settings(DWSPS={"PUBLISH_TIMEOUT": 0.05})
async def test_a_page_does_not_wait_long_for_a_server_that_does_not_start(
    broker: Callable[[MemoryBroker], None],
) -> None:
    hanging = Hanging()
    broker(hanging)
    starting = asyncio.create_task(runtime.obtain())
    await until(lambda: runtime.current() is not None)
    assert await acursor() == await in_thread(cursor) == ""
    hanging.go_on.set()
    await starting


async def test_a_page_of_a_server_that_cannot_start_is_served(
    broker: Callable[[MemoryBroker], None],
) -> None:
    class Broken(MemoryBroker):
        async def start(self, receiver: Receiver) -> None:
            raise RuntimeError("broken")

    broker(Broken())
    with pytest.raises(RuntimeError, match="broken"):
        await runtime.obtain()
    assert await acursor() == await in_thread(cursor) == ""


@override_settings(DWSPS={"PUBLISH_TIMEOUT": 0.05})
async def test_it_does_not_wait_without_end(broker: Callable[[MemoryBroker], None]) -> None:
    hanging = Hanging()
    broker(hanging)
    starting = asyncio.create_task(runtime.obtain())
    await until(lambda: runtime.current() is not None)
    for reading in (ahistory("chat"), in_thread(lambda: history("chat"))):
        with pytest.raises(Unavailable, match=r"the log was not read within 0\.05 s"):
            await reading
    hanging.go_on.set()
    await starting
    assert texts(await ahistory("chat")) == []


@override_settings(
    DWSPS={"BROKER": {"BACKEND": "dwsps_channels.broker.backends.ChannelLayerBackend"}},
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)
async def test_a_broker_without_a_log() -> None:
    async with PubSubCommunicator() as client:
        assert isinstance((await runtime.obtain()).broker, ChannelLayerBroker)
        with pytest.raises(NoLog, match="its broker is ChannelLayerBackend"):
            await ahistory("chat")
        assert not await client.subscribe("chat", since="")
        assert client.cursor == ""
