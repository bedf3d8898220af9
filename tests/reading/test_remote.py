"""``history`` and the cursor in a process that serves nothing."""

from collections.abc import Iterator

import pytest
from asgiref.sync import async_to_sync
from django.test import override_settings

from dwsps_channels import ahistory, history, publish
from dwsps_channels.exceptions import NoLog, NotServing
from dwsps_channels.models import ServerIdentity
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.reading import History, cursor
from dwsps_channels.testing import real_publishes
from tests.peering.site import id_of
from tests.processes import HOST, Server, ServerFactory, free_port

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def server_kind() -> str:
    return "fastlane"


def beside(server: Server) -> override_settings:
    """Make this process one of the server's project."""
    ServerIdentity.objects.update_or_create(pk=1, defaults={"server_id": id_of(server)})
    return override_settings(
        SECRET_KEY=server.env["SECRET_KEY"], DWSPS={"SERVER_URL": f"{server.url}/ws/pubsub/"}
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


def test_a_server_without_a_log(start_server: ServerFactory) -> None:
    server = start_server(
        "fastlane",
        dwsps={"BROKER": {"BACKEND": "dwsps_channels.broker.backends.ChannelLayerBackend"}},
    )
    with real_publishes(), beside(server):
        with pytest.raises(NoLog):
            history("chat")
        assert cursor() == ""


@override_settings(DWSPS={"SERVER_URL": f"ws://{HOST}:{free_port()}/"})
def test_a_server_that_is_away() -> None:
    with real_publishes():
        with pytest.raises(NotServing, match="connection refused"):
            history("chat")
        assert cursor() == ""


def test_one_that_was_there_and_is_gone(start_server: ServerFactory) -> None:
    server = start_server("fastlane")
    with real_publishes(), beside(server):
        assert texts(history("chat")) == []
        server.kill()
        with pytest.raises(Unavailable, match="the server cannot be reached"):
            history("chat")
        assert cursor() == ""
