"""Publishing from any thread over connections that are scripted: what is kept, what is told, what is given up."""

import threading
from collections.abc import Callable, Iterator
from time import monotonic

import pytest
from django.test import override_settings
from msgspec import Raw, Struct

from dwsps_channels.broker.backends import BrokerBackend, BrokerSender
from dwsps_channels.broker.memory import MemoryBroker
from dwsps_channels.core.broker import SendResult
from dwsps_channels.core.notice import Notice
from dwsps_channels.exceptions import NotServing
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.publishing import publish
from dwsps_channels.publishing.losses import losses
from dwsps_channels.publishing.publisher import OutgoingMessage, PublishResult
from dwsps_channels.publishing.remote import RemotePublisher, remote_publisher
from dwsps_channels.remote import pool
from dwsps_channels.remote.pool import MAX_IDLE, ConnectionPool
from dwsps_channels.testing import real_publishes
from tests.processes import HOST, Redis, free_port
from tests.reached import reached

URL = "ws://server.example/"


class Connection:
    """Does what ``does`` says for each message: return what it returns, or raise."""

    def __init__(self, does: Callable[[], SendResult]) -> None:
        self.does = does
        self.published = 0
        self.closed = False

    def publish(self, message: OutgoingMessage, deadline: float) -> SendResult:
        assert not self.closed
        assert deadline - monotonic() <= 2.0
        self.published += 1
        return self.does()

    def notify(self, notice: Notice, deadline: float) -> None:
        self.does()

    def close(self) -> None:
        self.closed = True


class Server:
    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.problem: BaseException | None = None
        self.result = SendResult()
        self.meanwhile: Callable[[], object] = lambda: None

    def connect(self) -> Connection:
        self.connections.append(Connection(self._take))
        return self.connections[-1]

    def _take(self) -> SendResult:
        self.meanwhile()
        if self.problem is not None:
            raise self.problem
        return self.result


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def publisher(server: Server, monkeypatch: pytest.MonkeyPatch) -> RemotePublisher:
    """After a failure nobody tries for the rest of a test."""
    monkeypatch.setattr(pool, "FAILURE_PAUSE", 3600.0)
    return RemotePublisher(ConnectionPool(server.connect, URL))


@pytest.fixture(autouse=True)
def nothing_lost() -> Iterator[None]:
    losses.forget()
    yield
    losses.forget()


def send(publisher: RemotePublisher) -> int:
    return publisher.publish(OutgoingMessage("a", Raw(b"1"), "2020-01-21T17:03:13.625Z")).reached


def test_the_connection_is_kept(server: Server, publisher: RemotePublisher) -> None:
    assert [send(publisher) for _ in range(3)] == [0, 0, 0]
    assert [each.published for each in server.connections] == [3]
    publisher.close()
    assert server.connections[0].closed
    assert losses.total == 0


def test_who_publishes_at_the_same_time_does_not_wait(
    server: Server, publisher: RemotePublisher
) -> None:
    """Each has a connection of its own, of which a bounded number is kept."""
    count = MAX_IDLE + 4
    all_are_sending = threading.Barrier(count, timeout=10)
    server.meanwhile = all_are_sending.wait
    threads = [threading.Thread(target=send, args=(publisher,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.published for each in server.connections] == [1] * count
    assert sum(not each.closed for each in server.connections) == MAX_IDLE


def test_a_server_that_was_never_there(server: Server, publisher: RemotePublisher) -> None:
    server.problem = ConnectionError("connection refused")
    with pytest.raises(NotServing, match="connection refused") as raised:
        send(publisher)
    assert (raised.value.url, raised.value.problem) == (URL, "connection refused")
    assert server.connections[0].closed


def test_one_that_was_there_and_is_gone(server: Server, publisher: RemotePublisher) -> None:
    send(publisher)
    server.problem = TimeoutError()
    with pytest.raises(Unavailable, match="no answer within 2 s"):
        send(publisher)
    # Then nobody tries.
    for _ in range(3):
        with pytest.raises(Unavailable, match="no answer within 2 s"):
            send(publisher)
    assert [(each.published, each.closed) for each in server.connections] == [(2, True)]
    assert losses.total == 4


def test_one_that_answers_no_is_there(server: Server, publisher: RemotePublisher) -> None:
    server.problem = Unavailable("the server refused: too large")
    for _ in range(2):
        with pytest.raises(Unavailable, match="the server refused: too large"):
            send(publisher)
    server.problem = None
    send(publisher)
    assert [(each.published, each.closed) for each in server.connections] == [(3, False)]
    assert losses.total == 2


def test_what_nobody_hears_is_counted_and_not_raised(
    server: Server, publisher: RemotePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    server.result = SendResult(lost="no process of the server was listening")
    assert send(publisher) == 0
    assert losses.total == 1
    assert "no process of the server was listening (1)" in caplog.text


def test_a_durable_message_is_never_lost(server: Server, publisher: RemotePublisher) -> None:
    def publish_durable() -> PublishResult:
        message = OutgoingMessage("a", Raw(b"1"), "2020-01-21T17:03:13.625Z", durable_id="0a")
        return publisher.publish(message)

    nobody = "no process of the server was listening"
    server.result = SendResult(lost=nobody)
    with pytest.raises(Unavailable, match=nobody):
        publish_durable()
    server.result = SendResult(offset=7, lost=nobody)  # the log has it for those that come
    assert publish_durable() == PublishResult(reached=0, offset=7)
    server.problem = TimeoutError()
    with pytest.raises(Unavailable, match="no answer within 2 s"):
        publish_durable()
    assert losses.total == 0


def test_the_result_has_the_offset(server: Server, publisher: RemotePublisher) -> None:
    server.result = SendResult(offset=7)
    message = OutgoingMessage("a", Raw(b"1"), "2020-01-21T17:03:13.625Z")
    assert publisher.publish(message) == PublishResult(reached=0, offset=7)


def test_a_caller_that_is_interrupted_leaves_no_connection_behind(
    server: Server, publisher: RemotePublisher
) -> None:
    server.problem = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        send(publisher)
    assert server.connections[0].closed
    server.problem = None
    send(publisher)
    assert [each.published for each in server.connections] == [1, 1]


def test_other_settings_lead_to_another_server(redis: Redis) -> None:
    away = {"SERVER_URL": f"ws://{HOST}:{free_port()}/"}
    backend = "channels_redis.pubsub.RedisPubSubChannelLayer"

    def layers(url: str) -> dict[str, object]:
        return {"default": {"BACKEND": backend, "CONFIG": {"hosts": [url]}}}

    with real_publishes(), override_settings(DWSPS=away):
        with pytest.raises(NotServing):
            publish("a", 1)
        with override_settings(CHANNEL_LAYERS=layers(f"redis://{HOST}:{free_port()}")):
            with pytest.raises(Unavailable):
                publish("a", 1)
            with override_settings(CHANNEL_LAYERS=layers(redis.url)):
                assert reached(publish("a", 1)) == 0


class BackendWithHosts(BrokerBackend):
    """A project's own, with an option that is a list."""

    joins_processes = True

    class Options(Struct, frozen=True):
        HOSTS: list[str]

    def make_broker(self) -> MemoryBroker:
        return MemoryBroker()

    def make_sender(self) -> BrokerSender | None:
        return None


def test_each_choice_of_options_has_a_publisher_of_its_own() -> None:
    one, again, other = (
        remote_publisher(BackendWithHosts({"HOSTS": hosts}), URL) for hosts in (["a"], ["a"], ["b"])
    )
    assert one is again
    assert one is not other
