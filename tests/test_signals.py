"""Signals about clients: their arguments, and receivers that fail or block."""

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.dispatch import Signal

from dwsps_channels import publish, signals
from dwsps_channels.core.identity import Identity
from dwsps_channels.core.session import Session
from dwsps_channels.server import runtime, signal_observer
from dwsps_channels.server.signal_observer import SignalObserver
from dwsps_channels.testing import PubSubCommunicator
from tests.connections.transports.contract import until

ALL = {
    name: getattr(signals, name)
    for name in ("connected", "disconnected", "subscribed", "unsubscribed", "published")
}

ADA = Identity("c1", User(username="ada"))


@contextmanager
def receiving(signal: Signal, receiver: Callable[..., Any]) -> Iterator[None]:
    signal.connect(receiver)
    try:
        yield
    finally:
        signal.disconnect(receiver)


@pytest.fixture
def told() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The arguments of each of the five, in order."""
    found: list[tuple[str, dict[str, Any]]] = []
    receivers: list[tuple[Signal, Callable[..., Any]]] = []
    for name, signal in ALL.items():

        def receiver(name: str = name, **arguments: Any) -> None:
            assert arguments.pop("signal") is ALL[name]
            assert arguments.pop("sender") is Session
            found.append((name, arguments))

        signal.connect(receiver)
        receivers.append((signal, receiver))
    yield found
    for signal, receiver in receivers:
        signal.disconnect(receiver)


class TestWhatIsTold:
    async def test_all_that_a_client_does_in_order(
        self, told: list[tuple[str, dict[str, Any]]]
    ) -> None:
        ada = User(username="ada")
        async with PubSubCommunicator(user=ada) as client:
            await client.subscribe("news")
            await client.publish("news.uk", {"a": [1, None]})
            await client.unsubscribe("news")
        await until(lambda: len(told) == 5)
        ids = {arguments.pop("client") for _, arguments in told}
        assert len(ids) == 1
        assert isinstance(ids.pop(), str)
        assert told == [
            ("connected", {"user": ada}),
            ("subscribed", {"user": ada, "topic": "news"}),
            ("published", {"user": ada, "topic": "news.uk", "message": {"a": [1, None]}}),
            ("unsubscribed", {"user": ada, "topic": "news"}),
            ("disconnected", {"user": ada}),
        ]

    async def test_two_clients_have_two_ids_of_the_servers_own(
        self, told: list[tuple[str, dict[str, Any]]]
    ) -> None:
        key = (b"sec-websocket-key", b"of-the-clients")
        async with PubSubCommunicator(headers=[key]), PubSubCommunicator(headers=[key]):
            await until(lambda: len(told) == 2)
        ids = [arguments["client"] for _, arguments in told]
        assert len(set(ids)) == 2
        assert "of-the-clients" not in ids
        assert all(arguments["user"] is None for _, arguments in told)

    async def test_what_changed_nothing_is_not_told(
        self, told: list[tuple[str, dict[str, Any]]]
    ) -> None:
        async with PubSubCommunicator() as client:
            await client.subscribe("a")
            await client.subscribe("a")
            await client.unsubscribe("b")
        await until(lambda: len(told) == 3)
        assert [name for name, _ in told] == ["connected", "subscribed", "disconnected"]

    async def test_what_the_servers_own_code_publishes_is_not_told(
        self, told: list[tuple[str, dict[str, Any]]]
    ) -> None:
        async with PubSubCommunicator():
            publish("a", 1, on_commit=False)
        await until(lambda: len(told) == 2)
        assert [name for name, _ in told] == ["connected", "disconnected"]

    @pytest.mark.parametrize("message", ["1" * 5000, "[" * 128 + "]" * 128, r'"\ud83d"'])
    async def test_a_message_that_python_cannot_read_stops_nothing(
        self, message: str, told: list[tuple[str, dict[str, Any]]], caplog: pytest.LogCaptureFixture
    ) -> None:
        """JSON has integers of any length, Python reads 4300 digits."""
        async with PubSubCommunicator() as client:
            await client.send_to(text_data=f'{{"type":"publish","topic":"a","message":{message}}}')
            assert (await client.receive_json_from(5))["type"] == "ack"
            await client.subscribe("b")
        await until(lambda: "disconnected" in [name for name, _ in told])
        assert [name for name, _ in told if name != "published"] == [
            "connected",
            "subscribed",
            "disconnected",
        ]
        published = [arguments["message"] for name, arguments in told if name == "published"]
        logged = [record.getMessage() for record in caplog.records]
        if published:
            assert published == [json.loads(message)]
        else:
            assert len(logged) == 1
            assert "published to 'a' cannot be passed to signal receivers" in logged[0]


class TestReceivers:
    async def test_plain_ones_run_in_a_thread_and_async_ones_in_the_loop(self) -> None:
        ran: dict[str, Any] = {}

        def plain(**told: Any) -> None:
            ran["plain"] = threading.current_thread()

        async def of_the_loop(**told: Any) -> None:
            ran["async"] = asyncio.get_running_loop()

        with receiving(signals.connected, plain), receiving(signals.connected, of_the_loop):
            async with PubSubCommunicator():
                await until(lambda: len(ran) == 2)
        assert ran["plain"] is not threading.main_thread()
        assert ran["async"] is asyncio.get_running_loop()

    async def test_one_that_raises_is_logged_and_the_others_run(
        self, told: list[tuple[str, dict[str, Any]]], caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(**told: Any) -> None:
            raise LookupError("plain")

        async def broken_too(**told: Any) -> None:
            raise LookupError("async")

        with receiving(signals.connected, broken), receiving(signals.connected, broken_too):
            async with PubSubCommunicator() as client:
                await client.subscribe("a")
            await until(lambda: len(told) == 3)
        assert [name for name, _ in told] == ["connected", "subscribed", "disconnected"]
        raised = sorted(str(record.exc_info[1]) for record in caplog.records if record.exc_info)
        assert raised == ["async", "plain"]

    @pytest.mark.django_db(transaction=True)
    async def test_one_may_use_the_database_and_publish(self) -> None:
        def count_users(topic: str, **told: Any) -> None:
            if topic == "users":
                publish("users.count", User.objects.count())

        await sync_to_async(User.objects.create_user)("ada")
        with receiving(signals.subscribed, count_users):
            async with PubSubCommunicator() as client:
                await client.subscribe("users")
                assert (await client.receive())["message"] == 1

    async def test_the_database_connections_end_with_their_thread(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """CONN_MAX_AGE keeps them for a thread's next request, and this thread has none."""
        ran: list[tuple[str, threading.Thread]] = []

        def close() -> None:
            ran.append(("closed", threading.current_thread()))

        def receiver(**told: Any) -> None:
            ran.append(("received", threading.current_thread()))

        monkeypatch.setattr(signal_observer, "close_connections", close)
        observer = SignalObserver()
        with receiving(signals.connected, receiver):
            observer.connected(ADA)
            await observer.finish(5)
        assert [what for what, _ in ran] == ["received", "closed"]
        assert ran[0][1] is ran[1][1]

    async def test_what_comes_while_the_connections_are_closed_is_received(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        received: list[str] = []
        observer = SignalObserver()

        def close() -> None:
            if received == ["c1"]:
                observer.connected(Identity("c2"))

        def receiver(client: str, **told: Any) -> None:
            received.append(client)

        monkeypatch.setattr(signal_observer, "close_connections", close)
        with receiving(signals.connected, receiver):
            observer.connected(ADA)
            await observer.finish(5)
        assert received == ["c1", "c2"]

    async def test_a_slow_one_delays_neither_delivery_nor_connecting_nor_djangos_thread(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As in a server: in a test receivers share the test's thread.
        monkeypatch.setattr(signal_observer, "is_under_test", lambda: False)
        may_go_on, waits, is_done = threading.Event(), threading.Event(), threading.Event()

        def slow(**told: Any) -> None:
            waits.set()
            may_go_on.wait(20)
            is_done.set()

        try:
            with receiving(signals.connected, slow):
                async with PubSubCommunicator() as one:
                    await until(waits.is_set)
                    async with PubSubCommunicator() as two:
                        await one.subscribe("a")
                        await two.publish("a", 1)
                        assert (await one.receive())["message"] == 1
                        assert await sync_to_async(threading.current_thread)() is not None
                        assert not is_done.is_set()
                        may_go_on.set()  # the last to leave waits for the receivers
        finally:
            may_go_on.set()
        await (await runtime.obtain()).signals.finish(5)

    async def test_events_are_sent_one_after_the_other(self) -> None:
        order: list[int] = []

        async def thinks_least_about_the_last(message: int, **told: Any) -> None:
            for _ in range(10 - message):
                await asyncio.sleep(0)
            order.append(message)

        with receiving(signals.published, thinks_least_about_the_last):
            async with PubSubCommunicator() as client:
                for number in range(10):
                    await client.publish("a", number)
            await until(lambda: len(order) == 10)
        assert order == list(range(10))


class TestQueue:
    async def test_without_receivers_nothing_is_queued(self) -> None:
        before = asyncio.all_tasks()
        observer = SignalObserver()
        for tell in all_of(observer):
            tell()
        assert not observer._queue
        assert asyncio.all_tasks() == before

    async def test_only_what_has_receivers_is_queued(self) -> None:
        observer = SignalObserver()
        with receiving(signals.subscribed, ignore):
            for tell in all_of(observer):
                tell()
            assert [signal for signal, _, _ in observer._queue] == [signals.subscribed]
            await observer.finish(5)

    async def test_what_is_beyond_its_length_is_dropped_and_counted_and_logged_once(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(signal_observer, "QUEUE_LENGTH", 3)
        topics: list[str] = []

        async def collect(topic: str, **told: Any) -> None:
            topics.append(topic)

        observer = SignalObserver()
        with receiving(signals.subscribed, collect):
            for number in range(10):
                observer.subscribed(ADA, str(number))
            assert observer.dropped == 7
            await observer.finish(5)
            assert topics == ["0", "1", "2"]
            observer.subscribed(ADA, "later")
            await observer.finish(5)
            assert topics == ["0", "1", "2", "later"]
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage() == (
            "signal receivers are too slow: events are dropped beyond 3 waiting"
        )

    async def test_a_kept_message_does_not_keep_its_frame(self) -> None:
        observer = SignalObserver()
        frame = bytearray(b'xx{"a":1}xx')
        with receiving(signals.published, ignore):
            observer.published(ADA, "a", memoryview(frame)[2:-2])  # type: ignore[arg-type]
            [(_, _, told)] = observer._queue
            assert told == {"topic": "a", "message": b'{"a":1}'}
            assert type(told["message"]) is bytes
            await observer.finish(5)


class TestFinish:
    async def test_it_lets_the_receivers_have_what_is_queued(self) -> None:
        count = 0

        def receiver(**told: Any) -> None:
            nonlocal count
            count += 1

        observer = SignalObserver()
        with receiving(signals.connected, receiver):
            for _ in range(20):
                observer.connected(ADA)
            await observer.finish(10)
        assert count == 20

    async def test_it_does_not_wait_for_ever(self) -> None:
        begun = asyncio.Event()

        async def endless(**told: Any) -> None:
            begun.set()
            await asyncio.Event().wait()

        observer = SignalObserver()
        with receiving(signals.connected, endless):
            observer.connected(ADA)
            await begun.wait()
            async with asyncio.timeout(60):
                await observer.finish(0.01)

    async def test_there_may_be_nothing_to_finish(self) -> None:
        await SignalObserver().finish(5)


def all_of(observer: SignalObserver) -> list[Callable[[], None]]:
    return [
        lambda: observer.connected(ADA),
        lambda: observer.disconnected(ADA),
        lambda: observer.subscribed(ADA, "a"),
        lambda: observer.unsubscribed(ADA, "a"),
        lambda: observer.published(ADA, "a", b"1"),
    ]


def ignore(**told: Any) -> None: ...
