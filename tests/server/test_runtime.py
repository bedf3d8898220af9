"""The runtime of a serving process."""

from django.contrib.auth.models import User
from django.test import override_settings
from django.utils.functional import SimpleLazyObject

from dwsps_channels.core.identity import Identity, Role
from dwsps_channels.core.observer import Observer
from dwsps_channels.publishing import apublish
from dwsps_channels.server import runtime
from dwsps_channels.testing import PubSubCommunicator


class Counting(Observer):
    """Overrides one method of many."""

    def __init__(self) -> None:
        self.clients: list[str] = []

    def connected(self, identity: Identity) -> None:
        self.clients.append(identity.client)


async def test_stats_join_those_of_the_rooms() -> None:
    async with PubSubCommunicator() as client:
        await client.subscribe("news")
        await apublish("news", 1)
        await client.receive()
        stats = (await runtime.obtain()).stats()
        assert (stats.node.published, stats.node.topics, stats.node.kept) == (1, 1, 1)
        assert (stats.broker.connected, stats.broker.missed) == (True, 0)
        assert (stats.sessions.open, stats.sessions.users) == (1, 0)
        assert stats.connections.refused == 0
        assert (stats.rechecks.to_hold_back, stats.rechecks.undecided) == (0, 0)
        assert stats.signals_dropped == 0
    assert (await runtime.obtain()).stats().sessions.open == 0


@override_settings(
    DWSPS={"TAIL_BYTES": 1000, "HISTORY": {"chat": {"bytes": 30_000}, "pointer": None}}
)
async def test_a_worker_may_be_sent_all_that_is_kept_at_once() -> None:
    server = await runtime.obtain()
    most = server.limits_of(Role.WORKER).buffered_bytes
    assert most >= server.limits.buffered_bytes + 31_000


async def test_several_observers_each_hear_of_a_session() -> None:
    server = await runtime.obtain()
    counting = Counting(), Counting()
    server.observers.extend(counting)
    async with PubSubCommunicator() as client:
        await client.subscribe("news")
        [session] = server.sessions
        assert [each.clients for each in counting] == [[session.identity.client]] * 2
        assert server.sessions.get(session.identity.client) is session


async def test_a_user_that_nobody_has_loaded_stays_so() -> None:
    """A query in the event loop would make everybody wait."""
    loaded: list[User] = []

    def load() -> User:
        loaded.append(User(pk=7))
        return loaded[-1]

    lazy = SimpleLazyObject(load)
    async with PubSubCommunicator(user=lazy):
        server = await runtime.obtain()
        assert loaded == []
        assert list(server.sessions.of_user(7)) == []
        assert lazy.pk == 7
        assert len(server.sessions.of_user(7)) == 1
    async with PubSubCommunicator(user=lazy):
        assert len(server.sessions.of_user(7)) == 1
