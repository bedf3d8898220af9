"""The memory of what was revoked."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwsps_channels.core.notice import Dated, Disconnect, Notice, Permission, Rules, Verify
from dwsps_channels.core.revocations import Revocations

ADA = {"user": "1", "session": "a"}
BOB = {"user": "2", "session": "b"}
VISITOR = {"user": "", "session": "c"}


def revocations(limit: int = 1000, now: float = 0) -> Revocations:
    return Revocations(60, limit, lambda: now)


def test_nothing_is_revoked_at_first() -> None:
    assert not revocations().is_revoked(1, **ADA, topic="news")


def test_what_was_signed_before_is_revoked_and_what_comes_after_counts() -> None:
    found = revocations()

    found.revoke(5, user="1")

    assert found.is_revoked(4.9, **ADA, topic="news")
    assert found.is_revoked(5, **ADA, topic="news")
    assert not found.is_revoked(5.1, **ADA, topic="news")


def test_a_user_a_session_or_everybody_is_meant() -> None:
    of_user, of_session, of_all = revocations(), revocations(), revocations()

    of_user.revoke(5, user="1")
    of_session.revoke(5, session="c")
    of_all.revoke(5)

    readers = (ADA, BOB, VISITOR)
    assert [of_user.is_revoked(1, **each, topic="news") for each in readers] == [True, False, False]
    assert [of_session.is_revoked(1, **each, topic="news") for each in readers] == [
        False,
        False,
        True,
    ]
    assert all(of_all.is_revoked(1, **each, topic="news") for each in readers)


def test_a_user_is_not_the_session_of_that_name() -> None:
    found = revocations()

    found.revoke(5, session="1")

    assert not found.is_revoked(1, **ADA, topic="news")


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("orders", True),
        ("orders.42", True),
        ("orders.42.items.7", True),
        ("orders.421", False),
        ("orders.4", False),
        ("news", False),
    ],
)
def test_a_topic_concerns_those_at_above_and_below(topic: str, expected: bool) -> None:
    found = revocations()

    found.revoke(5, user="1", topic="orders.42")

    assert found.is_revoked(1, **ADA, topic=topic) is expected
    assert not found.is_revoked(1, **BOB, topic=topic)


def test_an_earlier_one_that_comes_late_takes_nothing_back() -> None:
    found = revocations()

    found.revoke(5, user="1")
    found.revoke(3, user="1")

    assert found.is_revoked(4, **ADA, topic="news")


def test_what_is_older_than_anything_valid_is_forgotten() -> None:
    now = 100.0
    found = Revocations(60, clock=lambda: now)
    found.revoke(100, user="1", topic="orders.42")
    now = 161.0

    found.revoke(161, user="2", topic="news.uk")

    assert len(found) == 2
    assert found.is_revoked(160, **BOB, topic="news.uk")


def test_a_clock_that_is_ahead_makes_nothing_forgotten() -> None:
    found = revocations(now=100)
    found.revoke(100, user="1")

    found.revoke(100_000, user="2")

    assert found.is_revoked(99, **ADA, topic="news")


def test_too_many_are_bounded_and_the_oldest_is_for_everybody() -> None:
    found = revocations(limit=3)

    for number in range(1, 6):
        found.revoke(number, user=f"user {number}")

    assert len(found) == 3
    # The second was dropped last.
    assert found.is_revoked(2, **ADA, topic="news")
    assert not found.is_revoked(2.1, **ADA, topic="news")
    assert found.is_revoked(4.9, user="user 5", session="", topic="news")


def test_the_oldest_is_the_one_that_was_not_renewed() -> None:
    found = revocations(limit=2)

    for at, user in ((1, "first"), (2, "second"), (3, "first"), (4, "third")):
        found.revoke(at, user=user)

    assert found.is_revoked(2, **ADA, topic="news")
    assert not found.is_revoked(2.1, **ADA, topic="news")
    assert found.is_revoked(3, user="first", session="", topic="news")


# Notices.


@pytest.mark.parametrize(
    ("notice", "expected"),
    [
        (Disconnect(user="1"), [True, False, False]),
        (Disconnect(session="c"), [False, False, True]),
        (Permission(user="1"), [True, False, False]),
        (Permission(topic="news.uk"), [True, True, True]),
        (Permission(user="2", topic="news"), [False, True, False]),
        (Permission(user="2", topic="sport"), [False, False, False]),
        (Permission(), [True, True, True]),
        (Verify("1"), [False, False, False]),
        (Verify("1", revokes=True), [True, False, False]),
        (Verify(revokes=True), [True, True, True]),
        (Rules(), [False, False, False]),
    ],
)
def test_a_notice_revokes_what_it_ends(notice: Notice, expected: list[bool]) -> None:
    found = revocations()

    found.heed(Dated(notice, 5))

    readers = (ADA, BOB, VISITOR)
    assert [found.is_revoked(5, **each, topic="news") for each in readers] == expected
    assert not any(found.is_revoked(6, **each, topic="news") for each in readers)


@dataclass(frozen=True)
class Revocation:
    at: int
    user: str
    session: str
    topic: str

    def concerns(self, user: str, session: str, topic: str) -> bool:
        """Say slowly and obviously what ``Revocations`` has to find."""
        if self.user and self.user != user:
            return False
        if self.session and self.session != session:
            return False
        mine, theirs = self.topic.split("."), topic.split(".")
        shared = min(len(mine), len(theirs))
        return not self.topic or mine[:shared] == theirs[:shared]


users = st.sampled_from(["", "1", "2"])
sessions = st.sampled_from(["", "1", "a"])
topics = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=4).map(".".join)


@given(
    st.lists(
        st.one_of(
            st.builds(Revocation, st.integers(0, 9), users, st.just(""), st.just("") | topics),
            st.builds(Revocation, st.integers(0, 9), st.just(""), sessions, st.just("") | topics),
        ),
        max_size=8,
    ),
    st.integers(0, 9),
    users,
    sessions,
    topics,
)
def test_they_are_what_each_of_them_says(
    revoked: list[Revocation], signed_at: int, user: str, session: str, topic: str
) -> None:
    found = revocations()
    for each in revoked:
        found.revoke(each.at, user=each.user, session=each.session, topic=each.topic)

    assert found.is_revoked(signed_at, user=user, session=session, topic=topic) == any(
        signed_at <= each.at and each.concerns(user, session, topic) for each in revoked
    )
