"""The registry of sessions."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.core.identity import Identity
from dwsps_channels.core.session import Session
from dwsps_channels.core.sessions import Sessions
from tests.core.recording import World


@dataclass
class User:
    pk: int
    is_authenticated: bool = True


class LazyUser:
    """Loads itself where that is not possible."""

    @property
    def is_authenticated(self) -> bool:
        raise RuntimeError("not in the event loop")


def session(client: str, user: Any = None) -> Session:
    return World().connect(identity=Identity(client, user=user)).session


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 8), st.sampled_from([None, 1, 2])), max_size=40
    )
)
def test_it_finds_what_a_scan_finds(steps: list[tuple[bool, int, int | None]]) -> None:
    sessions, there = Sessions(), dict[str, Session]()
    for comes, number, pk in steps:
        client = str(number)
        if comes and client not in there:
            there[client] = session(client, pk and User(pk))
            sessions.add(there[client])
        elif not comes and client in there:
            sessions.discard(there.pop(client))
        assert list(sessions) == list(there.values())
        assert len(sessions) == len(there)
        assert sessions.get(client) is there.get(client)
        for user in (1, 2):
            of_user = [each for each in there.values() if each.identity.user_id == user]
            assert list(sessions.of_user(user)) == of_user
        users = {each.identity.user_id for each in there.values()} - {None}
        assert (sessions.stats().open, sessions.stats().users) == (len(there), len(users))


def test_sessions_may_leave_while_it_is_iterated() -> None:
    sessions = Sessions()
    for number in range(3):
        sessions.add(session(str(number), User(1)))
    for each in sessions:
        sessions.discard(each)
    for each in sessions.of_user(1):
        sessions.discard(each)
    assert len(sessions) == 0


def test_a_user_that_has_changed_meanwhile_is_forgotten() -> None:
    sessions, user = Sessions(), User(1)
    sessions.add(one := session("one", user))
    user.pk = 2
    sessions.discard(one)
    assert (sessions.stats().open, sessions.stats().users) == (0, 0)


def test_the_bytes_queued_for_all_are_counted() -> None:
    sessions = Sessions()
    for number in range(3):
        client = World().connect(identity=Identity(str(number)))
        client.transport.buffered_bytes = 100 * number
        sessions.add(client.session)
    assert sessions.stats().buffered_bytes == 300


def test_anonymous_users_and_those_that_cannot_be_loaded_have_no_sessions_by_user() -> None:
    sessions = Sessions()
    for number, user in enumerate((None, User(1, is_authenticated=False), LazyUser())):
        sessions.add(session(str(number), user))
    assert (sessions.stats().open, sessions.stats().users) == (3, 0)
    assert list(sessions.of_user(1)) == []


def test_to_discard_what_is_not_there_changes_nothing() -> None:
    Sessions().discard(session("one", User(1)))


def test_a_key_that_cannot_be_hashed_is_no_key() -> None:
    sessions = Sessions(lambda identity: [identity.client])  # type: ignore[arg-type,return-value]
    sessions.add(one := session("one"))
    assert sessions.stats().users == 0
    sessions.discard(one)
    assert len(sessions) == 0
