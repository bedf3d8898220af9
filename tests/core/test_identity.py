from dataclasses import FrozenInstanceError

import pytest

from dwsps_channels.core.identity import Identity, Role, hash_session_key


class User:
    def __init__(self, is_authenticated: bool) -> None:
        self.is_authenticated = is_authenticated


@pytest.mark.parametrize(
    ("user", "expected"), [(None, False), (User(False), False), (User(True), True)]
)
def test_it_is_authenticated_by_its_user(user: User | None, expected: bool) -> None:
    assert Identity("one", user).is_authenticated is expected


def test_it_is_an_ordinary_client_unless_it_is_said_to_be_more() -> None:
    assert Identity("one", User(True)).role is Role.CLIENT


def test_it_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Identity("one").client = "two"  # type: ignore[misc]


def test_a_session_is_known_by_a_hash_of_its_key() -> None:
    key = "k3x0v6x1l0w5r3c4x7m8p9q2z1y6t5u4"

    assert hash_session_key(key) == hash_session_key(key)
    assert hash_session_key(key) != hash_session_key(key[:-1] + "5")
    assert key not in hash_session_key(key)
