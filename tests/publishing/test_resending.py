"""Notices that the server did not take are sent again."""

from collections.abc import Callable, Iterator
from threading import Event

import pytest

from dwsps_channels.core.notice import EVERYTHING, Notice, Rules, Verify
from dwsps_channels.exceptions import NotServing
from dwsps_channels.protocol.errors import Unavailable
from dwsps_channels.publishing import resending
from dwsps_channels.publishing.resending import Resender
from tests.access.recording import RecordingNotifier
from tests.processes import wait_until


class Flaky(RecordingNotifier):
    """Raises what is left of ``problems``, one for each attempt."""

    def __init__(self, *problems: Exception) -> None:
        super().__init__()
        self.problems = list(problems)
        self.attempts = 0

    def notify(self, notice: Notice, *, again: bool = False) -> None:
        assert again
        self.attempts += 1
        if self.problems:
            raise self.problems.pop(0)
        super().notify(notice)


@pytest.fixture
def go_on() -> Iterator[Event]:
    """Set it to end the pause before the first attempt, and all others."""
    event = Event()
    yield event
    event.set()


def resender_to(notifier: Flaky, go_on: Event) -> Resender:
    return Resender(lambda: notifier, lambda seconds: go_on.wait(20))


def is_idle(resender: Resender) -> Callable[[], bool]:
    return lambda: resender._thread is None


def test_they_are_sent_until_the_server_takes_them_each_once_and_in_order(
    go_on: Event,
) -> None:
    notifier = Flaky(Unavailable("redis is away"), NotServing("ws://host/", "refused"))
    resender = resender_to(notifier, go_on)
    for notice in (Verify("1"), Rules(), Verify("1")):
        resender.add(notice)
    go_on.set()
    wait_until(is_idle(resender))
    assert notifier.notices == [Verify("1"), Rules()]
    assert notifier.attempts == 4
    resender.add(Verify("2"))
    wait_until(is_idle(resender))
    assert notifier.notices[-1] == Verify("2")


def test_too_many_are_everything(go_on: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resending, "MAX_UNSENT", 3)
    notifier = Flaky()
    resender = resender_to(notifier, go_on)
    for number in range(5):
        resender.add(Verify(str(number)))
    go_on.set()
    wait_until(is_idle(resender))
    assert notifier.notices == [EVERYTHING, Verify("3"), Verify("4")]


def test_an_equal_one_that_comes_while_one_is_sent_is_sent_as_well(go_on: Event) -> None:
    class Slow(Flaky):
        def notify(self, notice: Notice, *, again: bool = False) -> None:
            super().notify(notice, again=again)
            if self.attempts == 1:
                resender.add(notice)

    notifier = Slow()
    resender = resender_to(notifier, go_on)
    resender.add(Verify("1"))
    go_on.set()
    wait_until(is_idle(resender))
    assert notifier.notices == [Verify("1"), Verify("1")]


def test_a_notice_that_fails_over_a_defect_is_logged_once_and_the_others_are_sent(
    go_on: Event, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Flaky(KeyError("a defect"))
    resender = resender_to(notifier, go_on)
    for notice in (Verify("1"), Rules(), Verify("2")):
        resender.add(notice)
    go_on.set()
    wait_until(is_idle(resender))
    assert notifier.notices == [Rules(), Verify("2")]
    assert notifier.attempts == 3
    assert caplog.text.count("KeyError: 'a defect'") == 1


def test_a_forked_process_leaves_them_to_its_parent(go_on: Event) -> None:
    resender = resender_to(Flaky(), go_on)
    resender.add(Rules())
    resender.forget()
    assert resender._thread is None
    assert resender._unsent == {}
