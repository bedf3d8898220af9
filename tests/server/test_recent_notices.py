"""The memory of whom the last notices were about."""

import pytest

from dwsps_channels.server import recent_notices
from dwsps_channels.server.recent_notices import MEMORY, RecentNotices


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recent(clock: Clock) -> RecentNotices:
    return RecentNotices(clock)


def test_it_knows_users_and_sessions_for_a_while(recent: RecentNotices, clock: Clock) -> None:
    assert not recent.is_about("1", "a")
    recent.note(user="1")
    recent.note(session="b")
    assert recent.is_about("1", "a")
    assert recent.is_about("2", "b")
    assert not recent.is_about("2", "a")
    clock.now = MEMORY
    assert not recent.is_about("1", "b")
    clock.now += 1
    recent.note(user="3")
    assert len(recent) == 1


def test_a_notice_about_everybody_is_about_each(recent: RecentNotices) -> None:
    recent.note()
    assert recent.is_about("1", "a")
    assert recent.is_about("", "")


def test_it_knows_since_when_a_user_is_disconnected(recent: RecentNotices, clock: Clock) -> None:
    recent.note(user="1")
    assert not recent.was_disconnected("1", 0.0)
    clock.now = 2.0
    recent.note_disconnect(user="1")
    assert recent.is_about("1", "")
    assert recent.was_disconnected("1", 1.0)
    assert not recent.was_disconnected("1", 3.0)
    recent.note_disconnect(session="a")
    assert recent.is_about("", "a")


def test_what_is_too_much_to_remember_concerns_everybody(
    recent: RecentNotices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent_notices, "MAX_MEMORY", 3)
    for number in range(3):
        recent.note(user=str(number))
    assert not recent.is_about("other", "")
    for number in range(3, 10):
        recent.note(user=str(number))
    assert len(recent) <= 3
    assert recent.is_about("0", "")
