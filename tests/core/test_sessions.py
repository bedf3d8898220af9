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


USERS, DJANGO_SESSIONS = st.sampled_from([None, 1, 2]), st.sampled_from(["", "a", "b"])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["come", "change", "go"]), st.integers(0, 8), USERS, DJANGO_SESSIONS
        ),
        max_size=40,
    )
)
def test_it_finds_what_a_scan_finds(steps: list[tuple[str, int, int | None, str]]) -> None:
    sessions, there = Sessions(), dict[str, Session]()
    for step, number, pk, of in steps:
        client = str(number)
        identity = Identity(client, user=pk and User(pk), session=of)
        if step == "come" and client not in there:
            there[client] = World().connect(identity=identity).session
            sessions.add(there[client])
        elif step == "change" and client in there:
            there[client].identity = identity
            sessions.identified(there[client])
        elif step == "go" and client in there:
            sessions.discard(there.pop(client))
        assert list(sessions) == list(there.values())
        assert len(sessions) == len(there)
        assert sessions.get(client) is there.get(client)
        for user in (1, 2):
            of_user = {each for each in there.values() if each.identity.user_id == user}
            assert set(sessions.of_user(user)) == set(sessions.of_user(str(user))) == of_user
        for key in ("a", "b"):
            of_session = {each for each in there.values() if each.identity.session == key}
            assert set(sessions.of_session(key)) == of_session
        assert sessions.of_session("") == []
        users = {each.identity.user_id for each in there.values()} - {None}
        assert (sessions.stats().open, sessions.stats().users) == (len(there), len(users))


def test_who_has_left_is_not_found_again() -> None:
    sessions, one = Sessions(), session("one", User(1))
    sessions.add(one)
    sessions.discard(one)
    sessions.identified(one)
    assert (len(sessions), list(sessions.of_user(1))) == (0, [])


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


def test_a_user_that_is_loaded_later_is_found_from_then_on() -> None:
    loaded: list[User] = []

    def find(identity: Identity) -> int:
        return loaded[0].pk

    sessions = Sessions(find)
    one, other = session("one"), session("other")
    sessions.add(one)
    sessions.add(other)
    assert list(sessions.of_user(1)) == []
    sessions.discard(other)
    loaded.append(User(1))
    assert list(sessions.of_user(1)) == [one]
    sessions.discard(one)
    assert list(sessions.of_user(1)) == []
    assert (sessions.stats().open, sessions.stats().users) == (0, 0)


def test_to_discard_what_is_not_there_changes_nothing() -> None:
    Sessions().discard(session("one", User(1)))


def test_a_key_that_has_no_text_is_no_key() -> None:
    class Key:
        def __str__(self) -> str:
            raise RuntimeError

    sessions = Sessions(lambda identity: Key())
    sessions.add(one := session("one"))
    assert sessions.stats().users == 0
    sessions.discard(one)
    assert len(sessions) == 0
