"""``history`` and the cursor in a process that serves nothing."""

import signal
import sys
from collections.abc import Iterator

import pytest
from asgiref.sync import async_to_sync
from django.test import override_settings

from dwsps_channels import ahistory, history, publish
from dwsps_channels.exceptions import NoLog, NotServing
from dwsps_channels.logs.throttle import LogThrottle
from dwsps_channels.models import ServerIdentity
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.publishing.losses import losses
from dwsps_channels.reading import History, acursor, api, cursor
from dwsps_channels.reading.messages import HistoryQuery
from dwsps_channels.reading.remote import RemoteLog
from dwsps_channels.testing import real_publishes
from tests.peering.site import id_of
from tests.processes import HOST, Redis, Server, ServerFactory, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def server_kind() -> str:
    return "fastlane"


# Whatever a busy machine takes, in seconds.
PATIENT = {"PUBLISH_TIMEOUT": 60}
# No server can be here: the port is none that tests are given.
NOWHERE = f"ws://{HOST}:1/"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pages wait for their cursor as long as for anything else."""
    monkeypatch.setattr(api, "CURSOR_TIMEOUT", 60)


def beside(server: Server) -> override_settings:
    """Make this process one of the server's project."""
    ServerIdentity.objects.update_or_create(pk=1, defaults={"server_id": id_of(server)})
    return override_settings(
        SECRET_KEY=server.env["SECRET_KEY"],
        DWSPS=PATIENT | {"SERVER_URL": f"{server.url}/ws/pubsub/"},
    )


@pytest.fixture
def outside(server: Server) -> Iterator[None]:
    with real_publishes(), beside(server):
        yield


def texts(found: History) -> list[object]:
    return [message.message for message in found.messages]


@pytest.mark.usefixtures("outside")
class TestThroughTheWebsocket:
    def test_it_has_what_was_published(self) -> None:
        for number in range(3):
            publish("remote.one", {"n": number})
        found = history("remote.one", last=2)
        assert texts(found) == [{"n": 1}, {"n": 2}]
        assert [message.topic for message in found.messages] == ["remote.one"] * 2
        assert found.messages[1].offset == found.messages[0].offset + 1
        assert texts(async_to_sync(ahistory)("remote.one")) == [{"n": n} for n in range(3)]
        assert len(texts(history("remote.one", last=sys.maxsize))) == 3

    def test_it_has_what_was_published_after_a_cursor(self) -> None:
        before = history("remote.two").cursor
        result = publish("remote.two", "after")
        found = history("remote.two", since=before)
        assert texts(found) == ["after"]
        assert found.recovered
        assert result is not None
        assert found.messages[0].offset == result.offset
        assert not history("remote.two", since="another:1").recovered

    def test_the_cursor_is_the_end_of_the_log(self) -> None:
        result = publish("remote.three", 1)
        assert result is not None
        assert cursor().rpartition(":")[2] == str(result.offset)
        assert cursor() == history("remote.three").cursor

    def test_a_key_is_published_once(self) -> None:
        first, again = (publish("remote.four", number, key="k") for number in range(2))
        assert first is not None
        assert again is not None
        assert first.offset == again.offset
        assert texts(history("remote.four")) == [0]


@pytest.fixture
def on_redis(redis: Redis) -> Iterator[None]:
    """Make this process one of a project whose servers share a Redis."""
    layer = {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [redis.url]},
    }
    with real_publishes(), override_settings(CHANNEL_LAYERS={"default": layer}, DWSPS=PATIENT):
        yield
    losses.forget()  # no process of the server is listening: the log tells of it when the tests end


@pytest.mark.usefixtures("on_redis")
class TestThroughRedis:
    def test_it_has_what_was_published(self) -> None:
        assert texts(history("chat")) == []
        for number in range(3):
            publish("chat.one", {"n": number})
        found = history("chat", last=2)
        assert texts(found) == [{"n": 1}, {"n": 2}]
        assert [message.offset for message in found.messages] == [2, 3]
        assert found.cursor == cursor()
        result = publish("chat.two", "after")
        assert result is not None
        later = history("chat", since=found.cursor)
        assert texts(later) == ["after"]
        assert later.messages[0].offset == result.offset == 4
        assert not history("chat", since="another:1").recovered
        assert texts(async_to_sync(ahistory)("chat.two")) == ["after"]

    def test_a_key_is_published_once(self) -> None:
        first, again = (publish("chat", number, key="k") for number in range(2))
        assert first is not None
        assert again is not None
        assert (first.offset, again.offset) == (1, 1)
        assert texts(history("chat")) == [0]

    @override_settings(DWSPS=PATIENT | {"TAIL_MESSAGES": 5})
    def test_the_log_has_more_than_the_tail_of_a_process(self) -> None:
        before = cursor()
        for number in range(20):
            publish("chat", number)
        assert texts(history("chat")) == [15, 16, 17, 18, 19]
        assert texts(history("chat", last=15)) == list(range(5, 20))
        assert texts(history("chat", since=before)) == list(range(20))

    @override_settings(
        DWSPS=PATIENT
        | {"TAIL_MESSAGES": 5, "LOG_MESSAGES": 5, "HISTORY": {"chat": {"messages": 100}}}
    )
    def test_a_noisy_topic_does_not_push_out_a_kept_root(self) -> None:
        publish("chat", "quiet")
        before = cursor()
        for number in range(20):
            publish("noise", number)
        assert texts(history("chat")) == ["quiet"]
        assert history("chat", since=before).recovered
        assert not history("noise", since=before).recovered

    def test_a_redis_that_is_away(self, redis: Redis) -> None:
        publish("chat", 1)
        redis.kill()
        with pytest.raises(Unavailable, match="the server cannot be reached"):
            history("chat")
        assert cursor() == ""

    def test_one_that_hangs(self, redis: Redis) -> None:
        assert cursor()
        redis.suspend()
        with override_settings(DWSPS={"PUBLISH_TIMEOUT": 0.3}):
            with pytest.raises(Unavailable, match=r"no answer within 0\.3 s"):
                history("chat")
            assert cursor() == ""
        redis.signal(signal.SIGCONT)
        wait_until(cursor)


def test_a_server_without_a_log(start_server: ServerFactory) -> None:
    server = start_server(
        "fastlane",
        dwsps={"BROKER": {"BACKEND": "dwsps_channels.broker.backends.ChannelLayerBackend"}},
    )
    with real_publishes(), beside(server):
        with pytest.raises(NoLog):
            history("chat")
        assert cursor() == ""


@override_settings(DWSPS={"SERVER_URL": NOWHERE})
def test_a_server_that_is_away() -> None:
    with real_publishes():
        with pytest.raises(NotServing, match="connection refused"):
            history("chat")
        assert cursor() == ""


@override_settings(DWSPS={"SERVER_URL": NOWHERE})
def test_the_log_tells_of_pages_without_a_cursor_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(api, "_throttle", LogThrottle())
    with real_publishes():
        assert cursor() == async_to_sync(acursor)() == ""
    [line] = caplog.messages
    assert line.startswith("a page has no cursor: ")
    assert line.count("connection refused") == 1


def test_one_that_was_there_and_is_gone(start_server: ServerFactory) -> None:
    server = start_server("fastlane")
    with real_publishes(), beside(server):
        assert texts(history("chat")) == []
        server.kill()
        with pytest.raises(Unavailable, match="the server cannot be reached"):
            history("chat")
        assert cursor() == ""


class Scripted:
    """A connection whose answer to one of the two questions comes too late."""

    late = ""

    def cursor(self, deadline: float) -> str:
        self._answer("cursor")
        return "e:1"

    def read(self, query: HistoryQuery, deadline: float) -> History:
        self._answer("history")
        return History([], "e:1")

    def _answer(self, question: str) -> None:
        if question == self.late:
            raise TimeoutError

    def close(self) -> None:
        pass


def test_a_history_that_takes_long_takes_no_cursor_from_pages() -> None:
    connection = Scripted()
    log = RemoteLog(lambda: connection, None, "")
    connection.late = "history"
    with pytest.raises(Unavailable, match="no answer"):
        log.read(HistoryQuery("chat"), 2.0)
    assert log.cursor(0.5) == "e:1"


def test_a_cursor_that_a_page_does_not_wait_for_fails_no_history() -> None:
    connection = Scripted()
    log = RemoteLog(lambda: connection, None, "")
    connection.late = "cursor"
    with pytest.raises(Unavailable, match="no answer"):
        log.cursor(0.5)
    assert log.read(HistoryQuery("chat"), 2.0).cursor == "e:1"
